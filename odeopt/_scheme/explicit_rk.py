"""Explicit Runge-Kutta methods, from any Butcher tableau in the format of diffrax."""

from typing import ClassVar

import diffrax
import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle
from .._tree import add_scaled
from .base import AbstractScheme, Trial


class ExplicitRK(AbstractScheme):
    r"""The explicit Runge-Kutta method of a tableau.

    \[ k_i = F\Big(t + c_i h,\; y + h \sum_{j<i} a_{ij} k_j\Big), \qquad y^+ = y + h \sum_i b_i k_i \]

    Stages are unrolled as sums over the non-zero coefficients and never stacked, so that XLA fuses each into one
    pass over memory. A tableau whose last stage is the next step's first hands its gradient on.

    **Arguments:**

    - `tableau`: a `diffrax.ButcherTableau`, explicit. Its `b_error` gives the error estimate; all zero means none.
    - `order`: the order of convergence.

    **Raises:** `ValueError` for an implicit tableau. Source: Butcher (2016), Numerical Methods for Ordinary
    Differential Equations; tableaus and their references: diffrax.

    !!! example

        ```python
        odeopt.Solver(odeopt.GradientFlow(), odeopt.ExplicitRK(diffrax.Bosh3.tableau, order=3))
        ```
    """

    nodes: tuple[float, ...] = eqx.field(static=True)
    coefficients: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    weights: tuple[float, ...] = eqx.field(static=True)
    error_weights: tuple[float, ...] = eqx.field(static=True)
    order: int = eqx.field(static=True)
    has_quadrature: ClassVar[bool] = True

    def __init__(self, tableau: diffrax.ButcherTableau, order: int):
        if tableau.implicit:
            raise ValueError("ExplicitRK: the tableau is implicit; expected one whose diagonal is empty.")
        # Tuples of floats, because a static field is hashed.
        self.nodes = tuple(map(float, tableau.c))
        self.coefficients = tuple(tuple(map(float, row)) for row in tableau.a_lower)
        self.weights = tuple(map(float, tableau.b_sol))
        self.error_weights = tuple(map(float, tableau.b_error))
        self.order = order

    @property
    def last_stage_is_end(self) -> bool:
        """Whether the last stage stands at the end of the step (first same as last)."""
        return len(self.nodes) > 0 and self.weights == (*self.coefficients[-1], 0.0)

    @property
    def gradients_per_step(self) -> int:
        return len(self.weights) - int(self.last_stage_is_end)

    @property
    def has_error(self) -> bool:
        return any(weight != 0 for weight in self.error_weights)

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        times, states, oracles = [t], [state], [oracle]
        slopes = [flow.vector_field(t, state, oracle)]
        for node, row in zip(self.nodes, self.coefficients, strict=True):
            times.append(t + node * step_size)
            states.append(_combine(state, step_size, row, slopes))
            oracles.append(oracle.at(states[-1].position))
            slopes.append(flow.vector_field(times[-1], states[-1], oracles[-1]))
        if self.last_stage_is_end:
            end, oracle_end = states[-1], oracles[-1]
        else:
            end = _combine(state, step_size, self.weights, slopes)
            oracle_end = oracle.at(end.position)

        def error() -> State:
            return _weighted(step_size, self.error_weights, slopes)

        def quadrature() -> Array:
            rates = [
                weight * flow.dissipation(stage_t, stage, stage_oracle)
                for weight, stage_t, stage, stage_oracle in zip(self.weights, times, states, oracles, strict=True)
                if weight != 0
            ]
            return jnp.sum(jnp.stack(rates))

        return Trial(end, oracle_end, error if self.has_error else None, quadrature)


def _combine(state: State, step_size: Array, weights: tuple[float, ...], slopes: list[State]) -> State:
    """`state` plus the weighted slopes, one term after the other."""
    for weight, slope in zip(weights, slopes, strict=False):
        if weight != 0:
            state = add_scaled(state, weight * step_size, slope)
    return state


def _weighted(step_size: Array, weights: tuple[float, ...], slopes: list[State]) -> State:
    """The weighted sum of the slopes, times the step size."""
    first, *rest = [(weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight != 0]
    total = optax.tree.scale(first[0] * step_size, first[1])
    for weight, slope in rest:
        total = add_scaled(total, weight * step_size, slope)
    return total
