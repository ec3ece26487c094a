r"""Nesterov's accelerated gradient as a flow: friction inversely proportional to time.

\[ x' = v, \quad v' = -\frac rt v - \nabla f(x), \qquad V = f(x) + \tfrac12 |v|^2, \qquad V' = -\frac rt |v|^2, \]

for any \(f\) and \(r \ge 0\). For convex \(f\) with a minimiser \(x^*\), \(d = x - x^*\) and \(r \ge 3\) also

\[ V = t^2 (f - f^*) + \tfrac12 |(r-1) d + t v|^2, \qquad
   V' = 2t (f - f^*) - (r-1)\, t\, \langle \nabla f, d \rangle \le -(r-3)\, t\, (f - f^*), \]

so that \(f - f^* \le (r-1)^2 |d_0|^2 / (2 t^2)\).

(Su, Boyd, Candès, 2016, A differential equation for modeling Nesterov's accelerated gradient method: theory and
insights; Aujol, Dossal, Rondepierre, 2019, Optimal convergence rates for Nesterov acceleration.)
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._tree import subtract, vdot
from .base import AbstractFlow, Damping, DecayBound, State
from .damping import inverse_time_damping
from .inertia import check_not_negative, frequency

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class Nesterov(AbstractFlow):
    r"""The flow of Nesterov's accelerated gradient method.

    \[ x' = v, \quad v' = -\frac rt v - \nabla f(x), \qquad V = f(x) + \tfrac12 |v|^2, \qquad V' = -\frac rt |v|^2 \]

    It starts from rest at \(t = 0\), where \(v' = -\nabla f / (1 + r)\) is the limit along its solution. With
    `ExponentialEuler`, which integrates the friction exactly, at constant step \(h\) it is SGD whose momentum
    grows like \((k/(k+1))^r\) over the steps \(k\); the learning rate is \(h^2\) times a factor that grows from
    \(1/(1 + r)\) to 1.

    **Arguments:**

    - `power`: \(r \ge 0\). From 3 on, the loss of a convex objective falls like \(t^{-2}\); on a quadratic one it
        falls like \(t^{-r}\).

    Unit of time: \([x] / \sqrt{[f]}\), an inverse frequency; nothing to calibrate. `unit_of_time` is the inverse of
    the frequency along the first gradient (one Hessian-vector product). **Raises:** `ValueError` if the power is
    negative or not finite. Source: Su, Boyd and Candès (2016).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Nesterov())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    power: Array = eqx.field(converter=hyperparameter, default=3.0)

    def __check_init__(self):
        check_not_negative(self, "power")

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        friction, weight = self._friction(t), jnp.where(t > 0, 1.0, 1 / (1 + self.power))
        force = jax.tree.map(lambda v, g: -friction * v - weight * g, state.memory, oracle.gradient)
        return State(state.memory, force)

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return -self._friction(t) * vdot(state.memory, state.memory)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return 0.5 * vdot(state.memory, state.memory)

    def convex_energy(self, t: Array, state: State, value: Array, minimiser: PyTree, minimum: Array) -> Array:
        r"""The energy that proves the rate on convex objectives, for diagnosis where the solution is known.

        \[ t^2 (f - f^*) + \tfrac12 |(r-1) (x - x^*) + t v|^2, \]

        which never rises if \(f\) is convex and \(r \ge 3\).

        **Arguments:** `t`, `state`: of a run or a reference solution; `value`: \(f\) there; `minimiser`, in the
        structure of the parameters, and `minimum`: \(x^*\) and \(f^*\). **Returns:** a scalar.
        """
        apart = subtract(state.position, minimiser)
        sum_ = jax.tree.map(lambda d, v: (self.power - 1) * d + t * v, apart, state.memory)
        return t**2 * (value - minimum) + 0.5 * vdot(sum_, sum_)

    def damping(self, t: Array, step_size: Array) -> Damping:
        return inverse_time_damping(self.power, t, step_size)

    def decay(self, t: Array, state: State) -> PyTree:
        return self._friction(t)

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        return jax.tree.map(lambda v: factor * v, state.memory)

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State:
        friction = self._friction(t)
        return State(covector.memory, jax.tree.map(lambda w, u: -w - friction * u, covector.position, covector.memory))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / frequency(oracle)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound | None:
        # Aujol, Dossal and Rondepierre (2019), for convex f that behaves like |x - x*|^gamma, theta = 1 - 1/gamma:
        # V = O(t^-p), that is V' <= -k V^(1 + 1/p).
        r, theta = float(self.power), lojasiewicz_exponent
        if theta <= 0.5 or r <= 3 - 2 * theta:
            exponent = 2 * r / (3 - 2 * theta)  # 2 gamma r / (gamma + 2)
        elif r * (2 * theta - 1) >= 3 - 2 * theta:
            exponent = 2 / (2 * theta - 1)  # 2 gamma / (gamma - 2), from r = (gamma + 2) / (gamma - 2) on
        else:
            exponent = min(2.0, 2 * r / 3)  # what holds for every convex function
        return DecayBound(1 + 1 / exponent) if r > 0 else None

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.conformal_euler import ConformalSymplecticEuler
        from .._scheme.exponential import ExponentialEuler

        sgd = optax.inject_hyperparams(optax.sgd)

        def damping(count: Array) -> Damping:
            return self.damping(jnp.maximum(count, 0) * step_size, step_size)

        def momentum(count: Array) -> Array:
            # SGD multiplies its sum of gradients by the learning rate of the step: the growth of that is taken out.
            return damping(count).factor * damping(count - 1).weight / damping(count).weight

        if isinstance(scheme, ExponentialEuler):
            return sgd(lambda count: step_size * damping(count).weight, momentum=momentum)
        if isinstance(scheme, ConformalSymplecticEuler):
            return sgd(step_size**2, momentum=lambda count: damping(count).factor)
        return None

    def _friction(self, t: Array) -> Array:
        """r / t, and 0 at t = 0, where the velocity is zero too."""
        return jnp.where(t > 0, self.power / jnp.where(t > 0, t, 1.0), 0.0)
