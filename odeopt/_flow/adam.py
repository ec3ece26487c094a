r"""The flow of Adam without bias correction.

\[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v + e^2}, \]
\[ V = f(x) + \frac{1}{2a} \sum \frac{m^2}{D}, \qquad
   V' = -\sum \frac{m^2}{D} \Big( 1 + \frac{b\,(g^2 - v)}{4 a D^2} \Big) \le 0 \quad\text{iff}\quad b \le 4a. \]

(Kingma and Ba, 2015, Adam: a method for stochastic optimization; Belotto da Silva and Gazeau, 2020, A general system
of differential equations to model first-order adaptive algorithms.)
"""

import equinox as eqx
from jaxtyping import Array

from .._hyperparameter import hyperparameter
from .moments import OPEN_EPSILON as OPEN_EPSILON
from .moments import check_scaling_rate
from .preconditioned_momentum import AbstractPreconditionedMomentum


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
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=0.5)
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
