"""Timing functions against each other in one process."""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np


def seconds_alternating(calls: Sequence[Callable[[], object]], repeats: int) -> np.ndarray:
    """Shape `(calls, repeats)`: the seconds of each call, in turns; all have been called before.

    Every other round goes backwards, so that none always follows the same.
    """
    seconds = np.zeros((len(calls), repeats))
    for round_ in range(repeats):
        indices = range(len(calls)) if round_ % 2 == 0 else reversed(range(len(calls)))
        for index in indices:
            tick = time.perf_counter()
            jax.block_until_ready(calls[index]())
            seconds[index, round_] = time.perf_counter() - tick
    return seconds
