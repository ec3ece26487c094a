r"""The flow of RMSProp.

\[ x' = -\frac{g}{\sqrt{v + e^2}}, \quad v' = b\,(g^2 - v), \qquad V = f(x), \qquad
   V' = -\sum \frac{g^2}{\sqrt{v + e^2}}, \]

for any \(f\) and \(b > 0\): whatever the memory \(v \ge 0\) does, it only changes the metric. (Tieleman and Hinton,
2012, Lecture 6.5: RMSProp, divide the gradient by a running average of its recent magnitude.)
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._tree import size, vdot
from .base import AbstractFlow, State
from .moments import OPEN_EPSILON
from .open_scale import calibrated, check_positive, root_mean_square, with_open

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class RMSProp(AbstractFlow):
    r"""RMSProp in continuous time.

    \[ x' = -\frac{g}{\sqrt{v + e^2}}, \quad v' = b\,(g^2 - v), \qquad V = f, \qquad
       V' = -\sum \frac{g^2}{\sqrt{v + e^2}} \]

    With `ExponentialEuler` at constant step \(h\) it is RMSProp at learning rate \(h\) and decay \(e^{-b h}\), with
    \(e^2\) added under the root; with `SemiImplicitEuler` the decay is \(1 - b h\).

    **Arguments:**

    - `scaling_rate`: \(b > 0\) per unit of time.
    - `epsilon`: \(e > 0\), in units of the gradient. `None` (default): a thousandth of the root mean square of the
        first gradient.

    The gradients of the last \(1/b\) units of time are remembered; time has the unit of the parameters, whatever the
    scale of the objective. `unit_of_time` is \(1/b\). **Raises:** `ValueError` if a constant is out of range. Source:
    Tieleman and Hinton (2012).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.RMSProp())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    scaling_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "scaling_rate", "per unit of time: with a negative one the second moment turns negative")
        check_positive(self, "epsilon", "in units of the gradient")

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def calibrate(self, state: State, oracle: Oracle) -> "RMSProp":
        return with_open(self, "epsilon", OPEN_EPSILON * root_mean_square(oracle.gradient, size(state.position)))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        g, v = oracle.gradient, state.memory
        return State(
            jax.tree.map(lambda g, v: -g / self._root(v), g, v),
            jax.tree.map(lambda g, v: self.scaling_rate * (g**2 - v), g, v),
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        g, v = oracle.gradient, state.memory
        return -vdot(g, jax.tree.map(lambda g, v: g / self._root(v), g, v))

    def decay(self, t: Array, state: State) -> PyTree:
        return self.scaling_rate

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / self.scaling_rate

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler

        b, h, e = self.scaling_rate, step_size, calibrated(self, "epsilon")
        if isinstance(scheme, ExponentialEuler):
            return optax.rmsprop(h, decay=jnp.exp(-b * h), eps=e**2)
        if isinstance(scheme, SemiImplicitEuler):
            return optax.rmsprop(h, decay=1 - b * h, eps=e**2)
        return None

    def _root(self, v: Array) -> Array:
        return jnp.sqrt(v + calibrated(self, "epsilon") ** 2)
