"""One question that was asked of a declaration, and its answer."""

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


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
    text = f"{type(error).__name__}: {error}"
    ours = str(Path(__file__).resolve().parents[1])
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(ours) and "site-packages" not in frame.filename
    ]
    # A notebook has cells and a library none of its own: whatever stands last is nearest to the mistake.
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name})" if own else text


# Read aloud as well as seen: a mark that is a word does not depend on colours or fonts.
MARKS = {True: "pass", False: "FAIL", None: "note"}


def all_passed(checks: Iterable[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.passed is not False for check in checks)
