"""Train a model: the loop in compiled blocks, with the host in between."""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._agreement import agreement, local_copy
from ._checkpoint import Checkpoints, NotSavedError
from ._course import begin, begin_again, best_of, go_on
from ._examples import as_examples, as_validation, check_metrics
from ._interruption import interruption
from ._minibatch import RAG, BatchSolution, EnergyTournament, Wishes, train_on_batches
from ._minimise import check_run_settings, check_settings, conclude, continued, explained, prepare
from ._objective import AbstractObjective, Objective, Streamed, reading_errors
from ._parameters import merge_parameters
from ._progress import Progress, draw, progress_bar
from ._record import Record, empty_record
from ._relay import Relay, RelayProblem
from ._results import RESULTS, RUNNING, code
from ._run import COUNTS, Problem, Run, cost
from ._run_checkpoints import run_checkpoints
from ._scoreboard import Scoreboard
from ._sequence import Sequence as SolverSequence
from ._solution import Solution, SolverState, starting_point
from ._solver import Solver
from ._standing import Standing, trials_of
from ._stop import Stop

# A block should take about so long: often enough to answer Ctrl-C and to redraw the bar, seldom enough that the
# return to Python costs nothing beside it.
BLOCK_SECONDS = 0.25
# Trials of the largest block, which is the room for its history; fewer where every state is kept.
BLOCK_TRIALS = 2048
BLOCK_TRIALS_WITH_STATES = 64


