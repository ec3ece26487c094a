"""The folder that a training run leaves behind: config.json, history.csv, model.eqx, picture.png.

It holds data and no code: nothing in it is executed when it is loaded.
"""

import csv
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._architecture import Architecture, architecture_of, built
from ._data import Preprocessing
from ._minibatch import COLUMNS as BATCH_COLUMNS
from ._minibatch import BatchHistory
from ._predictor import Predictor
from ._record import COLUMNS
from ._solution import History

CONFIG, HISTORY, MODEL, PICTURE = "config.json", "history.csv", "model.eqx", "picture.png"
# Raised when a folder of an older version can no longer be read.
FORMAT = 1


class RunFolderError(ValueError):
    """A run folder that cannot be written or read; the message names the file."""


def load(run: str | os.PathLike[str], build: Callable | None = None) -> Predictor:
    """The trained model of a run folder, as written by `odeopt train`.

    A model that was trained in float64 is computed in float32, with a warning, unless JAX's double precision is
    switched on (`jax.config.update("jax_enable_x64", True)`).

    **Arguments:** `run`: the folder; `build`: for a model of one's own (`odeopt train --model my_model.py:build`) the
    function that builds it. It is asked for, because a folder with data must not run code.

    **Returns:** a `Predictor`: `predictor(x)` works on raw inputs and gives the probabilities of the classes, or the
    predicted values; `predictor.labels(x)` the most probable classes.

    **Raises:** `ValueError` that names the file if the folder or a file is missing or damaged.

    !!! example

        ```python
        predictor = odeopt.load("runs/digits")
        digit = predictor.labels(image.reshape(64))
        ```
    """
    folder = Path(run)
    config = read_config(folder)
    try:
        architecture = architecture_of(config["network"])
        preprocessing = _preprocessing(config["preprocessing"], architecture.inputs)
        dtype = np.dtype(architecture.dtype)
        if (architecture.inputs, architecture.outputs) != (preprocessing.input_mean.size, preprocessing.outputs):
            raise ValueError("network and preprocessing do not fit together")
        _check_build(folder, architecture, build)
        drawn, frozen = eqx.partition(built(architecture, build, jnp.float32, seed=0), eqx.is_array)
    except RunFolderError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if build is not None:
            raise RunFolderError(f"{folder} cannot be loaded with this build: {error}") from error
        raise RunFolderError(
            f"{folder / CONFIG} does not describe a model ({type(error).__name__}: {error}). Restore the file, or "
            "train again with odeopt train."
        ) from error
    # NumPy leaves: they are read in their own precision, whatever JAX is set to.
    expected = jax.tree.map(lambda leaf: np.zeros(leaf.shape, _stored(leaf.dtype, dtype)), drawn)
    try:
        arrays = eqx.tree_deserialise_leaves(_existing(folder, MODEL), expected)
    except RunFolderError:
        raise
    except Exception as error:  # damaged bytes raise errors of any kind
        own = "" if build is None else f", or {architecture.model} builds another model than in that run"
        raise RunFolderError(
            f"{folder / MODEL} is damaged or belongs to another run{own} ({type(error).__name__}: {error}). Restore "
            "the file, or train again with odeopt train."
        ) from error
    if dtype == np.float64 and jnp.result_type(float) != np.float64:
        warnings.warn(
            f"{folder} was trained in float64 and is computed in float32, because JAX's double precision is off; "
            'switch it on first with jax.config.update("jax_enable_x64", True).',
            stacklevel=2,
        )
    return Predictor(eqx.combine(jax.tree.map(jnp.asarray, arrays), frozen), preprocessing)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json`.

    **Raises:** `RunFolderError` if the folder or the file is missing or damaged.
    """
    if not folder.is_dir():
        raise RunFolderError(
            f"{folder} is no folder; expected a run folder as written by odeopt train. Check the path."
        )
    file = _existing(folder, CONFIG)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        form = config["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{file} is damaged ({type(error).__name__}: {error}). Restore the file, or train again with odeopt train."
        ) from error
    if form != FORMAT:
        raise RunFolderError(
            f"{file} has format {form!r}; this version of odeopt reads format {FORMAT}. Use the version that wrote it "
            f"({config.get('versions', {}).get('odeopt', 'not recorded')})."
        )
    return config


def config_of(architecture: Architecture, preprocessing: Preprocessing) -> dict[str, Any]:
    """The part of `config.json` that a model is rebuilt from."""
    return {
        "format": FORMAT,
        "task": preprocessing.task,
        "network": architecture.config(),
        "preprocessing": {
            "input_mean": _short(preprocessing.input_mean),
            "input_scale": _short(preprocessing.input_scale),
            "target_mean": _as_list(preprocessing.target_mean),
            "target_scale": _as_list(preprocessing.target_scale),
            "classes": _as_list(preprocessing.classes),
            "scalar_target": preprocessing.scalar_target,
            "input_names": _as_list(preprocessing.input_names),
            "target_name": preprocessing.target_name,
            "image_shape": _as_list(preprocessing.image_shape),
        },
    }


def check_new(folder: Path) -> None:
    """Make sure, before a run, that it can be written to `folder`; nothing stays behind.

    **Raises:** as `new_folder`.
    """
    _remove(*_begin(folder))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name when the block ends well, and vanishes otherwise.

    **Raises:** `RunFolderError` if something of that name exists, or the place is not writable.
    """
    unfinished, above = _begin(folder)
    try:
        yield unfinished
        if folder.exists():
            raise RunFolderError(f"{folder} has come into being during the run. Choose another name for --out.")
        unfinished.rename(folder)
    except BaseException:
        _remove(unfinished, above)
        raise


def _begin(folder: Path) -> tuple[Path, list[Path]]:
    """A new folder beside the final one, and the parents that are made for it, innermost first."""
    if folder.exists() or folder.is_symlink():
        raise RunFolderError(f"{folder} exists already, and nothing in it is touched. Choose another name for --out.")
    above = [parent for parent in (folder.parent, *folder.parent.parents) if not parent.exists()]
    unfinished = folder.parent / f".{folder.name}.{os.getpid()}.unfinished"
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be created ({error}). Choose another place with --out.") from error
    return unfinished, above


def _remove(unfinished: Path, above: list[Path]) -> None:
    """Take away what `_begin` has made."""
    shutil.rmtree(unfinished, ignore_errors=True)
    for parent in above:
        # Refused by the system where somebody else has put something there meanwhile.
        with suppress(OSError):
            parent.rmdir()


def write_run(
    folder: Path, config: dict[str, Any], predictor: Predictor, history: History | BatchHistory, title: str
) -> None:
    """All files of a run."""
    from . import plot

    (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    write_history(folder / HISTORY, history)
    eqx.tree_serialise_leaves(folder / MODEL, eqx.filter(predictor.network, eqx.is_array))
    picture = plot.run(history, title=title) if isinstance(history, History) else plot.windows(history, title=title)
    picture.savefig(folder / PICTURE, dpi=150)


def write_history(file: Path, history: History | BatchHistory) -> None:
    """One line for each accepted step, in full precision; of mini-batches one for each window."""
    if isinstance(history, BatchHistory):
        _write_windows(file, history)
        return
    columns = [np.asarray(getattr(history, name)).tolist() for name in COLUMNS]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("step", *COLUMNS))
        for step, row in enumerate(zip(*columns, strict=True), start=1):
            # repr of a float has as many digits as are needed to get the same float back.
            writer.writerow(
                (step, *(int(x) if name == "rejections" else repr(x) for name, x in zip(COLUMNS, row, strict=True)))
            )


def _write_windows(file: Path, history: BatchHistory) -> None:
    columns = [getattr(history, name).tolist() for name in BATCH_COLUMNS]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(BATCH_COLUMNS)
        for steps, *numbers, kept in zip(*columns, strict=True):
            writer.writerow((steps, *map(repr, numbers), int(kept)))


def _check_build(folder: Path, architecture: Architecture, build: Callable | None) -> None:
    """**Raises:** `RunFolderError` for a model of one's own without its function, or a function without need."""
    if architecture.is_own and build is None:
        raise RunFolderError(
            f"{folder} was trained with the model {architecture.model}, and nothing is run because a folder says so. "
            f"Pass the function: odeopt.load({str(folder)!r}, build=build), or --model {architecture.model} to odeopt "
            "predict."
        )
    if build is not None and not architecture.is_own:
        raise RunFolderError(f"{folder} holds a network {architecture.describe()}, which needs no build. Leave it out.")


def _stored(own: np.dtype, trained: np.dtype) -> np.dtype:
    """The type in which `model.eqx` holds an array of a network."""
    return trained if jnp.issubdtype(own, jnp.floating) else own


def _preprocessing(config: dict[str, Any], inputs: int) -> Preprocessing:
    classes, names, image_shape = config["classes"], config["input_names"], config.get("image_shape")
    numbers = {
        name: None if config[name] is None else np.asarray(config[name], np.float64)
        for name in ("input_mean", "input_scale", "target_mean", "target_scale")
    }
    if numbers["input_mean"] is None or (classes is None) == (numbers["target_mean"] is None):
        raise ValueError("the preprocessing is incomplete")
    numbers |= {
        name: np.full(inputs, value)
        for name, value in numbers.items()
        if name.startswith("input") and value is not None and value.ndim == 0
    }
    return Preprocessing(
        **numbers,  # pyright: ignore[reportArgumentType]
        classes=None if classes is None else tuple(classes),
        scalar_target=bool(config["scalar_target"]),
        input_names=None if names is None else tuple(names),
        target_name=config["target_name"],
        image_shape=None if image_shape is None else (int(image_shape[0]), int(image_shape[1])),
    )


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise RunFolderError(
            f"{folder / name} is missing; a run folder holds {CONFIG}, {HISTORY}, {MODEL} and {PICTURE}. Restore the "
            "file, or train again with odeopt train."
        )
    return folder / name


def _as_list(values) -> list | None:
    return None if values is None else np.asarray(values).tolist() if isinstance(values, np.ndarray) else list(values)


def _short(numbers: np.ndarray) -> list | float:
    """The numbers, or the one that all of them are."""
    return float(numbers[0]) if numbers.size > 1 and np.all(numbers == numbers[0]) else numbers.tolist()
