"""What `verify` hands back: it prints, draws and writes itself."""

import importlib.util
import io
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .check import MARKS, Check, all_passed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of a text on a terminal; the width that is left for a message after its mark and name.
WIDTH = 118
# The width of the names of checks in a table: two lines for the longest, and more than half of 80 columns for messages.
NAMES = 26
# Of the written page: its smallest letters are then ten pixels high.
DPI = 120


@dataclass(frozen=True)
class Section:
    """One part of a verification.

    **Attributes:** `title`; `checks`; `result`: what the part returned (an `EnergyAudit`, a `ConvergenceOrder`, ...),
    or `None` where it could not be carried out; `part`: `"declaration"`, `"energy"`, `"order"`, `"steps"` or
    `"equivalence"`.
    """

    title: str
    checks: tuple[Check, ...]
    result: Any = None
    part: str = ""

    @property
    def passed(self) -> bool:
        return all_passed(self.checks)


@dataclass(frozen=True)
class Report:
    """The outcome of `odeopt.verify`.

    **Attributes:** `subject`: what was verified; `sections`; `seconds` it took; `passed`: whether nothing failed.

    `print(report)` shows it as a text, rich (`rich.print(report)`) as tables.

    !!! example

        ```python
        report = odeopt.verify(odeopt.HeavyBall(friction=0.5))
        report.save("heavy-ball.md")  # and heavy-ball.png beside it, where matplotlib is installed
        ```
    """

    subject: str
    sections: tuple[Section, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return all(section.passed for section in self.sections)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for section in self.sections for check in section.checks if check.passed is False)

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        count = len(self.failures)
        outcome = "verified" if self.passed else f"{count} check{'s' if count > 1 else ''} failed"
        return f"{self.subject}: {outcome} ({self.seconds:.0f} s)"

    def section(self, part: str) -> Section | None:
        """The section of a part, `None` where it was left out because the declaration cannot be evaluated."""
        return next((section for section in self.sections if section.part == part), None)

    def __str__(self) -> str:
        lines = [self.headline]
        for section in self.sections:
            lines += ["", section.title]
            lines += [_wrapped(f"  {MARKS[check.passed]}  {check.name}: ", check.message) for check in section.checks]
        return "\n".join(lines)

    def __rich__(self):
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        styles = {True: "green", False: "bold red", None: "cyan"}
        verdict = Text(self.headline, style="bold green" if self.passed else "bold red")
        parts = []
        for section in self.sections:
            # Lines between sections only, and one width for all names: columns stand below each other.
            table = Table(show_header=False, expand=True, box=box.HORIZONTALS)
            table.add_column(no_wrap=True)
            table.add_column(width=NAMES)
            table.add_column(ratio=1, overflow="fold")
            for check in section.checks:
                table.add_row(Text(MARKS[check.passed], styles[check.passed]), Text(check.name), Text(check.message))
            parts += [Text(), Text(section.title, style="bold"), table]
        return Group(verdict, *parts)

    def plot(self) -> "Figure":
        """All pictures on one page, with the verdict above them.

        **Returns:** the matplotlib figure. Needs matplotlib.
        """
        from ..plot import report

        return report(self)

    def to_markdown(self, picture: str | None = None) -> str:
        """The report as a Markdown text.

        **Arguments:** `picture`: the address of a picture to show below the verdict.
        """
        lines = [f"# {_cell(self.headline)}"]
        if picture is not None:
            # In angle brackets, because names of files may hold spaces and parentheses.
            lines += ["", f"![The pictures of all sections](<{picture}>)"]
        for section in self.sections:
            lines += ["", f"## {section.title}", "", "| | check | found |", "|---|---|---|"]
            lines += [
                f"| {MARKS[check.passed]} | {_cell(check.name)} | {_cell(check.message)} |" for check in section.checks
            ]
        return "\n".join(lines) + "\n"

    def save(self, file: str | os.PathLike[str], *, pictures: bool | None = None) -> None:
        """Write the report to a Markdown file, and its pictures to a PNG file of the same name beside it.

        **Arguments:** `file`: such as `"report.md"`; what stands there is replaced. `pictures`: whether to draw;
        `None`: if matplotlib is installed.

        **Raises:** `OSError` if the place cannot be written to; `ValueError` if `file` is the name of a picture;
        `ImportError` for `pictures=True` without matplotlib.
        """
        for path, content in self.files(file, pictures=pictures).items():
            path.write_bytes(content)

    def files(self, file: str | os.PathLike[str], *, pictures: bool | None = None) -> dict[Path, bytes]:
        """What `save` writes, by its place; the arguments and errors are the same."""
        text, picture = Path(file), Path(file).with_suffix(".png")
        if text.suffix.lower() == ".png":
            raise ValueError(
                f"{file}: name the Markdown file, such as {text.with_suffix('.md')}; its pictures go beside."
            )
        if pictures is None:
            pictures = importlib.util.find_spec("matplotlib") is not None
        if not pictures:
            return {text: self.to_markdown().encode("utf-8")}
        page = io.BytesIO()
        self.plot().savefig(page, dpi=DPI)
        return {picture: page.getvalue(), text: self.to_markdown(picture.name).encode("utf-8")}

    def raise_on_failure(self) -> None:
        """Nothing if all checks passed.

        **Raises:** `AssertionError` with the whole report otherwise.
        """
        if not self.passed:
            raise AssertionError(str(self))


def _wrapped(start: str, message: str) -> str:
    return textwrap.fill(start + message, WIDTH, subsequent_indent=" " * 8, break_long_words=False)


def _cell(text: str) -> str:
    """A text in a cell of a Markdown table: what would be markup there (a tag above all) is shown as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*<|" else letter for letter in text).replace("\n", "<br>")
