r"""Objectives on which a flow that asks for residuals is audited: sums of squares \(f = \tfrac12 |r|^2\).

They are to such a flow what the landscapes of `objectives` and the planes of `terrain` are to any other.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

from .._objective import AbstractObjective, LeastSquares, Oracle, Tally
from .objectives import Landscape
from .terrain import AbstractLandscapes, AbstractTerrain, Users


def _line(z: Array) -> Array:
    curvatures = jnp.logspace(-0.5, 0.5, z.size) if z.size > 1 else jnp.ones(1)
    return jnp.concatenate([curvatures * z, jnp.full_like(z, 0.5)])


def _coupled_waves(z: Array) -> Array:
    return jnp.concatenate([3 * jnp.sin(z), 1 + 0.5 * jnp.sin(z * jnp.roll(z, 1))])


def _bent_valley(z: Array) -> Array:
    return jnp.concatenate([10 * (jnp.roll(z, 1) - z**2), 1 - z])


def _roots(z: Array) -> Array:
    # Where an entry is zero, a column of the Jacobian is.
    return 1e-2 * jnp.concatenate([z**2 - 1, jnp.full_like(z, 2.0)])


# Twice as many residuals as parameters each, so that one switch chooses among them.
SQUARES = (
    Landscape("line through points", _line, convex=True, critical=0.0),
    Landscape("coupled sines", _coupled_waves, convex=False, critical=0.0),
    Landscape("bent valley", _bent_valley, convex=False, critical=1.0),
    Landscape("roots of one", _roots, convex=False, critical=1.0),
)


class AbstractSquares(AbstractTerrain):
    """A terrain of sums of squares: what is put under a state has residuals."""

    @abc.abstractmethod
    def residuals(self, index: Scalar, point: Array) -> Array:
        """Of the objective `index` at `point`, shape (P,)."""

    def value(self, index: Scalar, point: Array) -> Scalar:
        return 0.5 * jnp.sum(self.residuals(index, point) ** 2)

    def moved(self, index: Scalar, shift: Array) -> AbstractObjective:
        return LeastSquares(_MovedResiduals(self, index, shift))

    def plane(self, point: PyTree, height: Scalar, slope: PyTree) -> AbstractObjective:
        return LeastSquares(_PlaneResidual(point, jnp.sqrt(2 * height), slope))

    def stream(self, slope: PyTree) -> AbstractObjective:
        # No sum of squares has a constant slope; flows with residuals and a memory see a parabola.
        return LeastSquares(_PlaneResidual(jax.tree.map(jnp.zeros_like, slope), jnp.ones(()), slope))


class SquareLandscapes(AbstractSquares, AbstractLandscapes):
    """The built-in sums of squares, all behind one switch."""

    landscapes: ClassVar[tuple[Landscape, ...]] = SQUARES

    def residuals(self, index: Scalar, point: Array) -> Array:
        return jax.lax.switch(index, [landscape.function for landscape in SQUARES], point)


class UsersSquares(AbstractSquares, Users):
    """A user's sum of squares."""

    def residuals(self, index: Scalar, point: Array) -> Array:
        return Oracle(self.objective, jax.flatten_util.ravel_pytree(self.start)[1](point), Tally()).residuals


class _MovedResiduals(eqx.Module):
    terrain: AbstractSquares
    index: Scalar
    shift: Array

    def __call__(self, parameters: PyTree, args: PyTree) -> Array:
        return self.terrain.residuals(self.index, jax.flatten_util.ravel_pytree(parameters)[0] - self.shift)


class _PlaneResidual(eqx.Module):
    r"""One residual with a given value and a given slope of its square: \(r_0 + \langle g, y - x \rangle / r_0\)."""

    point: PyTree
    residual: Scalar
    slope: PyTree

    def __call__(self, parameters: PyTree, args: PyTree) -> Array:
        pairs = zip(*map(jax.tree.leaves, (self.slope, parameters, self.point)), strict=True)
        return self.residual + sum(jnp.vdot(g, y - x) for g, y, x in pairs) / self.residual
