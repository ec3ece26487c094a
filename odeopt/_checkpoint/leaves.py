"""The leaves of a tree as what can be written: arrays of numbers, and numbers in JSON."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True, eq=False)
class Rows:
    """A leaf: a NumPy array whose first axis has grown, so that it may have any length when it is read."""

    values: np.ndarray


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed random keys, or the shape of one."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def leaf_words(leaf: Any, values: bool) -> str:
    """What a leaf is, but not what it holds; with `values` of a number of Python its value too."""
    if isinstance(leaf, Rows):
        return f"rows of shape {leaf.values.shape[1:]} {leaf.values.dtype}"
    if is_array(leaf):
        return f"shape {leaf.shape} {leaf.dtype}"
    if isinstance(leaf, bool | int | float | str):
        return repr(leaf) if values else f"a Python {type(leaf).__name__}"
    return getattr(leaf, "__qualname__", None) or getattr(leaf, "__name__", None) or type(leaf).__name__


def storable(leaf: Any) -> Any:
    """The array that is written for a leaf; `None` for a number of Python, a function, an array without entries."""
    if isinstance(leaf, Rows):
        leaf = leaf.values
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if not is_array(leaf) or 0 in leaf.shape:
        return None
    # A scalar of NumPy is no array to everybody.
    return np.asarray(leaf) if isinstance(leaf, np.generic) else leaf


def small(leaf: Any) -> Any:
    """What is written in JSON beside the array: the value of a number, the kind of a random key, or how many rows."""
    if isinstance(leaf, Rows):
        return len(leaf.values)
    if is_key(leaf):
        return str(jax.random.key_impl(leaf))
    return leaf if isinstance(leaf, bool | int | float | str) else None


def sharding_of(like: Any) -> Any:
    """Where an array is to be put when it is read; `None`: where JAX puts new ones."""
    is_placed = isinstance(like, jax.ShapeDtypeStruct) or getattr(like, "committed", False)
    return like.sharding if is_placed and not is_key(like) else None


def rebuilt(like: Any, array: Any, beside: Any) -> Any:
    """A leaf from what was written for it.

    **Arguments:** `like`: a leaf of the same kind; `array`, `beside`: of `storable` and `small`, as they were read.
    """
    if isinstance(like, Rows):
        return Rows(np.zeros((beside, *like.values.shape[1:]), like.values.dtype) if array is None else array)
    if is_key(like):
        data = jnp.zeros((*like.shape, 0), jnp.uint32) if array is None else jnp.asarray(array)
        return jax.random.wrap_key_data(data, impl=beside)
    if not is_array(like):
        return like if beside is None else beside
    if array is None:
        array = np.zeros(like.shape, like.dtype)
    if isinstance(like, np.ndarray | np.generic):
        return np.asarray(array) if isinstance(like, np.ndarray) else like.dtype.type(array)
    return jnp.asarray(array)
