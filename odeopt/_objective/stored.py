"""Rows of arrays that lie in files: read when they are asked for, into memory of their own.

Read, not mapped: pages of a mapped file count as memory of the process for as long as they are mapped, and a mapped
file that has become shorter ends the process where reading it raises an error.
"""

import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# A file in a zip archive begins behind its local header: 30 bytes, of which the last four say how long the name and
# an extra field behind it are. (PKWARE, APPNOTE.TXT, 4.3.7.)
ZIP_HEADER = 30


@dataclass(frozen=True)
class StoredArray:
    """An array of plain numbers in a file, in C order from `offset` on."""

    path: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def _row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def read(self, start: int, found: np.ndarray) -> None:
        """Fill an array of the same dtype with the rows from `start` on."""
        missing = found.reshape(-1).view(np.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + start * self._row_bytes)
            while len(missing):
                read = file.readinto(missing.data)
                if not read:
                    end = start + len(found) - math.ceil(len(missing) / self._row_bytes)
                    raise EOFError(f"{self.path} ends before row {end}.")
                missing = missing[read:]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The rows with these numbers."""
        if os.path.getsize(self.path) < self.offset + self.shape[0] * self._row_bytes:
            raise EOFError(f"{self.path} has become shorter than its {self.shape[0]} rows.")
        # Mapped for the length of this call: no row is read that was not asked for, and none stays in memory.
        mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        return np.array(np.take(mapped, indices, axis=0))


def stored(path: Path) -> StoredArray | dict[str, StoredArray]:
    """The array of an `.npy` file, or those of an `.npz` file by name, left where they are.

    **Raises:** `ValueError` or `OSError` for a file that cannot be read so.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Streamed: {path} does not exist, or is no file. Check the path.")
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return _described(file, str(path), path, path.stat().st_size)
    if path.suffix.lower() == ".npz":
        return _members(path)
    raise ValueError(
        f"Streamed: {path}: files of type {path.suffix or '(no extension)'} are not read; expected .npy or .npz. "
        "Pass an array-like object of the library that reads the file (h5py, zarr), or numpy.memmap for raw numbers."
    )


def _members(path: Path) -> dict[str, StoredArray]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"Streamed: {path} is no .npz archive. Write it with numpy.savez(file, x=inputs, y=targets).")
    found = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    f"Streamed: {path}: {name!r} is compressed, so that no row can be read without those before it. "
                    "Write the file with numpy.savez, not numpy.savez_compressed, or each array as .npy (numpy.save)."
                )
            file.seek(member.header_offset + ZIP_HEADER - 4)
            name_length, extra_length = np.frombuffer(file.read(4), "<u2")
            begin = member.header_offset + ZIP_HEADER + int(name_length) + int(extra_length)
            file.seek(begin)
            found[name] = _described(file, f"{path}: {name!r}", path, begin + member.file_size)
    return found


def _described(file, place: str, path: Path, end: int) -> StoredArray:
    """The array whose `.npy` header begins where the file stands, and which ends before `end`."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except ValueError as error:
        raise ValueError(f"Streamed: {place} is no .npy file ({error}). Write it with numpy.save.") from error
    if dtype.hasobject:
        raise TypeError(
            f"Streamed: {place} holds Python objects; expected numbers. Objects are never loaded from files."
        )
    if fortran and len(shape) > 1:
        raise ValueError(
            f"Streamed: {place} is in Fortran order, so that its rows are scattered over the file. Write it with "
            "numpy.save(file, numpy.ascontiguousarray(array))."
        )
    array = StoredArray(path, file.tell(), dtype, shape)
    needed = array.offset + (shape[0] if shape else 1) * array._row_bytes
    if needed > end:
        raise ValueError(
            f"Streamed: {place} is incomplete: shape {shape} of {dtype} needs {needed - array.offset} bytes, and it "
            f"holds {end - array.offset}. Write it again."
        )
    return array


def of_memmap(array: np.memmap) -> StoredArray | np.memmap:
    """Where a memory-mapped array lies in its file; the array itself where its rows are not as in the file."""
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    # Copy-on-write arrays may hold what the file does not.
    if root.filename is None or root.mode == "c" or not array.flags.c_contiguous or not root.flags.c_contiguous:
        return array
    into = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return StoredArray(Path(root.filename), root.offset + into, array.dtype, array.shape)
