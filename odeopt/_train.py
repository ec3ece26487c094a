"""Train a model: the loop in compiled blocks, with the host in between."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from tqdm import tqdm

from ._agreement import agreement, local_copy
from ._course import begin, begin_again, best_of, go_on
from ._examples import as_examples, as_validation, callable_metrics, check_metrics
from ._minimise import check_settings, conclude, continued, prepare
from ._objective import AbstractObjective, Objective
from ._parameters import merge_parameters
from ._record import Record, empty_record
from ._relay import Relay, RelayProblem
from ._results import RESULTS, RUNNING, code
from ._run import COUNTS, Problem, Run, cost
from ._sequence import Sequence as SolverSequence
from ._solution import History, Solution, SolverState, history_of, starting_point
from ._solver import Solver
from ._stop import Stop

# A block should take about so long: often enough to answer Ctrl-C and to redraw the bar, seldom enough that the
# return to Python costs nothing beside it.
BLOCK_SECONDS = 0.25
# Trials of the largest block, which is the room for its history; fewer where every state is kept.
BLOCK_TRIALS = 2048
BLOCK_TRIALS_WITH_STATES = 64
# Metrics are passes over the data too: not more often than this, and once at the end.
METRIC_SECONDS = 1.0


@dataclass(frozen=True)
class Progress:
    """What a callback of `train` sees after a block of trials.

    **Attributes:** `trials` of this call; `stats` as in `Solution`; `loss`, `energy`, `step_size`, `gradient_norm`
    where the run stands; `metrics`, the newest values by name; `elapsed` in seconds; `best()` gives the best model.
    """

    trials: int
    stats: dict[str, int]
    loss: float
    energy: float
    step_size: float
    gradient_norm: float
    metrics: dict[str, float]
    elapsed: float
    best: Callable[[], Any]


def train(
    model: PyTree,
    loss,
    data: PyTree,
    solver: Solver | SolverSequence | None = None,
    *,
    stop: Stop | None = None,
    max_steps: int = 10_000,
    state: SolverState | None = None,
    history: str | None = "scalars",
    validation: PyTree = None,
    metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
    callbacks: Sequence[Callable[[Progress], bool | None]] = (),
    time_limit: float | None = None,
    progress: bool | None = None,
) -> tuple[Any, Solution]:
    """Train a model on data, full batch, with the host in between: progress bar, metrics, callbacks, Ctrl-C.

    The steps are those of `minimise`, to the last bit; `train` never raises because of the way a run ended.

    **Arguments:**

    - `model`: an Equinox model or any pytree of parameters.
    - `loss`: `loss(model, batch) -> scalar`, the mean over the batch; or an objective that carries its data, and
        then `data` is `None`.
    - `data`: a pytree of arrays with the same leading axis, the examples.
    - `solver`: an `odeopt.Solver`, or an `odeopt.Sequence` of them; `None` (default) is
        `odeopt.Solver()`, or for a continued run that of `state`.
    - `stop`, `max_steps`, `state`, `history`: as in `minimise`.
    - `validation`: a pytree like `data` with any number of examples, for the metrics.
    - `metrics`: functions `metric(model, batch) -> scalar` by name; evaluated at the model where the run stands about
        once a second and for the best model at the end, on `data` ("train/name") and `validation`
        ("validation/name"). They are compiled where JAX can trace them, and not counted as cost.
    - `callbacks`: each is called with a `Progress` after every block; one that returns `True` ends the run as
        `interrupted`.
    - `time_limit`: in seconds, compilation included; checked after every block.
    - `progress`: whether to draw a bar on stderr; `None`: where that is a terminal.

    **Returns:** `(model, solution)`: the best model met, and the `Solution`, whose history holds NumPy arrays of the
    accepted steps, whose `stats` are Python integers, and whose `metrics` the values of the metrics over the run.

    **Raises:** `TypeError` or `ValueError` for arguments that cannot work, before anything is compiled.

    !!! example

        ```python
        x = jnp.linspace(-1, 1, 100)[:, None]
        y = jnp.sin(3 * x)
        model = eqx.nn.MLP(1, 1, 20, 2, jnp.tanh, key=jax.random.key(0))
        loss = lambda model, batch: jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)
        model, solution = odeopt.train(model, loss, (x, y))
        ```
    """
    given: Solver | SolverSequence = solver or (state.solver if isinstance(state, SolverState) else Solver())
    check_settings(given, stop, max_steps, history)
    _check_host(callbacks, time_limit)
    began = time.monotonic()
    deadline = math.inf if time_limit is None else began + time_limit
    objective, data = _with_data(loss, data)
    check_metrics(metrics, validation, data)
    if validation is not None:
        validation = as_validation(validation, data)
    problem, parameters = prepare(
        objective, None, False, given, model, Stop(gradient_norm=1e-6) if stop is None else stop
    )
    board = _Scoreboard(problem, parameters, metrics or {}, {"train": data, "validation": validation})
    with (
        agreement(problem, parameters) as group,
        _interruption() as interrupted,
        _bar(progress if group.leads else False, max_steps) as bar,
    ):
        if state is None:
            problem, run = _start(problem, parameters)
        else:
            problem = continued(problem, parameters, state)
            run = _resume(problem, state.run)
        first = starting_point(run)
        parts: list[PyTree] = []
        rejections = 0
        trials, block, result = 0, 1, int(run.result)
        while result == RUNNING and trials < max_steps:
            block = min(block, max_steps - trials)
            group.before_block()
            tick = time.monotonic()
            run, record = _block(problem, run, rejections, block, history)
            result = int(run.result)  # waits for the block
            now = time.monotonic()
            seconds, elapsed = group.after_block(_scalars(problem, run), now - tick, now - began)
            now = began + elapsed
            done = int(run.counts[0] + run.counts[1]) - _trials_before(state) - trials
            trials += done
            if record is not None:
                parts.append(_written(record))
                rejections = int(record.rejections)
            board.update(run, trials, now)
            report = _report(problem, run, trials, board.newest, elapsed)
            _draw(bar, report, done)
            wants_end = [bool(callback(report)) for callback in callbacks]
            if group.anybody(any(wants_end) or interrupted.is_set()) and result == RUNNING:
                result = code(RESULTS.interrupted)
            elif result == RUNNING and now >= deadline:
                result = code(RESULTS.time_limit_reached)
            block = _next_block(block, seconds, deadline - now, history)
    run = eqx.tree_at(lambda r: r.result, run, jnp.asarray(result, jnp.int32))
    board.finish(run, trials)
    solution = conclude(problem, run, None if history is None else _join(parts, run, first, history))
    model = merge_parameters(local_copy(solution.value), problem.objective.frozen)
    stats = {name: int(count) for name, count in solution.stats.items()}
    solution = replace(solution, value=model, stats=stats, metrics=board.table())
    return solution.value, solution


def _check_host(callbacks, time_limit) -> None:
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks must be a list of functions, such as callbacks=[function]; got {callbacks!r}.")
    if time_limit is not None and not (isinstance(time_limit, Real) and float(time_limit) > 0):
        raise ValueError(f"time_limit={time_limit!r}: expected seconds > 0, or None.")


def _with_data(loss, data: PyTree) -> tuple[AbstractObjective, PyTree]:
    """The objective of a loss and its data: the place where objectives that stream their data come in."""
    if isinstance(loss, AbstractObjective):
        if data is not None:
            raise ValueError(f"{type(loss).__name__} carries its own data: pass data=None.")
        return loss, None
    if not callable(loss):
        raise TypeError(f"loss must be a function loss(model, batch) -> scalar; got {type(loss).__name__}.")
    data = as_examples("data", data)
    return Objective(loss, data), data


@eqx.filter_jit
def _start(problem: Problem | RelayProblem, parameters: PyTree) -> tuple[Problem | RelayProblem, Run | Relay]:
    return begin(problem, parameters)


@eqx.filter_jit
def _resume(problem: Problem | RelayProblem, run: Run | Relay) -> Run | Relay:
    return begin_again(problem, run)


def _block(
    problem: Problem | RelayProblem, run: Run | Relay, rejections: int, trials: int, history: str | None
) -> tuple[Run | Relay, Record | None]:
    # Arrays, so that every block is the same compiled program.
    return _compiled_block(problem, run, jnp.asarray(rejections, jnp.int32), jnp.asarray(trials, jnp.int32), history)


@eqx.filter_jit
def _compiled_block(
    problem: Problem | RelayProblem, run: Run | Relay, rejections: Array, trials: Array, history: str | None
) -> tuple[Run | Relay, Record | None]:
    record = None if history is None else empty_record(run, _room(history), history == "states", rejections)
    return go_on(problem, run, record, trials)


def _room(history: str | None) -> int:
    return BLOCK_TRIALS_WITH_STATES if history == "states" else BLOCK_TRIALS


def _next_block(trials: int, seconds: float, left: float, history: str | None) -> int:
    """How many trials take about `BLOCK_SECONDS`, from how long the last block took."""
    wanted = trials * min(BLOCK_SECONDS, max(left, 0.0)) / max(seconds, 1e-6)
    # The first block contains the compilation: grow by at most tenfold from one block to the next.
    return int(np.clip(wanted, 1, min(10 * trials, _room(history))))


def _trials_before(state: SolverState | None) -> int:
    return 0 if state is None else int(state.run.counts[0] + state.run.counts[1])


def _written(record: Record) -> PyTree:
    """The rows of a block's history that were written, copied so that the rest of the buffer can go."""
    written = slice(int(record.length))
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[written]), (record.rows, record.states))


