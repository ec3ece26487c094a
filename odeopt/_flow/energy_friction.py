r"""Heavy ball with a friction that falls with the root of its energy.

\[ x' = v, \quad v' = -\nabla f(x) - \gamma \sqrt{\frac{E}{E_0}}\; v, \qquad
   E = f(x) - f_{\text{low}} + \tfrac12 |v|^2, \qquad V = f(x) + \tfrac12 |v|^2, \qquad
   V' = -\gamma \sqrt{\frac{E}{E_0}}\; |v|^2, \]

for any \(f \ge f_{\text{low}}\) and \(\gamma \ge 0\). As \(|v|^2 \le 2 E\), \(E \ge E_0 / (1 + \gamma t)^2\): no
energy falls faster than like \(t^{-2}\), and that in a parabola whose minimum is \(f_{\text{low}}\) does fall like it.

(Bensaid, Poëtte, Turpault, 2023, Deterministic neural networks optimization from a continuous and energy point of
view, where the flow is called Mechanic.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow, State
from .inertia import check_not_negative, frequency
from .open_scale import calibrated, check_positive, with_open


class EnergyFriction(AbstractFlow):
    r"""Heavy ball whose friction is strong while its energy is high; called Mechanic in its source.

    \[ x' = v, \quad v' = -\nabla f(x) - \gamma \sqrt{\frac{E}{E_0}}\; v, \qquad
       E = f(x) - f_{\text{low}} + \tfrac12 |v|^2, \qquad V = f(x) + \tfrac12 |v|^2 \]

    With `SemiImplicitEuler` at constant step \(h\) it is SGD with learning rate \(h^2\) and the momentum
    \(1 - \gamma h \sqrt{E / E_0}\).

    **Arguments:**

    - `friction`: \(\gamma \ge 0\), per unit of time, at the start. `None` (default): the frequency \(\omega\) of the
        steepest direction there, \(\omega^2 = |g^\top H g| / |g|^2\) (one Hessian-vector product).
    - `initial_energy`: \(E_0 > 0\), the energy \(E\) at which the friction is \(\gamma\). `None` (default): that of the
        start.
    - `lower_bound`: \(f_{\text{low}}\), below which the objective does not fall. Where it does, there is no friction,
        and the energy is conserved.

    Unit of time: \([x] / \sqrt{[f]}\), an inverse frequency; `unit_of_time` is \(1 / \omega\). With the constants left
    open and a bound of zero, scaling the objective or the parameters changes nothing. **Raises:** `ValueError` if a
    constant is out of range. Source: Bensaid, Poëtte and Turpault (2023).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.EnergyFriction())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    friction: Array | None = eqx.field(converter=hyperparameter, default=None)
    initial_energy: Array | None = eqx.field(converter=hyperparameter, default=None)
    lower_bound: Array = eqx.field(converter=hyperparameter, default=0.0)

    def __check_init__(self):
        check_not_negative(self, "friction")
        check_positive(self, "initial_energy", "in units of the objective")
        if concrete(self.lower_bound) and not jnp.isfinite(self.lower_bound):
            raise ValueError(
                f"EnergyFriction(lower_bound={float(self.lower_bound)}): expected a finite number that the objective "
                "does not fall below, such as 0 for a loss that is never negative."
            )

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def calibrate(self, state: State, oracle: Oracle) -> "EnergyFriction":
        flow = self
        if self.friction is None:
            flow = with_open(flow, "friction", OPEN_FRICTION * frequency(oracle))
        height = oracle.value - self.lower_bound
        # At or below the bound there is nothing to fall, and no friction, whatever its scale.
        return with_open(flow, "initial_energy", jnp.where(height > 0, height, 1.0))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        friction = self._friction(state, oracle)
        force = jax.tree.map(lambda v, g: -friction * v - g, state.memory, oracle.gradient)
        return State(state.memory, force)

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return -self._friction(state, oracle) * vdot(state.memory, state.memory)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return 0.5 * vdot(state.memory, state.memory)

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        return jax.tree.map(lambda v: factor * v, state.memory)

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State:
        friction = self._friction(state, oracle)
        return State(covector.memory, jax.tree.map(lambda w, u: -w - friction * u, covector.position, covector.memory))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / frequency(oracle)

    def _friction(self, state: State, oracle: Oracle) -> Array:
        height = oracle.value - self.lower_bound + 0.5 * vdot(state.memory, state.memory)
        ratio = height / calibrated(self, "initial_energy")
        # A root of positive numbers only, so that its derivative is finite at rest in the minimum.
        return calibrated(self, "friction") * jnp.where(ratio > 0, jnp.sqrt(jnp.where(ratio > 0, ratio, 1.0)), 0.0)


# The first friction, in units of the frequency of the steepest direction.
# Measured: benchmarks/core.py, table "inertial".
OPEN_FRICTION = 1.0
