r"""The flow of AdaGrad.

\[ x' = -\frac{g}{\sqrt{v + e^2}}, \quad v' = p\,g^2, \qquad V = f(x), \qquad V' = -\sum \frac{g^2}{\sqrt{v + e^2}}, \]

for any \(f\) and \(p > 0\): whatever the memory \(v \ge 0\) does, it only changes the metric. (Duchi, Hazan, Singer,
2011, Adaptive subgradient methods for online learning and stochastic optimization.)
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


class AdaGrad(AbstractFlow):
    r"""AdaGrad in continuous time.

    \[ x' = -\frac{g}{\sqrt{v + e^2}}, \quad v' = p\,g^2, \qquad V = f, \qquad V' = -\sum \frac{g^2}{\sqrt{v + e^2}} \]

    With `ExponentialEuler` or `SemiImplicitEuler` at constant step \(h\) it is AdaGrad at the learning rate
    \(\eta = \sqrt{h/p}\), with an empty accumulator at the start and \(e^2 / (h p)\) for the constant under the root.
    So a learning rate \(\eta\) stands for \(h = \eta\) and \(p = 1/\eta\): the discrete method adds a whole \(g^2\)
    at every step, however short, and only an accumulation per unit of time has a continuous limit.

    **Arguments:**

    - `accumulation_rate`: \(p > 0\) per unit of time.
    - `epsilon`: \(e > 0\), in units of the gradient. `None` (default): a thousandth of the root mean square of the
        first gradient.

    Time has the unit of the parameters; `unit_of_time` is \(1/p\). **Raises:** `ValueError` if a constant is out of
    range. Source: Duchi, Hazan and Singer (2011).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.AdaGrad())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    accumulation_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "accumulation_rate", "per unit of time: the metric is the root of what is accumulated")
        check_positive(self, "epsilon", "in units of the gradient")

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def calibrate(self, state: State, oracle: Oracle) -> "AdaGrad":
        return with_open(self, "epsilon", OPEN_EPSILON * root_mean_square(oracle.gradient, size(state.position)))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        return State(
            jax.tree.map(lambda g, v: -g / self._root(v), oracle.gradient, state.memory),
            jax.tree.map(lambda g: self.accumulation_rate * g**2, oracle.gradient),
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        g, v = oracle.gradient, state.memory
        return -vdot(g, jax.tree.map(lambda g, v: g / self._root(v), g, v))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / self.accumulation_rate

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler

        p, h, e = self.accumulation_rate, step_size, calibrated(self, "epsilon")
        if isinstance(scheme, ExponentialEuler | SemiImplicitEuler):
            return optax.adagrad(jnp.sqrt(h / p), initial_accumulator_value=0.0, eps=e**2 / (h * p))
        return None

    def _root(self, v: Array) -> Array:
        return jnp.sqrt(v + calibrated(self, "epsilon") ** 2)
