"""Arrays on disk: written by orbax beside the run, and read again."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .errors import CheckpointError


def orbax() -> Any:
    """The module, imported when checkpoints are asked for and not before.

    **Raises:** `CheckpointError` where it is not installed.
    """
    try:
        return importlib.import_module("orbax.checkpoint")
    except ImportError as error:
        raise CheckpointError(
            f"Checkpoints need orbax-checkpoint, which cannot be imported ({error}): pip install 'odeopt[checkpoint]'"
        ) from error


class ArrayWriter:
    """Writes named arrays in the background, one set after the other; of several processes each its own part."""

    def __init__(self):
        ocp = orbax()
        # Few files however many arrays; uncompressed, because random digits of floats shrink by 8 % for twice the time
        # (160 MB: 0.65 to 0.85 s in place of 0.3 to 0.5 s).
        self._checkpointer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False))
        self._arguments = ocp.args.PyTreeSave

    def begin(self, folder: Path, arrays: Mapping[str, Any]) -> None:
        """Copy the arrays from the device, and begin to write them to `folder`, which must not exist."""
        self._checkpointer.save(folder, args=self._arguments(dict(arrays)))

    def wait(self) -> None:
        """Until everything has been written. **Raises:** what has gone wrong meanwhile."""
        self._checkpointer.wait_until_finished()

    def close(self) -> None:
        self._checkpointer.close()


def read_arrays(folder: Path, shardings: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a folder by name: of NumPy where the sharding is `None`, otherwise of JAX and so sharded."""
    ocp = orbax()
    restore_args = {
        name: ocp.RestoreArgs(restore_type=np.ndarray)
        if sharding is None
        else ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding)
        for name, sharding in shardings.items()
    }
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True)) as checkpointer:
        return checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=restore_args))
