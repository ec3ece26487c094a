r"""The flow of schedule-free Adam: a preconditioned point, whose weighted average over time is the answer.

\[ z' = -\frac{g}{D}, \quad v' = b (g^2 - v), \quad x' = (r + 1)\,\frac{z - x}{T}, \qquad
   g = \nabla f(y), \quad y = \beta x + (1 - \beta) z, \]
\[ D = \sqrt{\frac{v}{1 - e^{-b t}} + e^2}, \qquad T = t + s, \]

so that \(x\) is the average of \(z\) with the weights \(T^r\). With \(w = z - x\)

\[ V = f(x) + \frac{r + 1}{2 T} \langle w, D w \rangle, \qquad
   V' = -\frac{(r + 1)(r + \tfrac32)}{T^2} \langle w, D w \rangle + \frac{r + 1}{2 T} \langle w, D' w \rangle
        - \frac{r + 1}{T} \langle g - \nabla f(x), w \rangle. \]

The first term dissipates. The second is positive where gradients grow, and the third where \(f\) bends down between
\(x\) and \(z\): a balance law.

(Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, 2024, The road less scheduled; weights \(T^r\) as in its
polynomial weighting.)
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import size, subtract, vdot
from .base import AbstractFlow, State
from .open_scale import calibrated, check_nonnegative, check_positive, root_mean_square, with_open

# Beside the root mean square of the first gradient: only to divide by something where a gradient has always been zero.
OPEN_EPSILON = 1e-8
# As for `ScheduleFree`: short beside any run, and long beside a first step.
OPEN_DELAY = 0.01


class ScheduleFreeAdam(AbstractFlow):
    r"""Schedule-free Adam in continuous time: no schedule, no momentum, and an average for an answer.

    \[ z' = -\frac{g}{D}, \quad v' = b (g^2 - v), \quad x' = (r + 1)\,\frac{z - x}{T}, \qquad
       g = \nabla f(\beta x + (1 - \beta) z), \quad D = \sqrt{\frac{v}{1 - e^{-b t}} + e^2}, \quad T = t + s \]

    \[ V = f(x) + \frac{r + 1}{2 T} \langle z - x, D (z - x) \rangle \]

    The average holds what noise there is in the gradients, so that no decaying step size is needed: this is the flow
    that `odeopt.EnergyTournament` runs on mini-batches. With `ScheduleFreeStep` at constant step \(h\), \(r = 0\) and
    \(s = 0\) it is schedule-free Adam at learning rate \(h\) with \(\beta_2 = e^{-b h}\). Its energy obeys a balance
    law: where gradients grow, it may rise.

    The memory is `(z, v)`, at first the position and zero.

    **Arguments:**

    - `interpolation`: \(\beta\), \(0 \le \beta \le 1\): where the gradient is taken, between \(z\) and the average.
    - `averaging_power`: \(r \ge 0\): the average weighs \(z\) at time \(t\) with \(T^r\). 0 is the plain average; 1
        forgets the start sooner (measured on mini-batches: a loss lower by a tenth after ten epochs).
    - `scaling_rate`: \(b > 0\) per unit of time.
    - `epsilon`: \(e > 0\) in units of the gradient. `None` (default): \(10^{-8}\) of the root mean square of the
        gradient at the start.
    - `delay`: \(s \ge 0\), in units of time: the average begins as if the start had been held for so long. `None`
        (default): a hundredth of the unit of time.

    Unit of time: that of the parameters; each moves by about 1 at most per unit of time.
    **Raises:** `ValueError` for a constant out of range. Source: Defazio et al. (2024), The road less scheduled.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.ScheduleFreeAdam())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2), stop=odeopt.Stop(target_loss=1e-4))
        ```
    """

    certificate: ClassVar[str] = "balance_law"

    interpolation: Array = eqx.field(converter=hyperparameter, default=0.9)
    averaging_power: Array = eqx.field(converter=hyperparameter, default=1.0)
    scaling_rate: Array = eqx.field(converter=hyperparameter, default=3.0)
    epsilon: Array | None = eqx.field(converter=hyperparameter, default=None)
    delay: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        if concrete(self.interpolation) and not 0 <= float(self.interpolation) <= 1:
            raise ValueError(
                f"ScheduleFreeAdam(interpolation={float(self.interpolation)}): expected a number in [0, 1]."
            )
        check_nonnegative(self, "averaging_power", "the power of time in the weights of the average")
        check_positive(self, "scaling_rate", "per unit of time")
        check_positive(self, "epsilon", "in units of the gradient")
        check_nonnegative(self, "delay", "in units of time")

    def init(self, params: PyTree) -> State:
        return State(params, (params, jax.tree.map(jnp.zeros_like, params)))

    def calibrate(self, state: State, oracle: Oracle) -> "ScheduleFreeAdam":
        scale = root_mean_square(oracle.gradient, size(state.position))
        flow = with_open(self, "epsilon", OPEN_EPSILON * scale)
        return with_open(flow, "delay", OPEN_DELAY * self.unit_of_time(state, oracle))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        # Every parameter moves by about one, so that the root mean square of all of them is the time that it takes.
        return root_mean_square(state.position, size(state.position))

    def decay(self, t: Array, state: State) -> PyTree:
        return (None, self.scaling_rate)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        (z, v), gradient = state.memory, self.gradient(state, oracle)
        age = t + calibrated(self, "delay")
        ahead, pull = subtract(z, state.position), self.averaging_power + 1
        # At t = 0 the averages are empty; these are the limits along the solution.
        filled = jax.tree.map(lambda v, g: jnp.where(t > 0, v, g**2), v, gradient)
        direction = jax.tree.map(lambda g, root: -g / root, gradient, self.root(t, filled))
        velocity = jax.tree.map(
            lambda w, d: jnp.where(age > 0, pull * w / jnp.where(age > 0, age, 1.0), pull / (pull + 1) * d),
            ahead,
            direction,
        )
        return State(velocity, (direction, jax.tree.map(lambda v, g: self.scaling_rate * (g**2 - v), v, gradient)))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        z, v = state.memory
        ahead, age = subtract(z, state.position), t + calibrated(self, "delay")
        weighted = jax.tree.map(jnp.multiply, self.root(t, v), ahead)
        return (self.averaging_power + 1) * vdot(ahead, weighted) / (2 * jnp.where(age > 0, age, 1.0))

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        z, v = state.memory
        return jax.tree.map(lambda z, x: x + factor * (z - x), z, state.position), v

    def recommended(self):
        from .._controller.slack import BalanceControl
        from .._scheme.schedule_free import ScheduleFreeStep

        return ScheduleFreeStep(), BalanceControl()

    def gradient(self, state: State, oracle: Oracle) -> PyTree:
        """The gradient at y."""
        beta = self.interpolation
        y = jax.tree.map(lambda x, z: (beta * x + (1 - beta) * z).astype(x.dtype), state.position, state.memory[0])
        return oracle.at(y).gradient

    def root(self, t: Array, v: PyTree) -> PyTree:
        r"""\(D\) at time \(t\) from the average of squares."""
        filled = jnp.where(t > 0, -jnp.expm1(-self.scaling_rate * t), 1.0)
        return jax.tree.map(lambda v: jnp.sqrt(v / filled + calibrated(self, "epsilon") ** 2), v)
