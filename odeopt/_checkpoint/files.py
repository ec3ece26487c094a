"""The files of one checkpoint: `arrays/` as orbax writes it, and `checkpoint.json`, which says that it is complete."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from .errors import CheckpointError

ARRAYS, DESCRIPTION = "arrays", "checkpoint.json"
# Raised when checkpoints of an older version can no longer be read.
FORMAT = 1
# Read at a time, for the sums of large files: much larger than a page, much smaller than the memory.
PIECE = 2**20


class DamagedError(Exception):
    """A checkpoint of which something is missing or has changed."""


def seal(folder: Path, description: dict[str, Any]) -> None:
    """Write the description of a checkpoint whose arrays are there, with the sizes and sums of their files."""
    files = {str(file.relative_to(folder)): _sum(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    with (folder / DESCRIPTION).open("w", encoding="utf-8") as stream:
        json.dump({"format": FORMAT, "files": files} | description, stream, indent=1)
        stream.flush()
        # The folder takes its final name afterwards: not before its content is on the disk.
        os.fsync(stream.fileno())


def description_of(folder: Path) -> dict[str, Any]:
    """What `seal` has written.

    **Raises:** `DamagedError`; `CheckpointError` for a format of another version.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        form = description["format"]
        if form == FORMAT:
            for entry in ("files", "step", "value", "structure", "leaves", "metadata"):
                description[entry]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{DESCRIPTION}: {type(error).__name__}: {error}") from error
    if form != FORMAT:
        raise CheckpointError(
            f"{folder} has format {form!r}; this version of odeopt reads format {FORMAT}. Use the version that wrote "
            "it."
        )
    return description


def check_files(folder: Path, description: dict[str, Any]) -> None:
    """**Raises:** `DamagedError` if a file is not the one that was written."""
    for name, expected in description["files"].items():
        try:
            found = _sum(folder / name)
        except FileNotFoundError as error:
            raise DamagedError(f"{name} is missing") from error
        if found != expected:
            raise DamagedError(f"{name} is not as it was written")


def _sum(file: Path) -> list[int]:
    """The size and the cyclic redundancy check of a file."""
    size, check = 0, 0
    with file.open("rb") as stream:
        while piece := stream.read(PIECE):
            size, check = size + len(piece), zlib.crc32(piece, check)
    return [size, check]
