"""What `odeopt train` does between reading its options and printing its table."""

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

import odeopt

from ._architecture import LENET1, MLP, Architecture, ArchitectureError, built
from ._checkpoint import CheckpointError, Checkpoints, NotSavedError
from ._controller import AbstractController
from ._data import CLASSIFICATION, DataSet, digits, images, load_data
from ._experiment_loss import examples_of, objective_of, of_examples
from ._flow import AbstractFlow
from ._images import is_images
from ._losses import CROSS_ENTROPY, LOSSES, Loss
from ._minibatch import BatchHistory, BatchSolution, EnergyTournament
from ._named import build, describe, file_of, function_in_file, text_of
from ._networks import accuracy, explained_variance
from ._predictor import Predictor, scores
from ._results import RESULTS
from ._run_folder import config_of
from ._scheme import AbstractScheme
from ._solution import History, Solution
from ._solver import Solver
from ._stop import Stop

# Of an mlp without --hidden.
HIDDEN = "32,32"


class OptionError(ValueError):
    """An option that cannot be used, or a flow that cannot be run."""


@dataclass(frozen=True)
class Options:
    """The options of `odeopt train` that decide what is computed, as they were given."""

    flow: str
    scheme: str | None
    controller: str | None
    model: str
    hidden: str | None
    dtype: str
    seed: int
    max_steps: int
    target_loss: float | None
    gradient_norm: float
    time_limit: float | None
    data: Path | None
    task: str
    loss: str | None
    chunk_size: int | None
    batch: int | None


@dataclass(frozen=True)
class Experiment:
    """Everything that has been checked, before anything is computed."""

    options: Options
    architecture: Architecture
    network: PyTree
    loss: Loss
    solver: Solver | EnergyTournament
    stop: Stop
    data_set: DataSet

    @property
    def description(self) -> str:
        """Of the data, in a few words."""
        data = self.options.data
        return "handwritten digits" if data is None else data.name


@dataclass(frozen=True)
class Outcome:
    """What training has given.

    **Attributes:** `seconds`: of the whole run; `seconds_to_first_step`: compilation and the first trial; `train`,
    `test`: the scores on both sets.
    """

    predictor: Predictor
    solution: Solution | BatchSolution
    seconds: float
    seconds_to_first_step: float
    train: dict[str, float]
    test: dict[str, float]

    @property
    def history(self) -> History | BatchHistory:
        history = self.solution.history
        assert history is not None
        return history


def prepare(options: Options) -> Experiment:
    """Read and check all that was asked for.

    **Raises:** `OptionError`, `NamingError` or `DataError` if an option or the data cannot be used.
    """
    hidden = _hidden(options)
    own = None if options.model in (MLP, LENET1) else function_in_file(options.model, (MLP, LENET1))
    if options.time_limit is not None and not options.time_limit > 0:
        raise OptionError(f"--time-limit {options.time_limit}: expected seconds > 0. Leave it out for no limit.")
    if not 0 <= options.gradient_norm < math.inf:
        raise OptionError(f"--gradient-norm {options.gradient_norm}: expected a finite number >= 0; 0 never stops.")
    if options.target_loss is not None and math.isnan(options.target_loss):
        raise OptionError("--target-loss nan: expected a number. Leave it out for no target.")
    # Zero is no tolerance but the word for none: also a gradient of exactly zero then ends nothing.
    gradient_norm = None if options.batch is not None else options.gradient_norm or None
    stop = Stop(gradient_norm=gradient_norm, target_loss=options.target_loss)
    solver = _solver(options)
    data_set = _data_set(options)
    if options.batch is not None and options.batch > len(data_set.x):
        raise OptionError(
            f"--batch {options.batch}: there are {len(data_set.x)} examples to train on; expected at most as many. "
            "Leave it out to train on all of them at every step."
        )
    preprocessing = data_set.preprocessing
    loss = _loss(options, preprocessing.task)
    architecture = Architecture(
        options.model, preprocessing.input_mean.size, preprocessing.outputs, hidden, options.dtype
    )
    try:
        network = built(architecture, own, options.dtype, options.seed)
    except ArchitectureError as error:
        raise OptionError(f"--model: {error}") from error
    return Experiment(options, architecture, network, loss, solver, stop, data_set)


