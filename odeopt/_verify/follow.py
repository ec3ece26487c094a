"""Where a flow goes by itself in short steps of RK4: where regular states and a fall of the energy are needed, and no
accuracy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._flow.base import State
from .._scheme.tableaus import RK4
from .march import march
from .system import System

# In the flow's unit of time. A start from rest is no regular state: dV/dt is zero there, and Adam's flow singular.
REGULAR_TIMES = np.array([0.5, 0.75, 1.0, 1.25, 1.5])
# Steps in a unit of time, the next number if a state is not finite: the first that is stable will do.
SUBSTEPS = (64, 1024, 16384)
# So many states are followed by one call, so that all calls share one compilation.
ROWS = 8


def regular_states(system: System) -> tuple[np.ndarray, State]:
    """Times and states a while after the start, those that are finite; to be called in double precision."""
    unit = float(system.unit_of_time())
    count = len(REGULAR_TIMES)
    start = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], count, 0), system.start)
    for substeps in SUBSTEPS:
        states, _ = follow(system, np.zeros(count), start, unit * REGULAR_TIMES, REGULAR_TIMES * substeps)
        finite = np.all([np.all(np.isfinite(leaf).reshape(count, -1), 1) for leaf in jax.tree.leaves(states)], 0)
        if np.all(finite):
            break
    times = unit * REGULAR_TIMES
    return times[finite], jax.tree.map(lambda leaf: leaf[finite], states)


def change_along_flow(system: System, times: np.ndarray, states: State) -> tuple[np.ndarray, np.ndarray]:
    """What the flow changes its energy by in one unit of time from each state, and how far off that may be.

    To be called in double precision. The second is what halving the number of steps changes: 15 times the error of
    RK4, where the steps are short enough for it to have one.
    """
    durations = np.full(len(times), float(system.unit_of_time()))
    change, coarser = (
        follow(system, times, states, durations, np.full(len(times), substeps))[1]
        for substeps in (SUBSTEPS[0], SUBSTEPS[0] // 2)
    )
    with np.errstate(invalid="ignore"):
        return change, np.abs(change - coarser)


def follow(
    system: System, times: np.ndarray, states: State, durations: np.ndarray, steps: np.ndarray
) -> tuple[State, np.ndarray]:
    """The states after a while, and the change of the energy on the way there; in double precision.

    **Arguments:** all with a leading axis `n`: the times and states to begin at, for how long, in how many steps.
    """
    count = len(times)
    parts = []
    for begin in range(0, count, ROWS):
        # The last rows are filled up with copies of the last state.
        rows = np.minimum(np.arange(begin, begin + ROWS), count - 1)
        whole = (times, states, durations / steps, steps.astype(np.int32))
        chosen = jax.tree.map(lambda leaf, rows=rows: leaf[rows], whole)
        parts.append(jax.tree.map(np.asarray, _follow_rows(system, chosen)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


@eqx.filter_jit
def _follow_rows(system: System, rows: PyTree) -> tuple[State, Array]:
    def one(row):
        t, state, step_size, steps = row
        end = march(system, RK4(), t, state, step_size, steps)
        return end, system.energy(t + steps * step_size, end) - system.energy(t, state)

    return jax.lax.map(one, jax.tree.map(jnp.asarray, rows))
