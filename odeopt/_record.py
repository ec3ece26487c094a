"""The history of a run while it is being written."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._flow.base import State
from ._snapshot import Snapshot

# What is kept of every accepted step, in the order of the columns; behind them the index of the solver.
COLUMNS = ("t", "step_size", "loss", "energy", "dissipation", "gradient_norm", "rejections")


class Record(eqx.Module):
    """One row for each accepted step, NaN where there is none.

    One array for all columns, because a write inside a compiled loop costs the same for one number and for seven.
    """

    length: Array | np.ndarray
    rejections: Array | np.ndarray  # since the last row
    solver: Array | np.ndarray  # the index of the one that runs, in a sequence of solvers
    rows: Array | np.ndarray
    states: State | None


def empty_record(run, rows: int, keep_states: bool, rejections: Array | int = 0) -> Record:
    """A history with room for `rows` accepted steps; `rejections` since the last accepted step of an earlier one.

    `run`: of one solver or, where no states are kept, of several.
    """
    states = None
    if keep_states:
        states = jax.tree.map(lambda leaf: jnp.full((rows, *leaf.shape), jnp.nan, leaf.dtype), run.snapshot.state)
    length, rejections = jnp.asarray(0, jnp.int32), jnp.asarray(rejections, jnp.int32)
    width = len(COLUMNS) + 1
    return Record(length, rejections, jnp.zeros_like(length), jnp.full((rows, width), jnp.nan, run.t.dtype), states)


def write(record: Record, accepted: Array, t: Array, step_size: Array, after: Snapshot) -> Record:
    """The history after a trial. The row behind the last accepted step is NaN again after a rejection."""
    row = jnp.stack(
        [
            t,
            step_size,
            after.value,
            after.energy,
            after.dissipation,
            after.stationarity,
            record.rejections.astype(t.dtype),
            record.solver.astype(t.dtype),
        ]
    )

    def put(rows, new):
        new = jnp.where(accepted, new, jnp.nan).astype(rows.dtype)
        return jax.lax.dynamic_update_index_in_dim(rows, new, record.length, 0)

    return Record(
        length=record.length + accepted.astype(jnp.int32),
        rejections=jnp.where(accepted, 0, record.rejections + 1).astype(jnp.int32),
        solver=record.solver,
        rows=put(record.rows, row),
        states=None if record.states is None else jax.tree.map(put, record.states, after.state),
    )
