"""A run on mini-batches in two panels: the energy on the probe, and the step size."""

import numpy as np
from matplotlib.figure import Figure

from .._minibatch import BatchHistory
from ._run import BLUE, GREY, VERMILION


def windows(history: BatchHistory, *, title: str | None = None) -> Figure:
    """The picture of a run on mini-batches, over its steps.

    Left: the energy on the probe behind every window; those that were rolled back are marked. Right: the step size.

    **Arguments:** `history`: of a solution of `train` with an `odeopt.EnergyTournament`; `title`: above the panels.

    **Returns:** a matplotlib `Figure`; `figure.savefig("run.png")` writes it. Pyplot is not touched.

    **Raises:** `TypeError` if `history` is no `BatchHistory`.

    !!! example

        ```python
        import odeopt.plot

        loss = lambda y, batch: jnp.mean((batch @ y - 1) ** 2)
        settings = odeopt.EnergyTournament(batch=16, window=32)
        y, solution = odeopt.train(jnp.zeros(2), loss, jnp.ones((200, 2)), settings, max_steps=320)
        odeopt.plot.windows(solution.history, title="mini-batches").savefig("run.png")
        ```
    """
    if not isinstance(history, BatchHistory):
        raise TypeError(
            "history must be the history of a solution on mini-batches (solution.history); got "
            f"{type(history).__name__}. Of other runs odeopt.plot.run draws the picture."
        )
    figure = Figure(figsize=(9.5, 4.1), layout="constrained")
    if title is not None:
        figure.suptitle(title, x=0.01, horizontalalignment="left", fontweight="bold")
    left, right = figure.subplots(1, 2)
    steps, kept = np.concatenate([[0], history.steps[history.kept]]), history.kept
    energy = np.concatenate([[history.start], history.energy[kept]])
    left.plot(steps, energy, color=BLUE, linewidth=1.6, marker="." if len(steps) < 100 else None, label="kept")
    if np.any(~kept):
        # One that is not finite, or far above, would squeeze all others.
        shown = np.minimum(np.nan_to_num(history.energy[~kept], nan=history.start), history.start)
        left.scatter(history.steps[~kept], shown, s=18, marker="v", color=VERMILION, linewidths=0, label="rolled back")
        left.legend(frameon=False, fontsize="small")
    left.set_title("Energy: the mean loss on the probe")
    right.plot(history.steps, history.step_size, color=BLUE, linewidth=1.6, drawstyle="steps-pre")
    right.set_title("Step size, in the flow's unit of time")
    right.set_yscale("log")
    if np.all(energy > 0):
        left.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("steps")
        axes.grid(True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", color=GREY)
    return figure