def train(
    model: PyTree,
    loss,
    data: PyTree,
    solver: Solver | SolverSequence | EnergyTournament | RAG | None = None,
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
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
) -> tuple[Any, Any]:
    """Train a model on data, with the host in between: metrics, callbacks, Ctrl-C, checkpoints.

    Full batch the steps are those of `minimise`, to the last bit. With an `odeopt.EnergyTournament` as solver every
    step sees a mini-batch. `train` never raises because of the way a run ended.

    **Arguments:**

    - `model`: an Equinox model or any pytree of parameters.
    - `loss`: `loss(model, batch) -> scalar`, the mean over the batch; or an objective that carries its data, and
        then `data` is `None`.
    - `data`: a pytree of arrays with the same leading axis, the examples.
    - `solver`: an `odeopt.Solver`, or an `odeopt.Sequence` of them, or for mini-batches an `odeopt.EnergyTournament`,
        `odeopt.RAG` or `odeopt.RAGL`; `None` (default) is `odeopt.Solver()`, or for a continued run that of `state`.
    - `stop`, `max_steps`, `state`, `history`: as in `minimise`; on mini-batches `max_steps` counts the steps behind the
        contest of step sizes, and `stop` may have a `target_loss` (of the probe) and `max_evaluations`.
    - `validation`: a pytree like `data` with any number of examples, for the metrics.
    - `metrics`: functions `metric(model, batch) -> scalar` by name; evaluated at the model where the run stands about
        once a second and for the best model at the end, on `data` ("train/name") and `validation`
        ("validation/name"). They are compiled where JAX can trace them, and not counted as cost.
    - `callbacks`: each is called with a `Progress` after every block; one that returns `True` ends the run as
        `interrupted`.
    - `time_limit`: in seconds, compilation included; checked after every block.
    - `progress`: whether to draw a bar on stderr; `None`: where that is a terminal.
    - `checkpoints`: an `odeopt.Checkpoints`: where and how often the run is saved; also at its end. SIGTERM then ends
        it as Ctrl-C does.
    - `resume`: whether to go on from the newest checkpoint, bit for bit, with the same other arguments; from the start
        where there is none yet. `max_steps` and `time_limit` then count the whole run, as history and metrics do.

    **Returns:** `(model, solution)`: the best model met, and the `Solution`, whose history holds NumPy arrays of the
    accepted steps, whose `stats` are Python integers, and whose `metrics` the values of the metrics over the run. On
    mini-batches an `odeopt.BatchSolution`, whose history is one of windows.

    **Raises:** `TypeError` or `ValueError` for arguments that cannot work, before anything is compiled, checkpoints of
    another run included; `odeopt.NotSavedError`, which carries the solution, if the last checkpoint cannot be written.

    !!! example

        ```python
        x = jnp.linspace(-1, 1, 100)[:, None]
        y = jnp.sin(3 * x)
        model = eqx.nn.MLP(1, 1, 20, 2, jnp.tanh, key=jax.random.key(0))
        loss = lambda model, batch: jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)
        model, solution = odeopt.train(model, loss, (x, y))
        ```
    """
    if isinstance(solver, EnergyTournament | RAG):
        wishes = Wishes(
            stop, max_steps, history, validation, metrics, callbacks, time_limit, progress, checkpoints, resume
        )
        return _on_batches(model, loss, data, solver, wishes, state)
    given: Solver | SolverSequence = solver or (state.solver if isinstance(state, SolverState) else Solver())
    check_settings(given, stop, max_steps, history)
    _check_host(callbacks, time_limit, checkpoints, resume)
    began = time.monotonic()
    objective, data = _with_data(loss, data)
    check_metrics(metrics, validation, data)
    if validation is not None:
        validation = as_validation(validation, data)
    problem, parameters = prepare(
        objective, None, False, given, model, Stop(gradient_norm=1e-6) if stop is None else stop
    )
    frozen = problem.objective.frozen
    board = Scoreboard(parameters, frozen, metrics or {}, {"train": data, "validation": validation})
    described_data = objective if data is None else data
    signals = (signal.SIGINT,) if checkpoints is None else (signal.SIGINT, signal.SIGTERM)
    not_saved: NotSavedError | None = None
    with (
        agreement(problem, parameters) as group,
        interruption(*signals) as interrupted,
        run_checkpoints(checkpoints, resume, problem, parameters, described_data, history, board) as saver,
        progress_bar(progress if group.leads else False, max_steps) as bar,
        reading_errors(objective),
    ):
        taken_up = None if saver is None else saver.take_up()
        standing = _begun(problem, parameters, state) if taken_up is None else taken_up
        if saver is not None:
            saver.begin(standing, taken_up is not None)
        began -= standing.elapsed
        deadline = math.inf if time_limit is None else began + time_limit
        bar.update(standing.trials)
        block, result = 1, int(standing.run.result)
        if group.anybody(taken_up is not None and time.monotonic() >= deadline) and result == RUNNING:
            result = code(RESULTS.time_limit_reached)
        while result == RUNNING and standing.trials < max_steps:
            block = min(block, max_steps - standing.trials)
            if saver is not None:
                block = int(min(block, saver.room(standing)))
            group.before_block()
            tick, before = time.monotonic(), standing.trials
            standing.add(*_block(standing.problem, standing.run, standing.rejections, block, history))
            result = int(standing.run.result)  # waits for the block
            now = time.monotonic()
            seconds, elapsed = group.after_block(_scalars(standing), now - tick, now - began)
            now = began + elapsed
            board.update(standing.run.snapshot.state.position, standing.trials, now)
            if saver is not None and group.anybody(saver.due(standing, now)):
                saver.save(standing, elapsed)
            report = _report(standing, board.newest, elapsed)
            draw(bar, report, standing.trials - before)
            wants_end = [bool(callback(report)) for callback in callbacks]
            if group.anybody(any(wants_end) or interrupted.is_set()) and result == RUNNING:
                result = code(RESULTS.interrupted)
            elif result == RUNNING and now >= deadline:
                result = code(RESULTS.time_limit_reached)
            block = _next_block(block, seconds, deadline - now, history)
        try:
            if saver is not None:
                saver.finish(standing, time.monotonic() - began)
        except NotSavedError as error:
            not_saved = error
    solution = _concluded(standing, result, history, board)
    if not_saved is not None:
        not_saved.solution = solution
        raise not_saved
    return solution.value, solution


