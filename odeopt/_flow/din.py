r"""The dynamical inertial Newton flow: heavy ball with Hessian damping, without a Hessian.

\[ x'' + a x' + b\,\nabla^2 f(x)\,x' + \nabla f(x) = 0 \]

is, with \(y = x' + b\,\nabla f(x)\), a flow of first order in which the Hessian does not occur:

\[ x' = y - b g, \quad y' = -a y - (1 - a b)\, g, \qquad g = \nabla f(x), \]
\[ V = f(x) + \frac{|y|^2}{2 (1 + a b)}, \qquad V' = -\frac{a |y - b g|^2 + b |g|^2}{1 + a b}, \]

for any \(f\) and \(a, b \ge 0\). The energy is strict for \(b > 0\): it falls wherever the gradient is not zero.

(Alvarez, Attouch, Bolte, Redont, 2002, A second-order gradient-like dissipative dynamical system with Hessian-driven
damping; Castera, Bolte, Févotte, Pauwels, 2021, An inertial Newton algorithm for deep learning; Ma and Yarats, 2019,
Quasi-hyperbolic momentum and Adam for deep learning.)
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow, DecayBound, State
from .damping import constant_damping
from .inertia import check_not_negative, frequency
from .open_scale import calibrated, with_open
from .strict import strict_decay

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class DIN(AbstractFlow):
    r"""Heavy ball with a damping that acts where the objective curves; one gradient for each evaluation.

    \[ x' = y - b g, \quad y' = -a y - (1 - a b)\, g, \qquad V = f(x) + \frac{|y|^2}{2 (1 + a b)}, \qquad
       V' = -\frac{a |y - b g|^2 + b |g|^2}{1 + a b} \]

    With `SemiImplicitEuler` at the constant step \(h = b\) it is SGD with Nesterov momentum \(1 - a h\) and learning
    rate \(h^2\); at any other step, and with `ExponentialEuler`, it is quasi-hyperbolic momentum. In the variables of
    INNA, whose steps are those of explicit Euler, \(y = -(a - 1/b)\,\theta - \psi/b\).

    **Arguments:**

    - `friction`: \(a \ge 0\), per unit of time. `None` (default): a tenth of the frequency \(\omega\) of the steepest
        direction at the start, \(\omega^2 = |g^\top H g| / |g|^2\) (one Hessian-vector product).
    - `hessian_damping`: \(b \ge 0\), a time; 0 is heavy ball. `None` (default): \(0.1 / \omega\).

    Unit of time: \([x] / \sqrt{[f]}\), an inverse frequency; `unit_of_time` is \(1 / \omega\). With the constants left
    open, scaling the objective or the parameters changes nothing. **Raises:** `ValueError` if a constant is negative
    or not finite. Source: Alvarez, Attouch, Bolte and Redont (2002), Castera et al. (2021).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.DIN(friction=0.5, hessian_damping=0.1))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    friction: Array | None = eqx.field(converter=hyperparameter, default=None)
    hessian_damping: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_not_negative(self, "friction")
        check_not_negative(self, "hessian_damping")

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def calibrate(self, state: State, oracle: Oracle) -> "DIN":
        if self.friction is not None and self.hessian_damping is not None:
            return self
        omega = frequency(oracle)
        return with_open(with_open(self, "friction", OPEN_FRICTION * omega), "hessian_damping", OPEN_DAMPING / omega)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        (a, b), y, g = self._constants, state.memory, oracle.gradient
        return State(
            jax.tree.map(lambda y, g: y - b * g, y, g), jax.tree.map(lambda y, g: -a * y - (1 - a * b) * g, y, g)
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        (a, b), g = self._constants, oracle.gradient
        velocity = jax.tree.map(lambda y, g: y - b * g, state.memory, g)
        return -(a * vdot(velocity, velocity) + b * vdot(g, g)) / (1 + a * b)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        a, b = self._constants
        return vdot(state.memory, state.memory) / (2 * (1 + a * b))

    def decay(self, t: Array, state: State) -> PyTree:
        return self._constants[0]

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        return jax.tree.map(lambda y: factor * y, state.memory)

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State:
        # grad V = (g, y / (1 + ab)).
        (a, b), w, u = self._constants, covector.position, covector.memory
        return State(
            jax.tree.map(lambda w, u: (1 + a * b) * u - b * w, w, u),
            jax.tree.map(lambda w, u: -a * (1 + a * b) * u - (1 - a * b) * w, w, u),
        )

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / frequency(oracle)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound | None:
        a, b = map(float, self._constants)
        if a == 0 or b == 0:
            return None  # the energy is not strict
        scale = 1 + a * b
        return strict_decay(
            lojasiewicz_exponent, constant, (a * b**2 + b) / scale, -a * b / scale, a / scale, 1 / scale
        )

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler

        (a, b), h = self._constants, step_size
        if isinstance(scheme, SemiImplicitEuler):
            return _quasi_hyperbolic_momentum(1 - a * h, h**2 * (1 - a * b), h * b)
        if isinstance(scheme, ExponentialEuler):
            damping = constant_damping(a, h)
            return _quasi_hyperbolic_momentum(damping.factor, h * damping.weight * (1 - a * b), h * b)
        return None

    @property
    def _constants(self) -> tuple[Array, Array]:
        return calibrated(self, "friction"), calibrated(self, "hessian_damping")


# Friction and Hessian damping where none is given, in units of the frequency of the steepest direction and of its
# inverse. Measured: benchmarks/core.py, table "inertial".
OPEN_FRICTION = 0.1
OPEN_DAMPING = 0.1


def _quasi_hyperbolic_momentum(
    momentum: Array, momentum_rate: Array, gradient_rate: Array
) -> optax.GradientTransformation:
    """A sum of gradients with fading memory and the last gradient, each with a learning rate of its own."""
    trace = optax.trace(momentum)

    def update(updates, state, params=None):
        summed, state = trace.update(updates, state, params)
        return jax.tree.map(lambda m, g: -momentum_rate * m - gradient_rate * g, summed, updates), state

    return optax.GradientTransformation(trace.init, update)
