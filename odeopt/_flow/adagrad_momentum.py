r"""AdaGrad with momentum.

\[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = b\,g^2, \qquad D = \sqrt{v + e^2}, \]
\[ V = f(x) + \frac{1}{2a} \sum \frac{m^2}{D}, \qquad
   V' = -\sum \frac{m^2}{D} \Big( 1 + \frac{b\,g^2}{4 a D^2} \Big) \le 0, \]

for any \(f\), \(a > 0\) and \(b \ge 0\). (Duchi, Hazan and Singer, 2011, Adaptive subgradient methods for online
learning and stochastic optimization; Belotto da Silva and Gazeau, 2020, A general system of differential equations to
model first-order adaptive algorithms.)
"""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .base import State
from .preconditioned_momentum import AbstractPreconditionedMomentum


class AdaGradMomentum(AbstractPreconditionedMomentum):
    r"""AdaGrad with momentum in front of the preconditioner, which never shrinks: no condition ties its two rates.

    \[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = b\,g^2, \qquad D = \sqrt{v + e^2}, \qquad
       V = f + \frac{1}{2a} \sum \frac{m^2}{D} \]

    With `ExponentialEuler` at constant step \(h\) it is AdaGrad, with the average of the gradients,
    \(\beta_1 = e^{-a h}\), in the place of the gradient, \(b h\) times the sum of the squares and learning rate
    \(h\). The memory is `(m, v)`.

    **Arguments:**

    - `momentum_rate`: \(a > 0\) per unit of time.
    - `scaling_rate`: \(b \ge 0\) per unit of time.
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): a thousandth of the root mean square of the
        gradient at the start, so that scaling the objective changes nothing.

    Unit of time: every parameter moves by about \(1 / \sqrt{b t}\) per unit of time while its gradient lasts; time has
    the unit of the parameters, whatever the scale of the objective.
    **Raises:** `ValueError` if a rate or `epsilon` is out of range. Source: Duchi, Hazan and Singer (2011), Belotto da
    Silva and Gazeau (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.AdaGradMomentum())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=0.1)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)

    def scaling_slope(self, v: Array, gradient: Array) -> Array:
        return self.scaling_rate * gradient**2

    def decay(self, t: Array, state: State) -> PyTree:
        return (self.momentum_rate, None)

    def kept_squares(self, b2: Array, step_size: Array) -> Callable[[Array, Array], Array]:
        return lambda v, g: v + self.scaling_rate * step_size * g**2
