r"""Heavy ball with constant friction.

\[ x' = v, \quad v' = -a v - \nabla f(x), \qquad V = f(x) + \tfrac12 |v|^2, \qquad V' = -a |v|^2, \]

for any \(f\) and \(a \ge 0\). (Polyak, 1964, Some methods of speeding up the convergence of iteration methods;
Alvarez, 2000, On the minimizing property of a second order dissipative system in Hilbert spaces.)
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
from .base import AbstractFlow, Damping, State
from .damping import constant_damping
from .inertia import frequency

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class HeavyBall(AbstractFlow):
    r"""A ball of unit mass that rolls down the objective against friction.

    \[ x' = v, \quad v' = -a v - \nabla f(x), \qquad V = f(x) + \tfrac12 |v|^2, \qquad V' = -a |v|^2 \]

    With `ExponentialEuler` at constant step \(h\) it is SGD with momentum \(\beta = e^{-a h}\) and learning rate
    \(h (1 - \beta) / a\); with `SemiImplicitEuler`, SGD with momentum \(1 - a h\) and learning rate \(h^2\).

    **Arguments:**

    - `friction`: \(a \ge 0\) per unit of time. `None` (default): a tenth of the frequency of the steepest direction
        at the start, \(a = 0.1 \sqrt{|g^\top H g| / |g|^2}\) (one Hessian-vector product), so that scaling the
        objective or the parameters changes nothing.

    Unit of time: \([x] / \sqrt{[f]}\), an inverse frequency; `unit_of_time` is the inverse of the frequency above.
    **Raises:** `ValueError` if the friction is negative or not finite. Source: Polyak (1964), Alvarez (2000).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.5))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    friction: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        if concrete(self.friction) and not 0 <= float(self.friction) < float("inf"):
            raise ValueError(
                f"HeavyBall(friction={float(self.friction)}): friction must be >= 0 and finite, otherwise the energy "
                "grows along the flow."
            )

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def calibrate(self, state: State, oracle: Oracle) -> "HeavyBall":
        if self.friction is not None:
            return self
        return HeavyBall(OPEN_FRICTION * frequency(oracle))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        friction = self._calibrated_friction()
        force = jax.tree.map(lambda v, g: -friction * v - g, state.memory, oracle.gradient)
        return State(state.memory, force)

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return -self._calibrated_friction() * vdot(state.memory, state.memory)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return 0.5 * vdot(state.memory, state.memory)

    def damping(self, t: Array, step_size: Array) -> Damping:
        return constant_damping(self._calibrated_friction(), step_size)

    def decay(self, t: Array, state: State) -> PyTree:
        return self._calibrated_friction()

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        return jax.tree.map(lambda v: factor * v, state.memory)

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State:
        friction = self._calibrated_friction()
        return State(covector.memory, jax.tree.map(lambda w, u: -w - friction * u, covector.position, covector.memory))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        # The friction may be zero, or chosen far from the scale of the problem: the frequency never is.
        return 1 / frequency(oracle)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.conformal_euler import ConformalSymplecticEuler
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler

        a, h = self._calibrated_friction(), step_size
        if isinstance(scheme, ExponentialEuler):
            damping = constant_damping(a, h)
            return optax.sgd(h * damping.weight, momentum=damping.factor)
        if isinstance(scheme, SemiImplicitEuler):
            return optax.sgd(h**2, momentum=1 - a * h)
        if isinstance(scheme, ConformalSymplecticEuler):
            return optax.sgd(h**2, momentum=jnp.exp(-a * h))
        return None

    def _calibrated_friction(self) -> Array:
        if self.friction is None:
            raise ValueError(
                "HeavyBall(friction=None) has not been calibrated: minimise and train do it; elsewhere call "
                "flow.calibrate(state, oracle) first or give the friction."
            )
        return self.friction


# The friction that is used where none is given, in units of the frequency of the steepest direction.
# Measured: benchmarks/core.py, table "constants".
OPEN_FRICTION = 0.1
