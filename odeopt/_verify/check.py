"""One question that was asked of a declaration, and its answer."""

import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .._named import describe


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


def told(error: BaseException) -> str:
    """An error in one line, with the place in the user's own code that it came from."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    others = (Path(__file__).parents[1], Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib")))
    own = [file for file in files if not any(file.is_relative_to(folder) for folder in others)]
    return describe(error, own[-1] if own else None)


# Read aloud as well as seen: a mark that is a word does not depend on colours or fonts.
MARKS = {True: "pass", False: "FAIL", None: "note"}


def all_passed(checks: Iterable[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.passed is not False for check in checks)
