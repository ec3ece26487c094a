"""Where examples come from, a run of rows at a time: arrays, examples by their number, batches one after the other."""

import abc
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from .buffers import Empty, fresh
from .chunked import check_numbers
from .stored import StoredArray, of_memmap, stored

Leaves = list[np.ndarray]


class AbstractSource(abc.ABC):
    """`count` examples, all of one `structure`, with the `shapes` and `dtypes` of the arrays of one of them."""

    count: int
    structure: Any
    shapes: list[tuple[int, ...]]
    dtypes: list[np.dtype]

    @abc.abstractmethod
    def read(self, start: int, length: int, empty: Empty) -> Leaves:
        """The arrays of `length` examples from `start` on, in memory that `empty` gives or their own."""

    @abc.abstractmethod
    def take(self, indices: np.ndarray) -> Leaves:
        """The arrays of the examples with these numbers."""

    def room(self, length: int, empty: Empty) -> Leaves:
        """Arrays for so many examples."""
        kinds = enumerate(zip(self.shapes, self.dtypes, strict=True))
        return [empty(key, (length, *shape), dtype) for key, (shape, dtype) in kinds]


def as_source(given: Any, count: int | None) -> AbstractSource:
    """The source that an argument of `Streamed` stands for.

    **Raises:** `TypeError` or `ValueError` for what can be none.
    """
    leaves = jax.tree.leaves(given)
    if leaves and all(map(_is_array, leaves)):
        return ArraySource(given, count)
    if hasattr(given, "__next__"):
        raise TypeError(
            f"Streamed({type(given).__name__}): an iterator can be read once, and a run reads its data many times. "
            "Pass what makes it: an object whose __iter__ begins anew, or the arrays or files themselves."
        )
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, (dict, list, tuple)):
        return IndexedSource(given, count)
    if isinstance(given, Iterable) and not isinstance(given, (dict, list, tuple)):
        return SequentialSource(given, count)
    odd = next((type(leaf).__name__ for leaf in leaves if not _is_array(leaf)), type(given).__name__)
    raise TypeError(
        f"Streamed(source): expected a pytree of arrays or of paths, a source with __len__ and __getitem__, or an "
        f"iterable of batches; got {type(given).__name__}{'' if odd == type(given).__name__ else ' with ' + odd}."
    )


def _is_array(leaf) -> bool:
    if isinstance(leaf, (str, os.PathLike, np.ndarray)):
        return True
    return all(hasattr(leaf, name) for name in ("shape", "dtype", "__getitem__"))


class ArraySource(AbstractSource):
    """A pytree of arrays in memory, in files, or of a library whose arrays are read by slices (h5py, zarr)."""

    def __init__(self, given: PyTree, count: int | None):
        opened = jax.tree.map(lambda leaf: stored(Path(leaf)) if isinstance(leaf, (str, os.PathLike)) else leaf, given)
        placed = jax.tree.map(lambda leaf: of_memmap(leaf) if isinstance(leaf, np.memmap) else leaf, opened)
        paths, self.structure = jax.tree_util.tree_flatten_with_path(placed)
        self._arrays = [leaf for _, leaf in paths]
        for path, leaf in paths:
            check_numbers(f"Streamed: data{jax.tree_util.keystr(path)}", leaf.dtype)
        lengths = {leaf.shape[0] if len(leaf.shape) else None for leaf in self._arrays}
        if len(lengths) != 1 or lengths & {None, 0}:
            raise ValueError(
                "Streamed: the arrays must have the examples along their first axis, all of the same length >= 1; got "
                f"shapes {[tuple(leaf.shape) for leaf in self._arrays]}."
            )
        self.count = checked_count(count, self._arrays[0].shape[0])
        self.shapes = [tuple(leaf.shape[1:]) for leaf in self._arrays]
        self.dtypes = [np.dtype(leaf.dtype) for leaf in self._arrays]

    def read(self, start: int, length: int, empty: Empty) -> Leaves:
        return [self._rows(key, start, length, empty) for key in range(len(self._arrays))]

    def _rows(self, key: int, start: int, length: int, empty: Empty) -> np.ndarray:
        array = self._arrays[key]
        if not isinstance(array, StoredArray):
            return np.asarray(array[start : start + length])
        found = empty(key, (length, *self.shapes[key]), self.dtypes[key])
        array.read(start, found)
        return found

    def take(self, indices: np.ndarray) -> Leaves:
        return [_rows_of(leaf, indices) for leaf in self._arrays]


def _rows_of(array, indices: np.ndarray) -> np.ndarray:
    if isinstance(array, StoredArray):
        return array.take(indices)
    if isinstance(array, np.ndarray):
        return np.take(array, indices, axis=0)
    # Other libraries differ in what they take for a list of rows.
    return np.stack([np.asarray(array[int(index)]) for index in indices])


class IndexedSource(AbstractSource):
    """Examples by their number: anything with `__len__` and `__getitem__`."""

    def __init__(self, given: Any, count: int | None):
        self._given = given
        available = len(given)
        if available < 1:
            raise ValueError("Streamed: the source holds no example (its length is 0); expected at least one.")
        self.count = checked_count(count, available)
        leaves, self.structure = jax.tree.flatten(given[0])
        arrays = _as_arrays("source[0]", leaves)
        self.shapes = [leaf.shape for leaf in arrays]
        self.dtypes = [leaf.dtype for leaf in arrays]

    def read(self, start: int, length: int, empty: Empty) -> Leaves:
        return self._stacked(range(start, start + length), empty)

    def take(self, indices: np.ndarray) -> Leaves:
        return self._stacked(indices.tolist(), fresh)

    def _stacked(self, indices: Sequence[int], empty: Empty) -> Leaves:
        found = self.room(len(indices), empty)
        for row, index in enumerate(indices):
            for column, leaf in zip(found, self._example(index), strict=True):
                column[row] = leaf
        return found

    def _example(self, index: int) -> Leaves:
        try:
            example = self._given[index]
        except Exception as error:
            raise RuntimeError(f"source[{index}] raised {type(error).__name__}: {error}") from error
        leaves, structure = jax.tree.flatten(example)
        arrays = _as_arrays(f"source[{index}]", leaves)
        check_same(f"source[{index}]", self, structure, [(leaf.shape, leaf.dtype) for leaf in arrays])
        return arrays


