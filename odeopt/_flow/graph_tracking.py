r"""Graph tracking: the velocity is drawn to that of gradient flow, and knows how the gradient changes.

\[ x' = v, \quad v' = -k\,(v + \alpha g) - \alpha\, \nabla^2 f(x)\, v, \qquad g = \nabla f(x). \]

The distance \(e = v + \alpha g\) from the graph of gradient flow obeys \(e' = -k e\), whatever \(f\) is, and

\[ V = f(x) + \tfrac c2 |e|^2, \qquad V' = -\alpha |g|^2 + \langle g, e \rangle - k c\, |e|^2, \]

for any \(f\), at most 0 if and only if \(4 \alpha k c \ge 1\), and strict where the inequality is.

(After the idea of Wang, Patil, Dixon, 2026, Riemannian Lyapunov optimizer: a unified framework for optimization, of a
speed that is attracted to a target graph.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import add_scaled, vdot
from .base import AbstractFlow, DecayBound, State
from .inertia import frequency
from .open_scale import calibrated, check_positive, with_open
from .strict import strict_decay


class GraphTracking(AbstractFlow):
    r"""Momentum that relaxes exactly to the velocity of gradient flow, at one Hessian-vector product a step.

    \[ x' = v, \quad v' = -k\,(v + \alpha g) - \alpha\, \nabla^2 f(x)\, v, \qquad
       V = f(x) + \tfrac c2 |v + \alpha g|^2, \qquad V' = -\alpha |g|^2 + \langle g, e \rangle - k c\, |e|^2, \]

    \(e = v + \alpha g\). The energy reads the gradient, so that a trial costs a gradient, rejected or not.

    **Arguments:** with the frequency \(\omega\) of the steepest direction at the start,
    \(\omega^2 = |g^\top H g| / |g|^2\) (one Hessian-vector product):

    - `rate`: \(k > 0\), per unit of time, at which the velocity reaches the graph. `None` (default): \(\omega\).
    - `mobility`: \(\alpha > 0\), the velocity of gradient flow for each unit of gradient. `None` (default):
        \(1 / \omega\).
    - `weight`: \(c\) of the energy, \(4 \alpha k c \ge 1\). `None` (default): \(1 / (\alpha k)\).

    Unit of time: with the constants left open \([x] / \sqrt{[f]}\), an inverse frequency, and scaling the objective or
    the parameters changes nothing; otherwise the one in which they are given. **Raises:** `ValueError` if a constant is
    out of range, or the energy could rise. Source: after Wang, Patil and Dixon (2026).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GraphTracking())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    rate: Array | None = eqx.field(converter=hyperparameter, default=None)
    mobility: Array | None = eqx.field(converter=hyperparameter, default=None)
    weight: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "rate", "per unit of time")
        check_positive(self, "mobility", "in units of a velocity over a gradient")
        check_positive(self, "weight", "in units of the objective over the square of a velocity")
        k, alpha, c = self.rate, self.mobility, self.weight
        if concrete(k) and concrete(alpha) and concrete(c) and 4 * float(alpha) * float(k) * float(c) < 1:
            raise ValueError(
                f"GraphTracking(rate={float(k)}, mobility={float(alpha)}, weight={float(c)}): 4 * mobility * rate * "
                "weight must be at least 1, otherwise the energy can rise along the flow. Take a larger weight, or "
                "leave it open."
            )

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def calibrate(self, state: State, oracle: Oracle) -> "GraphTracking":
        flow = self
        if self.rate is None or self.mobility is None:
            omega = frequency(oracle)
            flow = with_open(with_open(flow, "rate", OPEN_RATE * omega), "mobility", OPEN_MOBILITY / omega)
        return with_open(flow, "weight", 1 / (calibrated(flow, "mobility") * calibrated(flow, "rate")))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        k, alpha, _ = self._constants
        v, e, turn = state.memory, self._error(state, oracle), oracle.hvp(state.memory)
        return State(v, jax.tree.map(lambda e, turn: -k * e - alpha * turn, e, turn))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        e = self._error(state, oracle)
        return oracle.value + 0.5 * self._constants[2] * vdot(e, e)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        k, alpha, c = self._constants
        e, g = self._error(state, oracle), oracle.gradient
        return -alpha * vdot(g, g) + vdot(g, e) - k * c * vdot(e, e)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return 0.5 * self._constants[2] * vdot(state.memory, state.memory)

    def decay(self, t: Array, state: State) -> PyTree:
        return self._constants[0]

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        # Half of it relaxes the velocity, and half follows gradient flow.
        k, alpha, _ = self._constants
        return 1 / jnp.maximum(k, alpha * frequency(oracle) ** 2)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound | None:
        k, alpha, c = map(float, self._constants)
        if 4 * alpha * k * c <= 1:
            return None  # the energy is not strict
        return strict_decay(lojasiewicz_exponent, constant, alpha, -0.5, k * c, c)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def _error(self, state: State, oracle: Oracle) -> PyTree:
        """How far the velocity is from that of gradient flow."""
        return add_scaled(state.memory, self._constants[1], oracle.gradient)

    @property
    def _constants(self) -> tuple[Array, Array, Array]:
        return calibrated(self, "rate"), calibrated(self, "mobility"), calibrated(self, "weight")


# Both rates of the flow, that of the velocity and that of gradient flow in the steepest direction, are then its
# frequency: neither waits for the other.
OPEN_RATE = 1.0
OPEN_MOBILITY = 1.0
