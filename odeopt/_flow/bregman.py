r"""The flow of the Bregman Lagrangian, in the Euclidean metric and with polynomial scaling.

\[ x'' + \frac{p + 1}{t}\, x' + C p^2 t^{p-2}\, \nabla f(x) = 0 \]

is, with the momentum \(q = x' / w\) and \(w(t) = C p^2 t^{p-2}\),

\[ x' = w\,q, \quad q' = -\nabla f(x) - \frac{2p - 1}{t}\,q, \qquad
   V = f(x) + \frac w2\, |q|^2, \qquad V' = -\frac{3p}{2t}\, w\, |q|^2, \]

for any \(f\). Here \(w |q|^2 / 2 = e^{-2\alpha-\beta} |x'|^2 / 2\) with the scalings \(\alpha = \ln(p/t)\) and
\(\beta = p \ln t + \ln C\) of the Lagrangian. For convex \(f\) the loss falls like \(e^{-\beta}\), that is \(t^{-p}\).
In the time \(\tau = 2 \sqrt C\, t^{p/2}\) the flow is Nesterov's with \(r = 3\).

(Wibisono, Wilson, Jordan, 2016, A variational perspective on accelerated methods in optimization.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow, Damping, State
from .damping import inverse_time_damping
from .inertia import frequency
from .open_scale import check_positive


class BregmanLagrangian(AbstractFlow):
    r"""Accelerated flow of any polynomial order.

    \[ x' = w\,q, \quad q' = -\nabla f(x) - \frac{2p - 1}{t}\,q, \qquad w = C p^2 t^{p-2}, \qquad
       V = f(x) + \frac w2\, |q|^2, \qquad V' = -\frac{3p}{2t}\, w\, |q|^2 \]

    The flows of all \(p\) run along the same curves, at other speeds: in the time \(2 \sqrt C\, t^{p/2}\) each is
    `Nesterov(power=3)`. A larger \(p\) is no faster per step, because the steps must shrink as the flow speeds up.

    **Arguments:**

    - `power`: \(p > 1\); on convex objectives the loss falls like \(t^{-p}\).
    - `constant`: \(C > 0\), in \([x]^2 / ([f]\,[t]^p)\): it only sets the unit of time. By default a quarter, with
        which \(p = 2\) is Nesterov's flow in its own time.

    Unit of time: \(([x]^2 / [f])^{1/p}\) for a given constant; nothing to calibrate. The flow starts from rest at
    \(t = 0\). **Raises:** `ValueError` if a constant is out of range. Source: Wibisono, Wilson and Jordan (2016).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.BregmanLagrangian(power=4))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    power: Array = eqx.field(converter=hyperparameter, default=2.0)
    constant: Array = eqx.field(converter=hyperparameter, default=0.25)

    def __check_init__(self):
        if concrete(self.power) and not 1 < float(self.power) < float("inf"):
            raise ValueError(
                f"BregmanLagrangian(power={float(self.power)}): expected a finite power > 1. The flow of a smaller one "
                "does not start from rest; every power runs along the same curve, that of Nesterov(power=3)."
            )
        check_positive(self, "constant", "which sets the unit of time")

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        speed, friction = self._speed(t), self._per_time(t, 2 * self.power - 1)
        # At t = 0 friction takes its share of the force: the limit along the solution, q = -t g / 2p.
        share = jnp.where(t > 0, 1.0, 1 / (2 * self.power))
        force = jax.tree.map(lambda q, g: -friction * q - share * g, state.memory, oracle.gradient)
        return State(jax.tree.map(lambda q: speed * q, state.memory), force)

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return -self._per_time(t, 1.5 * self.power) * self._speed(t) * vdot(state.memory, state.memory)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return 0.5 * self._speed(t) * vdot(state.memory, state.memory)

    def damping(self, t: Array, step_size: Array) -> Damping:
        return inverse_time_damping(2 * self.power - 1, t, step_size)

    def decay(self, t: Array, state: State) -> PyTree:
        return self._per_time(t, 2 * self.power - 1)

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        return jax.tree.map(lambda q: factor * q, state.memory)

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        # The time at which Nesterov's flow, its curve, is one inverse frequency old.
        return (1 / (2 * jnp.sqrt(self.constant) * frequency(oracle))) ** (2 / self.power)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def _speed(self, t: Array) -> Array:
        r"""\(w\), the velocity over the momentum."""
        # The power of a positive number only, whose derivative in t is finite. At t = 0 nothing moves, whatever it is.
        grown = jnp.where(t > 0, t, 1.0) ** (self.power - 2)
        return self.constant * self.power**2 * jnp.where(t > 0, grown, 0.0)

    def _per_time(self, t: Array, factor: Array) -> Array:
        """The factor over t, and 0 at t = 0, where the momentum is zero too."""
        return jnp.where(t > 0, factor / jnp.where(t > 0, t, 1.0), 0.0)
