r"""The order of convergence from errors on a ladder of step sizes: which points count, the slope, its uncertainty."""

from dataclasses import dataclass

import numpy as np

# An error so many times the floor (of the reference and of rounding together) is wrong by at most a thirtieth, which
# moves a local order by at most log2(1 + 1/30) = 0.05: a quarter of what a measured order may be off by.
ABOVE_FLOOR = 30.0
# Local orders are taken to be those of the limit as long as they stay this close to that of the shortest steps: half
# of what a measured order may be off by, so that the slope through them is off by less than the whole.
SETTLED = 0.1
# A slope through two points has no residual to tell its uncertainty from.
FEWEST = 3


@dataclass(frozen=True)
class Slope:
    """An order of convergence, and the errors that it was measured from.

    **Attributes:** all arrays have shape `(n,)`, from the longest step to the shortest.

    - `errors`: relative.
    - `local_orders`: \\(\\log_2\\) of the last error over this one; the first is NaN.
    - `used`: whether the point is on the line: not lost in rounding, not before the errors have settled.
    - `order`, `uncertainty`: the slope of the least-squares line through the used points in doubly logarithmic scale,
        and its standard error; NaN where fewer than three errors stand out of rounding.
    - `exact`: whether no error at all stands out of rounding.
    """

    errors: np.ndarray
    local_orders: np.ndarray
    used: np.ndarray
    order: float
    uncertainty: float
    exact: bool

    @property
    def spread(self) -> float:
        """How far the local orders along the line are from each other; zero where there is no line."""
        local = self.local_orders[self.used][1:]
        return float(np.ptp(local)) if len(local) else 0.0


def fit_slope(step_sizes: np.ndarray, errors: np.ndarray, floors: np.ndarray) -> Slope:
    """The order of errors on a ladder of step sizes that halve from point to point.

    1. *Rounding end.* An error below `ABOVE_FLOOR` times its floor is dropped, and so is every shorter step: below the
       first such point the errors are those of the reference and of rounding. So are errors that are not finite.
    2. *Pre-asymptotic end.* Local orders are followed from the shortest steps upwards. The first that is further than
       `SETTLED` from that of the shortest steps ends the line; the point above it and all longer steps are dropped.
       At least `FEWEST` points stay: where the errors have not settled, the uncertainty says so.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        local = np.concatenate([[np.nan], np.log2(errors[:-1] / errors[1:])])
        clear = np.isfinite(errors) & (errors > ABOVE_FLOOR * floors)
    exact = bool(np.all(errors <= ABOVE_FLOOR * floors))
    end = _end(clear, np.isfinite(errors))
    begin = _begin(local, clear, end)
    used = np.zeros(len(errors), bool)
    if end - begin < FEWEST:
        return Slope(errors, local, used, np.nan, np.nan, exact)
    used[begin:end] = True
    order, uncertainty = _least_squares(np.log2(step_sizes[used]), np.log2(errors[used]))
    return Slope(errors, local, used, order, uncertainty, exact)


def _end(clear: np.ndarray, finite: np.ndarray) -> int:
    """One behind the shortest step whose error is clear of rounding, and of all longer ones too."""
    lost = np.flatnonzero(finite & ~clear)
    return int(lost[0]) if len(lost) else len(clear)


def _begin(local: np.ndarray, clear: np.ndarray, end: int) -> int:
    """The longest step of the line that ends before `end`."""
    begin = end - 1
    while begin > 0 and clear[begin - 1]:
        settled = abs(local[begin] - local[end - 1]) <= SETTLED
        if not settled and end - begin >= FEWEST:
            break
        begin -= 1
    return max(begin, 0)


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The slope and its standard error."""
    centred = x - np.mean(x)
    slope = np.sum(centred * y) / np.sum(centred**2)
    residuals = y - np.mean(y) - slope * centred
    variance = np.sum(residuals**2) / (len(x) - 2)
    return float(slope), float(np.sqrt(variance / np.sum(centred**2)))
