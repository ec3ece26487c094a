r"""The flow of Adam with bias correction.

\[ x' = -\frac{\hat m}{D}, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad
   \hat m = \frac{m}{A}, \quad \hat v = \frac{v}{B}, \quad D = \sqrt{\hat v + e^2}, \]
\[ A = 1 - e^{-a t}, \quad B = 1 - e^{-b t}, \qquad V = f(x) + \frac{1}{2 a A} \sum \frac{m^2}{D}, \]
\[ V' = -\sum \frac{\hat m^2}{D} \Big( \frac{1 + A}{2} + \frac{b A}{a B} \frac{g^2 - \hat v}{4 D^2} \Big) \le 0
   \quad\text{if}\quad b \le 4a. \]

At the start \(m = v = 0\) and \(A = B = 0\); the limits along the solution are \(\hat m \to g\), \(\hat v \to g^2\),
\(V \to f\) and \(V' \to -\tfrac12 \sum g^2 / \sqrt{g^2 + e^2}\).

(Barakat and Bianchi, 2021, Convergence and dynamical behavior of the ADAM algorithm for nonconvex stochastic
optimization; Kingma and Ba, 2015, Adam: a method for stochastic optimization.)
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import State
from .moments import AbstractMomentFlow, check_scaling_rate

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class BiasCorrectedAdam(AbstractMomentFlow):
    r"""Adam with bias correction, in continuous time.

    \[ x' = -\frac{m / A}{D}, \quad m' = a (g - m), \quad v' = b (g^2 - v), \qquad D = \sqrt{v / B + e^2}, \qquad
       V = f + \frac{1}{2 a A} \sum \frac{m^2}{D} \]

    with \(A = 1 - e^{-a t}\) and \(B = 1 - e^{-b t}\). With `ExponentialEuler` at constant step \(h\) it is Adam at
    learning rate \(h\), \(\beta_1 = e^{-a h}\), \(\beta_2 = e^{-b h}\) and `eps=0, eps_root=e**2`. The memory is
    `(m, v)`. It starts in the direction of \(-g / \sqrt{g^2 + e^2}\), at full speed, where `Adam` starts at rest.

    **Arguments:**

    - `momentum_rate`: \(a > 0\) per unit of time.
    - `scaling_rate`: \(b > 0\) per unit of time, \(b \le 4a\).
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): a thousandth of the root mean square of the
        gradient at the start, so that scaling the objective changes nothing.

    Unit of time: every parameter moves by at most about 1 per unit of time, and the gradients of the last \(1/a\)
    units are remembered; time has the unit of the parameters, whatever the scale of the objective.
    **Raises:** `ValueError` if a rate or `epsilon` is out of range. Source: Barakat and Bianchi (2021), Kingma and Ba
    (2015).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.BiasCorrectedAdam())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=0.5)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        b = self.scaling_rate
        if concrete(b) and float(b) == 0:
            raise ValueError(
                "BiasCorrectedAdam(scaling_rate=0.0): expected a rate > 0; an average that is never filled cannot be "
                "corrected for that. GradientFlow, HeavyBall or Adam work without scaling."
            )
        check_scaling_rate(self)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        (m, v), g = state.memory, oracle.gradient
        m_hat, v_hat = self._corrected(t, m, v, g)
        return State(
            jax.tree.map(lambda m, v: -m / self._root(v), m_hat, v_hat),
            (
                jax.tree.map(lambda m, g: self.momentum_rate * (g - m), m, g),
                jax.tree.map(lambda v, g: self.scaling_rate * (g**2 - v), v, g),
            ),
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        (m, v), g = state.memory, oracle.gradient
        m_hat, v_hat = self._corrected(t, m, v, g)
        a, b = self.momentum_rate, self.scaling_rate
        filled, ratio = _filled(a, t), jnp.where(t > 0, b * _part(a, t) / (a * _part(b, t)), 1.0)
        return -vdot(
            jax.tree.map(lambda m, v: m**2 / self._root(v), m_hat, v_hat),
            jax.tree.map(lambda v, g: (1 + filled) / 2 + ratio * (g**2 - v) / (4 * self._root(v) ** 2), v_hat, g),
        )

    def kinetic_energy(self, t: Array, state: State) -> Array:
        m, v = state.memory
        part, part_of_squares = _part(self.momentum_rate, t), _part(self.scaling_rate, t)
        weighted = jax.tree.map(lambda m, v: m / self._root(v / part_of_squares), m, v)
        return vdot(m, weighted) / (2 * self.momentum_rate * part)

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        m, v = state.memory
        return jax.tree.map(lambda m: factor * m, m), v

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler

        if not isinstance(scheme, ExponentialEuler):
            return None
        b1, b2 = jnp.exp(-self.momentum_rate * step_size), jnp.exp(-self.scaling_rate * step_size)
        return optax.adam(step_size, b1, b2, eps=0.0, eps_root=self._calibrated_epsilon() ** 2)

    def _corrected(self, t: Array, m: PyTree, v: PyTree, gradient: PyTree) -> tuple[PyTree, PyTree]:
        """Both averages over the part of them that is filled; at the start their limits along the solution."""
        part, part_of_squares = _part(self.momentum_rate, t), _part(self.scaling_rate, t)
        return (
            jax.tree.map(lambda m, g: jnp.where(t > 0, m / part, g), m, gradient),
            jax.tree.map(lambda v, g: jnp.where(t > 0, v / part_of_squares, g**2), v, gradient),
        )

    def _root(self, v_hat: Array) -> Array:
        return jnp.sqrt(v_hat + self._calibrated_epsilon() ** 2)


def _filled(rate: Array, t: Array) -> Array:
    r"""\(1 - e^{-r t}\), the part of an average from zero that is filled."""
    return -jnp.expm1(-rate * t)


def _part(rate: Array, t: Array) -> Array:
    """The same as a divisor: one at the start, where nothing is filled and nothing divided."""
    return jnp.where(t > 0, _filled(rate, t), 1.0)
