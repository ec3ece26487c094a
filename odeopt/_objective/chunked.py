"""Sums over samples, some of them at a time: the memory is that of one chunk."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def check_samples(name: str, samples: PyTree) -> None:
    """**Raises:** `ValueError` or `TypeError` for what holds no samples along a first axis; `name`: of the pytree."""
    leaves = jax.tree.leaves(samples)
    for path, leaf in jax.tree_util.tree_leaves_with_path(samples):
        if hasattr(leaf, "dtype"):
            check_numbers(f"{name}{jax.tree_util.keystr(path)}", leaf.dtype)
    counts = {leaf.shape[0] if getattr(leaf, "ndim", 0) else None for leaf in leaves}
    if not leaves or None in counts or len(counts) > 1 or 0 in counts:
        shapes = [getattr(leaf, "shape", leaf) for leaf in leaves]
        raise ValueError(
            f"{name} must be arrays with the samples along their first axis, all of the same length >= 1; got shapes "
            f"{shapes}."
        )


def check_numbers(name: str, dtype) -> None:
    """**Raises:** `TypeError` for a dtype that JAX does not compute with; `name`: of the array."""
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_, jax.dtypes.extended)):
        raise TypeError(f"{name} has dtype {dtype}; expected numbers. Encode classes as integers, say.")


def summed(of_chunk: Callable[[PyTree], PyTree], chunk_size: int, samples: PyTree) -> PyTree:
    """The sum of `of_chunk(samples[i : i + chunk_size])` over all chunks, the last of which may be shorter."""
    count = jax.tree.leaves(samples)[0].shape[0]
    whole = count // chunk_size
    first = jax.tree.map(lambda leaf: leaf[:chunk_size], samples)
    if whole == 0:
        return of_chunk(first)
    middle = jax.tree.map(lambda leaf: leaf[: whole * chunk_size].reshape(whole, chunk_size, *leaf.shape[1:]), samples)

    def add(total, chunk):
        return jax.tree.map(jnp.add, total, of_chunk(chunk)), None

    zero = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(of_chunk, first))
    total, _ = jax.lax.scan(add, zero, middle)
    if count % chunk_size:
        rest = jax.tree.map(lambda leaf: leaf[whole * chunk_size :], samples)
        total = jax.tree.map(jnp.add, total, of_chunk(rest))
    return total


@eqx.filter_custom_vjp
def chunked(parameters: PyTree, fn: Callable[[PyTree, PyTree], Array], chunk_size: int, samples: PyTree) -> Array:
    """The sum of `fn(parameters, chunk)` over all chunks, differentiable in `parameters`.

    A gradient takes one forward and one backward pass, and the memory of one chunk.
    """
    return summed(lambda chunk: fn(parameters, chunk), chunk_size, samples)


@chunked.def_fwd
def _forward(perturbed, parameters, fn, chunk_size, samples):
    # Value and gradient of a chunk together, so that nothing of its forward pass has to be kept for later.
    return summed(lambda chunk: jax.value_and_grad(fn)(parameters, chunk), chunk_size, samples)


@chunked.def_bwd
def _backward(gradient, cotangent, perturbed, parameters, fn, chunk_size, samples):
    return jax.tree.map(lambda leaf: (cotangent * leaf).astype(leaf.dtype), gradient)
