"""Strang splitting of memory and position, with exponential half steps for the memory."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.dependence import depends_on_arguments
from .._objective.oracle import Oracle, Tally
from .._tree import add_scaled
from .base import AbstractScheme, Trial
from .exponential import damped_step, kick
from .quadrature import trapezoid


class ExponentialStrang(AbstractScheme):
    r"""Strang splitting for linearly damped memory: half a step of the memory, a step of the position, the other half.

    \[ m_1 = \Phi_{h/2}(t, x, m), \qquad x^+ = x + h F_x\big(t + \tfrac h2,\; x + \tfrac h2 F_x,\; m_1\big), \qquad
       m^+ = \Phi_{h/2}\big(t + \tfrac h2, x^+, m_1\big) \]

    \(\Phi\) solves \(m' = -r m + N(t, x, m)\) for a fixed position with the rates \(r\) of `flow.decay`: exactly where
    \(N\) does not move with the memory or with time (Adam: both averages), and otherwise by an exponential Heun step,

    \[ a = m + h\,\varphi_1(-r h) F_m(t, m), \qquad
       \Phi_h = a + \tfrac h2 \varphi_1(-r h) \big( N(t + h, a) - N(t, m) \big). \]

    The momentum of a mechanical flow is advanced with `flow.damping`, exact for every friction. Positions move by the
    explicit midpoint rule at the time \(t + h/2\), where factors that depend on time (bias correction) belong.

    Order 2. It falls to 1.5 along the first steps of a flow that is singular at its start (Adam from \(m = v = 0\)
    moves like \(\sqrt t\)), and to 1 at kinks of the field. One gradient a step, because that at the end is the next
    step's first, so a rejected trial costs a gradient; one more, at the midpoint, where the velocity \(F_x\) itself
    reads the gradient or the loss. Its quadrature is the trapezoidal rule.

    **Raises:** `ValueError`, when a `Solver` is made, for a flow that declares neither `decay` nor `damping`.
    Source: Strang (1968), On the construction and comparison of difference schemes; Hochbruck and Ostermann (2010),
    Exponential integrators.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Adam(), odeopt.ExponentialStrang())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    order: ClassVar[int] = 2
    gradients_per_step: ClassVar[int] = 1
    has_quadrature: ClassVar[bool] = True

    def check(self, flow: AbstractFlow) -> None:
        if not (flow.declares("decay") or flow.declares("damping")):
            raise ValueError(
                f"ExponentialStrang solves linearly damped memory exactly, and {type(flow).__name__} declares none: "
                "define decay(t, state) where the memory obeys m' = -r m + ..., or take a scheme of order 2 for any "
                "flow, such as Heun."
            )

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        half = 0.5 * step_size
        middle = State(state.position, _advance_memory(flow, t, half, state, oracle))
        position = _advance_position(flow, t + half, step_size, middle, oracle)
        there = oracle.at(position)
        end = State(position, _advance_memory(flow, t + half, half, State(position, middle.memory), there))
        return Trial(end, there, quadrature=lambda: trapezoid(flow, t, step_size, (state, end), (oracle, there)))


def _advance_memory(flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle) -> PyTree:
    """The memory after a step during which the position stands still."""
    damping = flow.damping(t, step_size)
    if damping is not None:
        return kick(damping, state.memory, flow.minimised(oracle).gradient)
    rates, before = flow.decay(t, state), flow.vector_field(t, state, oracle).memory
    ahead = State(state.position, damped_step(rates, step_size, state.memory, before))
    after = flow.vector_field(t + step_size, ahead, oracle).memory
    slope = _mean_slope(rates, (state.memory, ahead.memory), (before, after))
    return damped_step(rates, step_size, state.memory, slope)


def _mean_slope(rates: PyTree, memories: tuple[PyTree, PyTree], slopes: tuple[PyTree, PyTree]) -> PyTree:
    """The slope at the beginning, with the mean over both ends for whatever is not damping in it."""

    def part(rate, first, second, before, after):
        mean = jax.tree.map(lambda a, b: 0.5 * (a + b), before, after)
        if rate is None:
            return mean
        return jax.tree.map(lambda slope, m, a: slope + 0.5 * rate * (a - m), mean, first, second)

    return jax.tree.map(part, rates, *memories, *slopes, is_leaf=lambda rate: rate is None)


def _advance_position(flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle) -> PyTree:
    """The position after a step of the explicit midpoint rule with the given memory; `t`: of the midpoint."""
    velocity = flow.vector_field(t, state, oracle).position
    middle = State(add_scaled(state.position, 0.5 * step_size, velocity), state.memory)
    if _velocity_reads_objective(flow, t, state, oracle):
        there = oracle.at(middle.position)
    else:
        # Its value and gradient are read for the slope of the memory alone, which nobody asks for here.
        there = oracle.with_inputs(middle.position, jnp.zeros_like(t), oracle.gradient)
    return add_scaled(state.position, step_size, flow.vector_field(t, middle, there).position)


def _velocity_reads_objective(flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> bool:
    """Whether the loss or its gradient at the position enters the velocity of the position; found by a trace."""
    # What is evaluated in this trace does not run, and must not be counted.
    uncounted = oracle.fork(Tally())

    def velocity(value: Array, gradient: PyTree) -> PyTree:
        return flow.vector_field(t, state, uncounted.with_inputs(state.position, value, gradient)).position

    return depends_on_arguments(jax.make_jaxpr(velocity)(jnp.zeros_like(t), oracle.gradient).jaxpr)