def _solver(options: Options) -> Solver | EnergyTournament:
    parts = named_parts(options.flow, options.scheme, options.controller)
    try:
        if options.batch is None:
            return Solver(*parts)
        _check_batch(options)
        return EnergyTournament(*parts[:2], batch=options.batch, seed=options.seed)
    except ValueError as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"--flow, --scheme and --controller do not fit together: {error}") from error


def _check_batch(options: Options) -> None:
    for name, value in (("controller", options.controller), ("chunk-size", options.chunk_size)):
        if value is not None:
            raise OptionError(
                f"--{name} {value} is for all examples at every step; with --batch the energy of a probe controls the "
                "steps. Leave one of them out."
            )
    if jax.process_count() > 1:
        raise OptionError("--batch works in one process. Leave --processes out, or train on all examples.")


def _hidden(options: Options) -> tuple[int, ...]:
    """The widths of the hidden layers, of which only an mlp has some."""
    if options.model == MLP:
        return tuple(_widths(HIDDEN if options.hidden is None else options.hidden))
    if options.hidden is not None:
        raise OptionError(f"--hidden {options.hidden!r} is for --model mlp; {options.model} has its own layers.")
    return ()


def _data_set(options: Options) -> DataSet:
    if options.data is not None and not is_images(options.data):
        return load_data(options.data, options.task, options.seed)
    if options.task not in ("auto", CLASSIFICATION):
        known = "the handwritten digits" if options.data is None else f"the labels of {options.data}"
        raise OptionError(f"--task {options.task}: {known} are classes. Name a data file with --data.")
    return digits() if options.data is None else images(options.data)


def _loss(options: Options, task: str) -> Loss:
    if options.loss == CROSS_ENTROPY and task != CLASSIFICATION:
        raise OptionError("--loss cross-entropy is for classes, and the targets are values. Use --loss squared.")
    return LOSSES[task, options.loss]


def named_parts(
    flow: str, scheme: str | None, controller: str | None
) -> tuple[AbstractFlow, AbstractScheme | None, AbstractController | None]:
    """The parts of a solver that are named in text.

    **Raises:** `NamingError` if a name cannot be used.
    """
    public = vars(odeopt)
    return (
        build(flow, odeopt.AbstractFlow, public),
        None if scheme is None else build(scheme, odeopt.AbstractScheme, public),
        None if controller is None else build(controller, odeopt.AbstractController, public),
    )


