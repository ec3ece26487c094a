r"""The schedule-free flow.

\[ z' = -\nabla f(y), \qquad x' = \frac{z - x}{T}, \qquad y = \beta x + (1 - \beta) z, \qquad T = t + s, \]
\[ V = f(x) + \frac{|z - x|^2}{2 T}, \qquad
   V' = -\frac{3 |z - x|^2}{2 T^2} - \frac1T \langle \nabla f(y) - \nabla f(x),\, z - x \rangle. \]

\(V' \le 0\) for every \(f\) where \(\beta = 1\), and for convex \(f\) with every \(\beta\). (Defazio, Yang, Mehta,
Mishchenko, Khaled and Cutkosky, 2024, The road less scheduled.)
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import subtract, vdot
from .base import AbstractFlow, State
from .open_scale import with_open

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class ScheduleFree(AbstractFlow):
    r"""Gradient flow of a point \(z\), whose average over time \(x\) is the answer: no schedule, and no friction.

    \[ z' = -\nabla f(y), \qquad x' = \frac{z - x}{T}, \qquad y = \beta x + (1 - \beta) z, \qquad
       V = f(x) + \frac{|z - x|^2}{2 T}, \qquad T = t + s \]

    On convex functions \(f(x) - f^*\) falls like \(1/t\). With `SemiImplicitEuler` at constant step and no delay it is
    schedule-free gradient descent, with equal weights of all iterates. The memory is \(z\), at first the position.

    **Arguments:**

    - `interpolation`: \(\beta\), \(0 \le \beta \le 1\): 1 is primal averaging, which has an energy for every function;
        below, gradients are taken nearer to \(z\) than to the average, and the certificate is for convex ones only (not
        convex: while \((1 - \beta) \rho\, t \le 3/2\), with \(-\rho\) the lowest curvature). A gradient at \(y\)
        besides that at \(x\) is then needed.
    - `delay`: \(s \ge 0\), in units of time: the average begins as if the start had been held for so long. Without any
        its rate \(1/t\) is infinite at first. `None` (default): a hundredth of the unit of time.

    Unit of time: \([x]^2 / [f]\), as for `GradientFlow`.
    **Raises:** `ValueError` for an interpolation out of range. Source: Defazio et al. (2024).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.ScheduleFree())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2), stop=odeopt.Stop(target_loss=1e-6))
        ```
    """

    interpolation: Array
    delay: Array | None
    # Known when the flow is made, and not from a number that compiled programs take as an argument: they would be made
    # for the second gradient.
    averages: bool = eqx.field(static=True)

    def __init__(self, interpolation: ArrayLike = 1.0, delay: ArrayLike | None = None):
        self.interpolation = hyperparameter(interpolation)
        self.delay = hyperparameter(delay)
        self.averages = concrete(self.interpolation) and float(self.interpolation) == 1

    def __check_init__(self):
        if concrete(self.interpolation) and not 0 <= float(self.interpolation) <= 1:
            raise ValueError(f"ScheduleFree(interpolation={float(self.interpolation)}): expected a number in [0, 1].")
        if concrete(self.delay) and not 0 <= float(self.delay) < float("inf"):
            raise ValueError(f"ScheduleFree(delay={float(self.delay)}): expected a finite time >= 0.")

    @property
    def certificate(self) -> str:
        return "lyapunov" if self.averages else "convex_only"

    def init(self, params: PyTree) -> State:
        return State(params, params)

    def calibrate(self, state: State, oracle: Oracle) -> "ScheduleFree":
        return with_open(self, "delay", OPEN_DELAY * self.unit_of_time(state, oracle))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        lengths = [jnp.sqrt(vdot(tree, tree)) for tree in (state.position, oracle.gradient)]
        length, slope = (jnp.where(size > 0, size, 1.0) for size in lengths)
        return length / slope

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        gradient = self._gradient(state, oracle)
        # (z - x) / T, and without delay its limit -g / 2 at the start, where z = x.
        started, safe = self._age(t)
        velocity = jax.tree.map(
            lambda z, x, g: jnp.where(started, (z - x) / safe, -0.5 * g), state.memory, state.position, gradient
        )
        return State(velocity, jax.tree.map(lambda g: -g, gradient))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        gradient, (started, safe) = self._gradient(state, oracle), self._age(t)
        apart = subtract(state.memory, state.position)
        rate = -1.5 * vdot(apart, apart) / safe**2
        if not self.averages:
            rate = rate - vdot(subtract(gradient, oracle.gradient), apart) / safe
        # Without delay: the limit, with z - x = -t g / 2 + O(t^2).
        return jnp.where(started, rate, -0.375 * vdot(gradient, gradient))

    def kinetic_energy(self, t: Array, state: State) -> Array:
        apart = subtract(state.memory, state.position)
        return vdot(apart, apart) / (2 * self._age(t)[1])

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        return jax.tree.map(lambda z, x: x + factor * (z - x), state.memory, state.position)

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.semi_implicit import SemiImplicitEuler

        undelayed = concrete(self.delay) and float(self.delay) == 0
        if not (isinstance(scheme, SemiImplicitEuler) and self.averages and undelayed):
            return None
        return _primal_averaging(step_size)

    def _age(self, t: Array) -> tuple[Array, Array]:
        """Whether T > 0, and T where it is."""
        if self.delay is None:
            raise ValueError(
                "ScheduleFree(delay=None) has not been calibrated: minimise and train do it; elsewhere call "
                "flow.calibrate(state, oracle) first or give delay."
            )
        age = t + self.delay
        return age > 0, jnp.where(age > 0, age, 1.0)

    def _gradient(self, state: State, oracle: Oracle) -> PyTree:
        """The gradient at y; that at the position is known already."""
        if self.averages:
            return oracle.gradient
        beta = self.interpolation
        y = jax.tree.map(lambda x, z: (beta * x + (1 - beta) * z).astype(x.dtype), state.position, state.memory)
        return oracle.at(y).gradient


# The delay that is taken where none is given, in units of time: short beside any run, and long beside a first step.
OPEN_DELAY = 0.01


def _primal_averaging(learning_rate: Array) -> optax.GradientTransformation:
    r"""\(z \leftarrow z - h g(x)\), \(x \leftarrow x + (z - x)/k\) in step \(k\)."""

    def init(params):
        return params, jnp.zeros((), jnp.int32)

    def update(updates, state, params=None):
        z, count = state
        z = jax.tree.map(lambda z, g: z - learning_rate * g, z, updates)
        return jax.tree.map(lambda z, x: (z - x) / (count + 1), z, params), (z, count + 1)

    return optax.GradientTransformation(init, update)
