"""A run folder that is there before its run has ended: the options that it was begun with, and its checkpoints."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from .._checkpoint import Checkpoints
from .._experiment import OptionError, Options
from .._run_folder import RunFolderError, check_new, new_folder

OPTIONS, CHECKPOINTS = "options.json", "checkpoints"
# Seconds between two checkpoints where the user says nothing: a minute of work is what a crash may cost.
EVERY = 60.0
# What may be another when a run is taken up again: when it ends, and nothing of what it computes.
ENDS = ("max_steps", "target_loss", "gradient_norm", "time_limit")


def checkpoints_in(folder: Path, seconds: float) -> Checkpoints:
    """Where a run in `folder` is saved."""
    return Checkpoints(folder / CHECKPOINTS, every_seconds=seconds)


def begun(folder: Path) -> bool:
    """Whether a run has been begun in `folder`."""
    return (folder / OPTIONS).is_file()


def begin(folder: Path, options: Options) -> None:
    """Make the folder, with the options in it.

    **Raises:** `RunFolderError` if something of that name exists, or the place is not writable.
    """
    check_new(folder)
    stored = asdict(options) | {"data": options.data and str(_findable(options.data))}
    with new_folder(folder) as unfinished:
        (unfinished / OPTIONS).write_text(json.dumps(stored, indent=1), encoding="utf-8")


def _findable(data: Path) -> Path:
    """A path that holds wherever the run is taken up; fashion-mnist is a word."""
    return data.absolute() if data.exists() else data


def read_options(folder: Path) -> Options:
    """The options that a run was begun with.

    **Raises:** `RunFolderError` if `folder` holds no run that can be taken up.
    """
    if not begun(folder):
        raise RunFolderError(
            f"{folder} holds no run that can be taken up: {OPTIONS} is missing. Runs are saved where odeopt train was "
            "begun with --checkpoint or --resume."
        )
    try:
        stored: dict[str, Any] = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
        names = {field.name for field in fields(Options)}
        if set(stored) != names:
            raise ValueError(f"it names {sorted(set(stored) ^ names)} otherwise")
        stored["data"] = stored["data"] and Path(stored["data"])
        return Options(**stored)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(
            f"{folder / OPTIONS} is damaged or from another version ({type(error).__name__}: {error}). Restore the "
            "file, or train again with odeopt train."
        ) from error


def with_ends(options: Options, given: dict[str, Any]) -> Options:
    """The options with another end where one is given."""
    return replace(options, **{name: value for name, value in given.items() if value is not None})


def check_same(folder: Path, begun_with: Options, given: Options) -> None:
    """**Raises:** `OptionError` that names the first option that is not what the run was begun with."""
    for field in fields(Options):
        before, now = getattr(begun_with, field.name), getattr(given, field.name)
        if field.name == "data" and now is not None:
            now = _findable(now)
        if field.name not in ENDS and before != now:
            option = field.name.replace("_", "-")
            raise OptionError(
                f"--{option} {now}: the run in {folder} was begun with {before}. Give the same, leave --resume out, "
                f"or write odeopt resume {folder}."
            )


def fill(folder: Path, write: Callable[[Path], None]) -> None:
    """Write the files of a run into its folder: each one takes its place when all are complete."""
    unfinished = folder / f".{os.getpid()}.unfinished"
    try:
        unfinished.mkdir()
        write(unfinished)
        for file in unfinished.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
