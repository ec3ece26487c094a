r"""Gradient flow.

\[ x' = -\nabla f(x), \qquad V = f(x), \qquad V' = -|\nabla f(x)|^2, \]

for any \(f\). (Cauchy, 1847, Méthode générale pour la résolution des systèmes d'équations simultanées.)
"""

import jax
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow, State


class GradientFlow(AbstractFlow):
    r"""Gradient flow, whose explicit Euler scheme is gradient descent with the step size as learning rate.

    \[ x' = -\nabla f(x), \qquad V = f(x), \qquad V' = -|\nabla f(x)|^2 \]

    Unit of time: \([x]^2 / [f]\), an inverse curvature; nothing to calibrate. Source: Cauchy (1847).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    def init(self, params: PyTree) -> State:
        return State(params)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        return State(jax.tree.map(lambda g: -g, oracle.gradient))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return -vdot(oracle.gradient, oracle.gradient)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.tableaus import Euler

        return Euler(), LyapunovControl()
