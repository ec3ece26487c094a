"""From a data file to what a network is trained on: the task, the split, and the numbers of the preprocessing."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._images import load_images
from ._networks import WHITE
from ._table import Arrays, DataError, read_training_file

CLASSIFICATION = "classification"
REGRESSION = "regression"

# Whole numbers are taken for classes if there are at most so many different ones ...
MOST_CLASSES = 20
# ... and each stands for at least so many examples on average.
EXAMPLES_PER_CLASS = 2
# The part of a file without a test set that is kept for testing, and the least number of examples for that.
TEST_PART = 0.2
LEAST_EXAMPLES = 5
# Rows of the digits that are trained on; the other 397 test.
DIGITS_TRAINED = 1400
DIGITS_MAXIMUM = 16.0


@dataclass(frozen=True)
class Preprocessing:
    """The numbers that turn raw inputs into those of the network, and its outputs into answers.

    **Attributes:** `input_mean`, `input_scale`: inputs enter as `(x - mean) / scale`; `target_mean`, `target_scale`:
    outputs leave as `mean + scale * y` (regression); `classes`: what the outputs stand for (classification);
    `scalar_target`: whether a target is one number; `input_names`, `target_name`: columns of the training file;
    `image_shape`: rows and columns, where the inputs are the pixels of images.
    """

    input_mean: np.ndarray
    input_scale: np.ndarray
    target_mean: np.ndarray | None = None
    target_scale: np.ndarray | None = None
    classes: tuple[int | str, ...] | None = None
    scalar_target: bool = True
    input_names: tuple[str, ...] | None = None
    target_name: str | None = None
    image_shape: tuple[int, int] | None = None

    @property
    def task(self) -> str:
        return REGRESSION if self.classes is None else CLASSIFICATION

    @property
    def outputs(self) -> int:
        """How many outputs the network has."""
        if self.classes is not None:
            return len(self.classes)
        assert self.target_mean is not None
        return self.target_mean.size

    def inputs(self, x: np.ndarray, dtype) -> np.ndarray:
        """Raw inputs as the network takes them."""
        return ((x - self.input_mean) / self.input_scale).astype(dtype)

    def targets(self, y: np.ndarray, dtype) -> np.ndarray:
        """Raw targets as the loss takes them: class numbers, or standardised values of shape `(N, outputs)`."""
        if self.classes is not None:
            return np.searchsorted(np.asarray(self.classes), y).astype(np.int32)
        assert self.target_mean is not None
        assert self.target_scale is not None
        return ((y.reshape(len(y), -1) - self.target_mean) / self.target_scale).astype(dtype)


@dataclass(frozen=True)
class DataSet:
    """Raw examples for training and testing, with the preprocessing that belongs to them."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    preprocessing: Preprocessing


