r"""The order of convergence of a scheme on a flow, measured against a reference solution.

The global error at a fixed flow time \(T\) is \(C h^p + O(h^{p+1})\); its slope in doubly logarithmic scale is the
order \(p\). (Hairer, Nørsett, Wanner, 1993, Solving Ordinary Differential Equations I, II.3.)
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._flow.base import AbstractFlow, State
from .._scheme.base import AbstractScheme
from .case import system_of
from .check import Check, all_passed
from .march import check_step, march
from .reference import Reference, reference
from .segment import relative_error, segment_times
from .slope import Slope, fit_slope
from .system import System, in_double_precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The error of a scheme has settled to its order when h is some fraction of the fastest time of the flow, and is lost
# in rounding at h**p = 1e-14: between one step and a thousand lie at least three points for every order from 1 to 8.
LADDER = tuple(2**k for k in range(11))
# Errors of the reference are no errors of the scheme: what does not stand out of them is left out. With this one a
# scheme of first order keeps all of the ladder, and a flow whose field has kinks has a reference at all.
ALLOWED = 1e-8
# A measured order this close to the declared one is the declared one.
AGREEMENT = 0.2


@dataclass(frozen=True)
class ConvergenceOrder:
    """How fast a scheme converges to a flow as its steps are shortened.

    **Attributes:**

    - `flow`, `scheme`: names; `declared`: the order that the scheme declares.
    - `step_sizes`: shape `(n,)`, in the flow's unit of time; `steps`: how many of them.
    - `position`, `memory`, `energy`: a `Slope` each (`errors`, `local_orders`, `used`, `order`, `uncertainty`);
        `memory` is `None` for a flow without. Measured from a regular state inside the trajectory, at `start_time`.
    - `natural`: the slope of the whole state from where the flow starts by itself, where it may be singular: no
        judgement hangs on it.
    - `end_time`: where the errors are taken.
    - `reference_error`: relative, estimated.
    """

    flow: str
    scheme: str
    declared: float
    step_sizes: np.ndarray
    steps: np.ndarray
    position: Slope
    memory: Slope | None
    energy: Slope
    natural: Slope
    start_time: float
    end_time: float
    reference_error: float

    @property
    def order(self) -> float:
        """The lower of the orders of position and memory: that of the state."""
        slopes = [slope for slope in (self.position, self.memory) if slope is not None]
        return float(min((slope.order for slope in slopes if not slope.exact), default=np.nan))

    @property
    def checks(self) -> tuple[Check, ...]:
        parts = {"position": self.position, "memory": self.memory, "energy": self.energy}
        judged = [_judge(name, slope, self.declared) for name, slope in parts.items() if slope is not None]
        return (*judged, Check("order from the natural start", None, _spoken(self.natural)))

    @property
    def passed(self) -> bool:
        """Whether position, memory and energy converge at least at the declared order, to within 0.2."""
        return all_passed(self.checks)

    def __str__(self) -> str:
        title = f"{self.scheme} on {self.flow}: error at t = {self.end_time:.4g} from t = {self.start_time:.4g}"
        columns = {"position": self.position, "memory": self.memory, "energy": self.energy, "start": self.natural}
        slopes = {name: slope for name, slope in columns.items() if slope is not None}
        head = f"{'h':>10s}" + "".join(f"{name:>12s}{'order':>7s} " for name in slopes)
        rows = [
            f"{h:10.3e}" + "".join(_cell(slope, index) for slope in slopes.values())
            for index, h in enumerate(self.step_sizes)
        ]
        legend = (
            f"* on the line; start: the whole state, from where the flow starts; reference {self.reference_error:.0e}"
        )
        return "\n".join([title, head, *rows, legend, *map(str, self.checks)])

    def plot(self, axes=None) -> "Figure":
        """Errors over step sizes, with lines of the declared order; on `axes` if given. Needs matplotlib."""
        from ..plot import convergence

        return convergence(self, axes=axes)


@in_double_precision
def convergence_order(
    flow: AbstractFlow,
    scheme: AbstractScheme,
    problem: tuple | None = None,
    *,
    start_time: float | int = 0.0,
    settling: float | int | None = None,
    duration: float | int | None = None,
    steps: tuple[int, ...] = LADDER,
    declared: float | int | None = None,
    stiff: bool = False,
) -> ConvergenceOrder:
    r"""Measure the order at which a scheme converges to a flow, and compare it with the declared one.

    The scheme runs at constant step sizes \(h\), each half of the one before, from a state on the exact trajectory to
    a fixed time, and its error there is taken against a reference solution. Errors lost in rounding and errors before
    the asymptotic regime are left out by fixed rules; the order is the slope of a least-squares line.

    **Arguments:**

    - `flow`, `problem`: as for `reference_solution`.
    - `scheme`: what steps.
    - `start_time`: of the flow; > 0 where it is singular at \(t = 0\).
    - `settling`: how long the exact flow is followed before the measurement, so that it begins at a regular state.
        From its natural start Adam's flow behaves like \(\sqrt t\) and every scheme of higher order falls to 1.5.
        `None`: half of the flow's `unit_of_time`.
    - `duration`: how long the scheme runs. `None`: the flow's `unit_of_time`.
    - `steps`: the numbers of steps, each twice the one before.
    - `declared`: the order to compare with. `None`: `scheme.order`.
    - `stiff`: passed on to the reference.

    **Returns:** a `ConvergenceOrder`: `passed`, the orders of position, memory and energy with their uncertainty,
    that from the natural start apart, a table as its `str`, and `plot()`.

    **Raises:** `ValueError` for a ladder that does not double or a time that is not positive; `TypeError` or
    `ValueError` where the scheme cannot step the flow; `InaccurateReferenceError` where the flow has no reference.

    !!! example

        ```python
        print(odeopt.convergence_order(odeopt.HeavyBall(friction=0.5), odeopt.Heun()))
        ```
    """
    system = system_of(flow, problem)
    check_step(system, scheme)
    ladder = _checked_ladder(steps)
    times = segment_times(system, start_time, settling, duration)
    exact = reference(system, times=times, start_time=start_time, tolerance=1e-13, stiff=stiff, allowed=ALLOWED)
    # From the state inside the trajectory, and from its beginning: to the same end.
    inside, natural = (_ladder_of(system, scheme, exact, index, ladder) for index in (1, 0))
    return ConvergenceOrder(
        flow=type(system.flow).__name__,
        scheme=type(scheme).__name__,
        declared=float(scheme.order if declared is None else declared),
        step_sizes=inside.step_sizes,
        steps=ladder,
        position=inside.position,
        memory=inside.memory,
        energy=inside.energy,
        natural=natural.state,
        start_time=float(times[1]),
        end_time=float(times[2]),
        reference_error=exact.error,
    )


@dataclass(frozen=True)
class _Ladder:
    step_sizes: np.ndarray
    state: Slope
    position: Slope
    memory: Slope | None
    energy: Slope


def _ladder_of(system: System, scheme: AbstractScheme, exact: Reference, begin: int, steps: np.ndarray) -> _Ladder:
    """The slopes of all parts from one time of the reference to its last."""
    start, end = (jax.tree.map(lambda leaf, at=at: jnp.asarray(leaf[at]), exact.states) for at in (begin, -1))
    start_time, end_time = exact.times[begin], exact.times[-1]
    errors = _errors(system, scheme, jnp.asarray(start_time), jnp.asarray(end_time), start, end, jnp.asarray(steps))
    step_sizes = (end_time - start_time) / steps
    # Every step rounds the state once: by its own size times eps at most.
    floors = exact.error + steps * float(np.finfo(np.float64).eps)
    slopes = {name: fit_slope(step_sizes, np.asarray(error), floors) for name, error in errors.items()}
    return _Ladder(step_sizes, slopes["state"], slopes["position"], slopes.get("memory"), slopes["energy"])


@eqx.filter_jit
def _errors(
    system: System, scheme: AbstractScheme, start_time: Array, end_time: Array, start: State, end: State, steps: Array
) -> dict[str, Array]:
    """Relative errors at the end for each number of steps."""
    energy_start, energy_end = system.energy(start_time, start), system.energy(end_time, end)
    energy_size = jnp.maximum(jnp.abs(energy_start), jnp.abs(energy_end))

    def one(count):
        state = march(system, scheme, start_time, start, (end_time - start_time) / count, count)
        energy = jnp.abs(system.energy(end_time, state) - energy_end)
        errors = {
            "state": relative_error(state, start, end),
            "position": relative_error(state.position, start.position, end.position),
            "energy": energy / jnp.where(energy_size > 0, energy_size, 1.0),
        }
        if jax.tree.leaves(start.memory):
            errors["memory"] = relative_error(state.memory, start.memory, end.memory)
        return errors

    # One ladder rung after the other: side by side every rung would take as many steps as the longest.
    return jax.lax.map(one, steps)


def _checked_ladder(steps: tuple[int, ...]) -> np.ndarray:
    ladder = np.asarray(steps)
    whole = ladder.ndim == 1 and len(ladder) >= 3 and np.issubdtype(ladder.dtype, np.integer)
    if not whole or ladder[0] < 1 or np.any(ladder[1:] != 2 * ladder[:-1]):
        raise ValueError(f"steps={steps}: expected three or more numbers of steps >= 1, each twice the one before.")
    return ladder


def _judge(name: str, slope: Slope, declared: float) -> Check:
    question = f"order of the {name}"
    if slope.exact:
        return Check(question, True, "exact to rounding at every step size; there is no order to measure")
    found = f"{_spoken(slope)}, declared {declared:g}"
    if np.isnan(slope.order):
        way_out = "Give a longer duration, or more and shorter steps."
        return Check(question, False, f"{found}. {way_out}")
    if slope.order < declared - AGREEMENT:
        if name == "energy" and slope.spread > 2 * AGREEMENT:
            # Of one number the leading terms of the error may cancel at some step sizes, of a whole state they cannot.
            return Check(question, None, f"{found}. Not settled: from one step size to the next it varies.")
        cause = (
            "The scheme or its declared order is wrong (nodes that do not fit the flow's explicit time?), the flow is "
            "not smooth along this trajectory, or the steps are too long to see the order."
        )
        return Check(question, False, f"{found}. {cause}")
    note = "; higher than declared, on this problem" if slope.order > declared + AGREEMENT else ""
    return Check(question, True, found + note)


def _spoken(slope: Slope) -> str:
    if slope.exact:
        return "exact to rounding"
    if np.isnan(slope.order):
        return "fewer than three errors stand out of rounding"
    return f"measured {slope.order:.2f} ± {slope.uncertainty:.2f}"


def _cell(slope: Slope, index: int) -> str:
    local = slope.local_orders[index]
    order = f"{local:7.2f}" if np.isfinite(local) else " " * 7
    return f"{slope.errors[index]:12.2e}{order}{'*' if slope.used[index] else ' '}"
