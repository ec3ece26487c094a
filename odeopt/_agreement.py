"""What the processes of one run tell each other after every block, and how it ends where one of them does not answer.

Decisions on steps are made on numbers that are the same everywhere, because they have been reduced. What is seen on the
host is not: the clock, Ctrl-C, the answers of callbacks. It is agreed here, so that all processes take the same branch:
a reduction that one of them does not take part in would never end.
"""

import os
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jaxtyping import PyTree

# A block takes a quarter of a second: one that takes so many seconds, and so many times as long as the last one,
# is not slow but stuck.
LEAST_SECONDS = 60.0
TIMES_THE_LAST = 20.0
# Compilation, callbacks and metrics are the user's: a large model compiles for minutes, a checkpoint takes minutes on a
# slow disk.
LONGEST_PAUSE = 1800.0
# That of timeout(1).
STUCK = 124
# The scalars that must be the same in every process.
NAMES = ("loss", "energy", "gradient norm", "time", "step size", "accepted", "rejected")


class Alone:
    """One process agrees with itself."""

    leads = True

    def after_block(self, scalars: Any, seconds: float, elapsed: float) -> tuple[float, float]:
        return seconds, elapsed

    def anybody(self, wants: bool) -> bool:
        return wants

    def before_block(self) -> None:
        pass


class Together:
    """Several processes, each with its own host loop around the same compiled program."""

    def __init__(self, watchdog: "Watchdog"):
        self.leads = jax.process_index() == 0
        self._watchdog = watchdog
        self._last: float | None = None

    def before_block(self) -> None:
        limit = LONGEST_PAUSE if self._last is None else max(LEAST_SECONDS, TIMES_THE_LAST * self._last)
        self._watchdog.begin(limit, "a block of steps")

    def after_block(self, scalars: Any, seconds: float, elapsed: float) -> tuple[float, float]:
        """Seconds of the block and since the beginning, by the clock of process 0.

        **Raises:** `RuntimeError` that names the processes if the scalars differ.
        """
        numbers = np.asarray([float(number) for number in scalars], np.float64)
        told = _told(np.concatenate([[seconds, elapsed], numbers]))
        _check_equal(told[:, 2:])
        # Callbacks and metrics come next.
        self._watchdog.begin(LONGEST_PAUSE, "the callbacks and metrics after a block")
        self._last = float(told[0, 0])
        return self._last, float(told[0, 1])

    def anybody(self, wants: bool) -> bool:
        return bool(np.any(_told(np.asarray([float(wants)]))))


@contextmanager
def agreement(problem: PyTree, parameters: PyTree) -> Iterator[Alone | Together]:
    """How the processes of a run agree; for a run on the devices of one process there is nothing to do.

    **Raises:** `RuntimeError` if the processes do not begin with the same parameters, or if one of them has ended.
    """
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(problem) if isinstance(leaf, jax.Array)):
        yield Alone()
        return
    with Watchdog() as watchdog:
        watchdog.begin(LONGEST_PAUSE, "the start of the run")
        try:
            _check_same_start(parameters)
            yield Together(watchdog)
        except Exception as error:
            if not _is_of_a_lost_process(error):
                raise
            raise RuntimeError(
                f"process {jax.process_index()} of {jax.process_count()}: a reduction over all processes failed, "
                "because another process has ended or cannot be reached. jax.distributed says which one within its "
                f"heartbeat_timeout_seconds. ({str(error).splitlines()[0]})"
            ) from error


def local_copy(tree: PyTree, gather: bool = False) -> PyTree:
    """The tree with arrays of this process, which it can use without the others.

    **Arguments:** `gather`: whether arrays that are divided among processes are put together too, for which all
    processes must call this; otherwise they stay as they are.
    """

    def copy(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if not leaf.is_fully_replicated:
            return jnp.asarray(process_allgather(leaf, tiled=True)) if gather else leaf
        return jnp.asarray(np.asarray(leaf))

    return jax.tree.map(copy, tree)


class Watchdog:
    """Ends the process where something that waits for the others takes too long: from inside of a reduction it cannot
    be ended otherwise."""

    def __init__(self):
        self._changed = threading.Condition()
        self._limit: float | None = None
        self._count = 0
        self._what = ""

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._watch, daemon=True, name="odeopt watchdog").start()
        return self

    def __exit__(self, *error) -> None:
        self._set(None, "")

    def begin(self, limit: float, what: str) -> None:
        """From now on `what` may take `limit` seconds."""
        self._set(limit, what)
        _tell_progress(self._count)

    def _set(self, limit: float | None, what: str) -> None:
        with self._changed:
            self._limit, self._what, self._count = limit, what, self._count + 1
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while self._count == 0:
                self._changed.wait()
            while self._limit is not None:
                seen = self._count
                if not self._changed.wait(self._limit) and seen == self._count:
                    self._give_up()

    def _give_up(self) -> None:
        behind = _processes_behind(self._count)
        who = (
            f"still at an earlier point: process {', '.join(map(str, behind))}" if behind else "nobody knows which one"
        )
        text = (
            f"odeopt: process {jax.process_index()} of {jax.process_count()} has waited {self._limit:g} s for "
            f"{self._what}: another process hangs ({who}). Ended with exit code {STUCK}.\n"
        )
        sys.stderr.write(text)
        sys.stderr.flush()
        os._exit(STUCK)


def _told(numbers: np.ndarray) -> np.ndarray:
    """The numbers of all processes, one row each."""
    # As bytes, because without double precision JAX would round them.
    rows = np.asarray(process_allgather(np.frombuffer(numbers.tobytes(), np.uint8)))
    return np.frombuffer(rows.astype(np.uint8).tobytes(), np.float64).reshape(jax.process_count(), -1)


def _check_equal(rows: np.ndarray) -> None:
    for process, row in enumerate(rows):
        if row.tobytes() != rows[0].tobytes():
            differing = [
                f"{name} {own!r} against {first!r}"
                for name, own, first in zip(NAMES, row.tolist(), rows[0].tolist(), strict=True)
                if np.float64(own).tobytes() != np.float64(first).tobytes()
            ]
            raise RuntimeError(
                f"process {process} disagrees with process 0: {', '.join(differing)}. All processes must run the same "
                "program with the same versions on devices of the same kind."
            )


def _check_same_start(parameters: PyTree) -> None:
    # Those that are on all devices already are one array and cannot differ.
    own = [leaf for leaf in jax.tree.leaves(parameters) if leaf.is_fully_addressable]
    sums = _told(np.asarray([float(sum(zlib.crc32(np.asarray(leaf).tobytes()) for leaf in own))]))[:, 0]
    others = [process for process, number in enumerate(sums) if number != sums[0]]
    if others:
        raise RuntimeError(
            f"process {', '.join(map(str, others))} begins with other parameters than process 0. Make the model from "
            "the same random key in every process."
        )


def _is_of_a_lost_process(error: Exception) -> bool:
    # What JAX raises is of general types; the library of the reductions names itself.
    return any(name in str(error) for name in ("Gloo", "NCCL", "UNAVAILABLE"))


def _tell_progress(count: int) -> None:
    client = _client()
    if client is not None:
        client.key_value_set(f"odeopt/progress/{jax.process_index()}", str(count), allow_overwrite=True)


def _processes_behind(count: int) -> list[int]:
    client = _client()
    if client is None:
        return []
    told = {int(key.rsplit("/", 1)[1]): int(value) for key, value in client.key_value_dir_get("odeopt/progress/")}
    return sorted(process for process in range(jax.process_count()) if told.get(process, 0) < count)


def _client() -> Any:
    """The key-value store of the coordinator, for which JAX has no public name; only a message hangs on it."""
    try:
        from jax._src.distributed import global_state
    except ImportError:
        return None
    return global_state.client
