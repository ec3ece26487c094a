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
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

import odeopt

from ._architecture import LENET1, MLP, Architecture, ArchitectureError, built
from ._controller import AbstractController
from ._data import CLASSIFICATION, DataSet, digits, images, load_data
from ._flow import AbstractFlow
from ._images import is_images
from ._lenet import PIECE, LeNet1
from ._losses import CROSS_ENTROPY, LOSSES, Loss
from ._named import build, describe, file_of, function_in_file, text_of
from ._networks import accuracy, explained_variance, on_bytes
from ._objective import FiniteSum, device_mesh, share_of
from ._predictor import Predictor, scores
from ._results import RESULTS
from ._run_folder import config_of
from ._scheme import AbstractScheme
from ._solution import History, Solution
from ._solver import Solver
from ._stop import Stop

# Two neighbouring energies are told apart down to so many units of their rounding, as in LyapunovControl.
ROUNDING_UNITS = 10


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


@dataclass(frozen=True)
class Experiment:
    """Everything that has been checked, before anything is computed."""

    options: Options
    architecture: Architecture
    network: PyTree
    loss: Loss
    solver: Solver
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
    solution: Solution
    seconds: float
    seconds_to_first_step: float
    train: dict[str, float]
    test: dict[str, float]

    @property
    def history(self) -> History:
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
    stop = Stop(gradient_norm=options.gradient_norm or None, target_loss=options.target_loss)
    parts = named_parts(options.flow, options.scheme, options.controller)
    try:
        solver = Solver(*parts)
    except ValueError as error:
        raise OptionError(f"--flow, --scheme and --controller do not fit together: {error}") from error
    data_set = _data_set(options)
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


def train(experiment: Experiment, progress: bool | None, after_block: Callable[[], bool]) -> Outcome:
    """Train, and score the best model.

    **Arguments:** `progress`: as in `odeopt.train`; `after_block`: asked after every block of steps whether to end.

    **Raises:** `OptionError` if a declaration of the user cannot be run.
    """
    options, data_set = experiment.options, experiment.data_set
    data, validation = (
        _examples(experiment, x, y) for x, y in ((data_set.x, data_set.y), (data_set.x_test, data_set.y_test))
    )
    metric = {"accuracy": accuracy} if data_set.preprocessing.task == CLASSIFICATION else {"R2": explained_variance}
    metrics = {name: _of_examples(experiment, function) for name, function in metric.items()}
    objective, data = _objective(experiment, data)
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
            callbacks=[lambda report: first.append(report.elapsed), lambda _: after_block()],
            time_limit=options.time_limit,
            progress=progress,
        )
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


