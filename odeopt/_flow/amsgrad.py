r"""The flow of AMSGrad.

\[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = b\,(g^2 - v)_+, \qquad D = \sqrt{v + e^2}, \]
\[ V = f(x) + \frac{1}{2a} \sum \frac{m^2}{D}, \qquad
   V' = -\sum \frac{m^2}{D} \Big( 1 + \frac{b\,(g^2 - v)_+}{4 a D^2} \Big) \le 0, \]

for any \(f\), \(a > 0\) and \(b \ge 0\). (Reddi, Kale and Kumar, 2018, On the convergence of Adam and beyond.)
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import hyperparameter
from .discrete import largest_average
from .preconditioned_momentum import AbstractPreconditionedMomentum


class AMSGrad(AbstractPreconditionedMomentum):
    r"""Adam whose preconditioner never shrinks: no condition ties its two rates.

    \[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = b\,(g^2 - v)_+, \qquad D = \sqrt{v + e^2}, \qquad
       V = f + \frac{1}{2a} \sum \frac{m^2}{D} \]

    With `ExponentialEuler` at constant step \(h\), \(v^+ = \max(v, \beta_2 v + (1 - \beta_2) g^2)\) with
    \(\beta_2 = e^{-b h}\). The published method takes the maximum of an average that goes on beside it,
    \(u^+ = \beta_2 u + (1 - \beta_2) g^2\), \(v^+ = \max(v, u^+)\), which is no function of the present state
    \((x, m, v)\) and rises later. The memory is `(m, v)`.

    **Arguments:**

    - `momentum_rate`: \(a > 0\) per unit of time.
    - `scaling_rate`: \(b \ge 0\) per unit of time.
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): a thousandth of the root mean square of the
        gradient at the start, so that scaling the objective changes nothing.

    Unit of time: every parameter moves by at most about 1 per unit of time, and by as much less as its gradient has
    fallen below the largest so far; time has the unit of the parameters, whatever the scale of the objective.
    **Raises:** `ValueError` if a rate or `epsilon` is out of range. Source: Reddi, Kale and Kumar (2018).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.AMSGrad())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=0.1)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)

    def scaling_slope(self, v: Array, gradient: Array) -> Array:
        return self.scaling_rate * jnp.maximum(gradient**2 - v, 0)

    def kept_squares(self, b2: Array, step_size: Array) -> Callable[[Array, Array], Array]:
        return largest_average(b2)
