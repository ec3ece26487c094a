"""Small data sets in the format of MNIST, for the tests of images."""

import gzip
import struct
from pathlib import Path

import numpy as np

SIDE = 28


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as an idx file has it."""
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


def write_idx(file: Path, array: np.ndarray, compressed: bool = False) -> Path:
    content = idx_bytes(array)
    file.write_bytes(gzip.compress(content) if compressed else content)
    return file


def stripes(count: int, seed: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images that are brighter above (class 0), below (1) or on the left (2), in turn."""
    random, labels = np.random.default_rng(seed), np.arange(count) % 3
    images = random.integers(0, 100, (count, side, side))
    half = side // 2
    for image, label in zip(images, labels, strict=True):
        part = (image[:half], image[half:], image[:, :half])[label]
        part += 120
    return images.astype(np.uint8), labels.astype(np.uint8)


def write_folder(folder: Path, trained: int = 30, tested: int = 9, compressed: bool = True, side: int = SIDE) -> Path:
    """A folder with the four files of a data set."""
    folder.mkdir()
    ending = ".gz" if compressed else ""
    for part, count in (("train", trained), ("t10k", tested)):
        images, labels = stripes(count, seed=count, side=side)
        write_idx(folder / f"{part}-images-idx3-ubyte{ending}", images, compressed)
        write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", labels, compressed)
    return folder