def _examples(experiment: Experiment, x: np.ndarray, y: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Inputs and targets as `_of_examples` takes them; images stay bytes."""
    preprocessing, dtype = experiment.data_set.preprocessing, experiment.options.dtype
    inputs = x if preprocessing.image_shape is not None else preprocessing.inputs(x, dtype)
    return jnp.asarray(inputs), jnp.asarray(preprocessing.targets(y, dtype))


def _of_examples(experiment: Experiment, function: Callable) -> Callable:
    """A loss or a metric on `_examples`."""
    are_images = experiment.data_set.preprocessing.image_shape is not None
    return on_bytes(function, experiment.options.dtype) if are_images else function


def _objective(experiment: Experiment, data: PyTree) -> tuple[Any, PyTree]:
    """What `odeopt.train` takes as loss and data: the mean over all examples at once where that is cheap.

    No loss of the command line is negative: a pass over chunks may end where a trial is sure to be rejected.
    """
    size, network = experiment.options.chunk_size, experiment.network
    if size is None and isinstance(network, LeNet1):
        size = PIECE
    each = _of_examples(experiment, experiment.loss.each)
    if jax.process_count() > 1:
        share = share_of(len(data[0]))
        # Copied, so that the rest can go.
        own = jax.tree.map(lambda leaf: np.asarray(leaf)[share].copy(), data)
        return FiniteSum(each, own, chunk_size=size, nonnegative=True, mesh=device_mesh()), None
    chunked = FiniteSum(each, data, chunk_size=size, nonnegative=True)
    fitting = chunked.fitted(network).chunk_size
    assert fitting is not None
    if fitting < chunked.count:
        return chunked, None
    return _of_examples(experiment, experiment.loss.mean), data


def record(experiment: Experiment, outcome: Outcome) -> dict[str, Any]:
    """The content of `config.json`."""
    solution, start = outcome.solution, outcome.history.start or {}
    options = asdict(experiment.options) | {"data": experiment.options.data and str(experiment.options.data)}
    solver = solution.state.solver
    return config_of(experiment.architecture, experiment.data_set.preprocessing) | {
        "options": options,
        "solver": {
            # With the scales that were set at the start.
            part: text_of(getattr(solver, part), vars(odeopt), _named(experiment.options))
            for part in ("flow", "scheme", "controller")
        },
        "examples": {"train": len(experiment.data_set.x), "test": len(experiment.data_set.x_test)},
        "result": {
            "reason": reason(experiment.options, solution),
            "loss": _json_number(float(solution.loss)),
            "train": {name: _json_number(value) for name, value in outcome.train.items()},
            "test": {name: _json_number(value) for name, value in outcome.test.items()},
            "stats": {name: int(count) for name, count in solution.stats.items()},
            "seconds": outcome.seconds,
            "start": {name: _json_number(float(value)) for name, value in start.items()},
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("odeopt", "jax", "equinox", "numpy")},
    }


def reason(options: Options, solution: Solution) -> str:
    """Why the run stopped, with the options that decided it."""
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


def energy_verdict(history: History) -> str:
    """Whether the energy falls along the flow as declared, and whether it ever rose in the run, measured."""
    energy, dissipation, loss = (_with_start(history, name) for name in ("energy", "dissipation", "loss"))
    change = np.diff(loss)
    # A rate is computed from terms that may cancel, each about as large as the fastest change of the loss.
    fastest = np.max(np.abs(change / np.asarray(history.step_size)[-len(change) :]), initial=0.0)
    level = np.finfo(dissipation.dtype).eps ** 0.5 * fastest
    rising = int(np.sum(np.isfinite(dissipation) & (dissipation > level)))
    if rising:
        return (
            f"dV/dt > 0 at {rising} of {len(dissipation)} points: the declared energy is not one of this flow; check "
            "the signs in vector_field and energy"
        )
    return _rise(energy)


def _with_start(history: History, column: str) -> np.ndarray:
    rows = np.asarray(getattr(history, column))
    return rows if history.start is None else np.concatenate([[history.start[column]], rows])


def _rise(energy: np.ndarray) -> str:
    """Whether the energy ever rose from one accepted step to the next."""
    if len(energy) < 2:
        return "no accepted step to measure"
    unit = float(np.finfo(energy.dtype).eps)
    # The difference of two neighbours in float64, so that measuring adds no rounding of its own.
    energy = energy.astype(np.float64)
    rise = np.diff(energy)
    level = ROUNDING_UNITS * unit * (np.abs(energy[1:]) + np.abs(energy[:-1]))
    if np.all(rise <= 0):
        return f"never rose: the smallest fall between accepted steps is {np.min(np.abs(rise)):.2g}"
    if np.all(rise <= level):
        worst = int(np.argmax(rise))
        return f"never rose beyond rounding: the largest rise is {rise[worst]:.2g}, rounding there {level[worst]:.2g}"
    worst = int(np.argmax(rise - level))
    return (
        f"rose at {int(np.sum(rise > level))} of {len(rise)} steps, most by {rise[worst]:.2g} (rounding there is "
        f"{level[worst]:.2g})"
    )


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
