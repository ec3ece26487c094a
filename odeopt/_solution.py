"""What a run hands back."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from ._flow.base import State
from ._record import COLUMNS, Record
from ._relay import Relay
from ._results import Result, name_of
from ._run import Run


class History(eqx.Module):
    """What happened at the accepted steps; rows behind the last one are NaN.

    **Attributes** (arrays over accepted steps): `t`, `step_size`, `loss`, `energy`, `dissipation`, `gradient_norm`
    at the end of the step, `rejections`, the trials rejected before it, and `solver`, the index of the one that made
    the step in an `odeopt.Sequence` (steps of tries included, in the time of their own solver). `position` and
    `memory` (pytrees with a leading axis) where states are kept, otherwise `None`. `start`: a dict of `t`, `loss`,
    `energy`, `dissipation` and `gradient_norm` where the call began, before its first step.
    """

    t: Array | np.ndarray
    step_size: Array | np.ndarray
    loss: Array | np.ndarray
    energy: Array | np.ndarray
    dissipation: Array | np.ndarray
    gradient_norm: Array | np.ndarray
    rejections: Array | np.ndarray
    solver: Array | np.ndarray | None = None
    position: PyTree = None
    memory: PyTree = None
    start: dict[str, Array | np.ndarray] | None = None

    def trimmed(self) -> "History":
        """The rows that were written, as NumPy arrays; for a single run outside `jit` and `vmap`."""
        length = int(np.sum(~np.isnan(np.asarray(self.t))))
        rows = eqx.tree_at(lambda history: history.start, self, None, is_leaf=lambda leaf: leaf is None)
        rows = jax.tree.map(lambda leaf: np.asarray(leaf)[:length], rows)
        start = jax.tree.map(np.asarray, self.start)
        return eqx.tree_at(lambda history: history.start, rows, start, is_leaf=lambda leaf: leaf is None)


def starting_point(run: Run | Relay) -> dict[str, Array]:
    """What a history says of the point where a call begins."""
    here = run.snapshot
    return {
        "t": run.t,
        "loss": here.value,
        "energy": here.energy,
        "dissipation": here.dissipation,
        "gradient_norm": here.stationarity,
    }


def history_of(record: Record, start: dict) -> History:
    """The history as the user sees it; `start` from `starting_point`."""
    columns = {name: record.rows[:, index] for index, name in enumerate(COLUMNS)}
    states = State(None, None) if record.states is None else record.states
    solver = record.rows[:, len(COLUMNS)]
    return History(**columns, solver=solver, position=states.position, memory=states.memory, start=start)


class SolverState(eqx.Module):
    """Everything needed to go on: the run and the solver with its scales set, or of a sequence those of all solvers."""

    run: Any
    solver: Any

    @property
    def step_size(self) -> Array:
        """What will be tried next."""
        if isinstance(self.run, Relay):
            return self.run.step_size
        return self.solver.controller.step_size(self.run.controller)


class Solution(eqx.Module):
    """The outcome of `minimise` and `train`. `print(solution)` says why the run stopped, and where.

    **Attributes:**

    - `value`: the parameters of lowest loss that the run has met, of the type of `y0`. For flows with memory this may
        be another point than the last, at which the stopping criteria were met;
        `solution.state.run.snapshot.state.position` is the last.
    - `loss`: the objective at `value`.
    - `result`: a member of `odeopt.RESULTS`; `str(solution.result)` is a sentence.
    - `stats`: a dict of integers: `accepted`, `rejected`, `values` (forward passes, those inside gradient passes
        included), `gradients` (backward passes), `cost` (`values + 2 * gradients`), `gradient_tests` (decisions taken
        from gradients because the loss did not resolve them) and `gradient_test_rejections`. They count the whole
        run, also where it was continued. Python integers from `train`; arrays from `minimise`, which may stand
        under `jit` and `vmap`.
    - `history`: a `History`, or `None`.
    - `state`: `minimise(..., state=solution.state)` goes on from here, bit for bit.
    - `aux`: what the objective returned beside its value at the best point.
    - `note`: what was found not to be finite, in the parameters, in the data or in the loss of an example, where a run
        ended for such a reason; otherwise `None`. Part of `str(solution)`.
    - `metrics`: from `train`: arrays over the evaluations by name, with the number of `trials` before each.
    """

    value: PyTree
    loss: Array
    result: Result
    stats: dict[str, Array] | dict[str, int]
    history: History | None
    state: SolverState
    aux: PyTree = None
    metrics: dict[str, np.ndarray] | None = None
    # Static: a solution is mapped over as a tree of arrays.
    note: str | None = eqx.field(static=True, default=None)

    def __str__(self) -> str:
        """`describe()` of a single run; of a batch how many of its runs ended with which result."""
        if not eqx.is_array(self.loss) or isinstance(self.loss, Tracer):
            return repr(self)
        return self.describe() if self.loss.ndim == 0 else self._summary()

    def _summary(self) -> str:
        codes, counts = np.unique(np.asarray(self.result._value), return_counts=True)
        ends = (f"{count} {name_of(int(code))}" for code, count in zip(codes, counts, strict=True))
        return f"{self.loss.size} runs: {', '.join(ends)}."

    def describe(self) -> str:
        """The reason for stopping with its numbers; for a single run outside `jit` and `vmap`.

        **Raises:** `ValueError` for a batch of runs.
        """
        if self.loss.ndim > 0:
            raise ValueError(
                f"describe() speaks of one run; this solution holds {self.loss.size}, along its leading axes "
                f"{self.loss.shape}. Take run i with jax.tree.map(lambda leaf: leaf[i], solution), or print(solution) "
                "for how many runs ended with which result."
            )
        snapshot, stats = self.state.run.snapshot, self.stats
        step_size = self.state.step_size
        # The gradient is not known at the best point, but where the run stands.
        elsewhere = " at the last point" if float(snapshot.value) > float(self.loss) else ""
        return (
            f"{self.result}{'' if self.note is None else f' {self.note}'} The gradient norm is "
            f"{float(snapshot.stationarity):.3g}{elsewhere}, the loss "
            f"{float(self.loss):.6g} ({snapshot.value.dtype}){' at the best' if elsewhere else ''}, the step size "
            f"{float(step_size):.3g}, after {int(stats['accepted'])} accepted and {int(stats['rejected'])} rejected "
            "steps."
        )
