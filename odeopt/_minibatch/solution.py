"""What a run on mini-batches hands back."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PyTree

from .._results import RESULTS, Result

# What is kept of every window, in the order of the columns.
COLUMNS = ("steps", "step_size", "energy", "kept")


class BatchHistory(eqx.Module):
    """What happened in the windows of a run, arrays with one entry for each.

    **Attributes:** `steps`: how many had been made behind it; `step_size`: of its steps; `energy`: on the probe, behind
    its steps; `kept`: whether they were kept; `start`: the energy at the start.
    """

    steps: np.ndarray
    step_size: np.ndarray
    energy: np.ndarray
    kept: np.ndarray
    start: float


class BatchSolution(eqx.Module):
    """The outcome of `train` on mini-batches. `print(solution)` says why the run stopped, and where.

    **Attributes:**

    - `value`: the trained model.
    - `loss`: its energy, the mean loss over the probe: the lowest of all windows.
    - `result`: a member of `odeopt.RESULTS`.
    - `stats`: a dict: `steps`, `windows`, `rolled_back` (windows), and in passes over the data set `values` (forward),
        `gradients` (backward) and `cost` (`values + 2 * gradients`; an epoch of gradients costs 3), the scan, the arms
        and the probe included.
    - `history`: a `BatchHistory`, or `None`.
    - `step_size`: what the next window would have been made with.
    - `metrics`: as in `Solution`, with the number of steps as `trials`.
    - `note`: what was found not to be finite, in the data or in the loss of an example, where a run could not begin or
        could keep no window; otherwise `None`.
    """

    value: PyTree
    loss: float
    result: Result
    stats: dict[str, Any]
    history: BatchHistory | None
    step_size: float
    metrics: dict[str, np.ndarray] | None = None
    note: str | None = eqx.field(static=True, default=None)

    def __str__(self) -> str:
        return self.describe()

    def describe(self) -> str:
        """The reason for stopping with its numbers."""
        stats, sentence = self.stats, str(self.result)
        if bool(self.result == RESULTS.max_steps_reached):
            sentence = f"All {stats['steps']} steps have been made."
        if bool(self.result == RESULTS.step_underflow):
            sentence = (
                "No step size lowers the energy on the probe: the start is as good as batches of this size can make "
                "it, or the gradient of the loss is not that of its value."
            )
        if self.note is not None:
            sentence = f"{sentence} {self.note}"
        return (
            f"{sentence} The loss on the probe is {self.loss:.6g}, the step size {self.step_size:.3g}, after "
            f"{stats['windows'] - stats['rolled_back']} windows that were kept and {stats['rolled_back']} that were "
            f"rolled back; cost {stats['cost']:.4g} (an epoch is 3)."
        )
