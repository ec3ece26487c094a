"""Semi-implicit (symplectic) Euler."""

from typing import ClassVar

from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle
from .._tree import add_scaled
from .base import AbstractScheme, Trial


class SemiImplicitEuler(AbstractScheme):
    r"""Semi-implicit Euler: memory first, then the position with the new memory.

    \[ m^+ = m + h F_m(t, x, m), \qquad x^+ = x + h F_x(t + h, x, m^+) \]

    Order 1, one gradient a step. Without memory it is explicit Euler. From rest it lowers the energy of a heavy ball
    by \(h^2 |g|^2 / 2\) to leading order, where explicit Euler raises it at every step size.
    (Hairer, Lubich, Wanner, 2006, Geometric Numerical Integration, I.1.)

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(), odeopt.SemiImplicitEuler())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        memory = add_scaled(state.memory, step_size, flow.vector_field(t, state, oracle).memory)
        return position_last(flow, t + step_size, step_size, State(state.position, memory), oracle)


def position_last(flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle) -> Trial:
    """The second half of a memory-first step: `state` holds the old position and the new memory."""
    velocity = flow.vector_field(t, state, oracle).position
    position = add_scaled(state.position, step_size, velocity)
    return Trial(State(position, state.memory), oracle.at(position))
