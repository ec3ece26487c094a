r"""The flow of Adam without bias correction.

\[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v + e^2}, \]
\[ V = f(x) + \frac{1}{2a} \sum \frac{m^2}{D}, \qquad
   V' = -\sum \frac{m^2}{D} \Big( 1 + \frac{b\,(g^2 - v)}{4 a D^2} \Big) \le 0 \quad\text{iff}\quad b \le 4a. \]

(Kingma and Ba, 2015, Adam: a method for stochastic optimization; Belotto da Silva and Gazeau, 2020, A general system
of differential equations to model first-order adaptive algorithms.)
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import size, vdot
from .base import AbstractFlow, State

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class Adam(AbstractFlow):
    r"""Adam without bias correction, in continuous time.

    \[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v + e^2}, \qquad
       V = f + \frac{1}{2a} \sum \frac{m^2}{D} \]

    With `ExponentialEuler` at constant step \(h\) it is Adam without bias correction at learning rate \(h\),
    \(\beta_1 = e^{-a h}\), \(\beta_2 = e^{-b h}\) and `eps=0, eps_root=e**2`; with `SemiImplicitEuler` the same with
    \(\beta_1 = 1 - a h\), \(\beta_2 = 1 - b h\). The memory is `(m, v)`.

    **Arguments:**

    - `momentum_rate`: \(a > 0\) per unit of time.
    - `scaling_rate`: \(b\) per unit of time, \(0 \le b \le 4a\).
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): a thousandth of the root mean square of the
        gradient at the start, so that scaling the objective changes nothing.
    - `bias_correction`: only `False`; the flow with bias correction is another one, with explicit time.

    Unit of time: every parameter moves by at most about 1 per unit of time, and the gradients of the last \(1/a\)
    units are remembered; time has the unit of the parameters, whatever the scale of the objective.
    **Raises:** `ValueError` if a rate or `epsilon` is out of range. Source: Kingma and Ba (2015), Belotto da Silva and
    Gazeau (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Adam())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)
    bias_correction: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.bias_correction is not False:
            raise ValueError(
                "Adam(bias_correction=True) is not available: the flow with bias correction has explicit time and an "
                "energy of its own. Use bias_correction=False."
            )
        a, b, e = self.momentum_rate, self.scaling_rate, self.epsilon
        if concrete(a) and not 0 < float(a) < float("inf"):
            raise ValueError(f"Adam(momentum_rate={float(a)}): expected a finite rate > 0.")
        if concrete(b) and not 0 <= float(b) < float("inf"):
            raise ValueError(f"Adam(scaling_rate={float(b)}): expected a finite rate >= 0.")
        if concrete(a) and concrete(b) and float(b) > 4 * float(a):
            raise ValueError(
                f"Adam(momentum_rate={float(a)}, scaling_rate={float(b)}): scaling_rate must be at most 4 * "
                "momentum_rate, otherwise the energy can rise along the flow. (Per step: beta2 >= beta1**4.)"
            )
        if concrete(e) and not 0 < float(e) < float("inf"):
            raise ValueError(f"Adam(epsilon={float(e)}): expected a finite number > 0, in units of the gradient.")

    def init(self, params: PyTree) -> State:
        return State(params, (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)))

    def calibrate(self, state: State, oracle: Oracle) -> "Adam":
        if self.epsilon is not None:
            return self
        rms = jnp.sqrt(vdot(oracle.gradient, oracle.gradient) / size(state.position))
        # A zero gradient sets no scale, and needs none: the flow starts at an equilibrium.
        epsilon = jnp.where(rms > 0, OPEN_EPSILON * rms, 1.0)
        return Adam(self.momentum_rate, self.scaling_rate, epsilon)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        (m, v), g = state.memory, oracle.gradient
        return State(
            jax.tree.map(lambda m, v: -m / self._root(v), m, v),
            (
                jax.tree.map(lambda m, g: self.momentum_rate * (g - m), m, g),
                jax.tree.map(lambda v, g: self.scaling_rate * (g**2 - v), v, g),
            ),
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        (m, v), g = state.memory, oracle.gradient
        weight = self.scaling_rate / (4 * self.momentum_rate)
        return -vdot(
            jax.tree.map(lambda m, v: m**2 / self._root(v), m, v),
            jax.tree.map(lambda v, g: 1 + weight * (g**2 - v) / self._root(v) ** 2, v, g),
        )

    def kinetic_energy(self, t: Array, state: State) -> Array:
        m, v = state.memory
        return vdot(m, jax.tree.map(lambda m, v: m / self._root(v), m, v)) / (2 * self.momentum_rate)

    def decay(self, t: Array, state: State) -> PyTree:
        return (self.momentum_rate, self.scaling_rate)

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / self.momentum_rate

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler

        a, b, h = self.momentum_rate, self.scaling_rate, step_size
        eps_root = self._calibrated_epsilon() ** 2
        if isinstance(scheme, ExponentialEuler):
            return _adam_without_bias_correction(h, jnp.exp(-a * h), jnp.exp(-b * h), eps_root)
        if isinstance(scheme, SemiImplicitEuler):
            return _adam_without_bias_correction(h, 1 - a * h, 1 - b * h, eps_root)
        return None

    def _root(self, v: Array) -> Array:
        # The constant stands under the root: sqrt(v) + e has no derivative at v = 0, where the flow starts.
        return jnp.sqrt(v + self._calibrated_epsilon() ** 2)

    def _calibrated_epsilon(self) -> Array:
        if self.epsilon is None:
            raise ValueError(
                "Adam(epsilon=None) has not been calibrated: minimise and train do it; elsewhere call "
                "flow.calibrate(state, oracle) first or give epsilon."
            )
        return self.epsilon


# epsilon over the root mean square of the first gradient, where none is given. Measured: benchmarks/core.py,
# table "constants".
OPEN_EPSILON = 1e-3


def _adam_without_bias_correction(
    learning_rate: Array, b1: Array, b2: Array, eps_root: Array
) -> optax.GradientTransformation:
    """As in optax, which has no switch for the bias correction."""

    def init(params):
        return optax.tree.zeros_like(params), optax.tree.zeros_like(params)

    def update(updates, state, params=None):
        mu = optax.tree.update_moment(updates, state[0], b1, 1)
        nu = optax.tree.update_moment(updates, state[1], b2, 2)
        return jax.tree.map(lambda m, v: -learning_rate * m / jnp.sqrt(v + eps_root), mu, nu), (mu, nu)

    return optax.GradientTransformation(init, update)
