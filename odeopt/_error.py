"""The size of a local error in units of a tolerance."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._controller.base import Tolerance
from ._flow.base import State
from ._scheme.base import Trial


def scaled_error(tolerance: Tolerance, before: State, step: Trial, dtype) -> Array:
    """The formula of `Tolerance` for a step from `before`; infinite where it is no number."""
    assert step.error is not None  # a solver is not made otherwise

    def block(error, old, new):
        moved = jnp.sqrt(jnp.mean(jnp.square(new - old)))
        size = jnp.maximum(jnp.abs(old), jnp.abs(new))
        scale = tolerance.absolute + tolerance.relative * size + tolerance.step * moved
        # Nothing has moved and nothing is wrong: a block at rest.
        ratio = jnp.where(error == 0, 0.0, error / scale)
        return jnp.sqrt(jnp.mean(jnp.square(ratio))).astype(dtype)

    blocks = jax.tree.leaves(jax.tree.map(block, step.error(), before, step.state))
    largest = jnp.max(jnp.stack(blocks))
    return jnp.where(jnp.isfinite(largest), largest, jnp.inf)