def _join(parts: list[PyTree], run: Run | Relay, first: dict[str, Array], history: str) -> History:
    """The histories of all blocks, one after the other."""
    parts = parts or [_written(empty_record(run, 0, history == "states"))]
    rows, states = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    record = Record(np.asarray(len(rows)), np.asarray(0), np.asarray(0), rows, states)
    return history_of(record, jax.tree.map(np.asarray, first))


def _report(
    problem: Problem | RelayProblem, run: Run | Relay, trials: int, metrics: dict[str, float], elapsed: float
) -> Progress:
    return Progress(
        trials=trials,
        stats={name: int(count) for name, count in zip(COUNTS, np.asarray(run.counts), strict=True)}
        | {"cost": int(cost(run.counts))},
        loss=float(run.snapshot.value),
        energy=float(run.snapshot.energy),
        step_size=float(SolverState(run, problem.solver).step_size),
        gradient_norm=float(run.snapshot.stationarity),
        metrics=dict(metrics),
        elapsed=elapsed,
        best=lambda: merge_parameters(local_copy(best_of(run).position), problem.objective.frozen),
    )


def _scalars(problem: Problem | RelayProblem, run: Run | Relay) -> tuple[Array, ...]:
    """What all processes of a run must agree on."""
    here, step_size = run.snapshot, SolverState(run, problem.solver).step_size
    return (here.value, here.energy, here.stationarity, run.t, step_size, run.counts[0], run.counts[1])


