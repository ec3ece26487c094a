r"""Flows along a direction that second derivatives make: it is computed once at every point.

\[ x' = d(x), \qquad V = f(x), \qquad V' = \langle \nabla f, d \rangle \le 0. \]
"""

import abc

import jax
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow, State


class AbstractCurvatureFlow(AbstractFlow):
    r"""A flow without memory along a descent direction: a subclass writes the direction, and nothing else.

    \[ x' = d(x), \qquad V = f, \qquad V' = \langle \nabla f, d \rangle \]

    The direction may be dear: the loop keeps the one at the end of a step for the beginning of the next. Time has no
    unit; a step of length 1 is the whole of what the model of the objective suggests, so 1 is what every step is tried
    with, and none is longer.

    !!! example "Newton's direction where the Hessian is diagonal"

        ```python
        class DiagonalNewton(odeopt.AbstractCurvatureFlow):
            def direction(self, oracle):
                curvature = oracle.hvp(jnp.ones_like(oracle.point))
                return -oracle.gradient / jnp.maximum(jnp.abs(curvature), 1e-6)

        solution = odeopt.minimise(lambda x, _: jnp.sum(jnp.cosh(x)), odeopt.Solver(DiagonalNewton()), jnp.ones(3))
        ```
    """

    @abc.abstractmethod
    def direction(self, oracle: Oracle) -> PyTree:
        r"""\(d\) at `oracle.point`, with \(\langle \nabla f, d \rangle \le 0\), in the structure of the parameters."""

    def init(self, params: PyTree) -> State:
        return State(params)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        return State(self._direction(oracle))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return vdot(oracle.gradient, self._direction(oracle))

    def recommended(self):
        return newton_steps()

    def _direction(self, oracle: Oracle) -> PyTree:
        def direction():
            return jax.tree.map(lambda d, x: d.astype(x.dtype), self.direction(oracle), oracle.point)

        return oracle.kept(direction)


def newton_steps():
    """The scheme and the controller of flows without a unit of time, whose natural step is 1."""
    from .._controller.lyapunov import LyapunovControl
    from .._scheme.tableaus import Euler

    # Newton's step on a quadratic keeps half of the dissipation: a tenth never stands in its way, and it keeps first
    # steps, whose length nobody knows, from landing on a plateau far away as any decrease would not
    # (benchmarks/curvature.py, table "cutest"). The parabola through a trial that fails knows better than a half where
    # the next should be.
    return Euler(), LyapunovControl(initial_step_size=1.0, search="restart", interpolate=True)
