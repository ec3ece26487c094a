"""The values of the metrics along a run."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import PyTree

from ._agreement import local_copy
from ._examples import callable_metrics
from ._parameters import merge_parameters

# Metrics are passes over the data too: not more often than this, and once at the end.
METRIC_SECONDS = 1.0


class Scoreboard:
    """Evaluates the metrics now and then and keeps their values.

    **Arguments:** `parameters`, `frozen`: the two halves of the model; `metrics`: functions by name; `sets`: by name
    what they are evaluated on.
    """

    def __init__(self, parameters: PyTree, frozen: PyTree, metrics: Mapping, sets: dict[str, PyTree]):
        self._frozen = frozen
        self._metrics = callable_metrics(metrics, sets, merge_parameters(parameters, frozen))
        self._rows: list[tuple[float, ...]] = []
        self._last = -math.inf

    @property
    def names(self) -> tuple[str, ...]:
        return ("trials", *self._metrics)

    @property
    def rows(self) -> np.ndarray:
        """The values so far, one column for each of `names`."""
        return np.asarray(self._rows, np.float64).reshape(len(self._rows), len(self.names))

    @property
    def newest(self) -> dict[str, float]:
        return dict(zip(self.names[1:], self._rows[-1][1:], strict=True)) if self._rows else {}

    def go_on(self, rows: np.ndarray) -> None:
        """The values of an earlier part of the run, from its `rows`."""
        self._rows = [tuple(row) for row in rows.tolist()]

    def update(self, position: PyTree, trials: int, now: float) -> None:
        """Evaluate the metrics where the run stands, if that was long enough ago."""
        if self._metrics and now - self._last >= METRIC_SECONDS:
            self.evaluate(position, trials)
            self._last = now

    def evaluate(self, position: PyTree, trials: int) -> None:
        model = merge_parameters(local_copy(position, gather=True), self._frozen)
        values = [float(metric(model, batch)) for metric, batch in self._metrics.values()]
        if self._metrics:
            self._rows.append((trials, *values))

    def table(self) -> dict[str, np.ndarray] | None:
        """The values by name, or `None` where there are no metrics."""
        if not self._rows:
            return None
        rows = self.rows
        columns = [rows[:, 0].astype(int), *rows[:, 1:].T]
        return dict(zip(self.names, columns, strict=True))