class _Scoreboard:
    """Evaluates the metrics now and then and keeps their values."""

    def __init__(self, problem: Problem | RelayProblem, parameters: PyTree, metrics: Mapping, sets: dict[str, PyTree]):
        self._frozen = problem.objective.frozen
        self._metrics = callable_metrics(metrics, sets, merge_parameters(parameters, self._frozen))
        self._rows: list[dict[str, float]] = []
        self._last = -math.inf
        self.newest: dict[str, float] = {}

    def update(self, run: Run | Relay, trials: int, now: float) -> None:
        if self._metrics and now - self._last >= METRIC_SECONDS:
            self._evaluate(run.snapshot.state.position, trials)
            self._last = now

    def finish(self, run: Run | Relay, trials: int) -> None:
        if self._metrics:
            self._evaluate(best_of(run).position, trials)

    def table(self) -> dict[str, np.ndarray] | None:
        if not self._rows:
            return None
        return {name: np.asarray([row[name] for row in self._rows]) for name in self._rows[0]}

    def _evaluate(self, position: PyTree, trials: int) -> None:
        model = merge_parameters(local_copy(position, gather=True), self._frozen)
        self.newest = {name: float(metric(model, batch)) for name, (metric, batch) in self._metrics.items()}
        self._rows.append({"trials": trials, **self.newest})


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into a flag that is looked at after the block; a second one raises as usual.

    Only where Ctrl-C would raise: a program with an answer of its own keeps it.
    """
    flag, usual = threading.Event(), signal.default_int_handler
    # Signals reach the main thread only.
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield flag
        return

    def on_signal(number, frame):
        if flag.is_set():
            signal.signal(signal.SIGINT, usual)
            raise KeyboardInterrupt
        flag.set()

    signal.signal(signal.SIGINT, on_signal)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, usual)


def _bar(progress: bool | None, max_steps: int) -> tqdm:
    shown = sys.stderr.isatty() if progress is None else progress
    return tqdm(total=max_steps, disable=not shown, unit="trial", leave=False, dynamic_ncols=True)


def _draw(bar: tqdm, report: Progress, done: int) -> None:
    bar.set_postfix(
        {
            "loss": f"{report.loss:.3e}",
            "energy": f"{report.energy:.3e}",
            "step": f"{report.step_size:.2e}",
            "rejected": report.stats["rejected"],
        }
        | {name: f"{value:.4g}" for name, value in report.metrics.items()},
        refresh=False,
    )
    bar.update(done)
