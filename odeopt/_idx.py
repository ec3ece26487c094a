"""Reading idx files, the format of MNIST and of the data sets that follow it (LeCun, Cortes, Burges, 1998)."""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ._table import DataError

UNSIGNED_BYTES = 0x08
# What the third byte of a file stands for.
TYPES = {
    0x08: "unsigned bytes",
    0x09: "signed bytes",
    0x0B: "16-bit integers",
    0x0C: "32-bit integers",
    0x0D: "single precision",
    0x0E: "double precision",
}
# Bytes read at a time: few calls for a data set, little memory beside it.
BLOCK = 2**20
GZIP = b"\x1f\x8b"


def read_idx(file: Path, axes: int) -> np.ndarray:
    """The unsigned bytes of an idx file, compressed with gzip or not.

    **Arguments:** `axes`: how many axes the array must have.

    **Raises:** `DataError` if the file cannot be read, or holds anything else.
    """
    try:
        with file.open("rb") as raw:
            compressed = raw.read(2) == GZIP
        with gzip.open(file) if compressed else file.open("rb") as stream:
            shape = _shape(file, stream.read(4), stream.read(4 * axes), axes)
            count = math.prod(shape)
            content = _read(stream, count)
            too_long = bool(stream.read(1))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read ({error}); it is damaged or incomplete. Get the file again.") from error
    if len(content) < count or too_long:
        found = "more" if too_long else f"only {len(content)}"
        raise DataError(
            f"{file}: the header speaks of shape {shape}, {count} bytes, and the file holds {found}; it is damaged or "
            "incomplete. Get the file again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read(stream: io.BufferedIOBase, count: int) -> bytearray:
    """So many bytes, or what there is; a header that lies does not take more memory than the file fills."""
    content = bytearray()
    while len(content) < count and (block := stream.read(min(BLOCK, count - len(content)))):
        content += block
    return content


def _shape(file: Path, magic: bytes, sizes: bytes, axes: int) -> tuple[int, ...]:
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        raise DataError(
            f"{file} is no idx file: it begins with {magic.hex(' ') or 'nothing'}; expected 00 00, the type and the "
            "number of axes. Check that it is the file of the data set and not, say, a web page."
        )
    if magic[2] != UNSIGNED_BYTES:
        raise DataError(f"{file} holds {TYPES[magic[2]]}; expected unsigned bytes, as images and labels are kept.")
    if magic[3] != axes:
        raise DataError(
            f"{file} holds an array of {magic[3]} axes; expected {axes}: "
            f"{'(examples,), labels' if axes == 1 else '(examples, rows, columns), images'}. Check the file's name."
        )
    if len(sizes) < 4 * axes:
        raise DataError(f"{file} ends within its header; it is damaged or incomplete. Get the file again.")
    shape = struct.unpack(f">{axes}I", sizes)
    if 0 in shape:
        raise DataError(f"{file} has shape {shape}; expected at least one example.")
    return shape
