r"""The flow of AdamW: a balance law, and no Lyapunov function.

\[ x' = -\frac{m}{D} - w x, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v + e^2}, \]
\[ V = f(x) + \frac{w}{2} \sum D x^2 + \frac{1}{2a} \sum \frac{(m + w D x)^2}{D}, \]
\[ V' = -\frac{a + w}{a} \sum \frac{(m + w D x)^2}{D}
        + \frac{1}{2a} \sum D' \Big( (a + w)\,w\,x^2 - \frac{m^2}{D^2} \Big), \qquad D' = \frac{b\,(g^2 - v)}{2D}. \]

A preconditioner that grows (\(D' > 0\)) raises the penalty \(\tfrac{w}{2} \sum D x^2\), so that \(V'\) may be positive;
with \(b = 0\) it never is. (Loshchilov and Hutter, 2019, Decoupled weight decay regularization; Xie and Li, 2024,
Implicit bias of AdamW: \(\ell_\infty\) norm constrained optimization.)
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import State
from .discrete import exponential_average, preconditioned_momentum
from .moments import AbstractMomentFlow


class AdamW(AbstractMomentFlow):
    r"""Adam with decoupled weight decay, without bias correction, in continuous time.

    \[ x' = -\frac{m}{D} - w x, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v + e^2}, \]
    \[ V = f + \frac{w}{2} \sum D x^2 + \frac{1}{2a} \sum \frac{(m + w D x)^2}{D} \]

    The rate of \(V\) is known exactly and its sign is not (`certificate = "balance_law"`): a controller that asks for a
    falling energy may refuse every step where the energy rises, and `BalanceControl`, which is recommended, holds the
    energy to its rate instead. `AdamL2` and `LionK` have decays that keep the certificate. With `ExponentialEuler` at
    constant step \(h\) it is AdamW without bias correction at learning rate \(h\), \(\beta_1 = e^{-a h}\), \(\beta_2 =
    e^{-b h}\), weight decay \(w\) and `eps=0, eps_root=e**2`. The memory is `(m, v)`.

    It rests where \(g + w \sqrt{g^2 + e^2}\,x = 0\), and `stationarity` is the norm of that: no entry is larger than
    \(1/w\) there, and inside of that bound the gradient is as small as \(w e |x|\).

    **Arguments:**

    - `weight_decay`: \(w \ge 0\) per unit of time.
    - `momentum_rate`: \(a > 0\) per unit of time.
    - `scaling_rate`: \(b \ge 0\) per unit of time.
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): a thousandth of the root mean square of the
        gradient at the start, so that scaling the objective changes nothing.

    Unit of time: the gradient moves every parameter by at most about 1 per unit of time, and the gradients of the last
    \(1/a\) units are remembered; time has the unit of the parameters, whatever the scale of the objective.
    **Raises:** `ValueError` if an argument is out of range. Source: Loshchilov and Hutter (2019), Xie and Li (2024).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.AdamW(weight_decay=0.01))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4 - x), solver, jnp.ones(2))
        ```
    """

    certificate: ClassVar[str] = "balance_law"
    judged_by: ClassVar[str] = "energy"

    # As in the reference implementations, whose unit of time is the learning rate's inverse too.
    weight_decay: Array = eqx.field(converter=hyperparameter, default=0.01)
    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=0.5)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        decay = self.weight_decay
        if concrete(decay) and not 0 <= float(decay) < float("inf"):
            raise ValueError(f"AdamW(weight_decay={float(decay)}): expected a finite rate >= 0.")

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        (m, v), g = state.memory, oracle.gradient
        return State(
            self._velocity(state),
            (
                jax.tree.map(lambda m, g: self.momentum_rate * (g - m), m, g),
                jax.tree.map(lambda v, g: self.scaling_rate * (g**2 - v), v, g),
            ),
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        x, (_, v) = state.position, state.memory
        penalty = 0.5 * self.weight_decay * vdot(x, jax.tree.map(lambda x, v: self._root(v) * x, x, v))
        return oracle.value + penalty + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        x, (m, v), a, w = state.position, state.memory, self.momentum_rate, self.weight_decay
        growth = jax.tree.map(lambda v, g: self.scaling_rate * (g**2 - v) / (2 * self._root(v)), v, oracle.gradient)
        supply = jax.tree.map(lambda x, m, v: (a + w) * w * x**2 - (m / self._root(v)) ** 2, x, m, v)
        return -2 * (a + w) * self.kinetic_energy(t, state) + vdot(growth, supply) / (2 * a)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        velocity, (_, v) = self._velocity(state), state.memory
        momentum = jax.tree.map(lambda velocity, v: self._root(v) * velocity, velocity, v)
        return vdot(velocity, momentum) / (2 * self.momentum_rate)

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        return norm(
            jax.tree.map(lambda x, g: g + self.weight_decay * self._root(g**2) * x, state.position, oracle.gradient)
        )

    def optimizer(self, step_size: Array, b1: Array, b2: Array) -> optax.GradientTransformation:
        return optax.chain(
            preconditioned_momentum(jnp.asarray(-1.0), b1, exponential_average(b2), self._root),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale(-step_size),
        )

    def recommended(self):
        from .._controller.slack import BalanceControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), BalanceControl()

    def _velocity(self, state: State) -> PyTree:
        m, v = state.memory
        return jax.tree.map(lambda x, m, v: -m / self._root(v) - self.weight_decay * x, state.position, m, v)

    def _root(self, v: Array) -> Array:
        return jnp.sqrt(v + self._calibrated_epsilon() ** 2)
