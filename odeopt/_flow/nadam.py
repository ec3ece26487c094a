r"""The flow of NAdam: Adam with a part of the present gradient in the step.

\[ x' = -\frac{m + c g}{D}, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v + e^2}, \]
\[ V = f(x) + \frac{1}{2a} \sum \frac{m^2}{D}, \qquad
   V' = -\sum \frac{m^2}{D} \Big( 1 + \frac{b\,(g^2 - v)}{4 a D^2} \Big) - c \sum \frac{g^2}{D} < 0
   \quad\text{if}\quad b \le 4a,\ g \ne 0. \]

(Dozat, 2016, Incorporating Nesterov momentum into Adam; Belotto da Silva and Gazeau, 2020, A general system of
differential equations to model first-order adaptive algorithms.)
"""

import equinox as eqx
import jax
import optax
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import State
from .discrete import preconditioned_momentum
from .moments import check_scaling_rate
from .preconditioned_momentum import AbstractPreconditionedMomentum


class NAdam(AbstractPreconditionedMomentum):
    r"""Adam with Nesterov's look-ahead, in continuous time; its energy falls wherever the gradient is not zero.

    \[ x' = -\frac{m + c g}{D}, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v + e^2}, \qquad
       V = f + \frac{1}{2a} \sum \frac{m^2}{D} \]

    With `ExponentialEuler` at constant step \(h\) the update is \(-h\,(m^+ + c g) / D^+\), with
    \(\beta_1 = e^{-a h}\) and \(\beta_2 = e^{-b h}\): NAdam without bias correction at learning rate
    \(h / \beta_1\), if \(c = (1 - \beta_1) / \beta_1\). The memory is `(m, v)`.

    **Arguments:**

    - `momentum_rate`: \(a > 0\) per unit of time.
    - `scaling_rate`: \(b\) per unit of time, \(0 \le b \le 4a\).
    - `gradient_weight`: \(c > 0\), the weight of the present gradient beside the momentum; 1/9 belongs to
        \(\beta_1 = 0.9\).
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): a thousandth of the root mean square of the
        gradient at the start, so that scaling the objective changes nothing.

    Unit of time: every parameter moves by at most about \(1 + c\) per unit of time; time has the unit of the
    parameters, whatever the scale of the objective.
    **Raises:** `ValueError` if an argument is out of range. Source: Dozat (2016), Belotto da Silva and Gazeau (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.NAdam())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=0.5)
    gradient_weight: Array = eqx.field(converter=hyperparameter, default=1 / 9)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        c = self.gradient_weight
        if concrete(c) and not 0 < float(c) < float("inf"):
            raise ValueError(
                f"NAdam(gradient_weight={float(c)}): expected a finite number > 0; without a part of the present "
                "gradient it is Adam."
            )
        check_scaling_rate(self)

    def scaling_slope(self, v: Array, gradient: Array) -> Array:
        return self.scaling_rate * (gradient**2 - v)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        field, (_, v) = super().vector_field(t, state, oracle), state.memory
        ahead = lambda velocity, v, g: velocity - self.gradient_weight * g / self.denominator(v)  # noqa: E731
        return State(jax.tree.map(ahead, field.position, v, oracle.gradient), field.memory)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        (_, v), g = state.memory, oracle.gradient
        scaled = jax.tree.map(lambda v, g: g / self.denominator(v), v, g)
        return super().dissipation(t, state, oracle) - self.gradient_weight * vdot(g, scaled)

    def optimizer(self, step_size: Array, b1: Array, b2: Array) -> optax.GradientTransformation:
        squares = self.kept_squares(b2, step_size)
        return preconditioned_momentum(step_size, b1, squares, self.denominator, gradient_weight=self.gradient_weight)