def _on_batches(
    model: PyTree, loss, data: PyTree, solver: EnergyTournament | RAG, wishes: Wishes, state
) -> tuple[Any, BatchSolution]:
    if state is not None:
        raise ValueError("state: a run on mini-batches goes on from its checkpoints; pass checkpoints and resume=True.")
    check_run_settings(wishes.stop, wishes.max_steps, wishes.history)
    _check_host(wishes.callbacks, wishes.time_limit, wishes.checkpoints, wishes.resume)
    if isinstance(loss, AbstractObjective):
        raise TypeError(
            f"{type(loss).__name__} evaluates all of its examples at every step, and goes with an odeopt.Solver. On "
            "mini-batches pass a function loss(model, batch) and the data."
        )
    if not isinstance(data, Streamed):
        data = as_examples("data", data)
    in_memory = None if isinstance(data, Streamed) else data
    check_metrics(wishes.metrics, wishes.validation, in_memory)
    if wishes.validation is not None:
        wishes = replace(wishes, validation=as_validation(wishes.validation, in_memory))
    return train_on_batches(model, loss, data, solver, wishes)


def _check_host(callbacks, time_limit, checkpoints, resume) -> None:
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks must be a list of functions, such as callbacks=[function]; got {callbacks!r}.")
    if time_limit is not None and not (isinstance(time_limit, Real) and float(time_limit) > 0):
        raise ValueError(f"time_limit={time_limit!r}: expected seconds > 0, or None.")
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        raise TypeError(f'checkpoints={checkpoints!r}: expected odeopt.Checkpoints("FOLDER"), or None.')
    if resume and checkpoints is None:
        raise ValueError('resume=True: say where the checkpoints are, checkpoints=odeopt.Checkpoints("FOLDER").')


def _with_data(loss, data: PyTree) -> tuple[AbstractObjective, PyTree]:
    """The objective of a loss and its data: the place where objectives that stream their data come in."""
    if isinstance(loss, AbstractObjective):
        if data is not None:
            raise ValueError(f"{type(loss).__name__} carries its own data: pass data=None.")
        return loss, None
    if not callable(loss):
        raise TypeError(f"loss must be a function loss(model, batch) -> scalar; got {type(loss).__name__}.")
    if isinstance(data, Streamed):
        raise TypeError(
            "data=Streamed(...): streamed data belong to an objective, which takes them chunk by chunk. Write "
            "odeopt.train(model, odeopt.FiniteSum(loss, data), None, ...)."
        )
    data = as_examples("data", data)
    return Objective(loss, data), data


def _begun(problem: Problem | RelayProblem, parameters: PyTree, state: SolverState | None) -> Standing:
    """A new run, or one that goes on from the state of another."""
    if state is None:
        problem, run = _start(problem, parameters)
        return Standing(problem, run, starting_point(run))
    problem = continued(problem, parameters, state)
    run = _resume(problem, state.run)
    return Standing(problem, run, starting_point(run), before=trials_of(run))


def _concluded(standing: Standing, result: int, history: str | None, board: Scoreboard) -> Solution:
    """What is handed back, once the host knows why the run has ended."""
    run, objective = standing.run, standing.problem.objective
    run = eqx.tree_at(lambda r: r.result, run, jnp.asarray(result, jnp.int32))
    board.evaluate(best_of(run).position, standing.trials)
    with reading_errors(objective.full):
        solution = conclude(standing.problem, run, standing.history(history))
    solution = explained(solution, objective, "data")
    model = merge_parameters(local_copy(solution.value), objective.frozen)
    stats = {name: int(count) for name, count in solution.stats.items()}
    return replace(solution, value=model, stats=stats, metrics=board.table())


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


def _scalars(standing: Standing) -> tuple[Array, ...]:
    """What all processes of a run must agree on."""
    run, here = standing.run, standing.run.snapshot
    step_size = SolverState(run, standing.problem.solver).step_size
    return (here.value, here.energy, here.stationarity, run.t, step_size, run.counts[0], run.counts[1])


def _report(standing: Standing, metrics: dict[str, float], elapsed: float) -> Progress:
    run, problem = standing.run, standing.problem
    return Progress(
        trials=standing.trials,
        stats={name: int(count) for name, count in zip(COUNTS, np.asarray(run.counts), strict=True)}
        | {"cost": int(cost(run.counts))},
        loss=float(run.snapshot.value),
        energy=float(run.snapshot.energy),
        step_size=float(SolverState(run, problem.solver).step_size),
        gradient_norm=float(run.snapshot.stationarity),
        metrics=metrics,
        elapsed=elapsed,
        best=lambda: merge_parameters(local_copy(best_of(run).position), problem.objective.frozen),
    )
