"""Where a run of `train` stands: what a block of trials adds to, and what a checkpoint holds."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from ._record import Record, empty_record
from ._relay import Relay, RelayProblem
from ._run import Problem, Run
from ._solution import History, history_of


@dataclass
class Standing:
    """A run between two blocks.

    **Attributes:** `problem`: with its scales set; `first`: as `starting_point` has it; `before`: the trials of
    earlier calls, which are not counted here; `rejections`: since the last accepted step; `parts`: rows and states of
    the history, one pair for each block; `elapsed`: seconds in earlier parts of this run.
    """

    problem: Problem | RelayProblem
    run: Run | Relay
    first: dict[str, Array]
    before: int = 0
    rejections: int = 0
    parts: list[PyTree] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def trials(self) -> int:
        return trials_of(self.run) - self.before

    def add(self, run: Run | Relay, record: Record | None) -> None:
        """What has come out of a block."""
        self.run = run
        if record is not None:
            self.parts.append(_written(record))
            self.rejections = int(record.rejections)

    def joined(self, history: str | None) -> PyTree:
        """Rows and states of all blocks, one after the other; `None` without a history."""
        if history is None:
            return None
        parts = self.parts or [_written(empty_record(self.run, 0, history == "states"))]
        # Kept in the place of the parts, so that the next checkpoint does not hold the history twice.
        self.parts = [jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)] if len(parts) > 1 else parts
        return self.parts[0]

    def history(self, history: str | None) -> History | None:
        """The history as the user sees it."""
        joined = self.joined(history)
        if joined is None:
            return None
        rows, states = joined
        record = Record(np.asarray(len(rows)), np.asarray(0), np.asarray(0), rows, states)
        return history_of(record, jax.tree.map(np.asarray, self.first))


def trials_of(run: Any) -> int:
    return int(run.counts[0] + run.counts[1])


def _written(record: Record) -> PyTree:
    """The rows of a block's history that were written, copied so that the rest of the buffer can go."""
    written = slice(int(record.length))
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[written]), (record.rows, record.states))
