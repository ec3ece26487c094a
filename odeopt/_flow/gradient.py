r"""Gradient flow.

\[ x' = -\nabla f(x), \qquad V = f(x), \qquad V' = -|\nabla f(x)|^2, \]

for any \(f\). (Cauchy, 1847, Méthode générale pour la résolution des systèmes d'équations simultanées.)
"""

from typing import TYPE_CHECKING

import jax
import optax
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow, DecayBound, State

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class GradientFlow(AbstractFlow):
    r"""Gradient flow, whose explicit Euler scheme is gradient descent with the step size as learning rate.

    \[ x' = -\nabla f(x), \qquad V = f(x), \qquad V' = -|\nabla f(x)|^2 \]

    It is stiff where curvatures differ, so that `RKC1` is recommended, whose stages let a step be as long as is needed.

    Unit of time: \([x]^2 / [f]\), an inverse curvature; nothing to calibrate. Source: Cauchy (1847).

    !!! example

        ```python
        fn = lambda x, _: jnp.sum(x**4)
        solution = odeopt.minimise(fn, odeopt.Solver(odeopt.GradientFlow()), jnp.ones(2))
        descent = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler())
        print(odeopt.minimise(fn, descent, jnp.ones(2)))
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

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State:
        return State(jax.tree.map(lambda w: -w, covector.position))

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound:
        # V' = -|g|^2 <= -c^2 (f - inf f)^(2 theta).
        return DecayBound(2 * lojasiewicz_exponent, constant**2)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.chebyshev import RKC1

        return RKC1(), LyapunovControl()

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler
        from .._scheme.tableaus import Euler

        # Without memory all three are explicit Euler.
        return optax.sgd(step_size) if isinstance(scheme, Euler | SemiImplicitEuler | ExponentialEuler) else None
