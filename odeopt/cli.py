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
from ._cli.processes import is_member, run_together
from ._cli.run import every_seconds, train_and_write
from ._cli.unfinished import EVERY, begun, check_same, read_options, with_ends
from ._cli.verify import check_new_report, telling, verification, write_report
from ._experiment import Options, named_parts
from ._losses import CROSS_ENTROPY, SQUARED
from ._named import function_in_file
from ._predictor import scores
from ._run_folder import load, read_config

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
        str | None,
        typer.Option(
            help="The optimizer: a flow of odeopt (heavy-ball, HeavyBall(friction=0.5), ...) or a class of your own "
            "(my_flow.py:MyFlow). Default: Adam, and with --batch ScheduleFreeAdam."
        ),
    ] = None,
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
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train on mini-batches of so many examples, with an energy that is measured on a fixed part of the "
            "data. Default: all examples at every step.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder, which must not exist. Default: runs/DATE-TIME-FLOW.", metavar="DIR"),
    ] = None,
    checkpoint: Annotated[
        float | None,
        typer.Option(
            help="Save the run so often, in seconds, in its folder; odeopt resume DIR goes on from there.",
            metavar="SECONDS",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --out if there is one, and begin it otherwise; it is saved too."
        ),
    ] = False,
    processes: Annotated[
        int,
        typer.Option(min=1, help="How many processes on this machine share the examples and the processors."),
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the path of the run folder and nothing else.")] = False,
) -> None:
    """Train a network, full batch or on mini-batches, and leave a run folder behind.

    The folder holds config.json, history.csv (one line for each accepted step), model.eqx and picture.png. Ctrl-C ends
    the run and keeps the best model so far (exit code 130); a second Ctrl-C ends the program at once. Exit code 2: an
    option or the data cannot be used, and nothing has been written; 1: the run failed, and the reason is in the table.
    """
    if processes > 1 and not is_member():
        raise typer.Exit(run_together(processes))
    options = Options(
        flow=("Adam" if batch is None else "ScheduleFreeAdam") if flow is None else flow,
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
        batch=batch,
    )
    with messages():
        every = every_seconds(checkpoint, resume, out)
        if resume and out is not None and begun(out):
            check_same(out, read_options(out), options)
    train_and_write(options, out, quiet, every)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run that was begun with --checkpoint.", metavar="DIR")],
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="The largest number of trial steps, those before included.")
    ] = None,
    target_loss: Annotated[float | None, typer.Option(help="Stop at this loss.")] = None,
    gradient_norm: Annotated[float | None, typer.Option(help="Stop at this norm of the gradient; 0: never.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Stop after so many seconds, those before included.")] = None,
    checkpoint: Annotated[float, typer.Option(help="Save the run so often, in seconds.", metavar="SECONDS")] = EVERY,
    processes: Annotated[
        int,
        typer.Option(min=1, help="How many processes on this machine share the examples and the processors."),
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the path of the run folder and nothing else.")] = False,
) -> None:
    """Go on with a run that was saved, where its newest checkpoint stands: the same run, bit for bit.

    A run that has been interrupted or killed goes on; one that has come to its end goes on if it is given another one
    (--max-steps, --time-limit). The files in its folder are written anew.
    """
    if processes > 1 and not is_member():
        raise typer.Exit(run_together(processes))
    ends = {
        "max_steps": max_steps,
        "target_loss": target_loss,
        "gradient_norm": gradient_norm,
        "time_limit": time_limit,
    }
    with messages():
        options = with_ends(read_options(run), ends)
        every = every_seconds(checkpoint, True, run)
    train_and_write(options, run, quiet, every)


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
