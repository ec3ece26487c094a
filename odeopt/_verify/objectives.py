r"""Objectives on which a flow is audited where its user names none: functions of any pytree of parameters.

Each takes the parameters as one vector \(z \in \mathbb{R}^n\), moved by a shift, so that a state can be put near or
far from a critical point without touching the state itself. Their values are positive and negative, large and small.
"""

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._objective import AbstractObjective


@dataclass(frozen=True)
class Landscape:
    """A function of a vector of any length, with critical points that are known.

    **Attributes:** `function`: of a vector; `convex`: whether it is; `critical`: a scalar `c` such that the vector
    with all entries `c` is a critical point.
    """

    name: str
    function: Callable[[Array], Array]
    convex: bool
    critical: float


def _curvatures(z: Array) -> Array:
    return jnp.logspace(-1, 1, z.size) if z.size > 1 else jnp.ones(1)


def _bowl(z: Array) -> Array:
    return 0.5 * jnp.sum(_curvatures(z) * z**2) - 3.0


def _soft_bowl(z: Array) -> Array:
    return 1e3 * jnp.sum(jnp.sqrt(1 + _curvatures(z) * z**2))


def _waves(z: Array) -> Array:
    # Neighbours are coupled, so that the Hessian is not diagonal.
    return jnp.sum(jnp.cos(2 * z)) + 0.5 * jnp.sum(jnp.sin(z * jnp.roll(z, 1))) + 0.1 * jnp.sum(z**2)


def _wells(z: Array) -> Array:
    return 1e-3 * (0.25 * jnp.sum((z**2 - 1) ** 2) - 2.0 * z.size)


LANDSCAPES = (
    Landscape("quadratic bowl", _bowl, convex=True, critical=0.0),
    Landscape("steep convex bowl", _soft_bowl, convex=True, critical=0.0),
    Landscape("coupled waves", _waves, convex=False, critical=0.0),
    Landscape("double wells", _wells, convex=False, critical=1.0),
)


class Shifted(AbstractObjective):
    """A landscape as an objective of any pytree of parameters: \\(f(y - s)\\), with \\(s\\) the `shift`."""

    shift: PyTree
    function: Callable[[Array], Array] = eqx.field(static=True)

    @property
    def evaluation(self) -> str:
        return "linearised"

    def value(self, parameters: PyTree) -> Array:
        moved = jax.tree.map(lambda leaf, shift: leaf - shift, parameters, self.shift)
        return self.function(jax.flatten_util.ravel_pytree(moved)[0])

    def auxiliary(self, parameters: PyTree) -> PyTree:
        return None


class Linear(AbstractObjective):
    """A plane with a given slope: drives the memory of a flow as a gradient of one's choice would."""

    slope: PyTree

    @property
    def evaluation(self) -> str:
        return "linearised"

    def value(self, parameters: PyTree) -> Array:
        return jnp.asarray(sum(jnp.vdot(g, y) for g, y in zip(_leaves(self.slope), _leaves(parameters), strict=True)))

    def auxiliary(self, parameters: PyTree) -> PyTree:
        return None


def _leaves(tree: PyTree) -> list[Array]:
    return jax.tree.leaves(tree)
