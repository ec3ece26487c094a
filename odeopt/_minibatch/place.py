"""Where a run on mini-batches stands."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .steps import Point


class Place(eqx.Module):
    """Where a run stands.

    **Attributes:** `step`: how many steps have been made, those of windows that were rolled back included;
    `rolled_back`: how many windows in a row.
    """

    point: Point
    step_size: Array
    energy: Array
    step: int = 0
    rolled_back: int = 0

    @staticmethod
    def blank(point: Point) -> "Place":
        """A place of the right structure."""
        return Place(point, jnp.zeros_like(point.t), jnp.zeros_like(point.t))