class SequentialSource(AbstractSource):
    """Batches one after the other, cut anew into what is asked for; from the beginning where a pass begins."""

    def __init__(self, given: Iterable, count: int | None):
        self._given = given
        self._batches: Iterator | None = None
        self._left: Leaves = []
        self._position = 0
        first = next(iter(given), None)
        if first is None:
            raise ValueError("Streamed: the iterable yields no batch; expected at least one.")
        leaves, self.structure = jax.tree.flatten(first)
        arrays = _as_arrays("the first batch", leaves)
        if not arrays or any(leaf.ndim == 0 for leaf in arrays):
            raise ValueError(
                "Streamed: the iterable must yield batches, pytrees of arrays with the examples along their first "
                f"axis; the first has the shapes {[leaf.shape for leaf in arrays]}. Put examples together to batches."
            )
        self.shapes = [leaf.shape[1:] for leaf in arrays]
        self.dtypes = [leaf.dtype for leaf in arrays]
        self._first = [leaf[:1].tobytes() for leaf in arrays]
        self.count = sum(len(self._checked(batch)[0]) for batch in given) if count is None else count
        checked_count(count, self.count)

    def read(self, start: int, length: int, empty: Empty) -> Leaves:
        if self._batches is None or start < self._position:
            self._begin()
        try:
            while self._position < start:
                self._piece(start - self._position)
            found, done = self.room(length, empty), 0
            while done < length:
                piece = self._piece(length - done)
                end = done + len(piece[0])
                # Copied before a batch may be overwritten by the one that follows it.
                for column, leaf in zip(found, piece, strict=True):
                    column[done:end] = leaf
                done = end
        except BaseException:
            self._batches = None
            raise
        return found

    def take(self, indices: np.ndarray) -> Leaves:
        raise TypeError(
            "Streamed: an iterable of batches has no rows by number; expected arrays, files, or a source with "
            "__getitem__."
        )

    def _begin(self) -> None:
        self._batches, self._position = iter(self._given), 0
        self._left = self._next()
        if [leaf[:1].tobytes() for leaf in self._left] != self._first:
            self._batches = None
            raise ValueError(
                "the iterable begins with another example than the pass before; expected the same examples in the same "
                "order in every pass. Switch shuffling and random augmentation off."
            )

    def _piece(self, most: int) -> Leaves:
        """The next rows, at most so many, and at least one."""
        while not len(self._left[0]):
            self._left = self._next()
        piece = [leaf[:most] for leaf in self._left]
        self._left = [leaf[most:] for leaf in self._left]
        self._position += len(piece[0])
        return piece

    def _next(self) -> Leaves:
        assert self._batches is not None
        try:
            batch = next(self._batches)
        except StopIteration:
            raise ValueError(
                f"the iterable has ended after {self._position} of {self.count} examples. It must yield as many in "
                "every pass; check count."
            ) from None
        return self._checked(batch)

    def _checked(self, batch: PyTree) -> Leaves:
        leaves, structure = jax.tree.flatten(batch)
        arrays = _as_arrays("a batch", leaves)
        check_same("a batch", self, structure, [(leaf.shape[1:], leaf.dtype) for leaf in arrays])
        if len({leaf.shape[:1] for leaf in arrays}) != 1:
            raise ValueError(f"a batch has arrays of different lengths: shapes {[leaf.shape for leaf in arrays]}.")
        return arrays


def checked_count(count: int | None, available: int) -> int:
    """How many examples are used: all that there are, or the first `count`.

    **Raises:** `ValueError` for a count that there are not.
    """
    if count is None:
        return available
    if not isinstance(count, int) or not 1 <= count <= available:
        raise ValueError(f"Streamed(count={count!r}): expected a whole number from 1 to {available}, or None.")
    return count


def check_same(name: str, source: AbstractSource, structure, found: Sequence[tuple[tuple[int, ...], np.dtype]]) -> None:
    """**Raises:** `ValueError` where examples are not like the first one; `found`: shape and dtype of each leaf."""
    if structure != source.structure:
        raise ValueError(f"{name} has the structure {structure}; expected that of the first, {source.structure}.")
    for (shape, dtype), wanted_shape, wanted_dtype in zip(found, source.shapes, source.dtypes, strict=True):
        if (shape, dtype) != (wanted_shape, wanted_dtype):
            raise ValueError(
                f"{name} has an example of shape {shape} and dtype {dtype}; expected {wanted_shape} and {wanted_dtype} "
                "as in the first."
            )


def _as_arrays(place: str, leaves: Sequence) -> Leaves:
    arrays = [np.asarray(leaf) for leaf in leaves]
    if not arrays:
        raise TypeError(f"Streamed: {place} holds no array; expected a pytree of numbers or arrays.")
    for array in arrays:
        check_numbers(f"Streamed: {place}", array.dtype)
    return arrays
