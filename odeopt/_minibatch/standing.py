"""Where a run on mini-batches stands between two windows, and how that is written down and taken up again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PyTree

from .._checkpoint import Autosave, CheckpointError, Checkpoints, Rows, autosaved, described, first_difference
from .._scoreboard import Scoreboard
from .costs import Costs
from .place import Place
from .rag import SplitRun
from .solution import COLUMNS
from .tournament import Tournament

Method = Tournament | SplitRun


@dataclass
class Standing:
    """A run between two windows.

    **Attributes:** `result`: a code of `RESULTS`, or `RUNNING`; `start`: the energy at the start; `rows`: of the
    history, one for each window; `elapsed`: seconds in earlier parts of this run.
    """

    place: Place
    result: int
    start: float
    rows: list[tuple[float, ...]] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def array(self) -> np.ndarray:
        """The history so far, one column for each of `COLUMNS`."""
        return np.asarray(self.rows, np.float64).reshape(len(self.rows), len(COLUMNS))


class Contents(eqx.Module):
    """What of a run is written in a checkpoint."""

    place: Place
    rows: Rows
    metrics: Rows


class BatchCheckpoints:
    """Writes a run on mini-batches, and finds the one that an earlier call has written.

    Scan and arms are not written: a run that ends in them begins anew, and comes to the same step size.

    **Arguments:** `data`: the examples; `model`: the part of it that is not trained.
    """

    def __init__(self, autosave: Autosave, tournament: Method, data: PyTree, model: PyTree, board: Scoreboard):
        self._autosave, self._tournament, self._board = autosave, tournament, board
        # What has to be the same when the run is taken up again, in the order in which differences are told.
        self._about = {
            "parameters": described(tournament.position, "parameters"),
            "model": described(model, "model"),
            "data": described(data, "data"),
            "solver": described(tournament.settings, "solver", values=True),
            "metrics": {"metrics": ", ".join(board.names[1:]) or "none"},
        }

    def take_up(self) -> Standing | None:
        """The run of the newest complete checkpoint, or `None` where there is none yet.

        **Raises:** `CheckpointError` if it is another run.
        """
        place = Place.blank(self._tournament.start)
        like = Contents(place, Rows(np.zeros((0, len(COLUMNS)))), Rows(self._board.rows[:0]))
        restored = self._autosave.store.restore(like, self._check)
        if restored is None:
            return None
        contents, metadata = restored
        self._tournament.costs = Costs(*metadata["costs"])
        self._board.go_on(contents.metrics.values)
        rows = [tuple(row) for row in contents.rows.values.tolist()]
        return Standing(contents.place, metadata["result"], metadata["start"], rows, metadata["elapsed"])

    def begin(self, standing: Standing, resumed: bool) -> None:
        """The run begins, or goes on where it was taken up."""
        self._autosave.begin(standing.place.step, resumed)

    def update(self, standing: Standing, now: float, elapsed: float) -> None:
        """After every window."""
        if self._autosave.due(standing.place.step, now):
            self._autosave.save(standing.place.step, lambda: self._contents(standing, elapsed))

    def finish(self, standing: Standing, elapsed: float) -> None:
        """After the last window. **Raises:** `NotSavedError`."""
        self._autosave.finish(standing.place.step, lambda: self._contents(standing, elapsed))

    def _contents(self, standing: Standing, elapsed: float) -> tuple[Contents, dict[str, Any], float]:
        contents = Contents(standing.place, Rows(standing.array), Rows(self._board.rows))
        costs = self._tournament.costs
        metadata = {
            "odeopt": version("odeopt"),
            "about": self._about,
            "result": standing.result,
            "start": standing.start,
            "costs": [costs.values, costs.gradients],
            "elapsed": elapsed,
        }
        return contents, metadata, float(standing.place.energy)

    def _check(self, metadata: dict[str, Any]) -> None:
        for part, present in self._about.items():
            difference = first_difference(metadata["about"].get(part, {}), present)
            if difference is not None:
                raise CheckpointError(
                    f"{self._autosave.where} comes from another run. {difference}. Pass what that run was begun with, "
                    "or choose another folder."
                )


@contextmanager
def batch_checkpoints(settings: Checkpoints | None, resume: bool, *parts) -> Iterator[BatchCheckpoints | None]:
    """Checkpoints of a run are written inside of the block; `None` where there are no settings.

    **Arguments:** `parts`: the further arguments of `BatchCheckpoints`.

    **Raises:** `CheckpointError` for a folder that cannot take them, or holds some already and `resume` is false.
    """
    with autosaved(settings, resume) as autosave:
        yield None if autosave is None else BatchCheckpoints(autosave, *parts)
