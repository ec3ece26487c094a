"""Chunks of a data set in the order of a pass, each read while the one before it is computed with."""

import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np

Chunk = list[np.ndarray]
T = TypeVar("T")


class _Reading(threading.Thread):
    """One chunk being read. A daemon: a source that hangs does not keep the process from ending."""

    def __init__(self, read: Callable[[int, int], Chunk], rows: tuple[int, int]):
        super().__init__(name=f"odeopt: rows from {rows[0]}", daemon=True)
        self.rows = rows
        self._read = read
        self._found: Chunk | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._found = self._read(*self.rows)
        except BaseException as error:
            self._error = error

    def result(self) -> Chunk:
        self.join()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found


class ReadAhead:
    """Chunks by their first row and their length; when one is handed out the reading of the next begins.

    A thread lives as long as the reading of a chunk, so that none is left when a run has ended. No more than two chunks
    are held here: the one that is handed out, until it has been copied, and the next.

    **Arguments:** `read`: `read(start, length)`; called by one thread at a time. `count`: the number of rows.
    """

    def __init__(self, read: Callable[[int, int], Chunk], count: int):
        self._read = read
        self._count = count
        self._lock = threading.Lock()
        self._ahead: _Reading | None = None
        self._first_length = 1

    def chunk(self, start: int, length: int) -> Chunk:
        """These rows."""
        with self._lock:
            ahead, self._ahead = self._ahead, None
            if ahead is not None and ahead.rows != (start, length):
                # Let go before the rows that are wanted are read, which may then take its memory.
                ahead = ahead.join()
            found = self._read(start, length) if ahead is None else ahead.result()
            if start == 0:
                self._first_length = length
            self._ahead = _Reading(self._read, self._next(start + length, length))
            return found

    def alone(self, call: Callable[[], T]) -> T:
        """`call()` while nothing is being read."""
        with self._lock:
            if self._ahead is not None:
                self._ahead.join()
            return call()

    def _next(self, start: int, length: int) -> tuple[int, int]:
        if start >= self._count:
            return 0, self._first_length
        return start, min(length, self._count - start)