def train(
    experiment: Experiment,
    progress: bool | None,
    after_block: Callable[[], bool],
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Train, and score the best model.

    **Arguments:** `progress`: as in `odeopt.train`; `after_block`: asked after every block of steps whether to end;
    `checkpoints`: where the run is saved, and taken up where one has been.

    **Raises:** `OptionError` if a declaration of the user cannot be run.
    """
    options, data_set = experiment.options, experiment.data_set
    data, validation = (
        examples_of(experiment, x, y) for x, y in ((data_set.x, data_set.y), (data_set.x_test, data_set.y_test))
    )
    metric = {"accuracy": accuracy} if data_set.preprocessing.task == CLASSIFICATION else {"R2": explained_variance}
    metrics = {name: of_examples(experiment, function) for name, function in metric.items()}
    objective, data = objective_of(experiment, data)
    first: list[float] = []
    began = time.monotonic()
    try:
        network, solution = odeopt.train(
            experiment.network,
            objective,
            data,
            experiment.solver,
            stop=experiment.stop,
            max_steps=options.max_steps,
            validation=validation,
            metrics=metrics,
            callbacks=[lambda _: first.append(time.monotonic() - began), lambda _: after_block()],
            time_limit=options.time_limit,
            progress=progress,
            checkpoints=checkpoints,
            resume=checkpoints is not None,
        )
    except (NotSavedError, CheckpointError):
        raise
    except Exception as error:
        named = [*_named(options), *([options.model] if experiment.architecture.is_own else [])]
        own = next((file for file in map(file_of, named) if file is not None), None)
        if own is None and not isinstance(error, (TypeError, ValueError)):
            raise
        raise OptionError(f"{', '.join(named)} cannot be run: {describe(error, own)}") from error
    seconds = time.monotonic() - began
    predictor = Predictor(network, data_set.preprocessing)
    return Outcome(
        predictor=predictor,
        solution=solution,
        seconds=seconds,
        seconds_to_first_step=first[0] if first else seconds,
        train=scores(predictor, data_set.x, data_set.y),
        test=scores(predictor, data_set.x_test, data_set.y_test),
    )


def record(experiment: Experiment, outcome: Outcome) -> dict[str, Any]:
    """The content of `config.json`."""
    solution = outcome.solution
    options = asdict(experiment.options) | {"data": experiment.options.data and str(experiment.options.data)}
    return config_of(experiment.architecture, experiment.data_set.preprocessing) | {
        "options": options,
        "solver": _recorded_solver(experiment, solution),
        "examples": {"train": len(experiment.data_set.x), "test": len(experiment.data_set.x_test)},
        "result": {
            "reason": reason(experiment.options, solution),
            "loss": _json_number(float(solution.loss)),
            "train": {name: _json_number(value) for name, value in outcome.train.items()},
            "test": {name: _json_number(value) for name, value in outcome.test.items()},
            "stats": {name: int(count) if count == int(count) else count for name, count in solution.stats.items()},
            "seconds": outcome.seconds,
            "start": {name: _json_number(float(value)) for name, value in _start(outcome.history).items()},
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("odeopt", "jax", "equinox", "numpy")},
    }


def _recorded_solver(experiment: Experiment, solution: Solution | BatchSolution) -> dict[str, str]:
    """The parts of the solver, with the scales that were set at the start where all examples set them."""
    if isinstance(solution, Solution):
        parts, names = solution.state.solver, ("flow", "scheme", "controller")
    else:
        parts, names = experiment.solver, ("flow", "scheme")
    return {name: text_of(getattr(parts, name), vars(odeopt), _named(experiment.options)) for name in names}


def _start(history: History | BatchHistory) -> dict[str, Any]:
    return {"energy": history.start} if isinstance(history, BatchHistory) else history.start or {}


def reason(options: Options, solution: Solution | BatchSolution) -> str:
    """Why the run stopped, with the options that decided it."""
    if isinstance(solution, BatchSolution):
        return _reason_on_batches(options, solution)
    gradient = f"{float(solution.state.run.snapshot.stationarity):.3g}"
    if options.gradient_norm:
        gradient += f" (--gradient-norm {options.gradient_norm:g})"
    finer = "Use --dtype float64" if options.dtype == "float32" else "Try another --flow or --scheme"
    sentences = {
        "converged": f"The gradient norm is at most {options.gradient_norm:g} (--gradient-norm).",
        "target_reached": f"The loss is at most {options.target_loss} (--target-loss).",
        "max_steps_reached": (
            f"All {options.max_steps} trial steps are used up; the last gradient norm is {gradient}. Raise "
            "--max-steps to get further."
        ),
        "rounding_floor_reached": (
            f"The loss and its gradient no longer resolve the decrease that the test asks for (rounding of "
            f"{options.dtype}): this flow and scheme get no further here. {finer}, or stop here."
        ),
        "nonfinite_start": (
            "The loss or the energy is not a finite number at the start. Try another --seed, or check the energy of "
            "the flow."
        ),
        "interrupted": "Ctrl-C. The best model so far is kept.",
        "time_limit_reached": f"The time limit of {options.time_limit} s was reached (--time-limit).",
    }
    own = (text for name, text in sentences.items() if bool(solution.result == getattr(RESULTS, name)))
    return next(own, str(solution.result))


def _reason_on_batches(options: Options, solution: BatchSolution) -> str:
    sentences = {
        "max_steps_reached": f"All {options.max_steps} steps have been made (--max-steps).",
        "target_reached": f"The loss on the probe is at most {options.target_loss} (--target-loss).",
        "interrupted": "Ctrl-C. The best model so far is kept.",
        "time_limit_reached": f"The time limit of {options.time_limit} s was reached (--time-limit).",
    }
    own = (text for name, text in sentences.items() if bool(solution.result == getattr(RESULTS, name)))
    return next(own, solution.describe().split(". ")[0] + ".")


def _widths(text: str) -> list[int]:
    try:
        widths = [int(width) for width in text.split(",")]
    except ValueError:
        widths = []
    if not widths or min(widths) < 1:
        raise OptionError(f"--hidden {text!r}: expected the widths of the hidden layers, such as 32,32 or 64.")
    return widths


def _named(options: Options) -> list[str]:
    return [text for text in (options.flow, options.scheme, options.controller) if text is not None]


def _json_number(value: float) -> float | None:
    """JSON has no infinities and no NaN."""
    return value if math.isfinite(value) else None
