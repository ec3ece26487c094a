"""The dissipation over a step, from both of its ends."""

from jaxtyping import Array

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle


def trapezoid(
    flow: AbstractFlow, t: Array, step_size: Array, ends: tuple[State, State], oracles: tuple[Oracle, Oracle]
) -> Array:
    """The mean of dV/dt over a step by the trapezoidal rule, right to second order.

    Where dV/dt reads the gradient, that at the end is evaluated, which an accepted step needs anyway.
    """
    before = flow.dissipation(t, ends[0], oracles[0])
    after = flow.dissipation(t + step_size, ends[1], oracles[1])
    return 0.5 * (before + after)