def digits() -> DataSet:
    """Handwritten digits of 8 by 8 pixels (Alpaydin and Kaynak, 1998): 1400 to train on, 397 to test.

    **Raises:** `DataError` if scikit-learn, which brings them along, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(
            "The handwritten digits come with scikit-learn, which is not installed. Install it with "
            "pip install 'odeopt[data]', or name a data file with --data."
        ) from error
    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))
    train, test = order[:DIGITS_TRAINED], order[DIGITS_TRAINED:]
    pixels = x.shape[1]
    preprocessing = Preprocessing(
        input_mean=np.zeros(pixels), input_scale=np.full(pixels, DIGITS_MAXIMUM), classes=tuple(range(10))
    )
    return DataSet(x[train], y[train], x[test], y[test], preprocessing)


def images(source: Path) -> DataSet:
    """A data set of images, whose pixels stay unsigned bytes and enter the network between 0 and 1.

    **Raises:** `DataError` if it cannot be read, or a label of the test set is none of the training set.
    """
    (x, y), (x_test, y_test) = load_images(source)
    shape = x.shape[1:]
    pixels = math.prod(shape)
    classes = _classes(source, y)
    check_classes(source, "the test set", y_test, classes)
    preprocessing = Preprocessing(
        np.zeros(pixels), np.full(pixels, float(WHITE)), classes=classes, image_shape=(shape[0], shape[1])
    )
    return DataSet(x.reshape(-1, pixels), y, x_test.reshape(-1, pixels), y_test, preprocessing)


def check_classes(file: Path, name: str, y: np.ndarray, classes: tuple[int | str, ...]) -> None:
    """**Raises:** `DataError` for a label that is none of the classes, with its place; `name`: of the labels."""
    unknown = np.flatnonzero(~np.isin(y, classes))
    if unknown.size:
        first = int(unknown[0])
        raise DataError(
            f"{file}: {name} holds {unknown.size} label{'s' if unknown.size > 1 else ''} that no training example has, "
            f"the first at example {first} (counted from 0): {y[first].item()!r}; the classes are "
            f"{', '.join(map(str, classes[:12]))}. Correct the labels, or add training examples of that class."
        )


def load_data(file: Path, task: str, seed: int) -> DataSet:
    """The data set of a file, split and ready to be trained on.

    **Arguments:** `task`: `"auto"`, `"classification"` or `"regression"`; `seed`: of the split, where the file brings
    no test set.

    **Raises:** `DataError` if the file cannot be used, or not for this task.
    """
    arrays = read_training_file(file)
    assert arrays.y is not None
    if task == "auto":
        task = guess_task(arrays.y)
    arrays = _as_labels(file, arrays) if task == CLASSIFICATION else _as_values(file, arrays)
    x, y, x_test, y_test = _split(file, arrays, seed)
    if task == CLASSIFICATION:
        preprocessing = _standardised(file, arrays, x, classes=_classes(file, np.concatenate([y, y_test])))
    else:
        columns = y.reshape(len(y), -1)
        mean, scale = _mean_and_scale(file, "targets", columns)
        preprocessing = _standardised(file, arrays, x, target_mean=mean, target_scale=scale, scalar_target=y.ndim == 1)
    return DataSet(x, y, x_test, y_test, preprocessing)


def guess_task(y: np.ndarray) -> str:
    """Classification for text and for a few whole numbers that repeat; otherwise regression."""
    if y.dtype.kind == "U":
        return CLASSIFICATION
    if y.ndim > 1 or not _whole(y):
        return REGRESSION
    different = len(np.unique(y))
    few = different <= MOST_CLASSES and different * EXAMPLES_PER_CLASS <= len(y)
    return CLASSIFICATION if few else REGRESSION


def labels_like(file: Path, y: np.ndarray, classes: tuple[int | str, ...]) -> np.ndarray:
    """The targets of a file to predict as labels of the kind that the model was trained with.

    **Raises:** `DataError` if they are of another kind, or if one of them is no class of the model.
    """
    if isinstance(classes[0], str):
        labels = y if y.dtype.kind == "U" else np.asarray([f"{value:g}" for value in y])
    elif y.ndim > 1 or y.dtype.kind == "U" or not _whole(y):
        raise DataError(
            f"{file}: the targets are not whole numbers, but the classes of the model are {_named_classes(classes)}. "
            "Leave the targets out, or write them as in the training file."
        )
    else:
        labels = y.astype(np.int64)
    unknown = np.setdiff1d(labels, np.asarray(classes))
    if unknown.size:
        first = int(np.argmax(labels == unknown[0]))
        raise DataError(
            f"{file}: the target of example {first} (counted from 0) is {unknown[0].item()!r}, which is no class "
            f"of the model; its classes are {_named_classes(classes)}. Correct the targets, or leave them out."
        )
    return labels


def _named_classes(classes: tuple[int | str, ...]) -> str:
    return ", ".join(map(str, classes[:12])) + (", ..." if len(classes) > 12 else "")


def _whole(y: np.ndarray) -> bool:
    return bool(np.all(y == np.round(y)) and np.all(np.abs(y) < 2**53))


def _as_labels(file: Path, arrays: Arrays) -> Arrays:
    """The arrays with targets that are text or whole numbers."""

    def labels(y: np.ndarray | None) -> np.ndarray | None:
        if y is None or (y.ndim == 1 and y.dtype.kind == "U"):
            return y
        if y.ndim > 1:
            raise DataError(
                f"{file}: the targets (shape {y.shape}) are not labels; classification expects one whole number or "
                "text for each example. Use --task regression, or write labels."
            )
        if not _whole(y):
            first = int(np.flatnonzero((y != np.round(y)) | (np.abs(y) >= 2**53))[0])
            raise DataError(
                f"{file}: the target of example {first} (counted from 0) is {y[first].item()!r} and not a label; "
                "classification expects one whole number or text for each example. Use --task regression, or write "
                "labels."
            )
        return y.astype(np.int64)

    y, y_test = labels(arrays.y), labels(arrays.y_test)
    if y is not None and y_test is not None and y.dtype.kind != y_test.dtype.kind:
        raise DataError(f"{file}: y holds {y.dtype} and y_test {y_test.dtype}; expected labels of one kind.")
    if y is not None and y_test is not None:
        check_classes(file, "y_test", y_test, _classes(file, y))
    return Arrays(arrays.x, y, arrays.x_test, y_test, arrays.input_names, arrays.target_name)


def _as_values(file: Path, arrays: Arrays) -> Arrays:
    for y in (arrays.y, arrays.y_test):
        if y is not None and y.dtype.kind == "U":
            example = next((value for value in y.ravel() if not _parses(value)), y.ravel()[0])
            raise DataError(
                f"{file}: the targets hold text such as {str(example)!r}; regression expects numbers. Use --task "
                "classification, or write numbers."
            )
    return arrays


def _parses(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _classes(file: Path, y: np.ndarray) -> tuple[int | str, ...]:
    classes = tuple(np.unique(y).tolist())
    if len(classes) == 1:
        raise DataError(
            f"{file}: all targets are {classes[0]!r}; classification needs at least two classes. Add examples of "
            "another class, or check that the last column is the target."
        )
    return classes


def _split(file: Path, arrays: Arrays, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The test set of the file, or a fifth of the examples, drawn at random."""
    assert arrays.y is not None
    if arrays.x_test is not None and arrays.y_test is not None:
        return arrays.x, arrays.y, arrays.x_test, arrays.y_test
    examples = len(arrays.x)
    if examples < LEAST_EXAMPLES:
        raise DataError(
            f"{file} holds {examples} example{'s' if examples > 1 else ''}; expected at least {LEAST_EXAMPLES}, "
            "because a fifth is kept for testing. Add examples, or (in an .npz file) bring x_test and y_test."
        )
    order = np.random.default_rng(seed).permutation(examples)
    tested = round(TEST_PART * examples)
    test, train = order[:tested], order[tested:]
    return arrays.x[train], arrays.y[train], arrays.x[test], arrays.y[test]


def _standardised(file: Path, arrays: Arrays, x: np.ndarray, **target) -> Preprocessing:
    mean, scale = _mean_and_scale(file, "inputs", x)
    return Preprocessing(mean, scale, input_names=arrays.input_names, target_name=arrays.target_name, **target)


def _mean_and_scale(file: Path, name: str, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = np.mean(columns, axis=0), np.std(columns, axis=0)
    if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(deviation))):
        raise DataError(f"{file}: the {name} are too large to be standardised in float64. Write them in another unit.")
    # A constant column carries nothing: it becomes zero, up to the rounding of its mean, instead of 0/0.
    constant = deviation <= 1e-12 * np.abs(mean)
    return mean, np.where(constant | (deviation == 0), 1.0, deviation)
