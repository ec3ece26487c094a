r"""Nesterov's accelerated gradient in high resolution: the flow that knows the learning rate.

\[ x'' + \gamma\, x' + \beta\,\nabla^2 f(x)\,x' + \Big(1 + \tfrac12 \beta\gamma\Big) \nabla f(x) = 0, \qquad
   \beta = \sqrt s, \]

with \(s\) the learning rate of the discrete method and \(\gamma = 3/T\), \(T = t + \tfrac32 \sqrt s\), or
\(\gamma = 2 \sqrt \mu\) for strongly convex objectives. The term with the Hessian is what tells the method from heavy
ball. In \(y = x' + \beta\,\nabla f(x)\) no Hessian is left:

\[ x' = y - \beta g, \quad y' = -\gamma\, y - \Big(1 - \tfrac12 \beta\gamma\Big) g, \qquad g = \nabla f(x), \]
\[ V = f(x) + \frac{|y|^2}{2c}, \quad c = 1 + \tfrac32 \beta\gamma, \qquad
   V' = -\frac{\gamma |x'|^2 + \beta \big(1 + \tfrac12 \beta\gamma\big) |g|^2}{c} - \frac{c'}{2 c^2}\, |y|^2, \]

for any \(f\). With \(\gamma = 3/T\), \(-c' = \beta\gamma^2/2\). Since \(y = x' + \beta g\),

\[ |y|^2 \le \Big( \gamma |x'|^2 + \beta \big(1 + \tfrac12 \beta\gamma\big) |g|^2 \Big)
   \Big( \frac1\gamma + \frac{\beta}{1 + \frac12 \beta\gamma} \Big), \]

so that the last term takes at most a quarter of the others, and the energy is strict.

(Shi, Du, Jordan, Su, 2022, Understanding the acceleration phenomenon via high-resolution differential equations;
Attouch, Chbani, Fadili, Riahi, 2022, First-order optimization algorithms via inertial systems with Hessian driven
damping.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow, State
from .inertia import check_not_negative, frequency
from .open_scale import calibrated, check_positive, with_open


class HighResolutionNesterov(AbstractFlow):
    r"""The flow that Nesterov's method follows to one order more in the square root of its learning rate \(s\).

    \[ x' = y - \beta g, \quad y' = -\gamma\, y - \Big(1 - \tfrac12 \beta\gamma\Big) g, \qquad
       V = f(x) + \frac{|y|^2}{2 + 3 \beta\gamma}, \qquad \beta = \sqrt s \]

    The time \(t = 0\) is where the discrete method starts, at rest in \(y\); nothing is singular there.

    **Arguments:**

    - `learning_rate`: \(s > 0\), in \([x]^2 / [f]\). `None` (default): \(\beta = \sqrt s = 0.1 / \omega\) with the
        frequency of the steepest direction at the start, \(\omega^2 = |g^\top H g| / |g|^2\) (one Hessian-vector
        product), so that scaling the objective or the parameters changes nothing.
    - `strong_convexity`: \(\mu \ge 0\), in \([f] / [x]^2\), for the method with constant momentum,
        \(\gamma = 2 \sqrt \mu\). `None` (default): \(\gamma = 3 / (t + \tfrac32 \sqrt s)\).

    Unit of time: \([x] / \sqrt{[f]}\), an inverse frequency; `unit_of_time` is \(1 / \omega\).
    **Raises:** `ValueError` if a constant is out of range. Source: Shi, Du, Jordan and Su (2022).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HighResolutionNesterov())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    learning_rate: Array | None = eqx.field(converter=hyperparameter, default=None)
    strong_convexity: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "learning_rate", "in units of an inverse curvature")
        check_not_negative(self, "strong_convexity")

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def calibrate(self, state: State, oracle: Oracle) -> "HighResolutionNesterov":
        if self.learning_rate is not None:
            return self
        return with_open(self, "learning_rate", (OPEN_DAMPING / frequency(oracle)) ** 2)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        beta, gamma, y, g = self._beta, self._friction(t), state.memory, oracle.gradient
        return State(
            jax.tree.map(lambda y, g: y - beta * g, y, g),
            jax.tree.map(lambda y, g: -gamma * y - (1 - 0.5 * beta * gamma) * g, y, g),
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        beta, gamma, y, g = self._beta, self._friction(t), state.memory, oracle.gradient
        velocity = jax.tree.map(lambda y, g: y - beta * g, y, g)
        falls = gamma * vdot(velocity, velocity) + beta * (1 + 0.5 * beta * gamma) * vdot(g, g)
        if self.strong_convexity is None:
            # The kinetic energy weighs more as time goes on.
            falls = falls - 0.25 * beta * gamma**2 / self._mass(t) * vdot(y, y)
        return -falls / self._mass(t)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return vdot(state.memory, state.memory) / (2 * self._mass(t))

    def decay(self, t: Array, state: State) -> PyTree:
        return self._friction(t)

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        return jax.tree.map(lambda y: factor * y, state.memory)

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / frequency(oracle)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    @property
    def _beta(self) -> Array:
        return jnp.sqrt(calibrated(self, "learning_rate"))

    def _friction(self, t: Array) -> Array:
        if self.strong_convexity is None:
            return 3 / (t + 1.5 * self._beta)
        return 2 * jnp.sqrt(self.strong_convexity)

    def _mass(self, t: Array) -> Array:
        r"""\(c\), by which the kinetic energy is divided."""
        return 1 + 1.5 * self._beta * self._friction(t)


# The root of the learning rate where none is given, in units of the inverse frequency of the steepest direction.
# Measured: benchmarks/core.py, table "inertial".
OPEN_DAMPING = 0.1
