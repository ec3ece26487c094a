"""The picture of a decay: the energy over flow time with the laws that were fitted to it."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._run import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from .._verify.decay import DecayRate

LINES = {"exponential": "--", "polynomial": "-.", "finite time": ":"}


def decay(result: "DecayRate", *, axes: Axes | None = None) -> Figure:
    r"""The excess of the energy over its limit, and the fits: the law that was chosen in colour, the others in grey.

    Left semilogarithmic, where exponential decay is a straight line; right doubly logarithmic over the time in which
    a power is one: \(t + t_0\) for polynomial decay, \(t_1 - t\) for decay in finite time.

    **Arguments:** `result`: of `odeopt.decay_rate`; `axes`: matplotlib axes for the semilogarithmic panel alone, or
    `None` for a figure with both.

    **Returns:** the matplotlib `Figure`. Pyplot is not touched.
    """
    if axes is not None:
        _draw(axes, result, result.t, "flow time $t$")
        figure = axes.get_figure(root=True)
        assert isinstance(figure, Figure)
        return figure
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, result, result.t, "flow time $t$")
    times, label = _straight_time(result)
    _draw(right, result, times, label)
    right.set_title("", loc="left")
    right.set_xscale("log")
    if result.law == "finite time":
        right.invert_xaxis()
    return figure


def _straight_time(result: "DecayRate") -> tuple[np.ndarray, str]:
    """The time over which the chosen law is a straight line in doubly logarithmic scale."""
    shift = result.fit.shift
    if shift is None:
        return result.t, "flow time $t$"
    if result.law == "finite time":
        return shift - result.t, f"time left, $t_1 - t$ with $t_1$ = {shift:.4g}"
    return result.t + shift, f"$t + t_0$ with $t_0$ = {shift:.4g}"


def _draw(axes: Axes, result: "DecayRate", times: np.ndarray, label: str) -> None:
    positive = (result.excess > 0) & (times > 0 if label != "flow time $t$" else True)
    axes.plot(times[positive], result.excess[positive], color=BLUE, linewidth=3.0, alpha=0.45, label="run")
    used = result.used[positive[result.used]]
    for fit in sorted(result.fits, key=lambda fit: fit.law == result.law):
        chosen = fit.law == result.law
        with np.errstate(over="ignore"):
            values = np.exp(fit.log_excess(result.t[used]))
        symbol = {"exponential": "r", "polynomial": "p", "finite time": "q"}[fit.law]
        axes.plot(
            times[used],
            values,
            color=VERMILION if chosen else GREY,
            linewidth=1.6 if chosen else 0.9,
            linestyle=LINES[fit.law],
            label=f"{fit.law}: ${symbol}$ = {fit.value:.4g}",
        )
    axes.set_yscale("log")
    axes.set_title(f"Decay: {result.law}", loc="left", fontweight="bold")
    axes.set_xlabel(label)
    axes.set_ylabel(r"$V - V_\infty$")
    axes.legend(frameon=False, fontsize="small")
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", color=GREY)
