r"""Relativistic gradient descent: a particle that no slope makes faster than light.

\[ x' = \frac{c\,p}{\sqrt{|p|^2 + m^2 c^2}}, \quad p' = -\nabla f(x) - \gamma p, \qquad
   V = f(x) + c \sqrt{|p|^2 + m^2 c^2} - m c^2, \qquad V' = -\frac{\gamma\, c\, |p|^2}{\sqrt{|p|^2 + m^2 c^2}}, \]

for any \(f\) and \(\gamma \ge 0\): heavy ball for \(c \to \infty\), normalized momentum for \(m \to 0\).

(França, Sulam, Robinson, Vidal, 2020, Conformal symplectic and relativistic optimization.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import State
from .hamiltonian import AbstractHamiltonianDescent
from .heavy_ball import OPEN_FRICTION
from .inertia import check_not_negative, frequency
from .open_scale import calibrated, check_positive, with_open


class Relativistic(AbstractHamiltonianDescent):
    r"""Heavy ball whose speed stays below a limit, however steep the objective.

    \[ x' = \frac{c\,p}{\sqrt{|p|^2 + m^2 c^2}}, \quad p' = -\nabla f(x) - \gamma p, \qquad
       V = f(x) + c \sqrt{|p|^2 + m^2 c^2} - m c^2 \]

    **Arguments:**

    - `speed`: \(c > 0\), in \([x]\) per unit of time. `None` (default): the speed \(|g| / (\omega \sqrt m)\) that heavy
        ball would reach at the bottom of a parabola with the gradient and curvature of the start.
    - `mass`: \(m > 0\): it only sets the unit of time.
    - `friction`: \(\gamma \ge 0\), per unit of time. `None` (default): a tenth of the frequency \(\omega / \sqrt m\) of
        the steepest direction at the start, \(\omega^2 = |g^\top H g| / |g|^2\) (one Hessian-vector product).

    Unit of time: \([x] \sqrt{m / [f]}\), an inverse frequency; `unit_of_time` is \(\sqrt m / \omega\). With the
    constants left open, scaling the objective or the parameters changes nothing. **Raises:** `ValueError` if a constant
    is out of range. Source: França, Sulam, Robinson and Vidal (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Relativistic(speed=2.0, friction=0.5))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    speed: Array | None = eqx.field(converter=hyperparameter, default=None)
    mass: Array = eqx.field(converter=hyperparameter, default=1.0)
    friction: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "speed", "in units of the parameters per unit of time")
        check_positive(self, "mass", "which sets the unit of time")
        check_not_negative(self, "friction")

    def calibrate(self, state: State, oracle: Oracle) -> "Relativistic":
        if self.speed is not None and self.friction is not None:
            return self
        omega, square = frequency(oracle), vdot(oracle.gradient, oracle.gradient)
        # A zero gradient sets no scale, and needs none: the flow starts at an equilibrium.
        slope = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 1.0)
        flow = with_open(self, "speed", OPEN_SPEED * slope / (omega * jnp.sqrt(self.mass)))
        return with_open(flow, "friction", OPEN_FRICTION * omega / jnp.sqrt(self.mass))

    def kinetic_energy(self, t: Array, state: State) -> Array:
        # c (root - m c), without the cancellation where the momentum is small.
        root, rest = self._root(state.memory), self.mass * calibrated(self, "speed")
        return calibrated(self, "speed") * vdot(state.memory, state.memory) / (root + rest)

    def velocity(self, momentum: PyTree) -> PyTree:
        factor = calibrated(self, "speed") / self._root(momentum)
        return jax.tree.map(lambda p: factor * p, momentum)

    def constant_friction(self) -> Array:
        return calibrated(self, "friction")

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State:
        # p is the relativistic mass times the velocity.
        rate = self.constant_friction() * self._root(state.memory) / calibrated(self, "speed")
        return State(covector.memory, jax.tree.map(lambda w, u: -w - rate * u, covector.position, covector.memory))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return jnp.sqrt(self.mass) / frequency(oracle)

    def _root(self, momentum: PyTree) -> Array:
        return jnp.sqrt(vdot(momentum, momentum) + (self.mass * calibrated(self, "speed")) ** 2)


# The limit of the speed, in units of what heavy ball would reach. Measured: benchmarks/core.py, table "inertial".
OPEN_SPEED = 1.0
