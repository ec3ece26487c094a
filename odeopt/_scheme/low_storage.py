"""Explicit Runge-Kutta methods in two registers."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle, Tally
from .._tree import add_scaled
from .base import AbstractScheme, Trial
from .passes import check_countable, passes


class LowStorageRK(AbstractScheme):
    r"""An explicit Runge-Kutta method in the 2N form of Williamson.

    \[ d \leftarrow A_i\,d + h F(t + c_i h, y), \qquad y \leftarrow y + B_i\,d, \qquad i = 1, \dots, s, \quad A_1 = 0 \]

    However many stages there are, two arrays of the size of the state are enough beside it: \(y\) and \(d\). (The
    state at the start of the step is kept for the case that the step is rejected.) \(s\) gradients a step. The stage
    quadrature has the weights of the equivalent Butcher tableau; there is no error estimate.

    **Arguments:**

    - `memory_factors`: \(A_1 = 0, A_2, \dots, A_s\).
    - `increment_factors`: \(B_1, \dots, B_s\).
    - `order`: the order of convergence.

    **Raises:** `ValueError` if the two do not have the same length or \(A_1 \ne 0\).
    Source: Williamson (1980), Low-storage Runge-Kutta schemes.

    !!! example

        ```python
        midpoint = odeopt.LowStorageRK(memory_factors=(0.0, -0.5), increment_factors=(0.5, 1.0), order=2)
        odeopt.Solver(odeopt.GradientFlow(), midpoint)
        ```
    """

    memory_factors: tuple[float, ...] = eqx.field(static=True)
    increment_factors: tuple[float, ...] = eqx.field(static=True)
    order: int = eqx.field(static=True)
    has_quadrature: ClassVar[bool] = True

    def __init__(self, memory_factors: tuple[float, ...], increment_factors: tuple[float, ...], order: int):
        if len(memory_factors) != len(increment_factors) or tuple(memory_factors[:1]) != (0.0,):
            raise ValueError(
                f"LowStorageRK(memory_factors={memory_factors}, increment_factors={increment_factors}): expected two "
                "tuples of one length, the first of which begins with 0."
            )
        self.memory_factors = tuple(map(float, memory_factors))
        self.increment_factors = tuple(map(float, increment_factors))
        self.order = order

    @property
    def gradients_per_step(self) -> int:
        return len(self.increment_factors)

    @property
    def nodes(self) -> tuple[float, ...]:
        """The times of the stages, in step sizes: where each stands if the slope is one."""
        nodes, carried, time = [], 0.0, 0.0
        for a, b in zip(self.memory_factors, self.increment_factors, strict=True):
            nodes.append(time)
            carried = a * carried + 1
            time += b * carried
        return tuple(nodes)

    @property
    def weights(self) -> tuple[float, ...]:
        """What each stage contributes to the end of the step, in step sizes: those of the Butcher tableau."""
        weights, passed_on = [], 0.0
        following = (*self.memory_factors[1:], 0.0)
        for b, a in zip(reversed(self.increment_factors), reversed(following), strict=True):
            passed_on = b + a * passed_on
            weights.append(passed_on)
        return tuple(reversed(weights))

    def check(self, flow: AbstractFlow) -> None:
        check_countable(self, flow)

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        table = jnp.asarray([self.memory_factors, self.increment_factors, self.nodes, self.weights], t.dtype)
        # A trace sees the loop once: what runs in it is counted below.
        uncounted = oracle.fork(Tally())

        def stage(index, registers: tuple[State, State, Array]) -> tuple[State, State, Array]:
            here, carried, rate = registers
            a, b, node, weight = table[:, index]
            time, there = t + node * step_size, uncounted.at(here.position)
            carried = add_scaled(_scaled(a, carried), step_size, flow.vector_field(time, here, there))
            rate = rate + weight * flow.dissipation(time, here, there).astype(t.dtype)
            return add_scaled(here, b, carried), carried, rate

        slope = flow.vector_field(t, state, oracle)
        carried = jax.tree.map(lambda y, k: (step_size * k).astype(y.dtype), state, slope)
        registers = add_scaled(state, table[1, 0], carried), carried, jnp.zeros_like(t)
        # A loop and not a sequence: compilers write the recurrence out, and keep every slope for it. From the rate,
        # where nobody asks for it, they free the loop.
        end, _, later_rates = jax.lax.fori_loop(1, len(self.nodes), stage, registers)
        looped, slopes = len(self.nodes) - 1, passes(flow.vector_field, t, state, oracle)
        oracle.count(looped * slopes.values, looped * slopes.gradients)

        def quadrature() -> Array:
            both = passes(lambda *at: (flow.vector_field(*at), flow.dissipation(*at)), t, state, oracle)
            oracle.count(looped * (both.values - slopes.values), looped * (both.gradients - slopes.gradients))
            return later_rates + table[3, 0] * flow.dissipation(t, state, oracle)

        return Trial(end, oracle.at(end.position), quadrature=quadrature)


class WilliamsonRK3(LowStorageRK):
    """Williamson's method of order 3 in two registers, three stages, all weights positive (1980, case 7).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.WilliamsonRK3())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__((0.0, -5 / 9, -153 / 128), (1 / 3, 15 / 16, 8 / 15), order=3)


class CarpenterKennedyRK4(LowStorageRK):
    """Carpenter and Kennedy's method of order 4 in two registers, five stages, all weights positive.

    Also known as CK54 or 2N54. (Carpenter and Kennedy, 1994, Fourth-order 2N-storage Runge-Kutta schemes, solution 3.)

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.CarpenterKennedyRK4())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    def __init__(self):
        super().__init__(
            (
                0.0,
                -567301805773 / 1357537059087,
                -2404267990393 / 2016746695238,
                -3550918686646 / 2091501179385,
                -1275806237668 / 842570457699,
            ),
            (
                1432997174477 / 9575080441755,
                5161836677717 / 13612068292357,
                1720146321549 / 2090206949498,
                3134564353537 / 4481467310338,
                2277821191437 / 14882151754819,
            ),
            order=4,
        )


def _scaled(factor: Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: (factor * leaf).astype(leaf.dtype), tree)
