"""What `verify` hands back: it prints and writes itself."""

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .check import MARKS, Check, all_passed

# Of a text on a terminal; the width that is left for a message after its mark and name.
WIDTH = 118


@dataclass(frozen=True)
class Section:
    """One part of a verification.

    **Attributes:** `title`; `checks`; `result`: what the part returned (an `EnergyAudit`, a `ConvergenceOrder`, ...),
    or `None` where it could not be carried out.
    """

    title: str
    checks: tuple[Check, ...]
    result: Any = None

    @property
    def passed(self) -> bool:
        return all_passed(self.checks)


@dataclass(frozen=True)
class Report:
    """The outcome of `odeopt.verify`.

    **Attributes:** `subject`: what was verified; `sections`; `seconds` it took; `passed`: whether nothing failed.
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

    def __str__(self) -> str:
        lines = [self._headline()]
        for section in self.sections:
            lines += ["", section.title]
            lines += [_wrapped(f"  {MARKS[check.passed]}  {check.name}: ", check.message) for check in section.checks]
        return "\n".join(lines)

    def __rich__(self):
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        styles = {True: "green", False: "bold red", None: "cyan"}
        verdict = Text(self._headline(), style="bold green" if self.passed else "bold red")
        tables = []
        for section in self.sections:
            table = Table(title=section.title, title_justify="left", show_header=False, expand=True)
            table.add_column(no_wrap=True)
            table.add_column(max_width=30)
            table.add_column(ratio=1, overflow="fold")
            for check in section.checks:
                table.add_row(Text(MARKS[check.passed], styles[check.passed]), check.name, Text(check.message))
            tables.append(table)
        return Group(verdict, *tables)

    def to_markdown(self) -> str:
        """The report as a Markdown text."""
        lines = [f"# {self._headline()}"]
        for section in self.sections:
            lines += ["", f"## {section.title}", "", "| | check | found |", "|---|---|---|"]
            lines += [
                f"| {MARKS[check.passed]} | {_cell(check.name)} | {_cell(check.message)} |" for check in section.checks
            ]
        return "\n".join(lines) + "\n"

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the report to a Markdown file."""
        Path(file).write_text(self.to_markdown(), encoding="utf-8")

    def raise_on_failure(self) -> None:
        """Nothing if all checks passed.

        **Raises:** `AssertionError` with the whole report otherwise.
        """
        if not self.passed:
            raise AssertionError(str(self))

    def _headline(self) -> str:
        count = len(self.failures)
        outcome = "verified" if self.passed else f"{count} check{'s' if count > 1 else ''} failed"
        return f"{self.subject}: {outcome} ({self.seconds:.0f} s)"


def _wrapped(start: str, message: str) -> str:
    return textwrap.fill(start + message, WIDTH, subsequent_indent=" " * 8, break_long_words=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
