"""Data sets of images: folders of idx files, and Fashion-MNIST."""

import os
from pathlib import Path

import numpy as np

from ._idx import read_idx
from ._table import DataError

# The word that stands for the data set wherever it lies.
FASHION_MNIST = "fashion-mnist"
# Where Debian's package dataset-fashion-mnist puts it.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
OPENML = {"name": "Fashion-MNIST", "version": 1}
# The first images of OpenML's table are those to train on.
TRAINED = 60_000
NAMES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")} | {
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
}
Examples = tuple[np.ndarray, np.ndarray]


def load_images(source: str | os.PathLike[str] = FASHION_MNIST) -> tuple[Examples, Examples]:
    """Images and their labels, to train on and to test, as unsigned bytes.

    **Arguments:** `source`: a folder with the four idx files of MNIST or of a data set in its format
    (`train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, each also
    as `.gz`); or `"fashion-mnist"` (default): Zalando's articles of clothing (Xiao, Rasul, Vollgraf, 2017,
    Fashion-MNIST: a novel image dataset), from Debian's package `dataset-fashion-mnist` or, where that is not
    installed, through scikit-learn from OpenML.

    **Returns:** `(images, labels), (test_images, test_labels)`; images of shape `(examples, rows, columns)`, labels of
    shape `(examples,)`.

    **Raises:** `ValueError` that names the file and what is wrong with it, or what is missing.

    !!! example "The format, on a data set of two images"

        ```python
        import pathlib, struct, tempfile

        folder = pathlib.Path(tempfile.mkdtemp())
        for part in ("train", "t10k"):
            images = struct.pack(">4B3I", 0, 0, 8, 3, 2, 28, 28) + bytes(2 * 28 * 28)
            (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([0, 1]))
        (images, labels), test = odeopt.load_images(folder)
        ```
    """
    if str(source) != FASHION_MNIST:
        return _folder(Path(source))
    return _folder(DEBIAN) if DEBIAN.is_dir() else _from_openml()


def is_images(source: os.PathLike[str]) -> bool:
    """Whether a source of data is one of `load_images`."""
    return str(source) == FASHION_MNIST or Path(source).is_dir()


def _folder(folder: Path) -> tuple[Examples, Examples]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with the idx files of a data set. Check the path.")
    train, test = (_pair(folder, *NAMES[part]) for part in ("train", "test"))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"{folder}: the images to train on have the shape {train[0].shape[1:]}, those to test {test[0].shape[1:]}; "
            "expected the same. Check that the files belong together."
        )
    return train, test


def _pair(folder: Path, images: str, labels: str) -> Examples:
    x, y = read_idx(_existing(folder, images), 3), read_idx(_existing(folder, labels), 1)
    if len(x) != len(y):
        raise DataError(
            f"{folder}: {images} holds {len(x)} images and {labels} {len(y)} labels; expected one label for each "
            "image. Check that the files belong together."
        )
    return x, y


def _existing(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    names = ", ".join(name for pair in NAMES.values() for name in pair)
    raise DataError(f"{folder} lacks {name} (or {name}.gz); expected the idx files {names}. Add the file.")


def _from_openml() -> tuple[Examples, Examples]:
    """Fashion-MNIST from scikit-learn's cache, or from the network."""
    try:
        from sklearn.datasets import fetch_openml

        x, y = fetch_openml(**OPENML, return_X_y=True, as_frame=False)
    except ModuleNotFoundError as error:
        raise DataError(_missing("scikit-learn is not installed")) from error
    except Exception as error:  # of the network and of OpenML, of many kinds
        raise DataError(_missing(f"OpenML cannot be read ({type(error).__name__}: {error})")) from error
    x, y = x.astype(np.uint8).reshape(-1, 28, 28), y.astype(np.uint8)
    return (x[:TRAINED], y[:TRAINED]), (x[TRAINED:], y[TRAINED:])


def _missing(reason: str) -> str:
    return (
        f"Fashion-MNIST is not on this machine: {DEBIAN} does not exist, and {reason}. Install Debian's package "
        "dataset-fashion-mnist; or name a folder that holds the four idx files; or install scikit-learn "
        "(pip install 'odeopt[data]') and try again with a connection to openml.org."
    )
