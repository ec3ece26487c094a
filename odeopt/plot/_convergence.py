"""The picture of a measured order of convergence: errors over step sizes."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._run import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from .._verify.convergence import ConvergenceOrder

# Green beside the colours of the other pictures: told apart by colour-blind eyes too (Okabe and Ito, 2008).
GREEN = "#009E73"


def convergence(order: "ConvergenceOrder", *, axes: Axes | None = None) -> Figure:
    """The picture of an `odeopt.convergence_order`: errors over step sizes, filled where the line is fitted.

    **Arguments:** `order`; `axes`: matplotlib axes to draw on, or `None` for a figure of their own.

    **Returns:** the matplotlib `Figure`. Pyplot is not touched.

    !!! example

        ```python
        odeopt.convergence_order(odeopt.HeavyBall(friction=0.5), odeopt.Heun()).plot().savefig("order.png")
        ```
    """
    if axes is None:
        axes = Figure(figsize=(5.6, 4.4), layout="constrained").subplots()
    assert isinstance(axes, Axes)
    axes.set_title(f"{order.scheme} on {order.flow}", loc="left", fontweight="bold")
    axes.set_xlabel("step size $h$, in the flow's unit of time")
    axes.set_ylabel("relative error at the end")
    axes.set_xscale("log")
    axes.set_yscale("log")
    parts = {"position": (order.position, BLUE), "memory": (order.memory, VERMILION), "energy": (order.energy, GREEN)}
    for name, (slope, colour) in parts.items():
        if slope is None or slope.exact:
            continue
        errors = np.where(slope.errors > 0, slope.errors, np.nan)
        label = f"{name}: order {slope.order:.2f}"
        axes.plot(order.step_sizes, errors, color=colour, linewidth=1.2, marker="o", markerfacecolor="none")
        axes.plot(order.step_sizes[slope.used], errors[slope.used], color=colour, marker="o", label=label)
    used = order.position.used
    if np.any(used):
        h = order.step_sizes[used]
        # Below the curve by a factor of three, so that the two can be told apart.
        line = order.position.errors[used][-1] / 3 * (h / h[-1]) ** order.declared
        axes.plot(h, line, color=GREY, linestyle="--", linewidth=1.0, label=f"declared order {order.declared:g}")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure
