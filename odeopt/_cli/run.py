"""What `odeopt train` and `odeopt resume` do with their options: train, write the run folder, say how it went."""

from collections.abc import Callable
from pathlib import Path

import jax
import typer

from .._checkpoint import Checkpoints, NotSavedError
from .._experiment import Experiment, OptionError, Options, Outcome, prepare, reason, record, train
from .._run_folder import check_new, new_folder, write_run
from .ctrl_c import answering_ctrl_c
from .messages import FAILED, INTERRUPTED, err_console, messages, out_console
from .processes import is_member, join
from .train import exit_code, fresh_name, name_of, print_beginning, summary, what_to_do_next
from .unfinished import EVERY, begin, begun, checkpoints_in, fill


def every_seconds(checkpoint: float | None, resume: bool, out: Path | None) -> float | None:
    """How often the run is saved, or `None`.

    **Raises:** `OptionError` for options that do not go together.
    """
    if checkpoint is not None and not 0 < checkpoint < float("inf"):
        raise OptionError(f"--checkpoint {checkpoint}: expected seconds > 0. Leave it out for no checkpoints.")
    if resume and out is None:
        raise OptionError("--resume: say which run is meant, --out DIR.")
    return EVERY if checkpoint is None and resume else checkpoint


def train_and_write(options: Options, out: Path | None, quiet: bool, every: float | None) -> None:
    """Train, and write the run folder.

    **Arguments:** `out`: the folder; `every`: seconds between two checkpoints, `None` for none.

    **Raises:** `typer.Exit` with the exit code of the command.
    """
    if is_member():
        join()
    if options.dtype == "float64":
        # Before the first array is made. A library may not switch this on, a process of its own may.
        jax.config.update("jax_enable_x64", True)
    with answering_ctrl_c("before the first step") as ctrl_c, messages():
        experiment = prepare(options)
        leads = jax.process_index() == 0
        folder = fresh_name(experiment) if out is None else out
        checkpoints = None if every is None else checkpoints_in(folder, every)
        if leads:
            _make_ready(folder, options, checkpoints)
        if leads and not quiet:
            print_beginning(experiment)
        outcome = _trained(experiment, quiet, ctrl_c.after_block, checkpoints)
        if not leads:
            # Process 0 writes, prints, and says how the run ended.
            raise typer.Exit(0)
        _write(folder, experiment, outcome, checkpoints is not None)
        _tell(folder, experiment, outcome, quiet)
    raise typer.Exit(INTERRUPTED if ctrl_c.pressed else exit_code(outcome))


def _make_ready(folder: Path, options: Options, checkpoints: Checkpoints | None) -> None:
    if checkpoints is None:
        check_new(folder)
    elif not begun(folder):
        begin(folder, options)


def _trained(
    experiment: Experiment, quiet: bool, after_block: Callable[[], bool], checkpoints: Checkpoints | None
) -> Outcome:
    try:
        return train(experiment, False if quiet else None, after_block, checkpoints)
    except NotSavedError as error:
        raise OptionError(f"{error} Free some space, and write odeopt resume.") from error


def _write(folder: Path, experiment: Experiment, outcome: Outcome, is_there: bool) -> None:
    def write(unfinished: Path) -> None:
        title = f"{name_of(experiment.solver.flow)} on {experiment.description}"
        write_run(unfinished, record(experiment, outcome), outcome.predictor, outcome.history, title=title)

    if is_there:
        fill(folder, write)
        return
    with new_folder(folder) as unfinished:
        write(unfinished)


def _tell(folder: Path, experiment: Experiment, outcome: Outcome, quiet: bool) -> None:
    if not quiet:
        out_console.print(summary(experiment, outcome))
        out_console.print(what_to_do_next(experiment, folder), soft_wrap=True, markup=False)
        return
    print(folder)
    if exit_code(outcome) == FAILED:
        text = f"odeopt: {reason(experiment.options, outcome.solution)}"
        err_console.print(text, soft_wrap=True, markup=False)
