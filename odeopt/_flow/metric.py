r"""Gradient flow in a metric: whatever the metric depends on, the objective itself is the energy.

\[ x' = -P\,\nabla f(x), \qquad P = P(t, x) = P^\top \succeq 0, \qquad
   V = f(x), \qquad V' = -\langle \nabla f, P\,\nabla f \rangle. \]
"""

import abc
from typing import TYPE_CHECKING

import jax
import optax
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow, State

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class AbstractMetricFlow(AbstractFlow):
    r"""Gradient flow with a preconditioner, without memory: a subclass writes the product with it, and nothing else.

    \[ x' = -P\,\nabla f(x), \qquad V = f(x), \qquad V' = -\langle \nabla f, P\,\nabla f \rangle \]

    \(P\), the inverse of the metric, is symmetric and positive semidefinite, and may depend on anything.

    !!! example "Gradient flow in units of the parameters"

        ```python
        class RelativeFlow(odeopt.AbstractMetricFlow):
            def inverse_metric(self, t, state, oracle, covector):
                return jax.tree.map(lambda x, w: (1 + x**2) * w, state.position, covector)

        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), odeopt.Solver(RelativeFlow()), jnp.ones(2))
        ```
    """

    @abc.abstractmethod
    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        r"""The product \(P\,w\) with a covector \(w\) in the structure of the parameters, like a gradient."""

    def init(self, params: PyTree) -> State:
        return State(params)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        return self.structure(t, state, oracle, State(oracle.gradient))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return -vdot(oracle.gradient, self.inverse_metric(t, state, oracle, oracle.gradient))

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State:
        product = self.inverse_metric(t, state, oracle, covector.position)
        return State(jax.tree.map(lambda w: -w, product))

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.tableaus import Euler

        return Euler(), LyapunovControl()

    def euler_equivalent(self, step_size: Array) -> optax.GradientTransformation | None:
        """The discrete optimizer that explicit Euler makes of the flow; `None` where none is known."""
        return None

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler
        from .._scheme.tableaus import Euler

        # Without memory all three are explicit Euler.
        is_euler = isinstance(scheme, Euler | SemiImplicitEuler | ExponentialEuler)
        return self.euler_equivalent(step_size) if is_euler else None
