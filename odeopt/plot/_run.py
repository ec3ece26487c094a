"""A run in three panels: the loss, the energy against its continuous dissipation, and the step size."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .._solution import History

# Okabe and Ito (2008): told apart with any kind of colour vision, and in grey by their lightness.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#6B6B6B"
# A run of fewer steps is drawn with a marker at each of them.
FEW_STEPS = 30
# The step sizes of a run of more steps are drawn as points.
MANY_STEPS = 300
# The part of a panel's height that is told from nothing.
VISIBLE = 0.01


def run(history: History, *, title: str | None = None) -> Figure:
    r"""The picture of a run, over its accepted steps.

    Left: the loss. Middle: the energy \(V\), and where it would stand if every step had kept the whole continuous
    dissipation, \(V_0 + \int V'\,dt\) by the trapezoidal rule on the accepted steps: the closer the two curves, the
    more of the dissipation of the flow the discrete run has kept. Right: the step size, and the trials that were
    rejected before each step.

    **Arguments:** `history`: of a solution of `minimise` or `train` (of a single run); `title`: above the panels.

    **Returns:** a matplotlib `Figure`; `figure.savefig("run.png")` writes it. Pyplot is not touched.

    **Raises:** `TypeError` if `history` is no `History`.

    !!! example

        ```python
        import odeopt.plot

        odeopt.plot.run(solution.history, title="heavy ball").savefig("run.png")
        ```
    """
    if not isinstance(history, History):
        raise TypeError(f"history must be the history of a solution (solution.history); got {type(history).__name__}.")
    history = history.trimmed()
    figure = Figure(figsize=(13.5, 4.1), layout="constrained")
    if title is not None:
        figure.suptitle(title, x=0.01, horizontalalignment="left", fontweight="bold")
    left, middle, right = figure.subplots(1, 3)
    _draw_loss(left, history)
    _draw_energy(middle, history)
    _draw_step_size(right, history)
    for axes in (left, middle, right):
        _dress(axes, history)
    return figure


def energy_balance(history: History) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, energy, and the energy that the continuous dissipation along the run would have left.

    The first entry is the start, where the history knows it.
    """
    t, energy, dissipation = (
        _with_start(history, "t"),
        _with_start(history, "energy"),
        _with_start(history, "dissipation"),
    )
    if len(t) == 0:
        return np.zeros(0), energy, energy
    dissipated = np.cumsum(0.5 * (dissipation[1:] + dissipation[:-1]) * np.diff(t))
    return _steps(history), energy, energy[0] + np.concatenate([[0.0], dissipated])


def _with_start(history: History, column: str) -> np.ndarray:
    rows = np.asarray(getattr(history, column), np.float64)
    return rows if history.start is None else np.concatenate([[float(history.start[column])], rows])


def _steps(history: History) -> np.ndarray:
    """Numbers of the accepted steps, 0 for the start where the history knows it."""
    return np.arange(1 if history.start is None else 0, len(history.t) + 1)


def _draw_loss(axes: Axes, history: History) -> None:
    loss = _with_start(history, "loss")
    axes.plot(_steps(history), loss, color=BLUE, **_style(history))
    axes.set_title("Loss")
    if len(loss) and np.all(loss > 0):
        axes.set_yscale("log")
        if np.max(loss) < 10 * np.min(loss):
            # Within one decade the ticks would read 2.3 x 10^0.
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")


def _draw_energy(axes: Axes, history: History) -> None:
    steps, energy, continuous = energy_balance(history)
    style = _style(history)
    axes.plot(steps, energy, color=BLUE, label="energy $V$ of the run", **style)
    axes.plot(
        steps,
        continuous,
        color=VERMILION,
        linestyle="--",
        label=r"$V_0 + \int V\,^{\prime}\,dt$: its integrated rate",
        **style,
    )
    axes.set_title(_energy_title(energy, continuous))
    _legend_below(axes)


def _energy_title(energy: np.ndarray, continuous: np.ndarray) -> str:
    if len(energy) < 2:
        return "Energy"
    rise = np.max(continuous - np.minimum.accumulate(continuous))
    # A rise that the eye can see: less may be rounding.
    if rise > VISIBLE * (np.max(continuous) - np.min(continuous)):
        return "Energy: dV/dt > 0 along the run"
    if continuous[-1] < continuous[0]:
        kept = (energy[0] - energy[-1]) / (continuous[0] - continuous[-1])
        return f"Energy: fell by {kept:.0%} of its integrated rate" if kept > 0 else "Energy: rose"
    return "Energy"


def _draw_step_size(axes: Axes, history: History) -> None:
    steps, step_size = np.arange(1, len(history.t) + 1), np.asarray(history.step_size)
    rejections = np.asarray(history.rejections)
    axes.set_title("Step size, in the flow's unit of time")
    if len(step_size) == 0:
        axes.text(0.5, 0.5, "no accepted step", transform=axes.transAxes, horizontalalignment="center", color=GREY)
        axes.set_yticks([])
        return
    many = len(step_size) > MANY_STEPS
    # A line through step sizes that alternate fills the panel: long runs are drawn as points.
    line = {"linestyle": "none", "marker": ".", "markersize": 2.5} if many else _style(history)
    axes.plot(steps, step_size, color=BLUE, label="accepted", **line)
    axes.set_yscale("log")
    hit = rejections > 0
    if np.any(hit):
        # The area grows slowly with the number of rejected trials, so that a long search covers nothing.
        area = (5 if many else 18) * (1 + np.log2(rejections[hit]))
        label = f"accepted after rejected trials ({int(np.sum(rejections))} of them)"
        axes.scatter(
            steps[hit], step_size[hit], s=area, marker="v", color=VERMILION, zorder=3, linewidths=0, label=label
        )
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    """Under the panel, where it covers no data."""
    axes.legend(
        frameon=False,
        fontsize="small",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=2,
        columnspacing=1.5,
        markerscale=1.5,
    )


def _style(history: History) -> dict:
    return {"linewidth": 1.6, "marker": "o" if len(history.t) < FEW_STEPS else None, "markersize": 3.5}


def _dress(axes: Axes, history: History) -> None:
    axes.set_xlabel("accepted steps")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if len(history.t) <= 1:
        axes.set_xlim(-0.5, 1.5)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", color=GREY)
