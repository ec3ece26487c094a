"""The command line: `odeopt train`, `odeopt predict` and `odeopt verify`."""

import importlib.metadata
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

try:
    import rich  # noqa: F401
    import typer
except ModuleNotFoundError as error:
    raise SystemExit(
        f"The command line of odeopt needs {error.name}, which is not installed. Install it with "
        "pip install 'odeopt[cli]'."
    ) from error

import jax

from ._cli.ctrl_c import answering_ctrl_c
from ._cli.messages import FAILED, INTERRUPTED, err_console, messages, out_console
from ._cli.predict import SCORES, examples, fitting_targets, new_file, predictions, write_csv
from ._cli.processes import is_member, join, run_together
from ._cli.train import exit_code, fresh_name, name_of, print_beginning, summary, what_to_do_next
from ._cli.verify import check_new_report, telling, verification, write_report
from ._experiment import Options, named_parts, prepare, reason, record
from ._experiment import train as run_experiment
from ._losses import CROSS_ENTROPY, SQUARED
from ._named import function_in_file
from ._predictor import scores
from ._run_folder import check_new, load, new_folder, read_config, write_run

app = typer.Typer(
    name="odeopt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
)


class Dtype(StrEnum):
    float32 = "float32"
    float64 = "float64"


class LossName(StrEnum):
    cross_entropy = CROSS_ENTROPY
    squared = SQUARED


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
    model: Annotated[
        str,
        typer.Option(
            help="mlp, lenet1 (for images of 28 by 28 pixels), or a function build(inputs, outputs, key) of your own "
            "(my_model.py:build).",
        ),
    ] = "mlp",
    hidden: Annotated[
        str | None, typer.Option(help="Widths of the hidden layers of an mlp; tanh between them. Default: 32,32.")
    ] = None,
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
            help="FILE.npz with arrays x, y (and x_test, y_test), FILE.csv with a header and the target in the last "
            "column, a FOLDER with idx files such as those of MNIST, or fashion-mnist. Default: the handwritten digits "
            "of scikit-learn.",
            metavar="DATA",
        ),
    ] = None,
    task: Annotated[
        Task, typer.Option(help="auto: classification where the targets are text or a few whole numbers.")
    ] = Task.auto,
    loss: Annotated[
        LossName | None,
        typer.Option(
            help="For classes: cross-entropy, or the squared error of the probabilities. Default: cross-entropy for "
            "classes, squared for values."
        ),
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Examples at a time. Default: all, or as many as 64 MB allow; for lenet1 what a cache holds."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder, which must not exist. Default: runs/DATE-TIME-FLOW.", metavar="DIR"),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(min=1, help="How many processes on this machine share the examples and the processors."),
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the path of the run folder and nothing else.")] = False,
) -> None:
    """Train a network, full batch, and leave a run folder behind.

    The folder holds config.json, history.csv (one line for each accepted step), model.eqx and picture.png. Ctrl-C ends
    the run and keeps the best model so far (exit code 130); a second Ctrl-C ends the program at once. Exit code 2: an
    option or the data cannot be used, and nothing has been written; 1: the run failed, and the reason is in the table.
    """
    if processes > 1 and not is_member():
        raise typer.Exit(run_together(processes))
    if is_member():
        join()
    if dtype is Dtype.float64:
        # Before the first array is made. A library may not switch this on, a process of its own may.
        jax.config.update("jax_enable_x64", True)
    options = Options(
        flow=flow,
        scheme=scheme,
        controller=controller,
        model=model,
        hidden=hidden,
        dtype=dtype.value,
        seed=seed,
        max_steps=max_steps,
        target_loss=target_loss,
        gradient_norm=gradient_norm,
        time_limit=time_limit,
        data=data,
        task=task.value,
        loss=loss and loss.value,
        chunk_size=chunk_size,
    )
    with answering_ctrl_c("before the first step") as ctrl_c, messages():
        experiment = prepare(options)
        leads = jax.process_index() == 0
        folder = fresh_name(experiment) if out is None else out
        if leads:
            check_new(folder)
        if leads and not quiet:
            print_beginning(experiment)
        outcome = run_experiment(experiment, False if quiet else None, ctrl_c.after_block)
        if not leads:
            # Process 0 writes, prints, and says how the run ended.
            raise typer.Exit(0)
        with new_folder(folder) as unfinished:
            write_run(
                unfinished,
                record(experiment, outcome),
                outcome.predictor,
                outcome.history,
                title=f"{name_of(experiment.solver.flow)} on {experiment.description}",
            )
        if quiet:
            print(folder)
            if exit_code(outcome) == FAILED:
                err_console.print(f"odeopt: {reason(options, outcome.solution)}", soft_wrap=True, markup=False)
        else:
            out_console.print(summary(experiment, outcome))
            out_console.print(what_to_do_next(experiment, folder), soft_wrap=True, markup=False)
    raise typer.Exit(INTERRUPTED if ctrl_c.pressed else exit_code(outcome))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="The run folder that odeopt train wrote.", metavar="RUN")],
    data: Annotated[
        Path,
        typer.Option(
            help="FILE.npz with an array x (and y), FILE.csv with a header, where the target column may be missing, or "
            "the test images of a FOLDER with idx files or of fashion-mnist.",
            metavar="DATA",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The function that builds the model, for a run with one of your own (my_model.py:build)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the predictions here, not to stdout; must not exist.", metavar="FILE.csv")
    ] = None,
) -> None:
    """Predict with a trained model; where the file has targets, say how good the predictions are.

    The predictions are written as CSV, one line for each example: the class and the probabilities of all classes, or
    the predicted values. The scores are printed on stderr.
    """
    with messages():
        config = read_config(run)
        if config.get("network", {}).get("dtype") == "float64":
            jax.config.update("jax_enable_x64", True)
        predictor = load(run, None if model is None else function_in_file(model))
        arrays = examples(data, predictor, config["preprocessing"]["target_name"])
        targets = arrays.y
        if targets is not None:
            targets = fitting_targets(data, predictor, targets)
        header, rows = predictions(predictor, arrays.x)
        if out is None:
            write_csv(sys.stdout, header, rows)
        else:
            with new_file(out) as stream:
                write_csv(stream, header, rows)
            err_console.print(f"{len(arrays.x)} predictions are in {out}.", soft_wrap=True, markup=False)
    if targets is not None:
        for name, value in scores(predictor, arrays.x, targets).items():
            err_console.print(f"{SCORES[name][0]}: {SCORES[name][1].format(value)}")


