"""Signals that end a run as soon as that is possible without losing anything."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What a program that says nothing about a signal answers it with.
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@contextmanager
def interruption(*signals: signal.Signals) -> Iterator[threading.Event]:
    """Turns the first of some signals into a flag that is looked at after the block; a second one acts as usual.

    Only where the program has no answer of its own to the signal, which it keeps.

    **Arguments:** `signals`: `SIGINT` (Ctrl-C) and `SIGTERM` (a scheduler whose time is up).
    """
    flag = threading.Event()
    # Signals reach the main thread only.
    is_main = threading.current_thread() is threading.main_thread()
    taken = [number for number in signals if is_main and signal.getsignal(number) is USUAL[number]]

    def on_signal(number, frame):
        if flag.is_set():
            signal.signal(number, USUAL[number])
            os.kill(os.getpid(), number)
        flag.set()

    for number in taken:
        signal.signal(number, on_signal)
    try:
        yield flag
    finally:
        for number in taken:
            signal.signal(number, USUAL[number])
