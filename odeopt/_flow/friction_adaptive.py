r"""Friction-adaptive descent: a ball whose friction grows with its kinetic energy.

\[ x' = v, \quad v' = -\nabla f(x) - (a + \xi)\, v, \quad \xi' = \frac{|v|^2}{m} - \alpha\, \xi, \]
\[ V = f(x) + \tfrac12 |v|^2 + \tfrac12 m\, \xi^2, \qquad V' = -a |v|^2 - \alpha\, m\, \xi^2, \]

for any \(f\), \(a, \alpha \ge 0\) and \(m > 0\). \(\xi\) starts at zero and is never negative.

(Karoni, Leimkuhler, Stoltz, 2023, Friction-adaptive descent: a family of dynamics-based optimization methods.)
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


class FrictionAdaptive(AbstractFlow):
    r"""Heavy ball with a friction that follows the kinetic energy, as in a thermostat.

    \[ x' = v, \quad v' = -\nabla f(x) - (a + \xi)\, v, \quad \xi' = \frac{|v|^2}{m} - \alpha\, \xi, \qquad
       V = f(x) + \tfrac12 |v|^2 + \tfrac12 m\, \xi^2 \]

    The memory is \((v, \xi)\). Near a minimum only the constant part \(a\) of the friction is left: without it the
    energy falls like \(1/t\) in the end.

    **Arguments:** with the frequency \(\omega\) of the steepest direction at the start,
    \(\omega^2 = |g^\top H g| / |g|^2\) (one Hessian-vector product):

    - `friction`: \(a \ge 0\), per unit of time. `None` (default): \(0.05\, \omega\).
    - `relaxation`: \(\alpha \ge 0\), per unit of time: how fast the friction forgets. `None` (default): \(\omega\).
    - `thermal_mass`: \(m > 0\), in \([f]\) times the square of the unit of time: how slowly the friction follows.
        `None` (default): \(10\, |g|^2 / \omega^4\).

    Unit of time: \([x] / \sqrt{[f]}\), an inverse frequency; `unit_of_time` is \(1 / \omega\). With the constants left
    open, scaling the objective or the parameters changes nothing. **Raises:** `ValueError` if a constant is out of
    range. Source: Karoni, Leimkuhler and Stoltz (2023).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.FrictionAdaptive())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    friction: Array | None = eqx.field(converter=hyperparameter, default=None)
    relaxation: Array | None = eqx.field(converter=hyperparameter, default=None)
    thermal_mass: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_not_negative(self, "friction")
        check_not_negative(self, "relaxation")
        check_positive(self, "thermal_mass", "in units of the objective times the square of the time")

    def init(self, params: PyTree) -> State:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return State(params, (jax.tree.map(jnp.zeros_like, params), jnp.zeros((), dtype)))

    def calibrate(self, state: State, oracle: Oracle) -> "FrictionAdaptive":
        if None not in (self.friction, self.relaxation, self.thermal_mass):
            return self
        omega, square = frequency(oracle), vdot(oracle.gradient, oracle.gradient)
        # A zero gradient sets no scale, and needs none: the flow starts at an equilibrium.
        mass = jnp.where(square > 0, OPEN_MASS * square / omega**4, 1.0)
        flow = with_open(self, "friction", OPEN_FRICTION * omega)
        return with_open(with_open(flow, "relaxation", OPEN_RELAXATION * omega), "thermal_mass", mass)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        a, alpha, m = self._constants
        v, xi = state.memory
        force = jax.tree.map(lambda v, g: -(a + xi) * v - g, v, oracle.gradient)
        return State(v, (force, vdot(v, v) / m - alpha * xi))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        a, alpha, m = self._constants
        v, xi = state.memory
        return -a * vdot(v, v) - alpha * m * xi**2

    def kinetic_energy(self, t: Array, state: State) -> Array:
        v, xi = state.memory
        return 0.5 * (vdot(v, v) + calibrated(self, "thermal_mass") * xi**2)

    def decay(self, t: Array, state: State) -> PyTree:
        a, alpha, _ = self._constants
        return (a + state.memory[1], alpha)

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        return jax.tree.map(lambda leaf: factor * leaf, state.memory)

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State:
        # grad V = (g, v, m xi): the friction xi exchanges energy between v and itself, and dissipates none.
        a, alpha, m = self._constants
        (v, _), w, (u, z) = state.memory, covector.position, covector.memory
        force = jax.tree.map(lambda w, u, v: -w - a * u - z / m * v, w, u, v)
        return State(u, (force, (vdot(v, u) - alpha * z) / m))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / frequency(oracle)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    @property
    def _constants(self) -> tuple[Array, Array, Array]:
        return calibrated(self, "friction"), calibrated(self, "relaxation"), calibrated(self, "thermal_mass")


# Where none is given, in units of the frequency of the steepest direction and of the gradient at the start.
# Measured: benchmarks/core.py, table "inertial".
OPEN_FRICTION = 0.05
OPEN_RELAXATION = 1.0
OPEN_MASS = 10.0
