"""The tree arithmetic that the loop is made of, where optax.tree leaves dtype or fusion open."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree


def add_scaled(x: PyTree, scale: Array, y: PyTree) -> PyTree:
    """`x + scale * y`, leaf by leaf, in the dtype of `x`.

    A float64 step size must not promote float32 parameters, and a bfloat16 leaf must not round the step size to
    three digits: the sum is taken in at least float32 and stored in the dtype of `x`.
    """

    def leaf(x_leaf, y_leaf):
        working = jnp.promote_types(x_leaf.dtype, jnp.float32)
        return (x_leaf.astype(working) + scale.astype(working) * y_leaf.astype(working)).astype(x_leaf.dtype)

    return jax.tree.map(leaf, x, y)


def vdot(x: PyTree, y: PyTree) -> Array:
    """The inner product of two trees, accumulated in at least float32.

    Written as a sum of products and not as a matrix product, because XLA fuses the former with whatever computes
    `x` and `y` and adds up pairwise.
    """

    def leaf(x_leaf, y_leaf):
        working = jnp.promote_types(jnp.promote_types(x_leaf.dtype, y_leaf.dtype), jnp.float32)
        return jnp.sum(x_leaf.astype(working) * y_leaf.astype(working))

    return jnp.asarray(optax.tree.sum(jax.tree.map(leaf, x, y)))


def subtract(x: PyTree, y: PyTree) -> PyTree:
    """`x - y`, leaf by leaf."""
    return optax.tree.sub(x, y)


def select(predicate: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """One of two trees of the same structure."""
    return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), on_true, on_false)


def cast_floating(tree: PyTree, dtype) -> PyTree:
    """Floating-point array leaves in `dtype`; every other leaf as it is."""
    is_floating = lambda leaf: hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if is_floating(leaf) else leaf, tree)


def size(tree: PyTree) -> int:
    """The number of entries of all leaves: arrays, or numbers."""
    return sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(tree))
