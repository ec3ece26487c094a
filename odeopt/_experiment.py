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
import numpy as np

import odeopt

from ._controller import AbstractController
from ._data import CLASSIFICATION, DataSet, digits, load_data
from ._flow import AbstractFlow
from ._named import build, describe, file_of, text_of
from ._networks import accuracy, cross_entropy, explained_variance, mean_square, multilayer_perceptron
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


class OptionError(ValueError):
    """An option that cannot be used, or a flow that cannot be run."""


@dataclass(frozen=True)
class Options:
    """The options of `odeopt train` that decide what is computed, as they were given."""

    flow: str
    scheme: str | None
    controller: str | None
    hidden: str
    dtype: str
    seed: int
    max_steps: int
    target_loss: float | None
    gradient_norm: float
    time_limit: float | None
    data: Path | None
    task: str


@dataclass(frozen=True)
class Experiment:
    """Everything that has been checked, before anything is computed."""

    options: Options
    hidden: list[int]
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
    hidden = _widths(options.hidden)
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
    if options.data is None and options.task not in ("auto", CLASSIFICATION):
        raise OptionError(f"--task {options.task}: the handwritten digits are classes. Name a data file with --data.")
    data_set = digits() if options.data is None else load_data(options.data, options.task, options.seed)
    return Experiment(options, hidden, solver, stop, data_set)


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
    options, data_set, preprocessing = experiment.options, experiment.data_set, experiment.data_set.preprocessing
    network = multilayer_perceptron(
        preprocessing.input_mean.size, preprocessing.outputs, experiment.hidden, options.dtype, options.seed
    )
    data, validation = (
        (preprocessing.inputs(x, options.dtype), preprocessing.targets(y, options.dtype))
        for x, y in ((data_set.x, data_set.y), (data_set.x_test, data_set.y_test))
    )
    classifies = preprocessing.task == CLASSIFICATION
    loss = cross_entropy if classifies else mean_square
    if jax.process_count() > 1:
        loss, data = shared(loss, data), None
    metrics: dict[str, Callable] = {"accuracy": accuracy} if classifies else {"R2": explained_variance}
    first: list[float] = []
    began = time.monotonic()
    try:
        network, solution = odeopt.train(
            network,
            loss,
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
        own = next((file for file in map(file_of, _named(options)) if file is not None), None)
        if own is None and not isinstance(error, (TypeError, ValueError)):
            raise
        raise OptionError(f"{', '.join(_named(options))} cannot be run: {describe(error, own)}") from error
    seconds = time.monotonic() - began
    predictor = Predictor(network, preprocessing)
    return Outcome(
        predictor=predictor,
        solution=solution,
        seconds=seconds,
        seconds_to_first_step=first[0] if first else seconds,
        train=scores(predictor, data_set.x, data_set.y),
        test=scores(predictor, data_set.x_test, data_set.y_test),
    )


def shared(loss: Callable, data: tuple[np.ndarray, np.ndarray]) -> FiniteSum:
    """The mean of a loss over examples of which each process keeps its share."""
    share = share_of(len(data[0]))

    def of_example(network, example):
        return loss(network, jax.tree.map(lambda leaf: leaf[None], example))

    # Of one example each, because the shares need not be equal. Copied, so that the rest can go.
    own = jax.tree.map(lambda leaf: leaf[share].copy(), data)
    return FiniteSum(of_example, own, per_example=True, nonnegative=True, mesh=device_mesh())


def record(experiment: Experiment, outcome: Outcome) -> dict[str, Any]:
    """The content of `config.json`."""
    solution, start = outcome.solution, outcome.history.start or {}
    options = asdict(experiment.options) | {"data": experiment.options.data and str(experiment.options.data)}
    solver = solution.state.solver
    return config_of(outcome.predictor, experiment.hidden, experiment.data_set.preprocessing) | {
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
