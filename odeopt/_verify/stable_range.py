"""Up to where something is stable: the first crossing on a logarithmic scale, for many cases at once."""

from collections.abc import Callable

import numpy as np

# A quotient of 1.1 from one point of the scan to the next: a window of instability that is narrower may be missed.
POINTS_PER_DECADE = 24
# Halvings of that quotient; 40 leave nothing that double precision would show.
BISECTIONS = 40


def first_unstable(
    excess: Callable[[np.ndarray], np.ndarray], lowest: np.ndarray, highest: np.ndarray, tolerance: float
) -> np.ndarray:
    """The end of the range of stability that begins at zero.

    **Arguments:** `excess`: by how much something grows, as a function of positive numbers of shape `(cases, points)`;
    `lowest`, `highest`: where the search begins and ends, shape `(cases,)`; `tolerance`: the excess that is rounding.

    **Returns:** shape `(cases,)`: 0 where already `lowest` is unstable, infinity where `highest` is stable yet.
    """
    count = 1 + int(np.ceil(POINTS_PER_DECADE * np.max(np.log10(highest / lowest))))
    scan = np.geomspace(lowest, highest, count, axis=-1)
    # Not (excess <= tolerance): what overflows is unstable.
    unstable = ~(excess(scan) <= tolerance)
    first = np.argmax(unstable, axis=-1)
    rows = np.arange(len(scan))
    bad = scan[rows, first]
    good = scan[rows, np.maximum(first - 1, 0)]
    for _ in range(BISECTIONS):
        middle = np.sqrt(good) * np.sqrt(bad)
        grows = ~(excess(middle[:, None])[:, 0] <= tolerance)
        good, bad = np.where(grows, good, middle), np.where(grows, middle, bad)
    return np.where(unstable[:, 0], 0.0, np.where(unstable.any(axis=-1), good, np.inf))
