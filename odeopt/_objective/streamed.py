"""Data that stay where they are, and are read chunk by chunk while the loss is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .buffers import Buffers, Empty, fresh
from .read_ahead import ReadAhead
from .sources import as_source

# Rows are numbered by integers of 32 bits inside compiled programs.
MOST = 2**31 - 1


class Streamed:
    r"""Data larger than memory for `odeopt.FiniteSum`: files, arrays or sources that are read chunk by chunk.

    While the loss of one chunk is computed, a thread of the host reads the next one; after the last chunk the first
    again, for the pass that follows. Two chunks are held in memory, beside the one that is computed with. What is
    computed is what the same arrays in memory give with the same `chunk_size`, bit for bit.

    **Arguments:**

    - `source`: one of

        - the path of an `.npy` file, or of an `.npz` file of `numpy.savez`, which is a dict of its arrays;
        - a pytree (a tuple or a dict, say) of paths, of `numpy.memmap`s, of NumPy arrays, or of what is read by slices
            like them (datasets of h5py and zarr), with the examples along the first axis;
        - a source of examples by their number, with `__len__` and `__getitem__(i)`, the pytree of example i
            (`grain.MapDataset` and grain's data sources, data sets of torch): examples are stacked;
        - an iterable that yields batches, pytrees with the examples along the first axis, and begins anew whenever it
            is iterated over (`grain.IterDataset`, `DataLoader` of torch): batches are cut anew into chunks. In every
            pass it must yield the same examples in the same order.
    - `count`: how many examples there are, or, of more, are used; `None` (default): all. Without it an iterable of
        batches is read once to count them.

    Numbers arrive in the loss with the dtype that they have in the source (64 bits as JAX holds them: without double
    precision as 32): images can be streamed as they are stored, in `uint8`, and scaled in the loss, on the device.
    Objects of Python are never loaded from files.

    Under `vmap` all lanes share what is read, except where `nonnegative` lets each stop at a chunk of its own: there
    every lane reads for itself.

    **Raises:** `TypeError` or `ValueError` for a source that cannot be read so; `FileNotFoundError`. A chunk that
    cannot be read ends a run of `odeopt.minimise` or `odeopt.train` with a `RuntimeError` that says which rows.

    !!! example

        ```python
        images = np.random.default_rng(0).integers(0, 256, (1000, 64), np.uint8)
        np.save("images.npy", images)
        np.save("brightness.npy", images.mean(axis=1, dtype=np.float32) / 255)
        def loss(y, batch):
            images, brightness = batch
            return (images.astype(jnp.float32) / 255 @ y - brightness) ** 2
        data = odeopt.Streamed(("images.npy", "brightness.npy"))
        objective = odeopt.FiniteSum(loss, data, chunk_size=250)
        solver = odeopt.Solver(odeopt.HeavyBall())
        solution = odeopt.minimise(objective, solver, jnp.zeros(64), max_steps=10, throw=False)
        ```
    """

    def __init__(self, source: Any, count: int | None = None):
        self._source = as_source(source, count)
        if self.count > MOST:
            raise ValueError(f"Streamed: {self.count} examples are more than the {MOST} that rows are numbered up to.")
        self._buffers = Buffers()
        self._ahead = ReadAhead(self._ready, self.count)
        self._failure: Exception | None = None

    def __repr__(self) -> str:
        return f"Streamed({self.count} examples of {self.example})"

    @property
    def count(self) -> int:
        """The number of examples, N."""
        return self._source.count

    @property
    def example(self) -> PyTree:
        """Shapes and dtypes of one example, as it arrives in the loss."""
        leaves = [
            jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype.newbyteorder("=")))
            for shape, dtype in zip(self._source.shapes, self._source.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self._source.structure, leaves)

    def rows(self, start: int, length: int) -> PyTree:
        """The examples `start`, ..., `start + length - 1` as NumPy arrays, on the host."""
        if not (start >= 0 and length >= 1 and start + length <= self.count):
            raise IndexError(f"rows({start}, {length}): expected rows within 0 to {self.count - 1}.")
        return self._on_host(lambda: self._read(start, length, fresh))

    def take(self, indices) -> PyTree:
        """The examples with these numbers, in this order, as NumPy arrays, on the host; not of an iterable."""
        indices = np.asarray(indices)
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise TypeError(f"take(indices): expected whole numbers, shape (n,); got {indices.dtype}{indices.shape}.")
        if indices.size and not 0 <= indices.min() <= indices.max() < self.count:
            raise IndexError(
                f"take(indices): expected numbers from 0 to {self.count - 1}; got {indices.min()} to {indices.max()}."
            )
        return self._on_host(lambda: self._source.take(indices))

    def chunk(self, start: Array | int, length: int) -> PyTree:
        """The examples from `start` on inside a compiled program, where `start` may be traced."""
        kinds = jax.tree.leaves(self.example)
        shapes = [jax.ShapeDtypeStruct((length, *kind.shape), kind.dtype) for kind in kinds]
        # Pure: what is read depends on the rows alone, so that a program may repeat a read or do without. (An
        # io_callback, whose calls are counted, cannot stand inside a differentiation rule.)
        chunk = _Chunk(self, length, tuple(kind.dtype for kind in kinds))
        leaves = jax.pure_callback(chunk, shapes, jnp.asarray(start, jnp.int32), vmap_method="sequential")
        return jax.tree.unflatten(self._source.structure, leaves)

    def failure(self) -> Exception | None:
        """Why a chunk could not be handed over since this was last asked."""
        failure, self._failure = self._failure, None
        return failure

    def _on_host(self, call) -> PyTree:
        return jax.tree.unflatten(self._source.structure, self._ahead.alone(call))

    def _read(self, start: int, length: int, empty: Empty) -> list[np.ndarray]:
        try:
            return self._source.read(start, length, empty)
        except Exception as error:
            raise RuntimeError(
                f"rows {start} to {start + length - 1} of the streamed data could not be read: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _ready(self, start: int, length: int) -> list[np.ndarray]:
        """As compiled programs take them: contiguous, and of the dtypes of JAX."""
        found, kinds = self._read(start, length, self._buffers.empty), jax.tree.leaves(self.example)
        return [np.ascontiguousarray(leaf, kind.dtype) for leaf, kind in zip(found, kinds, strict=True)]

    def _handed_over(self, start: int, length: int) -> list[np.ndarray]:
        try:
            return self._ahead.chunk(start, length)
        except Exception as error:
            self._failure = error
            raise


@dataclass(frozen=True)
class _Chunk:
    """What a compiled program calls; equal to any other of the same data, so that it is compiled once."""

    data: Streamed
    length: int
    dtypes: tuple

    def __call__(self, start) -> list[np.ndarray]:
        # A thread does not know a precision that was chosen for the program alone (jax.enable_x64).
        leaves = self.data._handed_over(int(start), self.length)
        return [leaf.astype(dtype, copy=False) for leaf, dtype in zip(leaves, self.dtypes, strict=True)]


@contextmanager
def reading_errors(objective: PyTree) -> Iterator[list[Streamed]]:
    """Where a chunk cannot be read, the error of its source in place of that of the program that asked for it.

    Hands out the streamed data of the objective: where there are some, the caller is to wait for the program.
    """
    streams = [leaf for leaf in jax.tree.leaves(objective) if isinstance(leaf, Streamed)]
    for stream in streams:
        stream.failure()
    try:
        yield streams
    except Exception:
        for stream in streams:
            if (failure := stream.failure()) is not None:
                raise failure  # noqa: B904 (its cause is the error of the source)
        raise
