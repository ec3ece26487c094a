"""A flow beside a discrete optimizer: how far apart their iterates are, and how far they may be."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._run import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from .._verify.equivalence import Equivalence


def equivalence(result: "Equivalence", *, axes: Axes | None = None) -> Figure:
    """The picture of an `odeopt.equivalence`: difference and tolerance after each step, on a logarithmic scale.

    **Arguments:** `result`; `axes`: matplotlib axes to draw on, or `None` for a figure of their own.

    **Returns:** the matplotlib `Figure`. Pyplot is not touched.

    !!! example

        ```python
        odeopt.equivalence(odeopt.HeavyBall(friction=0.5)).plot().savefig("equivalence.png")
        ```
    """
    if axes is None:
        axes = Figure(figsize=(6, 4.2), layout="constrained").subplots()
    axes.set_title(f"{result.flow}, {result.scheme}: distance from its discrete equivalent", fontsize="medium")
    if len(result.difference) == 0:
        axes.text(0.5, 0.5, "none is stated", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_axis_off()
    else:
        _draw(axes, result)
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _draw(axes: Axes, result: "Equivalence") -> None:
    steps = np.arange(1, len(result.difference) + 1)
    # Iterates that agree in every digit are drawn at the smallest distance that two numbers near 1 can have.
    difference = np.maximum(result.difference, np.finfo(np.float64).eps / 2)
    axes.plot(steps, difference, color=BLUE, linewidth=1.4, label="difference")
    axes.plot(steps, result.tolerance, color=VERMILION, linestyle="--", linewidth=1.2, label="allowed")
    axes.set_yscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel("relative to the largest parameter")
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
