"""The checkpoints of `train`: what of a run they hold, and how it is taken up again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from ._checkpoint import (
    Autosave,
    CheckpointError,
    Checkpoints,
    Rows,
    autosaved,
    described,
    described_leaves,
    first_difference,
)
from ._course import begin, begin_again, best_of
from ._minimise import check_same_numbers
from ._objective import FiniteSum, Streamed
from ._record import empty_record
from ._relay import Relay, RelayProblem
from ._results import RUNNING
from ._run import Problem, Run
from ._scoreboard import Scoreboard
from ._solution import starting_point
from ._standing import Standing
from ._tree import cast_floating


class Contents(eqx.Module):
    """What of a run is written; or the shapes of it."""

    run: Any
    solver: Any  # with its scales set
    first: dict[str, Any]
    history: PyTree
    metrics: Rows


class RunCheckpoints:
    """Writes the run of one call of `train`, and finds the one that an earlier call has written.

    **Arguments:** `data`: the examples or, where it carries its own, the objective.
    """

    def __init__(
        self,
        autosave: Autosave,
        problem: Problem | RelayProblem,
        parameters: PyTree,
        data: PyTree,
        history: str | None,
        board: Scoreboard,
    ):
        self._autosave = autosave
        self._problem, self._parameters = problem, parameters
        self._history, self._board = history, board
        # What has to be the same when the run is taken up again, in the order in which differences are told.
        self._about = {
            "parameters": described_leaves(parameters, "parameters"),
            "model": described(problem.objective.frozen, "model"),
            "data": _described_data(data),
            "solver": described(problem.solver, "solver"),
            "history": {"history": repr(history)},
            "metrics": {"metrics": ", ".join(board.names[1:]) or "none"},
        }
        self._stop = described(problem.stop, "stop") | _numbers(problem.stop)

    def take_up(self) -> Standing | None:
        """The run of the newest complete checkpoint, or `None` where there is none yet.

        **Raises:** `CheckpointError` if it is another run.
        """
        restored = self._autosave.store.restore(self._like(), self._check)
        if restored is None:
            return None
        contents, metadata = restored
        check_same_numbers(self._problem.solver, contents.solver, self._autosave.where, "or choose another folder")
        problem, run = _with_solver(self._problem, contents.solver, contents.run), contents.run
        # As it was, unless it had come to an end that another criterion would not have seen.
        if int(run.result) != RUNNING and metadata["stop"] != self._stop:
            run = _taken_up(problem, run)
        standing = Standing(
            problem=problem,
            run=run,
            first=contents.first,
            before=metadata["before"],
            rejections=metadata["rejections"],
            parts=[] if contents.history is None else [jax.tree.map(lambda rows: rows.values, contents.history)],
            elapsed=metadata["elapsed"],
        )
        self._board.go_on(contents.metrics.values)
        return standing

    def begin(self, standing: Standing, resumed: bool) -> None:
        """The run begins, or goes on where it was taken up."""
        self._autosave.begin(standing.trials, resumed)

    def room(self, standing: Standing) -> float:
        """The largest number of trials of the next block."""
        return self._autosave.room(standing.trials)

    def due(self, standing: Standing, now: float) -> bool:
        """Whether a checkpoint should be written behind the last block."""
        return self._autosave.due(standing.trials, now)

    def save(self, standing: Standing, elapsed: float) -> None:
        """Begin to write a checkpoint."""
        self._autosave.save(standing.trials, lambda: self._contents(standing, elapsed))

    def finish(self, standing: Standing, elapsed: float) -> None:
        """After the last block. **Raises:** `NotSavedError`."""
        self._autosave.finish(standing.trials, lambda: self._contents(standing, elapsed))

    def _contents(self, standing: Standing, elapsed: float) -> tuple[Contents, dict[str, Any], float]:
        contents = Contents(
            run=standing.run,
            solver=standing.problem.solver,
            first=standing.first,
            history=jax.tree.map(Rows, standing.joined(self._history)),
            metrics=Rows(self._board.rows),
        )
        metadata = {
            "odeopt": version("odeopt"),
            "about": self._about,
            "stop": self._stop,
            "trials": standing.trials,
            "before": standing.before,
            "rejections": standing.rejections,
            "elapsed": elapsed,
        }
        return contents, metadata, float(best_of(standing.run).value)

    def _like(self) -> Contents:
        """The shapes of what has been written, found without computing anything."""

        def beginning(problem, parameters):
            problem, run = begin(problem, parameters)
            return run, problem.solver, starting_point(run)

        # The sharding of a run over several devices is not known before one has been made.
        make = eqx.filter_jit(beginning) if _is_on_mesh((self._problem, self._parameters)) else _shape_of(beginning)
        run, solver, first = make(self._problem, self._parameters)
        history = None
        if self._history is not None:
            record = eqx.filter_eval_shape(empty_record, run, 0, self._history == "states")
            history = jax.tree.map(lambda leaf: Rows(np.zeros(leaf.shape, leaf.dtype)), (record.rows, record.states))
        return Contents(run, solver, first, history, Rows(self._board.rows[:0]))

    def _check(self, metadata: dict[str, Any]) -> None:
        for part, present in self._about.items():
            difference = first_difference(metadata["about"][part], present)
            if difference is not None:
                raise CheckpointError(
                    f"{self._autosave.where} comes from another run. {difference}. Pass what that run was begun with, "
                    "or choose another folder."
                )


@contextmanager
def run_checkpoints(
    settings: Checkpoints | None, resume: bool, problem: Problem | RelayProblem, *parts
) -> Iterator[RunCheckpoints | None]:
    """Checkpoints of a run are written inside of the block; `None` where there are no settings.

    **Arguments:** `parts`: the further arguments of `RunCheckpoints`.

    **Raises:** `CheckpointError` for a folder that cannot take them, or holds some already and `resume` is false.
    """
    with autosaved(settings, resume) as autosave:
        yield None if autosave is None else RunCheckpoints(autosave, problem, *parts)


def _described_data(data: PyTree) -> dict[str, str]:
    """The kinds of the examples and their number, wherever they are: a run goes on with other chunks, and on another
    number of devices and processes."""
    if isinstance(data, FiniteSum) and not isinstance(data.data, Streamed):
        count, examples = data.real_count, data.data
    elif isinstance(data, eqx.Module):
        return described(data, "objective")
    else:
        count, examples = len(jax.tree.leaves(data)[0]), data
    leaves = jax.tree_util.tree_leaves_with_path(examples)
    return {
        f"data{jax.tree_util.keystr(path)}": f"{count} examples of shape {leaf.shape[1:]} {leaf.dtype}"
        for path, leaf in leaves
    }


@eqx.filter_jit
def _taken_up(problem: Problem | RelayProblem, run: Run | Relay) -> Run | Relay:
    return begin_again(problem, run)


def _with_solver(problem: Problem | RelayProblem, solver: Any, run: Run | Relay) -> Problem | RelayProblem:
    """The problem as `begin` has made it of a solver."""
    if isinstance(problem, RelayProblem):
        return replace(problem, solver=solver)
    return replace(problem, solver=solver, stop=cast_floating(problem.stop, run.t.dtype))


def _shape_of(function):
    return lambda *arguments: eqx.filter_eval_shape(function, *arguments)


def _is_on_mesh(tree: PyTree) -> bool:
    """Whether some array lies on a mesh, so that the arrays of a run do too."""
    return any(
        isinstance(leaf.sharding, NamedSharding) for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)
    )


def _numbers(tree: PyTree) -> dict[str, str]:
    """The values of the arrays of a small tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"value of {jax.tree_util.keystr(path)}": repr(np.asarray(leaf).tolist()) for path, leaf in leaves}
