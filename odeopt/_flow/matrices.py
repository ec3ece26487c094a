"""Arrays of parameters as matrices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def as_matrix(leaf: Array) -> Array:
    """An array as a matrix, in at least float32.

    A vector becomes one column, a scalar one entry; of more than two axes the first stands against all others.
    """
    working = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    return working.reshape(-1, 1) if leaf.ndim < 2 else working.reshape(leaf.shape[0], -1)


def times(*factors: Array) -> Array:
    """The product of matrices, in the full precision of their dtype.

    Graphics cards multiply in fewer digits unless told otherwise, and functions of matrices are made of differences.
    """
    product = factors[0]
    for factor in factors[1:]:
        product = jnp.matmul(product, factor, precision=jax.lax.Precision.HIGHEST)
    return product
