r"""The flow of Adam with an L2 penalty whose gradient goes through the momentum only.

\[ x' = -\frac{m}{D}, \quad m' = a (g + \lambda x - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v + e^2}, \]
\[ V = f(x) + \frac{\lambda}{2} |x|^2 + \frac{1}{2a} \sum \frac{m^2}{D}, \qquad
   V' = -\sum \frac{m^2}{D} \Big( 1 + \frac{b\,(g^2 - v)}{4 a D^2} \Big) \le 0 \quad\text{iff}\quad b \le 4a. \]

(Kingma and Ba, 2015, Adam: a method for stochastic optimization; Belotto da Silva and Gazeau, 2020, A general system
of differential equations to model first-order adaptive algorithms; Loshchilov and Hutter, 2019, Decoupled weight decay
regularization, on what such a penalty does.)
"""

from typing import ClassVar

import equinox as eqx
import jax
import optax
import optimistix as optx
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import add_scaled, vdot
from .base import State
from .discrete import preconditioned_momentum
from .moments import check_scaling_rate
from .preconditioned_momentum import AbstractPreconditionedMomentum


class AdamL2(AbstractPreconditionedMomentum):
    r"""Adam with a weight decay that keeps the energy: it minimises \(f + \tfrac{\lambda}{2} |x|^2\).

    \[ x' = -\frac{m}{D}, \quad m' = a (g + \lambda x - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v + e^2}, \qquad
       V = f + \frac{\lambda}{2} |x|^2 + \frac{1}{2a} \sum \frac{m^2}{D} \]

    The preconditioner is that of the loss alone. With `ExponentialEuler` at constant step \(h\) it is Adam without
    bias correction at learning rate \(h\), whose first moment averages \(g + \lambda x\) and whose second moment
    averages \(g^2\). The memory is `(m, v)`, and `stationarity` is \(|g + \lambda x|\).

    **Arguments:**

    - `weight_decay`: \(\lambda \ge 0\), a curvature, in units of the objective over those of the parameters squared.
    - `momentum_rate`: \(a > 0\) per unit of time.
    - `scaling_rate`: \(b\) per unit of time, \(0 \le b \le 4a\).
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): a thousandth of the root mean square of the
        gradient at the start, so that scaling the objective (and \(\lambda\) with it) changes nothing.

    Unit of time: every parameter moves by at most about 1 per unit of time while the penalty is the smaller part of the
    gradient; time has the unit of the parameters, whatever the scale of the objective.
    **Raises:** `ValueError` if an argument is out of range. Source: Kingma and Ba (2015), Belotto da Silva and Gazeau
    (2020), Loshchilov and Hutter (2019).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.AdamL2(weight_decay=0.1))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4 - x), solver, jnp.ones(2))
        ```
    """

    judged_by: ClassVar[str] = "energy"

    weight_decay: Array = eqx.field(converter=hyperparameter)
    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=0.5)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        decay = self.weight_decay
        if concrete(decay) and not 0 <= float(decay) < float("inf"):
            raise ValueError(f"AdamL2(weight_decay={float(decay)}): expected a finite number >= 0.")
        check_scaling_rate(self)

    def scaling_slope(self, v: Array, gradient: Array) -> Array:
        return self.scaling_rate * (gradient**2 - v)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        field = super().vector_field(t, state, oracle)
        slope, squares = field.memory
        pulled = jax.tree.map(lambda s, x: s + self.momentum_rate * self.weight_decay * x, slope, state.position)
        return State(field.position, (pulled, squares))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        penalty = 0.5 * self.weight_decay * vdot(state.position, state.position)
        return oracle.value + penalty + self.kinetic_energy(t, state)

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        return norm(add_scaled(oracle.gradient, self.weight_decay, state.position))

    def optimizer(self, step_size: Array, b1: Array, b2: Array) -> optax.GradientTransformation:
        squares = self.kept_squares(b2, step_size)
        return preconditioned_momentum(step_size, b1, squares, self.denominator, penalty=self.weight_decay)
