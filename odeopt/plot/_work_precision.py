"""The picture of work against precision: what an error costs in gradients, and in seconds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._run import GREY
from ._stability import COLOURS, MARKERS

if TYPE_CHECKING:
    from .._verify.work_precision import WorkPrecision


def work_precision(result: "WorkPrecision", *, axes: Sequence[Axes] | None = None) -> Figure:
    r"""The picture of an `odeopt.work_precision`: lower and further to the left is better.

    Left: the error over the number of gradients. Right: over the seconds. Schemes of this library are solid, solvers
    of diffrax dashed, those of one name in one colour.

    **Arguments:** `result`; `axes`: two matplotlib axes to draw on, or `None` for a figure of their own.

    **Returns:** the matplotlib `Figure`. Pyplot is not touched.

    **Raises:** `ValueError` if `axes` are not two.

    !!! example

        ```python
        odeopt.work_precision(odeopt.HeavyBall(friction=0.5)).plot().savefig("work_precision.png")
        ```
    """
    if axes is None:
        figure = Figure(figsize=(11.5, 4.4), layout="constrained")
        figure.suptitle(result.flow, x=0.01, horizontalalignment="left", fontweight="bold")
        axes = list(figure.subplots(1, 2))
    if len(axes) != 2:
        raise ValueError(f"axes: expected two, for gradients and for seconds; got {len(axes)}.")
    _draw(axes[0], result, result.gradients, "gradients")
    _draw(axes[1], result, result.seconds, "seconds")
    axes[1].legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure = axes[0].get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _draw(axes: Axes, result: "WorkPrecision", costs: np.ndarray, label: str) -> None:
    methods = list(dict.fromkeys(name.removeprefix("diffrax.") for name in result.names))
    for name, ours, cost, error in zip(result.names, result.ours, costs, result.errors, strict=True):
        style = methods.index(name.removeprefix("diffrax.")) % len(COLOURS)
        line = {"linestyle": "-", "linewidth": 1.4} if ours else {"linestyle": "--", "linewidth": 1.1}
        # Neither has a logarithm: a run that is exact, and one that left the numbers.
        shown = np.where(np.isfinite(error) & (error > 0), error, np.nan)
        axes.plot(
            cost,
            shown,
            color=COLOURS[style],
            marker=MARKERS[style],
            markersize=3.5,
            markerfacecolor=COLOURS[style] if ours else "none",
            label=name,
            **line,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("relative error at the end")
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", color=GREY)
