r"""Momentum behind a diagonal preconditioner.

\[ x' = -\frac{m}{D}, \quad m' = a (g - m), \quad v' = N(v, g), \qquad D = D(v) > 0, \]
\[ V = f(x) + \frac{1}{2a} \sum \frac{m^2}{D}, \qquad
   V' = -\sum \frac{m^2}{D} \Big( 1 + \frac{(\ln D)'}{2a} \Big), \]

for any \(f\): the preconditioner may grow at any speed, and must not shrink faster than at twice the rate of the
momentum. (Belotto da Silva and Gazeau, 2020, A general system of differential equations to model first-order
adaptive algorithms.)
"""

import abc
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .._tree import vdot
from .base import State
from .discrete import exponential_average, preconditioned_momentum
from .moments import AbstractMomentFlow


class AbstractPreconditionedMomentum(AbstractMomentFlow):
    r"""Flows \(x' = -m/D\), told apart by how \(v\) follows the squares of the gradient and by \(D(v)\)."""

    @abc.abstractmethod
    def scaling_slope(self, v: Array, gradient: Array) -> Array:
        r"""\(v' = N(v, g)\) of one array of parameters."""

    def denominator(self, v: Array) -> Array:
        r"""\(D = \sqrt{v + e^2}\)."""
        # The constant stands under the root: sqrt(v) + e has no derivative at v = 0, where the flow starts.
        return jnp.sqrt(v + self._calibrated_epsilon() ** 2)

    def growth(self, v: Array, slope: Array) -> Array:
        r"""\((\ln D)'\) where \(v' =\) `slope`."""
        return slope / (2 * self.denominator(v) ** 2)

    def kept_squares(self, b2: Array, step_size: Array) -> Callable[[Array, Array], Array]:
        r"""\(v\) and \(g\) to \(v\) after a step: the discrete form of `scaling_slope`."""
        return exponential_average(b2)

    def optimizer(self, step_size: Array, b1: Array, b2: Array) -> optax.GradientTransformation | None:
        return preconditioned_momentum(step_size, b1, self.kept_squares(b2, step_size), self.denominator)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        (m, v), g = state.memory, oracle.gradient
        return State(
            jax.tree.map(lambda m, v: -m / self.denominator(v), m, v),
            (jax.tree.map(lambda m, g: self.momentum_rate * (g - m), m, g), jax.tree.map(self.scaling_slope, v, g)),
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        (m, v), g = state.memory, oracle.gradient
        growth = jax.tree.map(lambda v, g: self.growth(v, self.scaling_slope(v, g)), v, g)
        return -vdot(
            jax.tree.map(lambda m, v: m**2 / self.denominator(v), m, v),
            jax.tree.map(lambda growth: 1 + growth / (2 * self.momentum_rate), growth),
        )

    def kinetic_energy(self, t: Array, state: State) -> Array:
        m, v = state.memory
        return vdot(m, jax.tree.map(lambda m, v: m / self.denominator(v), m, v)) / (2 * self.momentum_rate)

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        m, v = state.memory
        return jax.tree.map(lambda m: factor * m, m), v
