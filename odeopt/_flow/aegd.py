r"""Adaptive gradient descent with energy: gradient flow with a scalar auxiliary variable.

\[ F = \sqrt{f(x) + c}, \qquad x' = -2 r\,\nabla F, \quad r' = -2 r\,|\nabla F|^2, \qquad
   V = r^2 - c, \qquad V' = -4 r^2 |\nabla F|^2 = -|x'|^2, \]

for any \(f > -c\). From \(r = F\) at the start \(r\) stays equal to \(F\), so that the flow is gradient flow and
\(V = f\). What differs is the scheme: `AEGDStep` lowers \(r^2\) at every step size. Elementwise, each parameter has an
\(r_i\) of its own,

\[ x_i' = -2 r_i\,\partial_i F, \quad r_i' = -2 r_i\,(\partial_i F)^2, \qquad
   V = \frac1n \sum r_i^2 - c, \qquad V' = -\frac1n |x'|^2. \]

(Liu and Tian, 2020, AEGD: adaptive gradient descent with energy; Shen, Xu, Yang, 2018, The scalar auxiliary variable
approach for gradient flows.)
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import size, vdot
from .base import AbstractFlow, DecayBound, State
from .open_scale import calibrated, check_positive, with_open


class AEGD(AbstractFlow):
    r"""AEGD, whose energy is the square of an auxiliary variable in place of the objective.

    \[ F = \sqrt{f + c}, \qquad x' = -2 r\,\nabla F, \quad r' = -2 r\,|\nabla F|^2, \qquad
       V = r^2 - c, \qquad V' = -|x'|^2 \]

    With `AEGDStep` at constant step \(\eta\) it is the published method. The energy does not contain the objective,
    and falls at every step size: it cannot tell a good step from a long one, behind which \(r\) is used up and the
    parameters freeze. So the recommended step is constant, a hundredth of `unit_of_time`; choose your own with
    `ConstantStep`.

    The memory is \(r\) in units of its value at the start: one number, or one for each parameter.

    **Arguments:**

    - `shift`: \(c\), with \(f + c > 0\) all along the run, in the unit of the objective: what only its user knows. For
        an objective that is not negative, its size at the start is a good choice. Where \(f\) does fall below \(-c\),
        \(r\) is soon used up.
    - `elementwise`: whether each parameter has its own \(r\).
    - `initial_root`: \(r\) at the start. `None` (default): \(\sqrt{f(x_0) + c}\).

    Unit of time: \([x]^2 / [f]\), as for gradient flow. **Raises:** `ValueError` if a constant is out of range. Source:
    Liu and Tian (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.AEGD(shift=1.0))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    weighs_objective: ClassVar[bool] = False

    shift: Array = eqx.field(converter=hyperparameter)
    elementwise: bool = eqx.field(static=True, default=False)
    initial_root: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        if not isinstance(self.elementwise, bool):
            raise ValueError(f"AEGD(elementwise={self.elementwise!r}): expected True or False.")
        if concrete(self.shift) and not jnp.isfinite(self.shift):
            raise ValueError(
                f"AEGD(shift={float(self.shift)}): expected a finite number, in the unit of the objective."
            )
        check_positive(self, "initial_root", "in the unit of the root of the objective")

    def init(self, params: PyTree) -> State:
        if self.elementwise:
            return State(params, jax.tree.map(jnp.ones_like, params))
        # At least float32: what r loses in a step is small beside it.
        return State(params, jnp.ones((), jnp.result_type(jnp.float32, *jax.tree.leaves(params))))

    def calibrate(self, state: State, oracle: Oracle) -> "AEGD":
        return with_open(self, "initial_root", jnp.sqrt(oracle.value + self.shift))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        speed = calibrated(self, "initial_root") / self._root(oracle)
        rates = jax.tree.map(lambda r, rate: -rate * r, state.memory, self.decay_rates(oracle))
        if self.elementwise:
            return State(jax.tree.map(lambda r, g: -speed * r * g, state.memory, oracle.gradient), rates)
        return State(jax.tree.map(lambda g: -speed * state.memory * g, oracle.gradient), rates)

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        square = vdot(state.memory, state.memory) / size(state.memory)
        return calibrated(self, "initial_root") ** 2 * square - self.shift

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        velocity = self.vector_field(t, state, oracle).position
        return -vdot(velocity, velocity) / size(state.memory)

    def decay_rates(self, oracle: Oracle) -> PyTree:
        r"""The rates \(2 |\nabla F|^2\) or \(2 (\partial_i F)^2\) at which the memory decays, in its structure."""
        twice_square = 2 * self._root(oracle) ** 2
        if self.elementwise:
            return jax.tree.map(lambda g: g**2 / twice_square, oracle.gradient)
        return vdot(oracle.gradient, oracle.gradient) / twice_square

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound | None:
        # With one number for r that of gradient flow, which it then is.
        return None if self.elementwise else DecayBound(2 * lojasiewicz_exponent, constant**2)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.aegd import AEGDStep

        # Every step passes: that is the theorem of the scheme.
        return AEGDStep(), LyapunovControl(decrease=0.0, grow=1.0, scouting_growth=1.0, rounding=None)

    def _root(self, oracle: Oracle) -> Array:
        """F; an objective that falls below -c leaves it at its smallest value, and the energy falls all the same."""
        lowest = LOWEST_ROOT * calibrated(self, "initial_root")
        return jnp.sqrt(jnp.maximum(oracle.value + self.shift, lowest**2))


# Of F over its first value, against division by zero where the objective comes down to -c: reached after a fall of
# f + c by a factor 1e6.
LOWEST_ROOT = 1e-3
