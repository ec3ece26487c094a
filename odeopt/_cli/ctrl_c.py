"""Ctrl-C during a long command: it keeps what there is, or leaves nothing behind."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .messages import INTERRUPTED


class CtrlC:
    """The answer to Ctrl-C during a long command; it raises nothing.

    An exception out of the middle of JAX's compiler crashes the process now and then (4 of 25 tries), and one out of a
    destructor or an import is swallowed.
    """

    def __init__(self, beginning: str):
        self.pressed = False
        self._beginning = beginning
        self._has_something_to_keep = False

    def after_block(self) -> bool:
        """To be called whenever there is something to keep, as after every block of steps: whether to end."""
        self._has_something_to_keep = True
        return self.pressed

    def __call__(self, number: int, frame) -> None:
        if not self._has_something_to_keep:
            # A progress bar may stand on the line.
            line = b"\r\x1b[K" if sys.stderr.isatty() else b""
            text = f"odeopt: interrupted {self._beginning}; nothing has been written.\n"
            os.write(2, line + text.encode())
            os._exit(INTERRUPTED)
        self.pressed = True
        # The second one ends the process wherever it stands, in compiled code too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def answering_ctrl_c(beginning: str) -> Iterator[CtrlC]:
    """Ctrl-C is answered by a `CtrlC` inside of the block.

    **Arguments:** `beginning`: when it is that there is nothing to keep yet, in words.
    """
    ctrl_c, before = CtrlC(beginning), signal.getsignal(signal.SIGINT)
    # A shell that starts a command in the background has its Ctrl-C ignored.
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, ctrl_c)
    try:
        yield ctrl_c
    finally:
        signal.signal(signal.SIGINT, before)
