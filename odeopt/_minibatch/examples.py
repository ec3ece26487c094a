"""The examples of a run on mini-batches, wherever they are kept."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from .._objective import Streamed

# What the examples of several steps may take, in bytes, where they are read from the host: as for a chunk of a sum.
MEMORY = 2**26


class Examples:
    """The examples of a run: arrays in memory, or an `odeopt.Streamed` that is read as far as steps need it."""

    def __init__(self, data: Any):
        self._data = data

    @property
    def count(self) -> int:
        return self._data.count if isinstance(self._data, Streamed) else jax.tree.leaves(self._data)[0].shape[0]

    @property
    def all(self) -> PyTree:
        """All of them, as a `FiniteSum` takes them."""
        return self._data

    def at(self, indices: np.ndarray) -> PyTree:
        """Some examples, of the given numbers, shape (n,)."""
        if isinstance(self._data, Streamed):
            return jax.tree.map(jax.numpy.asarray, self._data.take(indices))
        return jax.tree.map(lambda leaf: leaf[indices], self._data)

    def like(self, number: int) -> PyTree:
        """The shapes of `number` examples."""
        if isinstance(self._data, Streamed):
            shape, leaves = lambda leaf: leaf.shape, self._data.example
        else:
            shape, leaves = lambda leaf: leaf.shape[1:], self._data
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((number, *shape(leaf)), leaf.dtype), leaves)

    def parts(self, indices: np.ndarray, room: int) -> Iterator[tuple[PyTree, np.ndarray, int]]:
        """Steps on these examples, shape (steps, batch), in one or several parts.

        **Yields:** examples, the places of those of each step among them, shape (at least the steps, batch), and the
        number of steps; shapes depend on `room`, the largest number of steps, alone.
        """
        steps, batch = indices.shape
        if not isinstance(self._data, Streamed):
            yield self._data, _padded(indices, room), steps
            return
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.like(batch)))
        at_once = int(np.clip(MEMORY // size, 1, room))
        places = np.arange(at_once * batch, dtype=np.int32).reshape(at_once, batch)
        for first in range(0, steps, at_once):
            part = indices[first : first + at_once]
            yield self.at(_padded(part, at_once).ravel()), places, len(part)


def _padded(indices: np.ndarray, room: int) -> np.ndarray:
    """Room for more steps, so that runs of fewer are the same compiled program."""
    padded = np.zeros((max(room, len(indices)), indices.shape[1]), np.int32)
    padded[: len(indices)] = indices
    return padded
