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
from jaxtyping import Array

from .._hyperparameter import hyperparameter
from .moments import OPEN_EPSILON as OPEN_EPSILON
from .moments import check_scaling_rate
from .preconditioned_momentum import AbstractPreconditionedMomentum

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class Adam(AbstractPreconditionedMomentum):
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
    - `bias_correction`: only `False`; the flow with bias correction is `BiasCorrectedAdam`, with explicit time.

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
                "Adam(bias_correction=True): the flow with bias correction has explicit time and an energy of its own. "
                "Use BiasCorrectedAdam."
            )
        check_scaling_rate(self)

    def scaling_slope(self, v: Array, gradient: Array) -> Array:
        return self.scaling_rate * (gradient**2 - v)

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler

        a, b, h = self.momentum_rate, self.scaling_rate, step_size
        eps_root = self._calibrated_epsilon() ** 2
        if isinstance(scheme, ExponentialEuler):
            return adam_without_bias_correction(h, jnp.exp(-a * h), jnp.exp(-b * h), eps_root)
        if isinstance(scheme, SemiImplicitEuler):
            return adam_without_bias_correction(h, 1 - a * h, 1 - b * h, eps_root)
        return None


def adam_without_bias_correction(
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
