"""Where numbers that are not finite come from: looked for when a run has met one, and not before."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .finite_sum import FiniteSum
from .objective import AbstractObjective, Objective
from .streamed import Streamed

# Rows that are looked at in one go, where the objective has no chunks.
ROWS = 1024
# Losses of single rows that are computed side by side: enough to keep a machine busy, in little memory.
LANES = 64


def first_nonfinite(objective: AbstractObjective, parameters: PyTree, argument: str) -> str | None:
    """A sentence on the first thing that is not finite: a parameter, a row of the data, or the loss of a row.

    **Arguments:** `argument`: what the user knows the `args` of an `Objective` by; its rows are examples if that is
    `"data"`.

    **Returns:** the sentence, or `None` where nothing is found.
    """
    try:
        return next(_findings(objective, parameters, argument), None)
    except Exception:
        # This is asked on behalf of a message about a run that has failed, which must not be lost.
        return None


def _findings(objective: AbstractObjective, parameters: PyTree, argument: str) -> Iterator[str]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(parameters, eqx.is_inexact_array)):
        if (kind := _kind(np.asarray(leaf))) is not None:
            yield f"The parameters y0{jax.tree_util.keystr(path)} hold {kind}."
    if isinstance(objective, FiniteSum):
        size, count, data = objective.chunk_size or ROWS, objective.count, objective.data
        rows = data.rows if isinstance(data, Streamed) else _slices(data)
        yield from _in_rows("data", rows, count, size)
        yield from _in_losses(lambda y, row: objective._losses(y, row, None)[0], parameters, rows, count, size)
    elif isinstance(objective, Objective) and argument == "data":
        rows, count = _slices(objective.args), jax.tree.leaves(objective.args)[0].shape[0]
        alone = lambda y, row: Objective(objective.fn, row, objective.has_aux).value(y)  # noqa: E731
        yield from _in_rows("data", rows, count, ROWS)
        yield from _in_losses(alone, parameters, rows, count, ROWS)
    else:
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(objective, "args", None)):
            array = np.atleast_1d(np.asarray(leaf))
            yield from _in_rows(f"args{jax.tree_util.keystr(path)}", _slices(array), len(array), ROWS)


def _slices(data: PyTree) -> Callable[[int, int], PyTree]:
    return lambda start, length: jax.tree.map(lambda leaf: np.asarray(leaf[start : start + length]), data)


def _in_rows(name: str, rows: Callable[[int, int], PyTree], count: int, size: int) -> Iterator[str]:
    """The first row with a number that is not finite."""
    for start in range(0, count, size):
        found = []
        for path, leaf in jax.tree_util.tree_leaves_with_path(rows(start, min(size, count - start))):
            if _kind(leaf) is not None:
                index = int(np.argmax(~np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)))
                found.append((start + index, jax.tree_util.keystr(path), _kind(leaf[index : index + 1])))
        if found:
            row, path, kind = min(found)
            yield f"{name}{path} row {row} holds {kind}."


def _in_losses(
    loss: Callable[[PyTree, PyTree], Any], parameters: PyTree, rows: Callable[[int, int], PyTree], count: int, size: int
) -> Iterator[str]:
    """The first row whose loss is not finite."""

    @eqx.filter_jit
    def losses(parameters, chunk):
        of_row = lambda row: loss(parameters, jax.tree.map(lambda leaf: leaf[None], row))  # noqa: E731
        return jax.lax.map(of_row, chunk, batch_size=LANES)

    for start in range(0, count, size):
        chunk = jax.tree.map(jnp.asarray, rows(start, min(size, count - start)))
        found = np.asarray(losses(parameters, chunk))
        if not np.all(np.isfinite(found)):
            index = int(np.argmax(~np.isfinite(found)))
            yield f"The loss of row {start + index} is {found[index]}, though its data are finite."


def _kind(array: np.ndarray) -> str | None:
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return None
    if np.any(np.isnan(array)):
        return "NaN"
    return None if np.all(np.isfinite(array)) else "infinity"
