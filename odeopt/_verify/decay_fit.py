# pyright: reportArgumentType=false, reportReturnType=false, reportAttributeAccessIssue=false
# The stubs of SciPy and matplotlib are narrower than what these functions take and return.
r"""Three laws of decay, fitted to the logarithm of an energy over flow time.

They are one family, \(E' = -k E^s\): exponential for \(s = 1\), polynomial for \(s > 1\), finite time for \(s < 1\).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

EXPONENTIAL, POLYNOMIAL, FINITE_TIME = LAWS = ("exponential", "polynomial", "finite time")
# Where the time axis of a law may begin or end, in units of the length of the tail, natural logarithms. Farther away
# than e**5 a power is an exponential; nearer than e**-40 the shift is lost in the rounding of the time.
SHIFTS = {POLYNOMIAL: np.linspace(-12.0, 5.0, 69), FINITE_TIME: np.linspace(-40.0, 5.0, 181)}


@dataclass(frozen=True)
class LawFit:
    r"""One law fitted to the tail.

    **Attributes:**

    - `law`: `"exponential"`: \(E = c\,e^{-r t}\), `"polynomial"`: \(c\,(t + t_0)^{-p}\) or `"finite time"`:
      \(c\,(t_1 - t)^q\).
    - `value`: \(r\), \(p\) or \(q\).
    - `shift`: \(t_0\) or \(t_1\); `None` for the exponential law.
    - `log_constant`: \(\ln c\).
    - `order`: \(s\) of \(E' = -k E^s\): \(1\), \(1 + 1/p\) or \(1 - 1/q\).
    - `limit`: of \(V\), that \(E = V - V_\infty\) was taken with.
    - `residual`: root mean square in \(\ln E\); `relative`: the same over the standard deviation of \(\ln E\).
    """

    law: str
    value: float
    shift: float | None
    log_constant: float
    order: float
    limit: float
    residual: float
    relative: float

    def log_excess(self, t: np.ndarray) -> np.ndarray:
        r"""\(\ln E(t)\) by this law."""
        if self.law == EXPONENTIAL or self.shift is None:
            return self.log_constant - self.value * t
        if self.law == POLYNOMIAL:
            return self.log_constant - self.value * np.log(t + self.shift)
        return self.log_constant + self.value * np.log(self.shift - t)


def fit_law(law: str, t: np.ndarray, log_excess: np.ndarray, limit: float) -> LawFit:
    """The least-squares fit of a law to \\(\\ln E\\) at increasing times `t`."""
    if law == EXPONENTIAL:
        slope, constant, residual = _line(t, log_excess)
        shift, order = None, 1.0
    else:
        shift, abscissae = _best_shift(law, t, log_excess)
        slope, constant, residual = _line(abscissae, log_excess)
        order = 1 - 1 / slope
    value = slope if law == FINITE_TIME else -slope
    spread = float(np.std(log_excess))
    return LawFit(law, value, shift, constant, order, limit, residual, residual / spread if spread > 0 else np.inf)


def _best_shift(law: str, t: np.ndarray, log_excess: np.ndarray) -> tuple[float, np.ndarray]:
    """The shift of the time axis that makes the law straightest, and the logarithm of the shifted times."""
    length = t[-1] - t[0]

    def abscissae(shift: float) -> np.ndarray:
        # Distances from the ends of the tail, and not differences of times, which would round.
        distance = length * np.exp(shift)
        return np.log(t - t[0] + distance) if law == POLYNOMIAL else np.log(t[-1] - t + distance)

    def misfit(shift: float) -> float:
        return _line(abscissae(shift), log_excess)[2]

    best = _scan(misfit, SHIFTS[law])
    distance = length * np.exp(best)
    return float(distance - t[0] if law == POLYNOMIAL else t[-1] + distance), abscissae(best)


def _scan(function: Callable[[float], float], grid: np.ndarray) -> float:
    """The minimum of a function: the best point of a grid, and between its neighbours."""
    best = int(np.argmin([function(point) for point in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(scipy.optimize.minimize_scalar(function, bounds=bounds, options={"xatol": 1e-9}).x)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope, intercept and root mean square residual of the least-squares line."""
    centred, lifted = x - x.mean(), y - y.mean()
    slope = float(centred @ lifted / (centred @ centred))
    residual = float(np.sqrt(np.mean((lifted - slope * centred) ** 2)))
    return slope, float(y.mean() - slope * x.mean()), residual
