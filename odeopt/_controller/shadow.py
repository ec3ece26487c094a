"""The Lyapunov test of the shadow energy of symplectic Euler."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .base import AbstractController, Attempt, Verdict
from .lyapunov import LyapunovControl


class _ShadowState(eqx.Module):
    search: Any  # of the LyapunovControl
    risen: Array  # V above the average of its past


class ShadowControl(AbstractController):
    r"""Keep a step iff the energy or its shadow energy falls at least at the fraction \(\lambda\) of the rate.

    Symplectic Euler, memory first, follows to second order a flow whose energy is

    \[ \tilde V = V - \tfrac h2 \langle \nabla f, x' \rangle, \]

    and not \(V\), which oscillates about it by \(O(h)\): with little friction \(V\) rises at many steps that are
    perfectly good. Both ends are taken with the same \(h\). Every trial costs a gradient, which the next step uses if
    the trial is accepted.

    The energy \(V\) itself may rise, but not above an average of its past, \(A^+ = w A + (1 - w) V^+\): beyond the step
    size where the scheme is stable the shadow energy has no lower bound, and falls along a run that diverges. At rest,
    where the rate is zero and the shadow energy stands still to second order, it is \(V\) that lets a step pass.

    **Arguments:**

    - `search`: the `LyapunovControl` that searches for the step size and holds \(\lambda\). Its `rounding` is not used:
        the test has the gradients at both ends, but not the difference of two shadow energies free of rounding.
    - `weight`: \(w\), \(0 \le w < 1\).

    **Raises:** `ValueError` for a weight out of range.

    Source: Hairer, Lubich and Wanner (2006), Geometric Numerical Integration, IX.3; Bensaid, Poëtte and Turpault (2023)
    for the test.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.1), odeopt.SemiImplicitEuler(), odeopt.ShadowControl())
        ```
    """

    search: LyapunovControl = eqx.field(default_factory=LyapunovControl)
    # Measured with little friction on quadratics, quartics and Rosenbrock's function: with 0.95 runs linger near the
    # limit of stability.
    weight: Array = eqx.field(converter=hyperparameter, default=0.8)
    rounding: ClassVar[None] = None
    monotone: ClassVar[bool] = False
    needs_shadow: ClassVar[bool] = True

    def __check_init__(self):
        if concrete(self.weight) and not 0 <= float(self.weight) < 1:
            raise ValueError(f"ShadowControl(weight={float(self.weight)}): expected 0 <= weight < 1.")

    @property
    def initial_step_size(self) -> Array | None:
        return self.search.initial_step_size

    @property
    def rate(self) -> str:
        return self.search.rate

    def init(self, step_size: Array) -> _ShadowState:
        return _ShadowState(self.search.init(step_size), jnp.zeros_like(step_size))

    def step_size(self, state: _ShadowState) -> Array:
        return self.search.step_size(state.search)

    def bound(self, state: _ShadowState, step_size: Array, rate: Array) -> Array:
        # Of the shadow energy; how far V itself may rise is known after the trial only.
        return jnp.full_like(step_size, jnp.inf)

    def judge(self, state: _ShadowState, attempt: Attempt) -> Array:
        plain = self.search.judge(state.search, _exactly(attempt, attempt.change))
        shadow = self.search.judge(state.search, _of_the_shadow(attempt))
        low = state.risen + attempt.change <= 0
        return jnp.where(low, jnp.where(plain == Verdict.REJECT, shadow, plain), Verdict.REJECT)

    def update(self, state: _ShadowState, attempt: Attempt, verdict: Array, accepted: Array) -> _ShadowState:
        search = self.search.update(state.search, _of_the_shadow(attempt), verdict, accepted)
        risen = self.weight * (state.risen + attempt.change)
        return _ShadowState(search, jnp.where(accepted, risen, state.risen).astype(state.risen.dtype))

    def exhausted(self, state: _ShadowState) -> Array:
        return self.search.exhausted(state.search)


def _of_the_shadow(attempt: Attempt) -> Attempt:
    """The attempt with the change of the shadow energy in place of that of the energy."""
    assert attempt.shadow is not None
    return _exactly(attempt, attempt.shadow)


def _exactly(attempt: Attempt, change: Array) -> Attempt:
    """The attempt with a change that is known without rounding, so that nothing is undecided."""
    return eqx.tree_at(
        lambda a: (a.change, a.rounding, a.finite),
        attempt,
        (change, jnp.zeros_like(attempt.rounding), attempt.finite & jnp.isfinite(change)),
    )
