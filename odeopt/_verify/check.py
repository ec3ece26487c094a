"""One question that was asked of a declaration, and its answer."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A question and its answer.

    **Attributes:** `name`: what was asked, in a few words; `passed`: `None` where the answer is information and no
    judgement; `message`: what was found, with its numbers, and where it fails what is wrong and what to do.
    """

    name: str
    passed: bool | None
    message: str

    def __str__(self) -> str:
        return f"{MARKS[self.passed]}  {self.name}: {self.message}"


# Read aloud as well as seen: a mark that is a word does not depend on colours or fonts.
MARKS = {True: "pass", False: "FAIL", None: "note"}


def all_passed(checks: Iterable[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.passed is not False for check in checks)
