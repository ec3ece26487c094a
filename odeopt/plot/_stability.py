# pyright: reportArgumentType=false, reportReturnType=false, reportAttributeAccessIssue=false
# The stubs of SciPy and matplotlib are narrower than what these functions take and return.
"""Pictures of stability: regions, spectral radii, the edge of stability along a run, and minima that hold or not."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._run import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from .._verify.basin import StabilityOfMinimum
    from .._verify.edge import EdgeOfStability
    from .._verify.region import StabilityRegion
    from .._verify.stability import Stability

# Okabe and Ito (2008), from dark to light in grey.
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# More curves than this in one panel are told apart by nobody.
CURVES = len(COLOURS)


def stability(result: "Stability", *, axes: Axes | None = None) -> Figure:
    r"""The spectral radius of one step over the step size, and where it passes 1.

    Each curve is drawn over \(h\) in units of its own limit if there is one, so that all of them fit; the limits
    stand in the legend.

    **Arguments:** `result`: of `odeopt.stability`; `axes`: matplotlib axes to draw on, or `None` for a figure of their
    own.

    **Returns:** the matplotlib `Figure`. Pyplot is not touched.
    """
    axes = _axes(axes, (6.0, 4.4))
    axes.set_title(f"{result.scheme} on {result.flow}", loc="left", fontweight="bold")
    chosen = np.unique(np.linspace(0, len(result.curvatures) - 1, min(CURVES, len(result.curvatures))).astype(int))
    for index, colour in zip(chosen, COLOURS, strict=False):
        limit = result.limits[index]
        unit = limit if 0 < limit < np.inf else 1.0
        label = f"$L$ = {result.curvatures[index]:.4g}: stable up to $h$ = {limit:.4g}"
        axes.plot(result.step_sizes[index] / unit, result.spectral_radius[index], color=colour, label=label)
    axes.axhline(1.0, color=GREY, linewidth=1.0)
    if np.any((result.limits[chosen] > 0) & np.isfinite(result.limits[chosen])):
        axes.axvline(1.0, color=GREY, linewidth=1.0, linestyle="--")
    axes.set_xscale("log")
    axes.set_ylim(0, 2)
    axes.set_xlabel("step size $h$ / largest stable $h$")
    axes.set_ylabel(r"spectral radius $\rho$ of one step")
    axes.legend(frameon=False, fontsize="small", loc="upper left")
    return _dressed(axes)


def stability_region(result: "StabilityRegion", *, axes: Axes | None = None) -> Figure:
    r"""Where \(|R(z)| \le 1\): filled contours inside, white outside.

    **Arguments:** `result`: of `odeopt.stability_region`; `axes`: as above.

    **Returns:** the matplotlib `Figure`.
    """
    axes = _axes(axes, (5.2, 4.8))
    axes.set_title(f"{result.scheme}: stability region", loc="left", fontweight="bold")
    # A ladder in one colour: lightness tells the size of |R|, in print too.
    levels = np.linspace(0.0, 1.0, 6)
    filled = axes.contourf(result.real, result.imaginary, result.amplification, levels=levels, cmap="Blues_r")
    axes.contour(result.real, result.imaginary, result.amplification, levels=[1.0], colors=[GREY], linewidths=1.2)
    axes.axhline(0.0, color=GREY, linewidth=0.6)
    axes.axvline(0.0, color=GREY, linewidth=0.6)
    ends = [(-result.real_interval, 0.0), (0.0, result.imaginary_interval), (0.0, -result.imaginary_interval)]
    axes.plot(*zip(*ends, strict=True), linestyle="none", marker="o", markersize=5, color=VERMILION, zorder=3)
    axes.set_aspect("equal")
    axes.set_xlim(result.real[0], result.real[-1])
    axes.set_ylim(result.imaginary[0], result.imaginary[-1])
    axes.set_xlabel(
        f"real part of $z = h\\lambda$; stable from $-${result.real_interval:.4g} on, "
        f"{result.imaginary_interval:.4g} up the imaginary axis",
        fontsize="small",
    )
    axes.set_ylabel("imaginary part")
    figure = _dressed(axes, grid=False)
    figure.colorbar(filled, ax=axes, label="$|R(z)|$", shrink=0.8)
    return figure


def edge_of_stability(result: "EdgeOfStability", *, axes: Axes | None = None) -> Figure:
    """The step sizes of a run, and the largest stable ones that its curvature allows.

    **Arguments:** `result`: of `odeopt.edge_of_stability`; `axes`: as above.

    **Returns:** the matplotlib `Figure`.
    """
    axes = _axes(axes, (7.0, 4.4))
    axes.set_title(f"{result.scheme} on {result.flow} under {result.controller}", loc="left", fontweight="bold")
    steps = np.arange(1, len(result.step_sizes) + 1)
    many = len(steps) > 100
    style = {"linestyle": "none", "marker": ".", "markersize": 3.0} if many else {"linewidth": 1.4}
    axes.plot(steps, result.step_sizes, color=BLUE, label="step size of the run", **style)
    limits = np.where(np.isfinite(result.limits), result.limits, np.nan)
    axes.plot(
        result.steps,
        limits,
        color=VERMILION,
        marker="o",
        markersize=5,
        linestyle="--",
        label=r"largest stable step size, from the largest eigenvalue",
    )
    axes.set_yscale("log")
    axes.set_xlabel("accepted steps")
    axes.set_ylabel("step size, in the flow's unit of time")
    axes.legend(frameon=False, fontsize="small")
    return _dressed(axes)


def stability_of_minimum(result: "StabilityOfMinimum", *, axes: Axes | None = None) -> Figure:
    """Over the radius of the sphere, the share of starts from it that stay and, dashed, that converge.

    **Arguments:** `result`: of `odeopt.stability_of_minimum`; `axes`: as above.

    **Returns:** the matplotlib `Figure`.
    """
    axes = _axes(axes, (6.4, 4.4))
    axes.set_title("Runs that stay near the minimum", loc="left", fontweight="bold")
    for index, name in enumerate(result.solvers):
        colour, marker = COLOURS[index % CURVES], MARKERS[index % CURVES]
        bounds = np.array([result.interval(share) for share in result.stays[index]])
        shares = result.stays[index]
        # Rounding may put a share of 0 or 1 outside of its own interval.
        spread = np.maximum(np.abs(bounds.T - shares), 0.0)
        # Side by side, because several solvers often share the value 0 or 1.
        radii = result.radii * 1.06 ** (index - (len(result.solvers) - 1) / 2)
        axes.errorbar(radii, shares, yerr=spread, color=colour, marker=marker, label=f"{name}: stay", capsize=2)
        axes.plot(
            radii,
            result.converges[index],
            color=colour,
            marker=marker,
            markerfacecolor="none",
            linestyle="--",
            label=f"{name}: converge",
        )
    axes.set_xscale("log")
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlabel("distance of the start from the minimum")
    axes.set_ylabel(f"share of {result.samples} runs")
    axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return _dressed(axes)


def _axes(axes: Axes | None, size: tuple[float, float]) -> Axes:
    if axes is None:
        axes = Figure(figsize=size, layout="constrained").subplots()
    assert isinstance(axes, Axes)
    return axes


def _dressed(axes: Axes, grid: bool = True) -> Figure:
    if grid:
        axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", color=GREY)
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure
