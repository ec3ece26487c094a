r"""The flow of Padam, Adam with another exponent than one half.

\[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad
   D = s \Big( \frac{v + e^2}{s^2} \Big)^p, \]
\[ V = f(x) + \frac{1}{2a} \sum \frac{m^2}{D}, \qquad
   V' = -\sum \frac{m^2}{D} \Big( 1 + \frac{p\,b\,(g^2 - v)}{2 a\,(v + e^2)} \Big) \le 0
   \quad\text{iff}\quad p\,b \le 2a. \]

(Chen, Zhou, Tang, Yang, Cao and Gu, 2020, Closing the generalization gap of adaptive gradient methods in training deep
neural networks.)
"""

import equinox as eqx
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import size
from .base import State
from .open_scale import calibrated, check_positive, root_mean_square, with_open
from .preconditioned_momentum import AbstractPreconditionedMomentum


class Padam(AbstractPreconditionedMomentum):
    r"""Partially adaptive momentum: between heavy ball, \(p = 0\), and Adam, \(p = 1/2\).

    \[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad
       D = s \Big( \frac{v + e^2}{s^2} \Big)^p, \qquad V = f + \frac{1}{2a} \sum \frac{m^2}{D} \]

    With `ExponentialEuler` at constant step \(h\) it is Padam without bias correction at learning rate
    \(h\,s^{2p - 1}\), \(\beta_1 = e^{-a h}\), \(\beta_2 = e^{-b h}\). The memory is `(m, v)`.

    **Arguments:**

    - `exponent`: \(p \ge 0\), published \(0 < p \le 1/2\).
    - `momentum_rate`: \(a > 0\) per unit of time.
    - `scaling_rate`: \(b\) per unit of time, \(0 \le p\,b \le 2a\).
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): a thousandth of the root mean square of the
        gradient at the start.
    - `scale`: \(s > 0\) in units of the gradient, which makes every exponent work in the same unit of time; 1 is the
        published method. `None` (default): the root mean square of the gradient at the start, so that scaling the
        objective changes nothing.

    Unit of time: a parameter whose gradients are of the size \(s\) moves by at most about 1 per unit of time; time has
    the unit of the parameters, whatever the scale of the objective.
    **Raises:** `ValueError` if an argument is out of range. Source: Chen et al. (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Padam(exponent=0.25))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    # The published recommendation for training networks.
    exponent: Array = eqx.field(converter=hyperparameter, default=0.125)
    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)
    scale: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        p, a, b = self.exponent, self.momentum_rate, self.scaling_rate
        if concrete(p) and not 0 <= float(p) < float("inf"):
            raise ValueError(f"Padam(exponent={float(p)}): expected a finite number >= 0; 0.5 is Adam.")
        check_positive(self, "scale", "in units of the gradient")
        if concrete(p) and concrete(a) and concrete(b) and 0 < 2 * float(a) < float(p) * float(b):
            raise ValueError(
                f"Padam(exponent={float(p)}, momentum_rate={float(a)}, scaling_rate={float(b)}): exponent * "
                "scaling_rate must be at most 2 * momentum_rate, otherwise the energy can rise along the flow."
            )

    def calibrate(self, state: State, oracle: Oracle) -> "Padam":
        flow = super().calibrate(state, oracle)
        return with_open(flow, "scale", root_mean_square(oracle.gradient, size(state.position)))

    def scaling_slope(self, v: Array, gradient: Array) -> Array:
        return self.scaling_rate * (gradient**2 - v)

    def denominator(self, v: Array) -> Array:
        scale = calibrated(self, "scale")
        return scale * ((v + self._calibrated_epsilon() ** 2) / scale**2) ** self.exponent

    def growth(self, v: Array, slope: Array) -> Array:
        return self.exponent * slope / (v + self._calibrated_epsilon() ** 2)
