"""Files of images: what is read from them, and what is said where they cannot be read."""

import gzip
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from idx_files import idx_bytes, stripes, write_folder, write_idx

import odeopt
from odeopt import _images
from odeopt._data import images
from odeopt._idx import read_idx
from odeopt._table import DataError

CUBE = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_array_comes_back_whether_compressed_or_not_and_whatever_its_name(tmp_path, name, compressed):
    assert np.array_equal(read_idx(write_idx(tmp_path / name, CUBE, compressed), 3), CUBE)


def test_sizes_are_read_with_the_highest_byte_first(tmp_path):
    array = np.zeros((258, 1, 1), np.uint8)
    file = write_idx(tmp_path / "images", array)
    assert file.read_bytes()[4:8] == bytes([0, 0, 1, 2])
    assert read_idx(file, 3).shape == (258, 1, 1)


WHOLE = idx_bytes(CUBE)
WRONG = {
    "empty": (b"", "begins with nothing"),
    "web page": (b"<html>not found</html>", "begins with 3c 68 74 6d"),
    "unknown type": (b"\0\0\x07" + WHOLE[3:], "is no idx file"),
    "floats": (b"\0\0\x0d" + WHOLE[3:], "holds single precision; expected unsigned bytes"),
    "labels": (idx_bytes(np.arange(3)), "an array of 1 axes; expected 3"),
    "header alone": (WHOLE[:9], "ends within its header"),
    "one byte short": (WHOLE[:-1], "24 bytes, and the file holds only 23"),
    "one byte more": (WHOLE + b"\0", "24 bytes, and the file holds more"),
    "no example": (idx_bytes(np.zeros((0, 3, 4))), "has shape (0, 3, 4); expected at least one example"),
    "far too large": (b"\0\0\x08\x03" + 12 * b"\xff", "the file holds only 0"),
    "gzip cut": (gzip.compress(WHOLE)[:-12], "cannot be read"),
    "gzip header alone": (gzip.compress(WHOLE)[:5], "cannot be read"),
    "gzip with a wrong sum": (gzip.compress(WHOLE)[:-8] + 8 * b"\0", "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_file_that_is_damaged_or_something_else_is_explained(tmp_path, name):
    content, expected = WRONG[name]
    file = tmp_path / "images"
    file.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_idx(file, 3)
    assert expected in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("compressed", [True, False])
def test_folder_is_read_with_its_images_and_labels(tmp_path, compressed):
    folder = write_folder(tmp_path / "data", 12, 6, compressed)
    (x, y), (x_test, y_test) = odeopt.load_images(folder)
    assert np.array_equal(x, stripes(12, 12)[0])
    assert np.array_equal(y, stripes(12, 12)[1])
    assert (x_test.shape, y_test.shape, x.dtype) == ((6, 28, 28), (6,), np.uint8)


def test_folder_without_a_file_or_with_files_that_do_not_belong_together_is_refused(tmp_path):
    folder = write_folder(tmp_path / "data", 12, 6, compressed=False)
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(11))
    with pytest.raises(DataError, match="12 images and train-labels-idx1-ubyte 11 labels"):
        odeopt.load_images(folder)
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(12))
    write_idx(folder / "t10k-images-idx3-ubyte", stripes(6, 0, side=8)[0])
    with pytest.raises(DataError, match=r"\(28, 28\), those to test \(8, 8\)"):
        odeopt.load_images(folder)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="lacks t10k-labels-idx1-ubyte"):
        odeopt.load_images(folder)
    with pytest.raises(DataError, match="is no folder"):
        odeopt.load_images(tmp_path / "absent")


def test_label_of_the_test_set_that_no_training_example_has_is_named_with_its_place(tmp_path):
    folder = write_folder(tmp_path / "data", 12, 6, compressed=False)
    write_idx(folder / "t10k-labels-idx1-ubyte", np.array([0, 1, 2, 0, 77, 9]))
    with pytest.raises(DataError, match=r"2 labels .* the first at example 4 \(counted from 0\): 77; the classes"):
        images(folder)


def test_pixels_stay_bytes_and_enter_between_zero_and_one(tmp_path):
    data = images(write_folder(tmp_path / "data", 12, 6))
    assert (data.x.dtype, data.x.shape) == (np.uint8, (12, 784))
    entering = data.preprocessing.inputs(data.x, np.float32)
    assert np.array_equal(entering, (data.x / 255).astype(np.float32))
    assert data.preprocessing.classes == (0, 1, 2)


def test_fashion_mnist_is_taken_from_where_debian_puts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(_images, "DEBIAN", write_folder(tmp_path / "debian", 12, 6))
    (x, _), _ = odeopt.load_images("fashion-mnist")
    assert np.array_equal(x, stripes(12, 12)[0])


def openml_of(monkeypatch, tmp_path, fetch):
    monkeypatch.setattr(_images, "DEBIAN", tmp_path / "absent")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", SimpleNamespace(fetch_openml=fetch))


def test_fashion_mnist_comes_from_openml_where_the_package_is_absent(tmp_path, monkeypatch):
    x, y = stripes(15, 0)
    asked = []

    def fetch(**arguments):
        asked.append(arguments)
        return x.reshape(15, 784).astype(float), y.astype(str).astype(object)

    openml_of(monkeypatch, tmp_path, fetch)
    monkeypatch.setattr(_images, "TRAINED", 10)
    train, test = odeopt.load_images("fashion-mnist")
    assert np.array_equal(train[0], x[:10])
    assert np.array_equal(test[1], y[10:])
    assert (train[0].dtype, train[1].dtype) == (np.uint8, np.uint8)
    assert asked == [{"name": "Fashion-MNIST", "version": 1, "return_X_y": True, "as_frame": False}]


def test_fashion_mnist_that_cannot_be_had_is_answered_with_the_three_ways_to_get_it(tmp_path, monkeypatch):
    def fetch(**_):
        raise OSError("no route to host")

    openml_of(monkeypatch, tmp_path, fetch)
    with pytest.raises(DataError) as error:
        odeopt.load_images("fashion-mnist")
    for part in ("no route to host", "dataset-fashion-mnist", "four idx files", "connection to openml.org"):
        assert part in str(error.value)
