"""The Lyapunov test of the shadow energy of symplectic Euler."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .base import AbstractController, Attempt
from .lyapunov import LyapunovControl


class ShadowControl(AbstractController):
    r"""Keep a step iff the shadow energy falls at least at the fraction \(\lambda\) of the continuous rate.

    Symplectic Euler, memory first, follows to second order a flow whose energy is

    \[ \tilde V = V - \tfrac h2 \langle \nabla f, x' \rangle, \]

    and not \(V\), which oscillates about it by \(O(h)\): with little friction \(V\) rises at many steps that are
    perfectly good. Both ends are taken with the same \(h\). Every trial costs a gradient, which the next step uses if
    the trial is accepted. The energy \(V\) itself may rise.

    **Arguments:** `search`: the `LyapunovControl` that searches for the step size and holds \(\lambda\). Its `rounding`
    is not used: the test has the gradients at both ends, but not the difference of two shadow energies free of
    rounding.

    Source: Hairer, Lubich and Wanner (2006), Geometric Numerical Integration, IX.3; Bensaid, Poëtte and Turpault (2023)
    for the test.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.1), odeopt.SemiImplicitEuler(), odeopt.ShadowControl())
        ```
    """

    search: LyapunovControl = eqx.field(default_factory=LyapunovControl)
    rounding: ClassVar[None] = None
    monotone: ClassVar[bool] = False
    needs_shadow: ClassVar[bool] = True

    @property
    def initial_step_size(self) -> Array | None:
        return self.search.initial_step_size

    @property
    def rate(self) -> str:
        return self.search.rate

    def init(self, step_size: Array) -> Any:
        return self.search.init(step_size)

    def step_size(self, state: Any) -> Array:
        return self.search.step_size(state)

    def bound(self, state: Any, step_size: Array, rate: Array) -> Array:
        # Of the shadow energy; how far V itself may rise is known after the trial only.
        return jnp.full_like(step_size, jnp.inf)

    def judge(self, state: Any, attempt: Attempt) -> Array:
        return self.search.judge(state, _of_the_shadow(attempt))

    def update(self, state: Any, attempt: Attempt, verdict: Array, accepted: Array) -> Any:
        return self.search.update(state, _of_the_shadow(attempt), verdict, accepted)

    def exhausted(self, state: Any) -> Array:
        return self.search.exhausted(state)


def _of_the_shadow(attempt: Attempt) -> Attempt:
    """The attempt with the change of the shadow energy in place of that of the energy, and nothing undecided."""
    assert attempt.shadow is not None
    return eqx.tree_at(
        lambda a: (a.change, a.rounding, a.finite),
        attempt,
        (attempt.shadow, jnp.zeros_like(attempt.rounding), attempt.finite & jnp.isfinite(attempt.shadow)),
    )
