"""The command line: `odeopt train` and `odeopt predict`."""

import csv
import importlib.metadata
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, TextIO

try:
    import typer
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError as error:
    raise SystemExit(
        f"The command line of odeopt needs {error.name}, which is not installed. Install it with "
        "pip install 'odeopt[cli]'."
    ) from error

import jax
import numpy as np

from ._data import labels_like
from ._experiment import Experiment, OptionError, Options, Outcome, energy_verdict, prepare, reason, record
from ._experiment import train as run_experiment
from ._named import NamingError
from ._predictor import Predictor, scores
from ._results import RESULTS
from ._run_folder import RunFolderError, check_new, load, new_folder, read_config, write_run
from ._table import DataError, read_prediction_file

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
FAILED = 1

app = typer.Typer(
    name="odeopt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


class Dtype(StrEnum):
    float32 = "float32"
    float64 = "float64"


class Task(StrEnum):
    auto = "auto"
    classification = "classification"
    regression = "regression"


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"odeopt {importlib.metadata.version('odeopt')}")
        raise typer.Exit
    return wanted


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train networks by following dissipative flows: no learning rate, and an energy that never rises."""


@app.command()
def train(
    flow: Annotated[
        str,
        typer.Option(
            help="The optimizer: a flow of odeopt (heavy-ball, HeavyBall(friction=0.5), ...) or a class of your own "
            "(my_flow.py:MyFlow)."
        ),
    ] = "Adam",
    scheme: Annotated[str | None, typer.Option(help="Default: what the flow recommends.")] = None,
    controller: Annotated[
        str | None,
        typer.Option(
            help="Such as ConstantStep(0.1) or LyapunovControl(decrease=0.3). Default: what the flow recommends."
        ),
    ] = None,
    hidden: Annotated[str, typer.Option(help="Widths of the hidden layers; tanh between them.")] = "32,32",
    dtype: Annotated[
        Dtype, typer.Option(help="float32 suffices for training; float64 (slower) reaches far smaller gradients.")
    ] = Dtype.float32,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Of the initial weights and of the split into train and test.")
    ] = 0,
    max_steps: Annotated[int, typer.Option(min=1, help="The largest number of trial steps.")] = 10_000,
    target_loss: Annotated[float | None, typer.Option(help="Stop at this loss.")] = None,
    gradient_norm: Annotated[float, typer.Option(help="Stop at this norm of the gradient; 0: never.")] = 1e-4,
    time_limit: Annotated[float | None, typer.Option(help="Stop after so many seconds.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="FILE.npz with arrays x, y (and x_test, y_test), or FILE.csv with a header and the target in the last "
            "column. Default: the handwritten digits of scikit-learn.",
            metavar="FILE",
        ),
    ] = None,
    task: Annotated[
        Task, typer.Option(help="auto: classification where the targets are text or a few whole numbers.")
    ] = Task.auto,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder, which must not exist. Default: runs/DATE-TIME-FLOW.", metavar="DIR"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the path of the run folder and nothing else.")] = False,
) -> None:
    """Train a network, full batch, and leave a run folder behind.

    The folder holds config.json, history.csv (one line for each accepted step), model.eqx and picture.png. Ctrl-C ends
    the run and keeps the best model so far (exit code 130); a second Ctrl-C ends the program at once. Exit code 2: an
    option or the data cannot be used, and nothing has been written; 1: the run failed, and the reason is in the table.
    """
    if dtype is Dtype.float64:
        # Before the first array is made. A library may not switch this on, a process of its own may.
        jax.config.update("jax_enable_x64", True)
    options = Options(
        flow=flow,
        scheme=scheme,
        controller=controller,
        hidden=hidden,
        dtype=dtype.value,
        seed=seed,
        max_steps=max_steps,
        target_loss=target_loss,
        gradient_norm=gradient_norm,
        time_limit=time_limit,
        data=data,
        task=task.value,
    )
    with _answering_ctrl_c() as ctrl_c, _messages():
        experiment = prepare(options)
        folder = _fresh_name(experiment) if out is None else out
        check_new(folder)
        if not quiet:
            _print_beginning(experiment)
        outcome = run_experiment(experiment, False if quiet else None, ctrl_c.after_block)
        with new_folder(folder) as unfinished:
            write_run(
                unfinished,
                record(experiment, outcome),
                outcome.predictor,
                outcome.history,
                title=f"{_name(experiment.solver.flow)} on {experiment.description}",
            )
        if quiet:
            print(folder)
        else:
            _out.print(_summary(experiment, outcome))
            _out.print(_what_to_do_next(experiment, folder), soft_wrap=True, markup=False)
    raise typer.Exit(INTERRUPTED if ctrl_c.pressed else _exit_code(outcome))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="The run folder that odeopt train wrote.", metavar="RUN")],
    data: Annotated[
        Path,
        typer.Option(
            help="FILE.npz with an array x (and y), or FILE.csv with a header; the target column may be missing.",
            metavar="FILE",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the predictions here, not to stdout; must not exist.", metavar="FILE.csv")
    ] = None,
) -> None:
    """Predict with a trained model; where the file has targets, say how good the predictions are.

    The predictions are written as CSV, one line for each example: the class and the probabilities of all classes, or
    the predicted values. The scores are printed on stderr.
    """
    with _messages():
        config = read_config(run)
        if config.get("network", {}).get("dtype") == "float64":
            jax.config.update("jax_enable_x64", True)
        predictor = load(run)
        names = predictor.input_names
        target = config["preprocessing"]["target_name"]
        arrays = read_prediction_file(data, predictor.input_mean.size, names, target)
        targets = arrays.y
        if targets is not None:
            targets = _fitting_targets(data, predictor, targets)
        header, rows = _predictions(predictor, arrays.x)
        if out is None:
            _write_csv(sys.stdout, header, rows)
        else:
            with _new_file(out) as stream:
                _write_csv(stream, header, rows)
            _err.print(f"{len(arrays.x)} predictions are in {out}.", soft_wrap=True, markup=False)
    if targets is not None:
        for name, value in scores(predictor, arrays.x, targets).items():
            _err.print(f"{_SCORES[name][0]}: {_SCORES[name][1].format(value)}")


def main() -> None:
    """The entry point `odeopt`."""
    try:
        app()
    finally:
        # Nothing is left to interrupt, and Python's own clean-up would answer with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


_SCORES = {"accuracy": ("accuracy", "{:.4f}"), "rmse": ("RMSE", "{:.6g}"), "r2": ("R2", "{:.4f}")}


class _CtrlC:
    """The answer to Ctrl-C during training; it raises nothing.

    An exception out of the middle of JAX's compiler crashes the process now and then (4 of 25 tries), and one out of a
    destructor or an import is swallowed.
    """

    def __init__(self):
        self.pressed = False
        self._has_stepped = False

    def after_block(self) -> bool:
        """To be called after every block of steps: whether to end the run."""
        self._has_stepped = True
        return self.pressed

    def __call__(self, number: int, frame) -> None:
        if not self._has_stepped:
            # A progress bar may stand on the line.
            line = b"\r\x1b[K" if sys.stderr.isatty() else b""
            os.write(2, line + b"odeopt: interrupted before the first step; nothing has been written.\n")
            os._exit(INTERRUPTED)
        self.pressed = True
        # The second one ends the process wherever it stands, in compiled code too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def _answering_ctrl_c() -> Iterator[_CtrlC]:
    ctrl_c, before = _CtrlC(), signal.getsignal(signal.SIGINT)
    # A shell that starts a command in the background has its Ctrl-C ignored.
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, ctrl_c)
    try:
        yield ctrl_c
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _messages() -> Iterator[None]:
    """Errors that the user can mend, as one paragraph on stderr and exit code 2."""
    try:
        yield
    except (DataError, NamingError, OptionError, RunFolderError) as error:
        _err.print(f"odeopt: {error}", soft_wrap=True, markup=False)
        raise typer.Exit(USAGE_ERROR) from error


def _fresh_name(experiment: Experiment) -> Path:
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{_name(experiment.solver.flow).lower()}"
    names = (Path("runs") / (stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
    return next(name for name in names if not name.exists())


def _name(part) -> str:
    return type(part).__name__


def _print_beginning(experiment: Experiment) -> None:
    data, preprocessing = experiment.data_set, experiment.data_set.preprocessing
    widths = [preprocessing.input_mean.size, *experiment.hidden, preprocessing.outputs]
    parameters = sum((width + 1) * following for width, following in pairwise(widths))
    _out.print(
        f"{preprocessing.task} of {experiment.description}: {len(data.x)} examples to train on, {len(data.x_test)} to "
        f"test; network {'-'.join(map(str, widths))}, {parameters} parameters, {experiment.options.dtype}",
        soft_wrap=True,
        markup=False,
    )


def _what_to_do_next(experiment: Experiment, folder: Path) -> str:
    beginning = f"The run is in {folder}: look at picture.png, and predict"
    if experiment.options.data is not None:
        return f"{beginning} with: odeopt predict {shlex.quote(str(folder))} --data FILE"
    return (
        f"{beginning} in Python:\nimport odeopt, sklearn.datasets; "
        f"print(odeopt.load({str(folder)!r}).labels(sklearn.datasets.load_digits().data[:20]))"
    )


def _summary(experiment: Experiment, outcome: Outcome) -> Table:
    solver, solution = experiment.solver, outcome.solution
    table = Table(
        show_header=False,
        title_justify="left",
        title=" · ".join(map(_name, (solver.flow, solver.scheme, solver.controller))),
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("loss", f"{float(solution.loss):.6g}")
    for name in outcome.train:
        label, form = _SCORES[name]
        table.add_row(f"{label}, train", form.format(outcome.train[name]))
        table.add_row(f"{label}, test", form.format(outcome.test[name]))
    for name in ("accepted", "rejected", "gradients"):
        table.add_row(name, str(int(solution.stats[name])))
    table.add_row(
        "time",
        f"{outcome.seconds:.1f} s, of which {outcome.seconds_to_first_step:.1f} s up to the first step (compilation)",
    )
    table.add_row("stopped because", reason(experiment.options, solution))
    table.add_row("energy", energy_verdict(outcome.history))
    return table


def _exit_code(outcome: Outcome) -> int:
    failures = (
        RESULTS.nonfinite_start,
        RESULTS.nonfinite_dissipation,
        RESULTS.energy_rises,
        RESULTS.step_underflow,
        RESULTS.unbounded_below,
    )
    return FAILED if any(bool(outcome.solution.result == failure) for failure in failures) else 0


def _fitting_targets(file: Path, predictor: Predictor, y: np.ndarray) -> np.ndarray:
    """The targets of a file to predict, in the form of the answers of the model."""
    if predictor.classes is not None:
        return labels_like(file, y, predictor.classes)
    assert predictor.target_mean is not None
    shape = (len(y),) if predictor.scalar_target else (len(y), predictor.target_mean.size)
    if y.dtype.kind == "U" or y.shape != shape:
        raise DataError(
            f"{file}: the targets have shape {y.shape} and dtype {y.dtype}; the model predicts numbers of shape "
            f"{shape}. Leave the targets out, or write them as in the training file."
        )
    return y


def _predictions(predictor: Predictor, x: np.ndarray) -> tuple[list[str], list[list]]:
    """Header and rows of the predictions."""
    answers = np.asarray(predictor(x))
    if predictor.classes is not None:
        labels = predictor.labels(x).tolist()
        header = ["prediction", *(f"probability {name}" for name in predictor.classes)]
        return header, [[label, *row] for label, row in zip(labels, answers.tolist(), strict=True)]
    if predictor.scalar_target:
        return ["prediction"], [[value] for value in answers.tolist()]
    return [f"prediction {number}" for number in range(answers.shape[1])], answers.tolist()


def _write_csv(stream: TextIO, header: list[str], rows: list[list]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)


@contextmanager
def _new_file(file: Path) -> Iterator[TextIO]:
    """A text file that must not exist yet."""
    try:
        stream = file.open("x", encoding="utf-8", newline="")
    except FileExistsError as error:
        raise RunFolderError(f"{file} exists already, and is not touched. Choose another name for --out.") from error
    except OSError as error:
        raise RunFolderError(f"{file} cannot be written ({error}). Choose another place with --out.") from error
    with stream:
        yield stream
