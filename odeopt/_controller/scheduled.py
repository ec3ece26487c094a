"""Step sizes that follow a schedule."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .base import AbstractController, Attempt, Verdict


class _ScheduledState(eqx.Module):
    count: Array  # of the accepted steps
    failed: Array


class ScheduledStep(AbstractController):
    r"""The classical optimizer with a schedule: step \(n\) has the length \(s(n)\), and every finite step is kept.

    **Arguments:** `schedule`: a schedule of optax, or any function from the number of the step (from 0, an integer
    array) to the step size in the flow's unit of time, that JAX can trace. A step size that is not positive ends the
    run with the result `schedule_ended`; a warm-up begins with a positive one (`init_value`).

    **Raises:** `TypeError` if it is not callable, `ValueError` if its first step size is not positive and finite.

    !!! example

        ```python
        schedule = optax.cosine_decay_schedule(0.1, decay_steps=1000)
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ScheduledStep(schedule))
        ```
    """

    schedule: Callable = eqx.field(static=True)
    initial_step_size: Array
    rate: ClassVar[str] = "start"
    rounding: ClassVar[None] = None
    monotone: ClassVar[bool] = False

    def __init__(self, schedule: Callable):
        if not callable(schedule):
            raise TypeError(f"ScheduledStep({schedule!r}): expected a schedule; for one number use ConstantStep.")
        self.schedule = schedule
        first = jnp.asarray(schedule(jnp.asarray(0)), jnp.result_type(float))
        if first.shape != () or not 0 < float(first) < float("inf"):
            raise ValueError(
                f"ScheduledStep: the first step size is {first}; expected one finite number > 0. Give a warm-up an "
                "init_value > 0."
            )
        self.initial_step_size = first

    def init(self, step_size: Array) -> _ScheduledState:
        return _ScheduledState(jnp.asarray(0, jnp.int32), jnp.asarray(False))

    def step_size(self, state: _ScheduledState) -> Array:
        return jnp.asarray(self.schedule(state.count)).astype(self.initial_step_size.dtype)

    def bound(self, state: _ScheduledState, step_size: Array, rate: Array) -> Array:
        return jnp.full_like(step_size, jnp.inf)

    def judge(self, state: _ScheduledState, attempt: Attempt) -> Array:
        return jnp.where(attempt.finite & (attempt.step_size > 0), Verdict.ACCEPT, Verdict.REJECT).astype(jnp.int32)

    def update(self, state: _ScheduledState, attempt: Attempt, verdict: Array, accepted: Array) -> _ScheduledState:
        return _ScheduledState(state.count + accepted.astype(jnp.int32), ~accepted)

    def exhausted(self, state: _ScheduledState) -> Array:
        return state.failed
