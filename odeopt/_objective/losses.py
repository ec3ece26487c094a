"""What a loss of a `FiniteSum` returns, and its weights, checked."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def check_losses(losses: Array, length: int, weighted: bool, per_example: bool) -> None:
    """**Raises:** `TypeError` or `ValueError` for what cannot be the losses of `length` examples."""
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"the loss of a FiniteSum must be floating point; it returned dtype {losses.dtype}.")
    if losses.shape == (length,):
        return
    if per_example:
        raise ValueError(f"loss(y, example) must return a scalar; it returned the shape {losses.shape[1:]}.")
    if losses.ndim > 0:
        raise ValueError(
            f"loss(y, batch) must return a mean, or one loss for each of n examples, shape (n,); for n = {length} it "
            f"returned the shape {losses.shape}."
        )
    if weighted:
        raise ValueError(
            "FiniteSum(weights=...): the loss returns the mean of a batch, whose examples can no longer be weighted. "
            "Return one loss for each example, shape (n,), or pass per_example=True. (Examples that do not divide "
            "evenly among the devices of a mesh are filled up with weight 0.)"
        )


def check_weights(weights: Array | None, count: int) -> None:
    """**Raises:** `ValueError` for what cannot be the weights of `count` examples."""
    if weights is None:
        return
    if getattr(weights, "shape", None) != (count,):
        raise ValueError(
            f"FiniteSum(weights=...): expected one weight for each of the {count} examples, shape ({count},); got "
            f"{getattr(weights, 'shape', weights)}."
        )
    if isinstance(weights, Tracer) or not getattr(weights, "is_fully_addressable", True):
        return
    known = np.asarray(weights, float)
    if not (np.all(known >= 0) and 0 < np.sum(known) < np.inf):
        raise ValueError("FiniteSum(weights=...): expected finite weights >= 0 that are not all 0.")
