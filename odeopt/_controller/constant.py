"""A constant step size."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .base import AbstractController, Attempt, Verdict


class _ConstantState(eqx.Module):
    step_size: Array
    failed: Array


class ConstantStep(AbstractController):
    """The classical optimizer: every finite step is kept, whatever the energy does.

    **Arguments:** `step_size`: > 0, in the flow's unit of time (for gradient flow the learning rate).

    **Raises:** `ValueError` if it is not positive and finite.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(0.1))
        ```
    """

    initial_step_size: Array | None = eqx.field(converter=hyperparameter)
    rate: ClassVar[str] = "start"
    rounding: ClassVar[None] = None
    monotone: ClassVar[bool] = False

    def __init__(self, step_size):
        self.initial_step_size = step_size

    def __check_init__(self):
        step_size = self.initial_step_size
        if step_size is None or (concrete(step_size) and not 0 < float(step_size) < float("inf")):
            raise ValueError(f"ConstantStep({step_size}): expected a finite step size > 0.")

    def init(self, step_size: Array) -> _ConstantState:
        return _ConstantState(step_size, jnp.asarray(False))

    def step_size(self, state: _ConstantState) -> Array:
        return state.step_size

    def bound(self, state: _ConstantState, step_size: Array, rate: Array) -> Array:
        return jnp.full_like(step_size, jnp.inf)

    def judge(self, state: _ConstantState, attempt: Attempt) -> Array:
        return jnp.where(attempt.finite, Verdict.ACCEPT, Verdict.REJECT).astype(jnp.int32)

    def update(self, state: _ConstantState, attempt: Attempt, verdict: Array, accepted: Array) -> _ConstantState:
        return _ConstantState(state.step_size, ~accepted)

    def exhausted(self, state: _ConstantState) -> Array:
        return state.failed
