"""An audit of steps in two panels: the dissipation ratio over the step size, and the step sizes that pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._run import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from .._verify.dissipation_ratio import DissipationRatio
    from .._verify.slope import Slope
    from .._verify.steps import StepAudit


def steps(audit: "StepAudit", *, axes: Sequence[Axes] | None = None) -> Figure:
    r"""The picture of an `odeopt.audit_steps`.

    Left: the distance of the dissipation ratio \((V^+ - V) / (h V')\) from 1 over the step size, thin for each state,
    thick for their root mean square, with a line of the expected order. Right: the largest step size that passes the
    acceptance test from states along the run, and the step sizes of the run itself.

    **Arguments:** `audit`; `axes`: two matplotlib axes to draw on, or `None` for a figure of their own.

    **Returns:** the matplotlib `Figure`. Pyplot is not touched.

    **Raises:** `ValueError` if `axes` are not two.

    !!! example

        ```python
        odeopt.audit_steps(odeopt.HeavyBall(friction=0.5)).plot().savefig("steps.png")
        ```
    """
    if axes is None:
        figure = Figure(figsize=(10.5, 4.4), layout="constrained")
        figure.suptitle(
            f"{audit.flow}, {audit.scheme}, {audit.controller}", x=0.01, horizontalalignment="left", fontweight="bold"
        )
        axes = list(figure.subplots(1, 2))
    if len(axes) != 2:
        raise ValueError(f"axes: expected two, for the ratio and for the step sizes; got {len(axes)}.")
    _draw_ratio(axes[0], audit.ratio)
    _draw_step_sizes(axes[1], audit)
    for panel in axes:
        _dress(panel)
    figure = axes[0].get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _draw_ratio(axes: Axes, ratio: "DissipationRatio | None") -> None:
    axes.set_title("Dissipation ratio: its distance from 1")
    axes.set_xlabel("step size $h$, in the flow's unit of time")
    if ratio is None:
        _say(axes, "dV/dt is zero in all states")
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    # Wider than the other, because the two are one for a scheme of one stage.
    _draw_slope(axes, ratio.step_size, ratio.start, ratio.start_slope, 1.0, VERMILION, 3.0, "$V\\,'$ at the start")
    if ratio.quadrature is not None and ratio.quadrature_slope is not None:
        label = "stage quadrature of $V\\,'$"
        _draw_slope(axes, ratio.step_size, ratio.quadrature, ratio.quadrature_slope, ratio.order, BLUE, 1.4, label)
    axes.legend(frameon=False, fontsize="small")


def _draw_slope(
    axes: Axes,
    step_size: np.ndarray,
    ratio: np.ndarray,
    slope: "Slope",
    order: float,
    colour: str,
    width: float,
    label: str,
) -> None:
    distance = np.abs(ratio - 1)
    # Nothing is drawn where the ratio is 1 to the last digit.
    axes.plot(step_size, np.where(distance > 0, distance, np.nan).T, color=colour, linewidth=0.6, alpha=0.35)
    found = "" if np.isnan(slope.order) else f": order {slope.order:.2f}"
    errors = np.where(slope.errors > 0, slope.errors, np.nan)
    axes.plot(step_size, errors, color=colour, linewidth=width, label=label + found)
    axes.plot(step_size[slope.used], errors[slope.used], color=colour, linestyle="none", marker="o", markersize=4)
    if np.any(slope.used):
        used = step_size[slope.used]
        # Below the curve by a factor of three, so that the two can be told apart.
        line = errors[slope.used][-1] / 3 * (used / used[-1]) ** order
        axes.plot(used, line, color=GREY, linestyle="--", linewidth=1.0, label=f"expected order {order:g}")


def _draw_step_sizes(axes: Axes, audit: "StepAudit") -> None:
    axes.set_title("Step sizes along the run")
    axes.set_xlabel("accepted steps before")
    run, along = audit.run, audit.along
    if len(run.step_size) == 0:
        _say(axes, "no step was accepted:\nno step size passes from the start")
        return
    axes.set_yscale("log")
    steps = np.arange(len(run.step_size))
    axes.plot(
        steps, run.step_size, color=BLUE, linewidth=0.9, marker=".", markersize=3, label="chosen by the controller"
    )
    if along is not None:
        known = np.isfinite(along.largest)
        label = "largest that passes"
        style = {"linestyle": "none", "marker": "v", "markersize": 5}
        axes.plot(along.index[known], along.largest[known], color=VERMILION, label=label, **style)
        locked = along.index[along.locked]
        if len(locked):
            axes.plot(
                locked, run.step_size[np.minimum(locked, len(steps) - 1)], "x", color="black", label="none passes"
            )
    axes.legend(frameon=False, fontsize="small")


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def _dress(axes: Axes) -> None:
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", color=GREY)
