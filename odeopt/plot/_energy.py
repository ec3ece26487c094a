"""An audit of an energy in three panels: the sign of dV/dt, V along solutions, what contributes where it is wrong."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._verify.judgements import TOLERANCE
from ._run import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from .._verify.energy import EnergyAudit

# Relative rates are drawn on a logarithmic scale of both signs that is linear below this.
LINEAR = 1e-4
# Characters in a line of a title over one of three panels.
TITLE = 40
# More points fill the panel and the file, and show no more.
DRAWN = 3000


def energy(audit: "EnergyAudit", *, axes: Any = None) -> Figure:
    r"""The picture of an audit.

    Left: \(dV/dt\) over the sum of its absolute contributions at every state that was judged, against the norm of
    the gradient there; above zero the energy rises. Middle: the energy along solutions, from 1 at its highest to 0 at
    its lowest, and the start plus the integral of the declared dissipation; the two should be one. Right: the
    contributions to \(dV/dt\) at the counter-example.

    **Arguments:** `audit`: of `odeopt.audit_energy`; `axes`: three axes to draw on; `None`: those of a new figure.

    **Returns:** the matplotlib `Figure`. Pyplot is not touched.

    **Raises:** `ValueError` if `axes` are not three.

    !!! example

        ```python
        odeopt.audit_energy(odeopt.HeavyBall(friction=0.5)).plot().savefig("energy.png")
        ```
    """
    if axes is None:
        figure = Figure(figsize=(13.5, 4.1), layout="constrained")
        verdict = "passed" if audit.passed else "failed"
        figure.suptitle(f"Energy of {audit.flow}: {verdict}", x=0.01, horizontalalignment="left", fontweight="bold")
        axes = figure.subplots(1, 3)
    axes = list(np.ravel(axes))
    if len(axes) != 3:
        raise ValueError(f"axes must be three, one for each panel; got {len(axes)}.")
    left, middle, right = axes
    _draw_sign(left, audit)
    _draw_account(middle, audit)
    _draw_contributions(right, audit)
    for panel in axes:
        panel.grid(True, color="#DDDDDD", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(which="both", color=GREY)
    figure = left.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _draw_sign(axes: Axes, audit: "EnergyAudit") -> None:
    axes.set_title("Sign of $dV/dt$ at random states")
    gradient, rate = audit.gradient_norm, audit.relative_rate
    if len(rate) == 0:
        _nothing(axes, "no sign was judged")
        return
    # Less is rounding, as for the judgement.
    above = rate > TOLERANCE
    thinned = np.zeros(len(rate), bool)
    thinned[:: max(len(rate) // DRAWN, 1)] = True
    # A gradient that is exactly zero has no place on a logarithmic axis.
    smallest = np.min(gradient[gradient > 0], initial=1.0)
    for chosen, color, label in ((~above & thinned, BLUE, "falls"), (above, VERMILION, "rises")):
        if np.any(chosen):
            axes.scatter(
                np.maximum(gradient[chosen], smallest),
                rate[chosen],
                s=4,
                color=color,
                linewidths=0,
                alpha=0.5,
                label=f"{label}: {np.sum(above == (label == 'rises'))}",
            )
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
    axes.set_ylim(-2, 2)
    axes.set_yticks([-1, -1e-2, -LINEAR, 0, LINEAR, 1e-2, 1])
    axes.set_xlabel(r"$|\nabla f|$")
    axes.set_ylabel(r"$dV/dt$ over its absolute contributions")
    _legend_below(axes)


def _draw_account(axes: Axes, audit: "EnergyAudit") -> None:
    axes.set_title("$V$ along solutions")
    with np.errstate(invalid="ignore"):
        followed = np.sum(np.isfinite(audit.energy), axis=1) > 1 if audit.energy.size else np.zeros(0, bool)
    if not np.any(followed):
        _nothing(axes, "no solution was followed")
        return
    for row, (t, energy, account) in enumerate(
        zip(audit.t[followed], audit.energy[followed], audit.account[followed], strict=True)
    ):
        low, high = np.nanmin(energy), np.nanmax(energy)
        height = high - low if high > low else 1.0
        labels = ("$V$", r"$V_0 + \int V\,^{\prime}\,dt$") if row == 0 else (None, None)
        axes.plot(t, (energy - low) / height, color=BLUE, linewidth=1.2, label=labels[0])
        axes.plot(t, (account - low) / height, color=VERMILION, linewidth=1.2, linestyle="--", label=labels[1])
    axes.set_ylim(-0.15, 1.15)
    axes.set_xlabel("time, the longest of each solution = 1")
    axes.set_ylabel("from its lowest to its highest")
    _legend_below(axes)


def _draw_contributions(axes: Axes, audit: "EnergyAudit") -> None:
    example = audit.counterexample
    if example is None:
        axes.set_title("Counter-example")
        _nothing(axes, "none")
        return
    axes.set_title(textwrap.fill(f"Counter-example: expected {example.expected}", TITLE))
    bars = {name: part for name, part in example.contributions.items() if part != 0}
    bars["sum: dV/dt"] = example.rate
    # Two ways to evaluate the same differ by rounding.
    if not np.isclose(example.declared, example.rate):
        bars["declared"] = example.declared
    places = np.arange(len(bars))[::-1]
    colors = [GREY if name in ("sum: dV/dt", "declared") else VERMILION if x > 0 else BLUE for name, x in bars.items()]
    axes.barh(places, list(bars.values()), color=colors, height=0.6)
    axes.set_yticks(places, list(bars))
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("contribution to $dV/dt$")
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))


def _nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, horizontalalignment="center", color=GREY)
    axes.set_axis_off()


def _legend_below(axes: Axes) -> None:
    """Under the panel, where it covers no data."""
    axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, markerscale=3)
