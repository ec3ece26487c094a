"""Memory that chunks are read into, again and again."""

import sys
from collections.abc import Callable

import numpy as np

# `empty(key, shape, dtype)`: an array for the leaf number `key` of a pytree.
Empty = Callable[[int, tuple[int, ...], np.dtype], np.ndarray]
# References to a buffer that nothing else refers to: the list, the variable of the loop, the argument.
UNUSED = 3


def fresh(key: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory of its own."""
    return np.empty(shape, dtype)


class Buffers:
    """Arrays for the leaves of chunks, in memory that is used again as soon as no array in it exists any more.

    Fresh memory costs more than what is read into it: every page of it is zeroed first (measured: 0.7 s of 1 GB, and
    0.1 s to read it from the cache of the file system), and what threads allocate and others release stays with the
    process (measured: 270 MB more for chunks of 19 MB).
    """

    def __init__(self):
        self._of_leaf: dict[int, list[np.ndarray]] = {}

    def empty(self, key: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of this shape and dtype, with anything in it."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffers, chosen = self._of_leaf.setdefault(key, []), None
        for buffer in buffers:
            # Every array that lies in a buffer refers to the buffer itself, also one that is part of another.
            if buffer.size >= size and sys.getrefcount(buffer) <= UNUSED:
                chosen = buffer
        if chosen is None:
            chosen = np.empty(size, np.uint8)
            # Those that have become too small go.
            buffers[:] = [*(buffer for buffer in buffers if buffer.size >= size), chosen]
        return chosen[:size].view(dtype).reshape(shape)