@app.command()
def verify(
    flow: Annotated[
        str,
        typer.Argument(
            help="What to check: a flow of odeopt (heavy-ball, HeavyBall(friction=0.5), ...) or a class of your own "
            "(my_flow.py:MyFlow).",
            metavar="FLOW",
        ),
    ],
    scheme: Annotated[str | None, typer.Option(help="Default: what the flow recommends.")] = None,
    controller: Annotated[str | None, typer.Option(help="Default: what the flow recommends.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the report too: to FILE.md, with its pictures in FILE.png, or to report.md and report.png in a "
            "folder. Must not exist.",
            metavar="DIR_OR_FILE.md",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the verdict and nothing else.")] = False,
) -> None:
    """Check a declared flow: its energy, its order under the scheme, its steps, and what it claims to equal.

    All in float64, on built-in objectives. Exit code 0: everything holds; 1: a check failed, and says what is wrong;
    2: an option cannot be used, and nothing has been written; 130: interrupted with Ctrl-C.
    """
    with answering_ctrl_c("before the verdict") as ctrl_c, messages():
        if out is not None:
            check_new_report(out)
        # Constants that were rounded to single precision would not be those that were given.
        with jax.enable_x64(True):
            parts = named_parts(flow, scheme, controller)
            report = verification(*parts, None if quiet else telling(err_console))
        ctrl_c.after_block()
        if out is not None:
            write_report(report, out)
        if quiet:
            print(report.headline)
        else:
            out_console.print(report)
            if out is not None:
                out_console.print(f"\nThe report is in {out}.", soft_wrap=True, markup=False)
    raise typer.Exit(INTERRUPTED if ctrl_c.pressed else 0 if report.passed else FAILED)


def main() -> None:
    """The entry point `odeopt`."""
    try:
        app()
    finally:
        # Nothing is left to interrupt, and Python's own clean-up would answer with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
