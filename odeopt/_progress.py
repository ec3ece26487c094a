"""What is shown of a run while it lasts."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Progress:
    """What a callback of `train` sees after a block of trials.

    **Attributes:** `trials` of this call, or of the whole run that it resumes; `stats` as in `Solution`; `loss`,
    `energy`, `step_size`, `gradient_norm` where the run stands; `metrics`, the newest values by name; `elapsed` in
    seconds; `best()` gives the best model.
    """

    trials: int
    stats: dict[str, int]
    loss: float
    energy: float
    step_size: float
    gradient_norm: float
    metrics: dict[str, float]
    elapsed: float
    best: Callable[[], Any]


def progress_bar(progress: bool | None, max_steps: int) -> tqdm:
    """A bar on stderr; `None`: where that is a terminal."""
    shown = sys.stderr.isatty() if progress is None else progress
    return tqdm(total=max_steps, disable=not shown, unit="trial", leave=False, dynamic_ncols=True)


def draw(bar: tqdm, report: Progress, done: int) -> None:
    """The bar after `done` further trials."""
    bar.set_postfix(
        {
            "loss": f"{report.loss:.3e}",
            "energy": f"{report.energy:.3e}",
            "step": f"{report.step_size:.2e}",
            "rejected": report.stats["rejected"],
        }
        | {name: f"{value:.4g}" for name, value in report.metrics.items()},
        refresh=False,
    )
    bar.update(done)
