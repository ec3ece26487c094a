"""What `odeopt predict` computes and writes."""

import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from .._data import labels_like
from .._images import is_images, load_images
from .._predictor import Predictor
from .._run_folder import RunFolderError
from .._table import Arrays, DataError, read_prediction_file

# Names and formats of scores, as they are printed.
SCORES = {"accuracy": ("accuracy", "{:.4f}"), "rmse": ("RMSE", "{:.6g}"), "r2": ("R2", "{:.4f}")}


def examples(data: Path, predictor: Predictor, target: str | None) -> Arrays:
    """What is to be predicted: of a file all examples, of a data set of images those to test.

    **Arguments:** `target`: the target's column in the training file.

    **Raises:** `DataError` if it cannot be read or does not fit the model.
    """
    inputs = predictor.input_mean.size
    if not is_images(data):
        return read_prediction_file(data, inputs, predictor.input_names, target, predictor.image_shape)
    x, y = load_images(data)[1]
    if math.prod(x.shape[1:]) != inputs:
        raise DataError(f"{data}: the images have the shape {x.shape[1:]}, but the model takes {inputs} inputs.")
    return Arrays(x.reshape(len(x), inputs), y)


def fitting_targets(file: Path, predictor: Predictor, y: np.ndarray) -> np.ndarray:
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


def predictions(predictor: Predictor, x: np.ndarray) -> tuple[list[str], list[list]]:
    """Header and rows of the predictions."""
    answers = np.asarray(predictor(x))
    if predictor.classes is not None:
        labels = predictor.labels(x).tolist()
        header = ["prediction", *(f"probability {name}" for name in predictor.classes)]
        return header, [[label, *row] for label, row in zip(labels, answers.tolist(), strict=True)]
    if predictor.scalar_target:
        return ["prediction"], [[value] for value in answers.tolist()]
    return [f"prediction {number}" for number in range(answers.shape[1])], answers.tolist()


def write_csv(stream: TextIO, header: list[str], rows: list[list]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)


@contextmanager
def new_file(file: Path) -> Iterator[TextIO]:
    """A text file that must not exist yet."""
    try:
        stream = file.open("x", encoding="utf-8", newline="")
    except FileExistsError as error:
        raise RunFolderError(f"{file} exists already, and is not touched. Choose another name for --out.") from error
    except OSError as error:
        raise RunFolderError(f"{file} cannot be written ({error}). Choose another place with --out.") from error
    with stream:
        yield stream
