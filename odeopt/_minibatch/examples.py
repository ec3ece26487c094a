"""The examples of a run on mini-batches, wherever they are kept."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PyTree


@dataclass(frozen=True)
class Examples:
    """Examples in memory, which steps take out by their numbers where they are."""

    data: PyTree

    @property
    def count(self) -> int:
        return jax.tree.leaves(self.data)[0].shape[0]

    def at(self, indices: np.ndarray) -> PyTree:
        """Some examples, of the given numbers, shape (n,)."""
        return jax.tree.map(lambda leaf: leaf[indices], self.data)

    def like(self, number: int) -> PyTree:
        """The shapes of `number` examples."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape[1:]), leaf.dtype), self.data)

    def steps(self, indices: np.ndarray) -> list[tuple[PyTree, np.ndarray]]:
        """What `advance` takes for steps on these examples, shape (steps, batch), in one or several parts."""
        return [(self.data, indices)]
