"""Reading data files: nothing is guessed, and what cannot be read is said with its place in the file."""

import csv
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Cells that stand for a missing value.
MISSING = ("", "na", "n/a", "nan", "null")


class DataError(ValueError):
    """A data file that cannot be used; the message says what was given, what is expected and what to do."""


@dataclass(frozen=True)
class Arrays:
    """The content of a data file.

    **Attributes:** `x`: float64, shape `(examples, inputs)`; `y`: the targets along the same axis, or `None`; `x_test`,
    `y_test`: the same for a test set that the file brings along; `input_names`, `target_name`: the header of a CSV
    file, otherwise `None`.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    input_names: tuple[str, ...] | None = None
    target_name: str | None = None


@dataclass(frozen=True)
class Table:
    """A CSV file as text: its name, the header, and the cells, each row with the number of its line."""

    file: Path
    header: tuple[str, ...]
    rows: list[tuple[int, list[str]]]


def read_training_file(file: Path) -> Arrays:
    """Inputs and targets: arrays `x` and `y` of an `.npz` file, or a CSV file whose last column is the target.

    **Raises:** `DataError` if the file cannot be used.
    """
    if _kind(file) == ".npz":
        return read_npz(file, needs_targets=True)
    table = read_csv(file)
    if len(table.header) == 1:
        raise DataError(
            f"{file} has one column, {_listed(table.header)}; expected the inputs and, as the last column, the target, "
            "separated by commas. Save the table with commas between its columns."
        )
    inputs = range(len(table.header) - 1)
    return Arrays(
        x=_numbers(table, inputs),
        y=_targets(table, len(table.header) - 1),
        input_names=table.header[:-1],
        target_name=table.header[-1],
    )


def read_prediction_file(
    file: Path,
    inputs: int,
    names: tuple[str, ...] | None,
    target: str | None,
    image_shape: tuple[int, int] | None = None,
) -> Arrays:
    """Inputs for a trained model, and the targets where the file has them.

    **Arguments:** `inputs`: how many inputs the model takes; `names`, `target`: their columns in the training file if
    that was a CSV file; columns are then found by name, in any order; `image_shape`: rows and columns of images, which
    an `.npz` file may hold as such.

    **Raises:** `DataError` if the file cannot be used or does not fit the model.
    """
    if _kind(file) == ".npz":
        arrays = read_npz(file, needs_targets=False, image_shape=image_shape)
        if arrays.x.shape[1] != inputs:
            raise DataError(
                f"{file}: x has shape {arrays.x.shape}, but the model takes {inputs} inputs; expected {inputs} columns."
            )
        return arrays
    table = read_csv(file)
    if names is None:
        if len(table.header) not in (inputs, inputs + 1):
            raise DataError(
                f"{file} has {len(table.header)} columns, but the model takes {inputs} inputs; expected {inputs} "
                "columns, or one more with the target as the last."
            )
        columns = list(range(inputs))
        target_column = inputs if len(table.header) > inputs else None
    else:
        absent = [name for name in names if name not in table.header]
        if absent:
            raise DataError(
                f"{file} lacks the column {absent[0]!r}; the model was trained on {_listed(names)} and the file has "
                f"{_listed(table.header)}. Name the columns as in the training file."
            )
        columns = [table.header.index(name) for name in names]
        target_column = table.header.index(target) if target in table.header else None
    return Arrays(
        x=_numbers(table, columns),
        y=None if target_column is None else _targets(table, target_column),
        input_names=tuple(table.header[column] for column in columns),
        target_name=None if target_column is None else table.header[target_column],
    )


def read_npz(file: Path, needs_targets: bool, image_shape: tuple[int, int] | None = None) -> Arrays:
    """The arrays `x`, `y`, `x_test` and `y_test` of an `.npz` file.

    **Raises:** `DataError` if the file cannot be read, an array is missing or the shapes do not fit.
    """
    if not zipfile.is_zipfile(file):
        raise DataError(
            f"{file} is no .npz archive, whatever its name says. Write it with numpy.savez(file, x=inputs, y=targets)."
        )
    try:
        # Pickled objects could run code on loading.
        with np.load(file, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive raises errors of half a dozen kinds
        # NumPy's own advice is to allow pickles.
        reason = "an array holds Python objects" if "allow_pickle" in str(error) else str(error)
        raise DataError(
            f"{file} cannot be read as an .npz file of plain arrays ({reason}). Write it with "
            "numpy.savez(file, x=inputs, y=targets), without arrays of objects."
        ) from error
    needed = ("x", "y") if needs_targets else ("x",)
    for name in needed:
        if name not in content:
            raise DataError(
                f"{file} holds {_listed(tuple(content)) or 'no arrays'}; expected arrays named x (inputs) and y "
                f"(targets), and {name} is missing. Write it with numpy.savez(file, x=inputs, y=targets)."
            )
    if ("x_test" in content) != ("y_test" in content):
        raise DataError(f"{file} holds only one of x_test and y_test; expected both, or neither.")
    if image_shape is not None and content["x"].shape[1:] == image_shape:
        content["x"] = content["x"].reshape(len(content["x"]), -1)
    x = _inputs_of(file, "x", content)
    if "y" not in content:
        return Arrays(x)
    y = _targets_of(file, "y", content, x)
    if not needs_targets or "x_test" not in content:
        return Arrays(x, y)
    x_test = _inputs_of(file, "x_test", content)
    y_test = _targets_of(file, "y_test", content, x_test)
    if x.shape[1:] != x_test.shape[1:] or y.shape[1:] != y_test.shape[1:]:
        raise DataError(
            f"{file}: x and x_test have shapes {x.shape} and {x_test.shape}, y and y_test {y.shape} and "
            f"{y_test.shape}; expected the same shapes behind the leading axis."
        )
    return Arrays(x, y, x_test, y_test)


def read_csv(file: Path) -> Table:
    """A CSV file: a header line, then rows of as many cells.

    **Raises:** `DataError` if the file cannot be read or is no such table.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first name.
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{file} cannot be read as a CSV file ({error}). Save it as text in UTF-8, with commas between columns."
        ) from error
    if not lines:
        raise DataError(f"{file} is empty; expected a header line with the names of the columns, then the examples.")
    (_, header), rows = lines[0], lines[1:]
    if _looks_like_an_example(header, [cells for _, cells in rows]):
        raise DataError(
            f"{file}: the first line holds numbers; expected a header line with the names of the columns. Put one "
            "above the examples."
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{file}: the header names the column {twice!r} more than once. Give each column its own name.")
    if not rows:
        raise DataError(f"{file} has a header and no examples; expected at least one line below the header.")
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{file}, line {line}: {len(cells)} cells, but the header names {len(header)} columns. Every line "
                "must have as many cells as the header."
            )
    return Table(file, tuple(header), rows)


