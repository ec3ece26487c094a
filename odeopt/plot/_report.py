"""All that `odeopt.verify` has found, on one page."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ._convergence import convergence
from ._energy import energy
from ._equivalence import equivalence
from ._run import BLUE, GREY, VERMILION
from ._steps import steps

if TYPE_CHECKING:
    from .._verify.report import Report, Section

# In inches: three panels in a row, as in the other pictures, and three rows.
SIZE = (13.5, 13.2)
# Between and around sections, and from the left edge to titles; inches.
PAD, MARGIN = 0.12, 0.15
# Characters in a line of the page, and of one panel.
LINE, PANEL = 100, 54
# Lines that fit into the height of a panel, and that one message may take of the verdicts.
LINES, MESSAGE = 18, 5


def report(report: "Report") -> Figure:
    """The pictures of a verification on one page.

    From top to bottom: the audit of the energy in three panels; the order of convergence, and the audit of the steps
    in two panels; the distance from the discrete equivalent, and the verdicts of all sections with what failed. A
    section that was not carried out says so.

    **Arguments:** `report`: of `odeopt.verify`.

    **Returns:** the matplotlib `Figure`. Pyplot is not touched.

    !!! example

        ```python
        odeopt.plot.report(odeopt.verify(odeopt.Adam())).savefig("adam.png")
        ```
    """
    figure = Figure(figsize=SIZE, layout=ConstrainedLayoutEngine(w_pad=PAD, h_pad=PAD))
    figure.suptitle(
        # The unit stays with its number.
        textwrap.fill(report.headline.replace(" s)", "\N{NO-BREAK SPACE}s)"), LINE),
        x=MARGIN / SIZE[0],
        horizontalalignment="left",
        fontsize="x-large",
        fontweight="bold",
        color=BLUE if report.passed else VERMILION,
    )
    top, middle, bottom = _divided(figure, 3, 1)
    order, step = _divided(middle, 1, 2, width_ratios=[1, 2])
    equal, verdicts = _divided(bottom, 1, 2, width_ratios=[1, 2])
    _draw(top, report, "energy", 3, lambda result, axes: energy(result, axes=axes))
    _draw(order, report, "order", 1, lambda result, axes: convergence(result, axes=axes[0]))
    _draw(step, report, "steps", 2, lambda result, axes: steps(result, axes=axes))
    _draw(equal, report, "equivalence", 1, lambda result, axes: equivalence(result, axes=axes[0]))
    _write_verdicts(verdicts, report)
    return figure


def _divided(place: Figure | SubFigure, rows: int, columns: int, **options: Any) -> list[SubFigure]:
    """The parts of a page."""
    parts: Any = place.subfigures(rows, columns, squeeze=False, **options)
    return list(parts.ravel())


def _draw(
    place: SubFigure, report: "Report", part: str, panels: int, draw: Callable[[Any, Sequence[Axes]], Any]
) -> None:
    """One section under its title."""
    section = report.section(part)
    axes = list(place.subplots(1, panels, squeeze=False)[0])
    if section is None:
        _title(place, NAMES[part], GREY)
        _say(axes, "not carried out:\nthe declaration cannot be evaluated", PANEL * panels)
    elif section.result is None:
        _title(place, f"{section.title}: FAILED", VERMILION)
        _say(axes, f"not carried out. {section.checks[0].message}", PANEL * panels)
    else:
        draw(section.result, axes)
        for panel in axes:
            # What a panel is titled by itself the section says here.
            panel.set_title("" if panels == 1 else panel.get_title(), loc="center")
            panel.set_title("", loc="left")
        failed = not section.passed
        _title(place, f"{section.title}: FAILED" if failed else section.title, VERMILION if failed else "black")


NAMES = {
    "energy": "Energy in continuous time",
    "order": "Order of convergence",
    "steps": "Energy in discrete time",
    "equivalence": "Discrete equivalent",
}


def _title(place: SubFigure, text: str, colour: str) -> None:
    # A part of the page is measured in pixels.
    width = place.bbox.width / place.dpi
    place.suptitle(text, x=MARGIN / width, horizontalalignment="left", fontweight="bold", color=colour)


def _say(axes: Sequence[Axes], text: str, width: int) -> None:
    """Words in the place of panels."""
    for panel in axes:
        panel.set_axis_off()
    lines = [line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, width)]
    shown = "\n".join(_first(lines, LINES))
    axes[0].text(0, 1, shown, transform=axes[0].transAxes, verticalalignment="top", color=GREY)


def _first(lines: list[str], count: int) -> list[str]:
    """The first lines of a text; what is left out is said to be."""
    return lines if len(lines) <= count else [*lines[: count - 1], "    ..."]


def _write_verdicts(place: SubFigure, report: "Report") -> None:
    """Every section with its verdict, and every check that failed with what it found."""
    _title(place, "Checks", "black")
    axes = place.subplots()
    axes.set_axis_off()
    lines = [line for section in report.sections for line in _verdict(section)]
    # More lines than fit are written smaller.
    size = 10.0 * min(1.0, LINES / len(lines))
    for number, (text, colour) in enumerate(lines):
        height = 1 - number / max(len(lines), LINES)
        axes.text(0, height, text, transform=axes.transAxes, verticalalignment="top", fontsize=size, color=colour)


def _verdict(section: "Section") -> list[tuple[str, str]]:
    """Lines of text and their colours."""
    judged = [check for check in section.checks if check.passed is not None]
    failed = [check for check in judged if not check.passed]
    if not judged:
        return [(f"note  {section.title}: nothing to judge", GREY)]
    count = f"{len(judged) - len(failed)} of {len(judged)} checks passed"
    lines = [(f"{'FAIL' if failed else 'pass'}  {section.title}: {count}", VERMILION if failed else "black")]
    for check in failed:
        indent = "    "
        text = textwrap.fill(
            f"{check.name}: {check.message}", 2 * PANEL, initial_indent=indent, subsequent_indent=indent
        )
        lines += [(line, VERMILION) for line in _first(text.splitlines(), MESSAGE)]
    return lines
