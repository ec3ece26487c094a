"""What lies under a state: the built-in landscapes or a user's objective, moved to where it is wanted."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Scalar

from .._flow.base import AbstractFlow, State
from .._objective import AbstractObjective, PartialObjective
from .._tree import cast_floating
from .objectives import LANDSCAPES, Landscape, Linear
from .system import System

# Distances from a critical point, decimal exponents. At 1e-6 a gradient is rounded to 2e-10 of itself; nearer than
# that a judgement to 1e-8 would soon be one of its rounding.
NEAREST, FARTHEST = -6.0, -1.0
# Standard deviation of points far from critical ones: the waves and wells are a few units wide.
SPREAD = 1.5
# Distances from a user's start over the size of his parameters, decimal exponents: his objective may not be defined
# farther out.
USERS_NEAREST, USERS_FARTHEST = -3.0, 0.0


class AbstractTerrain(eqx.Module):
    """One or several objectives of the parameters as one vector, told apart by an index that may be traced."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the objectives."""

    @property
    @abc.abstractmethod
    def convex(self) -> np.ndarray:
        """Which objectives are known to be."""

    @abc.abstractmethod
    def value(self, index: Scalar, point: Array) -> Scalar:
        """The objective `index` at `point`."""

    @abc.abstractmethod
    def draw(
        self, random: np.random.Generator, index: np.ndarray, entries: int, near: float | np.ndarray = 0.5
    ) -> np.ndarray:
        """Random points, shape `(*index.shape, entries)`; near a known critical one with the probability `near`."""

    def moved(self, index: Scalar, shift: Array) -> AbstractObjective:
        r"""An objective of the terrain, moved by a shift: \(f(y - s)\)."""
        return Moved(self, index, shift)

    def plane(self, point: PyTree, height: Scalar, slope: PyTree) -> AbstractObjective:
        """All that a point shows of an objective: its value and its gradient."""
        return Tangent(point, height, slope)

    def stream(self, slope: PyTree) -> AbstractObjective:
        """A plane with a given slope: drives the memory of a flow as a gradient of one's choice would."""
        return Linear(slope)


class AbstractLandscapes(AbstractTerrain):
    """Built-in objectives, with critical points that are known."""

    landscapes: eqx.AbstractClassVar[tuple[Landscape, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(landscape.name for landscape in self.landscapes)

    @property
    def convex(self) -> np.ndarray:
        return np.array([landscape.convex for landscape in self.landscapes])

    def critical(self, index: np.ndarray) -> np.ndarray:
        """All entries of a point where the gradient of a landscape is exactly zero."""
        return np.array([landscape.critical for landscape in self.landscapes])[index]

    def draw(
        self, random: np.random.Generator, index: np.ndarray, entries: int, near: float | np.ndarray = 0.5
    ) -> np.ndarray:
        normal = random.normal(size=(*index.shape, entries))
        direction = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
        distance = 10 ** random.uniform(NEAREST, FARTHEST, (*index.shape, 1))
        is_near = (random.random(index.shape) < near)[..., None]
        return np.where(is_near, self.critical(index)[..., None] + distance * direction, SPREAD * normal)


class Landscapes(AbstractLandscapes):
    """Functions of every kind, all behind one switch, so that they compile once."""

    landscapes: ClassVar[tuple[Landscape, ...]] = LANDSCAPES

    def value(self, index: Scalar, point: Array) -> Scalar:
        return jax.lax.switch(index, [landscape.function for landscape in LANDSCAPES], point)


class Users(AbstractTerrain):
    """A user's objective, looked at near and far from where he starts; its critical points are not known."""

    objective: PartialObjective
    start: PyTree

    @property
    def names(self) -> tuple[str, ...]:
        return ("given objective",)

    @property
    def convex(self) -> np.ndarray:
        return np.array([False])

    def value(self, index: Scalar, point: Array) -> Scalar:
        return self.objective.value(jax.flatten_util.ravel_pytree(self.start)[1](point))

    def draw(
        self, random: np.random.Generator, index: np.ndarray, entries: int, near: float | np.ndarray = 0.5
    ) -> np.ndarray:
        start = ravelled(self.start, ())
        typical = np.sqrt(np.mean(start**2)) or 1.0
        distance = typical * 10 ** random.uniform(USERS_NEAREST, USERS_FARTHEST, (*index.shape, 1))
        points = start + distance * random.normal(size=(*index.shape, entries))
        # The first is where the user starts himself.
        points.reshape(-1, entries)[0] = start
        return points


class Moved(AbstractObjective):
    r"""An objective of a terrain, moved by a shift: \(f(y - s)\)."""

    terrain: AbstractTerrain
    index: Scalar
    shift: Array

    @property
    def evaluation(self) -> str:
        return "linearised"

    def value(self, parameters: PyTree) -> Scalar:
        return self.terrain.value(self.index, jax.flatten_util.ravel_pytree(parameters)[0] - self.shift)

    def auxiliary(self, parameters: PyTree) -> PyTree:
        return None


class Tangent(AbstractObjective):
    r"""All that a point shows of an objective, its value and its gradient: \(f + \langle g, y - x \rangle\)."""

    point: PyTree
    height: Scalar
    slope: PyTree

    @property
    def evaluation(self) -> str:
        return "linearised"

    def value(self, parameters: PyTree) -> Scalar:
        pairs = zip(*map(jax.tree.leaves, (self.slope, parameters, self.point)), strict=True)
        return self.height + sum(jnp.vdot(g, y - x) for g, y, x in pairs)

    def auxiliary(self, parameters: PyTree) -> PyTree:
        return None


def system_on(flow: AbstractFlow, objective: AbstractObjective, state: State) -> System:
    """The system of a flow that needs no more calibration; `state` is its start."""
    nothing_frozen = jax.tree.map(lambda _: None, state.position)
    return System(flow, PartialObjective(objective, nothing_frozen), state)


def calibrated(flow: AbstractFlow, objective: AbstractObjective, position: PyTree) -> System:
    """The system of a flow that starts at `position` and sets its open scales there."""
    start = cast_floating(flow.init(position), jnp.float64)
    oracle = system_on(flow, objective, start).oracle(position)
    return system_on(cast_floating(flow.calibrate(start, oracle), jnp.float64), objective, start)


def ravelled(tree: PyTree, leading: tuple[int, ...]) -> np.ndarray:
    """All entries of a tree as one vector behind its leading axes, on the host; the order of `ravel_pytree`."""
    return np.concatenate([np.asarray(leaf, float).reshape(*leading, -1) for leaf in jax.tree.leaves(tree)], axis=-1)