def _looks_like_an_example(header: list[str], rows: list[list[str]]) -> bool:
    """Whether the first line is no header: numbers, and a class at the end that stands in other lines too.

    Numbers alone do not tell: tables are written with columns named 0, 1, ..., target.
    """
    *inputs, target = header
    is_class = bool(inputs) and any(cells[-1] == target for cells in rows)
    return all(map(_is_number, inputs)) and (_is_number(target) or is_class)


def _kind(file: Path) -> str:
    _check_file(file)
    kind = file.suffix.lower()
    if kind not in (".npz", ".csv"):
        raise DataError(
            f"{file}: files of type {kind or '(no extension)'} are not read; expected .npz (arrays x and y) or .csv "
            "(a header line, the last column the target). Convert the file to one of them."
        )
    return kind


def _check_file(file: Path) -> None:
    if not file.exists():
        raise DataError(f"{file} does not exist; expected a data file (.npz or .csv). Check the path.")
    if not file.is_file():
        raise DataError(f"{file} is not a file; expected a data file (.npz or .csv). Name the file itself.")
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty; expected a data file (.npz or .csv) with at least one example.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(table: Table, columns: Sequence[int]) -> np.ndarray:
    """Input columns as float64."""
    return np.asarray(
        [[_number(table, line, cells, column) for column in columns] for line, cells in table.rows], np.float64
    )


def _number(table: Table, line: int, cells: list[str], column: int) -> float:
    cell = _present(table, line, cells, column)
    place = f"{table.file}, line {line}, column {table.header[column]!r}"
    if not _is_number(cell):
        raise DataError(
            f"{place}: {cell!r} is not a number; inputs must be numbers. Encode categories as columns of 0 and 1, or "
            "leave the column out."
        )
    if not math.isfinite(float(cell)):
        raise DataError(f"{place}: {cell!r} is not finite. Remove the line or replace the value.")
    return float(cell)


def _targets(table: Table, column: int) -> np.ndarray:
    """The target column: float64 where every cell is a number, otherwise text."""
    cells = [_present(table, line, cells, column) for line, cells in table.rows]
    if not all(_is_number(cell) for cell in cells):
        return np.asarray(cells)
    return np.asarray([_number(table, line, cells, column) for line, cells in table.rows])


def _present(table: Table, line: int, cells: list[str], column: int) -> str:
    if cells[column].lower() in MISSING:
        raise DataError(
            f"{table.file}, line {line}, column {table.header[column]!r}: the value is missing ({cells[column]!r}). "
            "Remove the line, or fill the gap first."
        )
    return cells[column]


def _inputs_of(file: Path, name: str, content: dict[str, np.ndarray]) -> np.ndarray:
    array = content[name]
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise DataError(f"{file}: {name} has dtype {array.dtype}; expected real numbers. Encode the inputs as numbers.")
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(
            f"{file}: {name} has shape {array.shape}; expected (examples, inputs), both at least 1. Reshape images and "
            "the like with x.reshape(len(x), -1)."
        )
    array = array.astype(np.float64)
    _check_finite(file, name, array)
    return array


def _targets_of(file: Path, name: str, content: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    array = content[name]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or len(array) != len(x) or 0 in array.shape:
        raise DataError(
            f"{file}: {name} has shape {content[name].shape} with {len(x)} examples in x; expected ({len(x)},), one "
            f"target for each example, or ({len(x)}, outputs)."
        )
    if array.dtype.kind in "US":
        return array.astype(np.str_)
    if array.dtype.kind not in "buif":
        raise DataError(f"{file}: {name} has dtype {array.dtype}; expected real numbers or text.")
    array = array.astype(np.float64)
    _check_finite(file, name, array)
    return array


def _check_finite(file: Path, name: str, array: np.ndarray) -> None:
    if not np.all(np.isfinite(array)):
        first = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise DataError(
            f"{file}: {name} holds {int(np.sum(~np.isfinite(array)))} missing or infinite values, the first at "
            f"example {first[0]} (counted from 0). Remove those examples or fill the gaps first."
        )


def _listed(names: tuple[str, ...]) -> str:
    """Names for a message; a long list is cut."""
    shown = ", ".join(repr(name) for name in names[:12])
    return shown + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
