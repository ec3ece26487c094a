"""`train` on mini-batches: windows of steps, with the host in between."""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import PyTree

from .._checkpoint import Checkpoints, NotSavedError
from .._interruption import interruption
from .._objective import FiniteSum, Streamed, first_nonfinite
from .._parameters import merge_parameters, split_parameters
from .._progress import Progress, draw, progress_bar
from .._results import RESULTS, RUNNING, code, from_code
from .._scoreboard import Scoreboard
from .._stop import Stop
from .check import check_loss, check_settings
from .examples import Examples
from .rag import RAG, SplitRun
from .settings import EnergyTournament
from .solution import BatchHistory, BatchSolution
from .standing import Method, Standing, batch_checkpoints
from .steps import KeyedLoss
from .tournament import ROLLED_BACK

# Ends that data may be the reason of.
FRUITLESS = (code(RESULTS.nonfinite_start), code(RESULTS.step_underflow))


@dataclass(frozen=True)
class Wishes:
    """What the caller of `train` wants, beside model, loss, data and solver; the arguments of that name."""

    stop: Stop | None
    max_steps: int
    history: str | None
    validation: PyTree
    metrics: Mapping[str, Callable] | None
    callbacks: Sequence[Callable[[Progress], bool | None]]
    time_limit: float | None
    progress: bool | None
    checkpoints: Checkpoints | None
    resume: bool


def train_on_batches(
    model: PyTree, loss: Callable, data: PyTree, settings: EnergyTournament | RAG, wishes: Wishes
) -> tuple[Any, BatchSolution]:
    """As `train`, with an `EnergyTournament`; data and metrics have been checked."""
    began = time.monotonic()
    examples = Examples(data)
    check_settings(settings, wishes.stop, wishes.history, examples.count)
    parameters, frozen = split_parameters(model)
    check_loss(loss, model, examples, settings)
    # Streamed data are no batch that a metric could be called with.
    train_set = None if isinstance(data, Streamed) else data
    board = Scoreboard(parameters, frozen, wishes.metrics or {}, {"train": train_set, "validation": wishes.validation})
    tournament = settings.method(loss, frozen, examples, parameters)
    signals = (signal.SIGINT,) if wishes.checkpoints is None else (signal.SIGINT, signal.SIGTERM)
    not_saved: NotSavedError | None = None
    with (
        interruption(*signals) as interrupted,
        batch_checkpoints(wishes.checkpoints, wishes.resume, tournament, data, frozen, board) as saver,
        progress_bar(wishes.progress, wishes.max_steps) as bar,
    ):
        taken_up = None if saver is None else saver.take_up()
        standing = _begun(tournament) if taken_up is None else taken_up
        if saver is not None:
            saver.begin(standing, taken_up is not None)
        began -= standing.elapsed
        deadline = math.inf if wishes.time_limit is None else began + wishes.time_limit
        bar.update(standing.place.step)
        standing.result = _verdict(tournament, standing, wishes.stop)
        while standing.result == RUNNING and standing.place.step < wishes.max_steps:
            before = standing.place.step
            _play(tournament, standing, wishes.max_steps - before)
            now = time.monotonic()
            board.update(standing.place.point.state.position, standing.place.step, now)
            if saver is not None:
                saver.update(standing, now, now - began)
            report = _report(tournament, standing, board, now - began)
            draw(bar, report, standing.place.step - before)
            wants_end = [bool(callback(report)) for callback in wishes.callbacks]
            standing.result = _verdict(tournament, standing, wishes.stop)
            if standing.result == RUNNING and (any(wants_end) or interrupted.is_set()):
                standing.result = code(RESULTS.interrupted)
            elif standing.result == RUNNING and now >= deadline:
                standing.result = code(RESULTS.time_limit_reached)
        try:
            if saver is not None:
                saver.finish(standing, time.monotonic() - began)
        except NotSavedError as error:
            not_saved = error
    solution = _concluded(tournament, standing, board, wishes.history)
    if not_saved is not None:
        not_saved.solution = solution
        raise not_saved
    return solution.value, solution


def _begun(tournament: Method) -> Standing:
    place, result = tournament.begun()
    return Standing(place, result, start=float(place.energy))


def _play(tournament: Method, standing: Standing, left: int) -> None:
    """One window, of at most as many steps as are left."""
    size = float(standing.place.step_size)
    standing.place, energy, kept = tournament.window(standing.place, min(tournament.window_steps, left))
    standing.rows.append((standing.place.step, size, energy, kept))


def _verdict(tournament: Method, standing: Standing, stop: Stop | None) -> int:
    """Why the run ends here, or `RUNNING`."""
    if standing.result in FRUITLESS:
        return standing.result
    if standing.place.rolled_back >= ROLLED_BACK:
        return code(RESULTS.step_underflow)
    if stop is not None and stop.target_loss is not None and float(standing.place.energy) <= float(stop.target_loss):
        return code(RESULTS.target_reached)
    tolerance = None if stop is None else stop.gradient_norm
    if isinstance(tournament, SplitRun) and tolerance is not None and tournament.converged(standing.place, tolerance):
        return code(RESULTS.converged)
    budget = None if stop is None else stop.max_evaluations
    if budget is not None and tournament.stats()["cost"] >= float(budget):
        return code(RESULTS.max_evaluations_reached)
    return RUNNING


def _stats(tournament: Method, standing: Standing) -> dict[str, Any]:
    rolled_back = sum(not row[-1] for row in standing.rows)
    counted = {"steps": standing.place.step, "windows": len(standing.rows), "rolled_back": rolled_back}
    return counted | tournament.stats()


def _report(tournament: Method, standing: Standing, board: Scoreboard, elapsed: float) -> Progress:
    place, stats = standing.place, _stats(tournament, standing)
    position = place.point.state.position
    return Progress(
        trials=place.step,
        stats=stats | {"rejected": stats["rolled_back"], "accepted": stats["windows"] - stats["rolled_back"]},
        loss=float(place.energy),
        energy=float(place.energy),
        step_size=float(place.step_size),
        gradient_norm=math.nan,
        metrics=board.newest,
        elapsed=elapsed,
        best=lambda: merge_parameters(position, tournament.frozen),
    )


def _concluded(tournament: Method, standing: Standing, board: Scoreboard, history: str | None) -> BatchSolution:
    """What is handed back."""
    place, result = standing.place, standing.result
    model = merge_parameters(place.point.state.position, tournament.frozen)
    note = None
    if result in FRUITLESS:
        whole = FiniteSum(KeyedLoss(tournament.loss, tournament.key), tournament.examples.all)
        note = first_nonfinite(whole, model, "data")
    board.evaluate(place.point.state.position, place.step)
    steps, step_size, energy, kept = standing.array.T
    windows = BatchHistory(steps.astype(int), step_size, energy, kept.astype(bool), standing.start)
    return BatchSolution(
        value=model,
        loss=float(place.energy),
        result=from_code(np.asarray(code(RESULTS.max_steps_reached) if result == RUNNING else result)),
        stats=_stats(tournament, standing),
        history=None if history is None else windows,
        step_size=float(place.step_size),
        metrics=board.table(),
        note=note,
    )
