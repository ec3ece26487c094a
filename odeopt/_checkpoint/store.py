"""A folder of checkpoints: trees of arrays by step, of which the newest and the best are kept."""

import math
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from .arrays import ArrayWriter, orbax, read_arrays
from .description import described, first_difference
from .errors import CheckpointError
from .files import ARRAYS, DamagedError, check_files, description_of, seal
from .leaves import rebuilt, sharding_of, small, storable

# What is not, or no longer, a checkpoint.
UNFINISHED, REMOVED, DAMAGED = ".unfinished-", ".removed-", "damaged-"


class Store:
    """Checkpoints in a folder, each in a folder of its own that has its name once it is complete.

    Nothing of the folder is touched before `open`. Two runs may not have it open at the same time. Of one run in
    several processes all call all methods, and the first one does what is to be done once.

    **Arguments:** `folder`; `keep`: how many of the newest are kept; `keep_best`: whether the one of the lowest value
    is kept as well.
    """

    def __init__(self, folder: Path, *, keep: int = 3, keep_best: bool = True):
        # Orbax writes to absolute paths only.
        self._folder = folder.absolute()
        self._keep, self._keep_best = keep, keep_best
        self._values: dict[int, float] = {}
        self._writer: ArrayWriter | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._is_first = jax.process_index() == 0

    def open(self, resume: bool) -> None:
        """Make sure that the folder can be written to, and clear away what an earlier process has left unfinished.

        **Arguments:** `resume`: whether the folder may hold checkpoints.

        **Raises:** `CheckpointError` if the folder cannot be written to, or holds checkpoints and may not; or orbax is
        not installed.
        """
        orbax()
        self._check_writable()
        found = self.steps()
        if found and not resume:
            raise CheckpointError(
                f"{self._folder} holds checkpoints already (the newest after {found[-1]} steps), and nothing in it is "
                "overwritten. Pass resume=True to go on from there, or choose another folder."
            )
        if self._is_first:
            for folder in self._named(REMOVED):
                shutil.rmtree(folder, ignore_errors=True)
            for folder in self._named(UNFINISHED):
                warnings.warn(
                    f"{folder}: a checkpoint that was being written when its process ended; it is incomplete, and has "
                    "been removed.",
                    stacklevel=2,
                )
                shutil.rmtree(folder, ignore_errors=True)
        for step in found:
            # The value of a damaged one does not matter: it is found out where it is to be read.
            with suppress(DamagedError, CheckpointError):
                self._values[step] = _number(description_of(self._of(step))["value"])
        self._writer = ArrayWriter()

    def steps(self) -> list[int]:
        """The steps of the checkpoints in the folder, in order."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is still being written."""
        return self._pending is not None and not self._pending.done()

    def save(self, step: int, tree: PyTree, metadata: dict[str, Any], value: float) -> None:
        """Begin to write a checkpoint; returns as soon as the arrays have been copied from the device.

        Waits for the one before. What goes wrong in the background is told by `wait`.

        **Arguments:** `step`: a number that grows; `tree`: of arrays, typed random keys, `Rows`, and numbers of Python;
        other leaves are not written; `metadata`: for JSON; `value`: the best has the lowest.

        **Raises:** `OSError` or what else may go wrong with a disk; the earlier checkpoints are as they were.
        """
        self.wait()
        assert self._writer is not None
        leaves = jax.tree_util.tree_leaves(tree)
        arrays = {_name(index): array for index, leaf in enumerate(leaves) if (array := storable(leaf)) is not None}
        description = {
            "step": step,
            "value": repr(float(value)),
            "metadata": metadata,
            "structure": described(tree),
            "leaves": [small(leaf) for leaf in leaves],
            "arrays": list(arrays),
        }
        unfinished = self._folder / f"{UNFINISHED}{step:010d}"
        try:
            if self._is_first:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
            self._writer.begin(unfinished / ARRAYS, arrays)
        except BaseException:
            self._abandon(unfinished)
            raise
        self._pending = self._thread.submit(self._finish, unfinished, description)

    def wait(self) -> None:
        """Until nothing is being written. **Raises:** what has gone wrong since the last call, `OSError` above all."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(
        self, like: PyTree, check: Callable[[dict[str, Any]], None] | None = None
    ) -> tuple[PyTree, dict] | None:
        """The tree and the metadata of the newest complete checkpoint; `None` if there is none.

        Waits for one that is being written. Damaged ones are passed over with a warning, and renamed.

        **Arguments:** `like`: a tree of the same structure, of arrays or `jax.ShapeDtypeStruct`; it also says which
        arrays are NumPy's, and how they are sharded; `check`: is called with the metadata before anything else is
        compared, and raises if the checkpoint belongs elsewhere.

        **Raises:** `CheckpointError` if the structure is another, or all checkpoints are damaged.
        """
        self.wait()
        damaged: dict[int, DamagedError] = {}
        for step in reversed(self.steps()):
            folder = self._of(step)
            try:
                description = description_of(folder)
                check_files(folder, description)
            except DamagedError as error:
                damaged[step] = error
                continue
            if check is not None:
                check(description["metadata"])
            tree = _read(folder, description, like)
            self._set_aside(damaged)
            return tree, description["metadata"]
        if damaged:
            reasons = "; ".join(f"{self._of(step)}: {error}" for step, error in damaged.items())
            raise CheckpointError(
                f"No checkpoint can be read ({reasons}). Restore the files, or choose another folder."
            )
        return None

    def close(self) -> None:
        """Wait, and let go of the threads. **Raises:** as `wait`."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _finish(self, unfinished: Path, description: dict[str, Any]) -> None:
        """The part of `save` in the background."""
        assert self._writer is not None
        step = description["step"]
        try:
            self._writer.wait()
            if self._is_first:
                seal(unfinished, description)
                unfinished.rename(self._of(step))
                _sync(self._folder)
        except BaseException:
            self._abandon(unfinished)
            raise
        self._values[step] = _number(description["value"])
        if self._is_first:
            self._thin_out()

    def _abandon(self, unfinished: Path) -> None:
        """Give the room back that a failed checkpoint takes: the disk may be full."""
        if self._is_first:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _thin_out(self) -> None:
        """Remove the checkpoints that are neither among the newest nor the best."""
        steps = self.steps()
        kept = set(steps[-self._keep :])
        if self._keep_best and self._values:
            # Of equal ones the newest.
            kept.add(min(self._values, key=lambda step: (self._values[step], -step)))
        for step in set(steps) - kept:
            self._values.pop(step, None)
            removed = self._folder / f"{REMOVED}{step:010d}"
            # A folder that is being removed is no checkpoint from the first moment on.
            with suppress(OSError):
                self._of(step).rename(removed)
                shutil.rmtree(removed)

    def _set_aside(self, damaged: dict[int, DamagedError]) -> None:
        for step, error in damaged.items():
            folder, aside = self._of(step), self._folder / f"{DAMAGED}{step:010d}"
            number = 1
            while aside.exists():
                number += 1
                aside = self._folder / f"{DAMAGED}{step:010d}-{number}"
            if self._is_first:
                folder.rename(aside)
            self._values.pop(step, None)
            warnings.warn(
                f"{folder}: a damaged checkpoint ({error}) was passed over, and is called {aside.name} now.",
                stacklevel=2,
            )

    def _check_writable(self) -> None:
        try:
            if self._is_first:
                self._folder.mkdir(parents=True, exist_ok=True)
                probe = self._folder / f".probe-{os.getpid()}"
                probe.touch()
                probe.unlink()
        except OSError as error:
            raise CheckpointError(
                f"{self._folder} cannot take checkpoints ({error}). Choose another folder, or see to its permissions."
            ) from error

    def _of(self, step: int) -> Path:
        return self._folder / f"{step:010d}"

    def _named(self, beginning: str) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.name.startswith(beginning)]


def _read(folder: Path, description: dict[str, Any], like: PyTree) -> PyTree:
    difference = first_difference(description["structure"], described(like))
    if difference is not None:
        raise CheckpointError(f"{folder} belongs to another run. {difference}.")
    leaves, structure = jax.tree.flatten(like)
    shardings = {name: sharding_of(leaves[int(name)]) for name in description["arrays"]}
    arrays = read_arrays(folder / ARRAYS, shardings) if shardings else {}
    pairs = zip(leaves, description["leaves"], strict=True)
    return jax.tree.unflatten(
        structure, [rebuilt(leaf, arrays.get(_name(index)), beside) for index, (leaf, beside) in enumerate(pairs)]
    )


def _name(index: int) -> str:
    return f"{index:05d}"


def _number(value: str) -> float:
    """A value that is compared with others; one that is no number is the worst."""
    number = float(value)
    return math.inf if math.isnan(number) else number


def _sync(folder: Path) -> None:
    """Until the new name of something in a folder is on the disk, where the system can tell."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
