r"""How close a short step comes to the dissipation of the flow, and how fast it gets there.

With the stage quadrature of \(dV/dt\), \((V^+ - V) / (h \sum_i b_i V'_i) = 1 + O(h^p)\) for a scheme of order
\(p\), because the energy is integrated along with the state by the same method; against \(dV/dt\) at the beginning of
the step it is \(1 + O(h)\) for every scheme. (Ketcheson, 2019, Relaxation Runge-Kutta methods.)
"""

from dataclasses import dataclass

import jax
import numpy as np

from .._controller.base import AbstractController
from .._flow.base import State
from .._scheme.base import AbstractScheme
from .attempt import EPS, Attempts, attempt_all
from .check import Check
from .slope import Slope, fit_slope
from .system import System

# A rate this far below the largest is about to pass through zero, and so the ratio is about to pass through infinity.
NEARLY_ZERO = 1e-2
# In the flow's unit of time: from about what a scheme can take to where the change of V is known to three digits.
LADDER = 2.0 ** -np.arange(12)
# A measured order this close to the expected one is the expected one.
AGREEMENT = 0.2


@dataclass(frozen=True)
class DissipationRatio:
    """The change of the energy in one step over what the flow dissipates in that time.

    **Attributes:**

    - `step_size`: shape `(n,)`, from long to short, in the flow's unit of time.
    - `start`: shape `(states, n)`: against \\(h V'\\) at the beginning of the step.
    - `quadrature`: the same against the scheme's stage quadrature; `None` where it has none.
    - `start_slope`, `quadrature_slope`: the order at which the root mean square over the states of the distance
        from 1 falls.
    - `order`: what `quadrature_slope` should be at least.
    """

    step_size: np.ndarray
    start: np.ndarray
    quadrature: np.ndarray | None
    start_slope: Slope
    quadrature_slope: Slope | None
    order: float


def dissipation_ratio(
    system: System, scheme: AbstractScheme, controller: AbstractController, times: np.ndarray, states: State
) -> DissipationRatio | None:
    """The ratios from given states; `None` if the energy is at rest in all of them. In double precision."""
    step_size = LADDER * float(system.unit_of_time())
    found = _grid(system, scheme, controller, times, states, step_size)
    rates = np.abs(found.start[:, 0])
    moving = np.isfinite(rates) & (rates > NEARLY_ZERO * np.max(rates, initial=0.0, where=np.isfinite(rates)))
    if not np.any(moving):
        return None
    found = jax.tree.map(lambda leaf: leaf[moving], found)
    start, start_slope = _ratio(found, found.start, step_size)
    if not scheme.has_quadrature:
        return DissipationRatio(step_size, start, None, start_slope, None, float(scheme.order))
    quadrature, quadrature_slope = _ratio(found, found.quadrature, step_size)
    return DissipationRatio(step_size, start, quadrature, start_slope, quadrature_slope, float(scheme.order))


def _grid(system, scheme, controller, times, states, step_size) -> Attempts:
    """Steps of every length from every state: arrays of shape `(states, lengths)`."""
    shape = (len(times), len(step_size))
    state, length = (index.ravel() for index in np.indices(shape))
    repeated = jax.tree.map(lambda leaf: leaf[state], states)
    found = attempt_all(system, scheme, controller, times[state], repeated, step_size[length])
    return jax.tree.map(lambda leaf: leaf.reshape(shape), found)


def _ratio(found: Attempts, rate: np.ndarray, step_size: np.ndarray) -> tuple[np.ndarray, Slope]:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        expected = found.elapsed * rate
        ratio = np.where(found.finite, found.change / expected, np.nan)
        # One unit of rounding at both ends of the step.
        floor = 2 * EPS * found.size / np.abs(expected)
        distance = np.sqrt(np.mean((ratio - 1) ** 2, axis=0))
    return ratio, fit_slope(step_size, distance, np.sqrt(np.mean(floor**2, axis=0)))


def ratio_checks(ratio: DissipationRatio | None, scheme: AbstractScheme) -> tuple[Check, ...]:
    """Whether the ratio tends to 1, and as fast as it should."""
    name = "dissipation ratio, h to 0"
    if ratio is None:
        return (Check(name, None, "dV/dt is zero in all states that were looked at: there is no ratio"),)
    start = _judge(f"{name}, rate at the start", ratio.start, ratio.start_slope, 1.0)
    if ratio.quadrature is None or ratio.quadrature_slope is None:
        return (start,)
    return (start, _judge(f"{name}, stage quadrature", ratio.quadrature, ratio.quadrature_slope, ratio.order))


def _judge(name: str, ratio: np.ndarray, slope: Slope, order: float) -> Check:
    if slope.exact:
        return Check(name, True, "1 to rounding at every step size")
    if np.isnan(slope.order):
        return Check(name, None, "fewer than three step sizes stand out of rounding: no order can be measured")
    shortest = int(np.flatnonzero(slope.used)[-1])
    limit = float(np.median(ratio[:, shortest]))
    found = f"1 + O(h^{slope.order:.2f}), expected order {order:g}; within {slope.errors[shortest]:.1e} of 1"
    if slope.order < AGREEMENT:
        return Check(
            name,
            False,
            f"tends to {limit:.4g} and not to 1: dV/dt as declared is not the rate of the declared energy along the "
            "vector field (sign, missing factor, forgotten time derivative?), or the scheme does not follow that field",
        )
    if slope.order < order - AGREEMENT:
        return Check(name, False, f"{found}. The scheme's order is declared too high, or the flow is not smooth here.")
    return Check(name, True, found)
