"""Where schemes are measured: a piece of the exact trajectory that begins at a regular state, and errors at its end."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .system import System

# Before the first measurement and during it, in the flow's unit of time: long enough to leave the singularity of a
# start from rest, long enough for the state to change by its own size.
SETTLING, DURATION = 0.5, 1.0


def segment_times(
    system: System, start_time: float | int, settling: float | int | None, duration: float | int | None
) -> np.ndarray:
    """Shape `(3,)`: where the flow starts, where the measurement begins, and where it ends.

    **Raises:** `ValueError` for a time that is not positive and finite.
    """
    unit = float(system.unit_of_time())
    settling = _checked_time("settling", SETTLING * unit if settling is None else settling)
    duration = _checked_time("duration", DURATION * unit if duration is None else duration)
    return np.asarray([start_time, start_time + settling, start_time + settling + duration])


def relative_error(state: PyTree, start: PyTree, end: PyTree) -> Array:
    """How far `state` is from `end`: the two-norm over all blocks of their differences, each in units of its own size.

    That is the two-norm of the block at the start or at the end, the larger. The two-norm is smooth in the step size
    where the largest entry may change its place from one to the next.
    """

    def square(state, start, end):
        size = jnp.maximum(jnp.sum(start**2), jnp.sum(end**2))
        return jnp.sum((state - end) ** 2) / jnp.where(size > 0, size, 1.0)

    return jnp.sqrt(jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(square, state, start, end)))))


def _checked_time(name: str, value: float | int) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value}: expected a finite time > 0, in the flow's unit of time.")
    return float(value)
