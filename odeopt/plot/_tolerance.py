"""The picture of errors over tolerances."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._run import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from .._verify.tolerance import ToleranceOrder


def tolerance_order(order: "ToleranceOrder", *, axes: Axes | None = None) -> Figure:
    r"""The picture of an `odeopt.tolerance_order`: errors and mean step sizes, filled where the line is fitted.

    **Arguments:** `order`; `axes`: matplotlib axes to draw on, or `None` for a figure of their own.

    **Returns:** the matplotlib `Figure`. Pyplot is not touched.

    !!! example

        ```python
        odeopt.tolerance_order(odeopt.GradientFlow(), odeopt.Euler()).plot().savefig("tolerance.png")
        ```
    """
    if axes is None:
        axes = Figure(figsize=(5.6, 4.4), layout="constrained").subplots()
    assert isinstance(axes, Axes)
    axes.set_title(f"{order.scheme} on {order.flow}", loc="left", fontweight="bold")
    axes.set_xlabel(r"tolerance $\varepsilon$: the share of the dissipation that a step may lose")
    axes.set_xscale("log")
    axes.set_yscale("log")
    lines = {
        "largest relative error": (order.error, BLUE),
        "mean step size, in the flow's unit of time": (order.step, VERMILION),
    }
    for name, (slope, colour) in lines.items():
        values, used = np.where(slope.errors > 0, slope.errors, np.nan), slope.used
        found = "" if np.isnan(slope.order) else rf": $\varepsilon^{{{slope.order:.2f}}}$"
        axes.plot(order.tolerances, values, color=colour, linewidth=1.2, marker="o", markerfacecolor="none")
        axes.plot(order.tolerances[used], values[used], color=colour, linestyle="none", marker="o", label=name + found)
    axes.legend(frameon=False, fontsize="small")
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", color=GREY)
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure
