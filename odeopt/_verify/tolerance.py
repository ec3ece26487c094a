r"""Error against tolerance: what the acceptance test of a controlled run says of its distance to the flow.

A step of length \(h\) whose energy falls short of the continuous dissipation by the share \(C h^q\) is kept while
\(C h^q \le \varepsilon\): \(h \sim \varepsilon^{1/q}\), and the error of a scheme of order \(p\) is
\(O(\varepsilon^{p/q})\). (Hairer, Nørsett, Wanner, 1993, Solving Ordinary Differential Equations I, II.4, of error
control.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._controller.base import AbstractController
from .._controller.lyapunov import LyapunovControl
from .._flow.base import AbstractFlow, State
from .._objective import Oracle, Tally
from .._record import Record, empty_record
from .._results import RUNNING, from_code
from .._run import COUNTS, Problem, Run, final_result, measure, start
from .._scheme.base import AbstractScheme
from .._solver import Solver
from .._stop import Stop
from .._trial import attempt_step
from .case import system_of
from .march import check_step
from .reference import reference
from .segment import relative_error, segment_times
from .slope import Slope, fit_slope
from .system import System, in_double_precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# For a scheme of order p the ladder of tolerances begins at 8**-p, where a step is some eighth of a unit of time long,
# and halves so many times: to some thousand steps of Euler.
FIRST, HALVINGS = 8.0, 8
# Each step is tried a tenth longer than the one before. Three bisections of a tenth leave it within 1.2 percent of the
# longest that passes: as much as that wanders, so do the errors from one tolerance to the next.
NEAR, BISECTIONS = 1.1, 3
# Half a dozen for each step, and some thousand steps.
MAX_TRIALS = 50_000
# States along a run that are compared with the reference: enough to meet the largest error, and few to solve for.
COMPARED = 32
# An error that follows the tolerance less than this does not: the share lost would be of ten times the scheme's order.
UNBOUND = 0.1


def _convex(y, _):
    """First and third derivative have one sign in every parameter, so that Heun loses dissipation too."""
    return 0.5 * jnp.sum(jnp.asarray((0.5, 1.0, 1.5, 2.0), y.dtype) * y**2) + 0.25 * jnp.sum(y**4)


# Parameters of size one, no two alike.
_START = (1.3, -0.6, 0.4, -0.9)


@dataclass(frozen=True)
class ToleranceOrder:
    r"""How the error of a controlled run follows the tolerance of its acceptance test.

    **Attributes:** arrays have shape `(n,)`, from the largest tolerance to the smallest.

    - `flow`, `scheme`, `controller`: names.
    - `tolerances`: \(\varepsilon\).
    - `error`: a `Slope` (`errors`, `local_orders`, `used`, `order`, `uncertainty`) of the error over the tolerance.
        The error is the largest along the run, relative, of the whole state: that at one time may vanish by chance.
    - `step`: a `Slope` of the mean step size, in the flow's unit of time, over the tolerance.
    - `steps`, `gradients`: accepted steps, and evaluated gradients, those of rejected trials included.
    - `start_time`, `end_time`: of the runs; the last step may pass the end. `reference_error`: relative, estimated.
    """

    flow: str
    scheme: str
    controller: str
    tolerances: np.ndarray
    error: Slope
    step: Slope
    steps: np.ndarray
    gradients: np.ndarray
    start_time: float
    end_time: float
    reference_error: float

    @property
    def errors(self) -> np.ndarray:
        """The largest relative error along each run."""
        return self.error.errors

    @property
    def mean_step_sizes(self) -> np.ndarray:
        """In the flow's unit of time."""
        return self.step.errors

    @property
    def slope(self) -> float:
        r"""The exponent \(s\) of \(\text{error} \sim \varepsilon^s\); NaN where fewer than three errors tell."""
        return self.error.order

    @property
    def uncertainty(self) -> float:
        """The standard error of `slope`."""
        return self.error.uncertainty

    def __str__(self) -> str:
        title = (
            f"{self.scheme} under {self.controller} on {self.flow}, t = {self.start_time:.4g} to {self.end_time:.4g}"
        )
        head = (
            f"{'tolerance':>11s}{'error':>11s}{'slope':>7s} {'mean h':>12s}{'slope':>7s}{'steps':>8s}{'gradients':>11s}"
        )
        rows = [
            f"{tolerance:11.3e}{self.errors[index]:11.2e}{self.error.local_orders[index]:7.2f}"
            f"{'*' if self.error.used[index] else ' '}{self.mean_step_sizes[index]:12.3e}"
            f"{self.step.local_orders[index]:7.2f}{self.steps[index]:8d}{self.gradients[index]:11d}"
            for index, tolerance in enumerate(self.tolerances)
        ]
        found = (
            f"error ~ tolerance^{self.slope:.2f} ± {self.uncertainty:.2f}, h ~ tolerance^{self.step.order:.2f} ± "
            f"{self.step.uncertainty:.2f}; * on the line; reference {self.reference_error:.0e}"
        )
        lines = [title, head, *rows, found]
        if self.slope < UNBOUND:
            lines.append(
                "The error hardly follows the tolerance: somewhere along the run a step of any length dissipates its "
                "share, and nothing bounds it."
            )
        return "\n".join(lines)

    def plot(self, axes=None) -> "Figure":
        """Errors over tolerances, with the fitted line; on `axes` if given. Needs matplotlib."""
        from ..plot import tolerance_order

        return tolerance_order(self, axes=axes)


@in_double_precision
def tolerance_order(
    flow: AbstractFlow,
    scheme: AbstractScheme,
    controller: Callable[[float], AbstractController] | None = None,
    problem: tuple | None = None,
    *,
    start_time: float | int = 0.0,
    settling: float | int | None = None,
    duration: float | int | None = None,
    tolerances: tuple[float, ...] | None = None,
    max_trials: int = MAX_TRIALS,
) -> ToleranceOrder:
    r"""Measure how the error of adaptive runs follows the tolerance of their acceptance test.

    A step that may lose the share \(\varepsilon = 1 - \lambda\) of the continuous dissipation,

    \[ V(y^+) - V(y) \le (1 - \varepsilon)\, h \bar V', \]

    with the rate \(\bar V'\) at the start of the step or by the quadrature over its stages, is an error control: as
    \(\varepsilon\) tends to 0 the run tends to the flow. If the share lost is \(C h^q + O(h^{q+1})\) with \(C > 0\) and
    the scheme has order \(p\), then \(h \sim \varepsilon^{1/q}\) and the error is \(O(\varepsilon^{p/q})\).

    - Euler on gradient flow, rate at the start: \(C = \langle g, H g \rangle / 2|g|^2\), \(q = p = 1\), slope 1.
    - Heun on gradient flow, quadrature: \(q = p = 2\) and slope 1 where \(C\) is positive; in one dimension it is
        \(f' f''' / 12\).
    - Heun on any linear flow with a quadratic energy, quadrature: \(q = 3\) and slope 2/3, because what is lost,
        \(h^2 V(k_1 - k_2) / 4\) with the slopes \(k\) of its two stages, is of fourth order.

    The test has one side: where \(C < 0\) a step dissipates more than its share, nothing bounds its length, and the
    error does not follow the tolerance.

    **Arguments:**

    - `flow`, `start_time`, `settling`, `duration`: as for `convergence_order`.
    - `problem`: `(fn, y0)` or `(fn, y0, args)`, as for `minimise`; `None`: a built-in convex function of four
        parameters, on whose gradient flow \(C > 0\).
    - `scheme`: what steps.
    - `controller`: from a tolerance to a controller. `None`: `LyapunovControl(decrease=1 - tolerance)` with the
        quadrature where the scheme has one, which keeps steps within 1.2 percent of the longest that passes.
    - `tolerances`: three or more between 0 and 1, each half of the one before. `None`: nine from \(8^{-p}\) on.
    - `max_trials`: of one run, whose states are all kept.

    **Returns:** a `ToleranceOrder`: `slope` and `uncertainty`, the errors, mean step sizes, steps and gradients, a
    table as its `str`, and `plot()`.

    **Raises:** `ValueError` for tolerances that do not halve or a time that is not positive; `RuntimeError` where a run
    does not reach the end; `TypeError` or `ValueError` where the scheme cannot step the flow;
    `InaccurateReferenceError` where the flow has no reference. Source: Hairer, Nørsett, Wanner (1993), Solving Ordinary
    Differential Equations I, II.4; Bensaid, Poëtte, Turpault (2023), Deterministic neural networks optimization from a
    continuous and energy point of view.

    !!! example

        ```python
        result = odeopt.tolerance_order(odeopt.GradientFlow(), odeopt.Euler())
        print(result.slope, result.uncertainty)
        ```
    """
    if not isinstance(max_trials, int) or max_trials < 1:
        raise ValueError(f"max_trials={max_trials!r}: expected a whole number >= 1.")
    system = system_of(flow, (_convex, jnp.asarray(_START)) if problem is None else problem)
    check_step(system, scheme)
    first = FIRST**-scheme.order
    ladder = _checked_tolerances(first * 0.5 ** np.arange(HALVINGS + 1) if tolerances is None else tolerances)
    times = segment_times(system, start_time, settling, duration)
    controllers = [_controller(scheme, controller, tolerance, times[2] - times[1]) for tolerance in ladder]
    # As many times as below, so that one compilation serves both solves.
    settled = reference(system, times=np.full(COMPARED * len(ladder), times[1]), start_time=start_time)
    begin = jax.tree.map(lambda leaf: leaf[-1], settled.states)
    runs = [
        _controlled(system, scheme, one, times[1:], begin, max_trials, tolerance)
        for one, tolerance in zip(controllers, ladder, strict=True)
    ]
    errors, reference_error = _errors(system, times[1], begin, runs)
    steps = np.asarray([run.steps for run in runs])
    eps = float(np.finfo(np.float64).eps)
    return ToleranceOrder(
        flow=type(system.flow).__name__,
        scheme=type(scheme).__name__,
        controller=type(controllers[0]).__name__,
        tolerances=ladder,
        # Every step rounds the state once: by its own size times eps at most.
        error=fit_slope(ladder, errors, reference_error + steps * eps),
        step=fit_slope(ladder, np.asarray([run.mean_step_size for run in runs]), np.zeros(len(ladder))),
        steps=steps,
        gradients=np.asarray([run.gradients for run in runs]),
        start_time=float(times[1]),
        end_time=float(times[2]),
        reference_error=max(settled.error, reference_error),
    )


@dataclass(frozen=True)
class _ControlledRun:
    """Times and states, with leading axis `COMPARED`, spread over the accepted steps; the last is behind the end."""

    times: np.ndarray
    states: State
    steps: int
    mean_step_size: float
    gradients: int


def _controlled(
    system: System,
    scheme: AbstractScheme,
    controller: AbstractController,
    times: np.ndarray,
    begin: State,
    max_trials: int,
    tolerance: float,
) -> _ControlledRun:
    problem = Problem(system.objective, Solver(system.flow, scheme, controller), Stop())
    t, end = map(jnp.asarray, times)
    run, record = _run_until(problem, system.start.position, t, jax.tree.map(jnp.asarray, begin), end, max_trials)
    if not float(run.t) >= times[1]:
        result = from_code(final_result(system.flow, run))
        raise RuntimeError(
            f"{type(scheme).__name__} under {type(controller).__name__} at tolerance {tolerance:g} came to "
            f"t = {float(run.t):.4g} in {max_trials} trials, and not to {times[1]:.4g}: {result} Give larger "
            "tolerances, a shorter duration, or more max_trials."
        )
    steps = int(record.length)
    chosen = np.linspace(0, steps - 1, COMPARED).round().astype(int)
    accepted = np.asarray(record.rows)[:steps, 0]
    return _ControlledRun(
        times=accepted[chosen],
        states=jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], record.states),
        steps=steps,
        mean_step_size=float(accepted[-1] - times[0]) / steps,
        gradients=int(run.counts[COUNTS.index("gradients")]),
    )


@eqx.filter_jit
def _run_until(problem: Problem, position, t: Array, begin: State, end: Array, max_trials: int) -> tuple[Run, Record]:
    """The library's own trials from a time and a state until the flow time has passed `end`."""
    problem, run = start(problem, position)
    tally = Tally()
    snapshot = measure(problem, t, begin, Oracle(problem.objective, begin.position, tally))
    counts = jnp.zeros_like(run.counts).at[COUNTS.index("gradients")].set(tally.gradients)
    going = jnp.asarray(RUNNING, run.result.dtype)
    moved = (t, snapshot, counts, going)
    run = eqx.tree_at(lambda run: (run.t, run.snapshot, run.counts, run.result), run, moved)

    def going_on(carry):
        run, _ = carry
        trials = run.counts[COUNTS.index("accepted")] + run.counts[COUNTS.index("rejected")]
        return (run.t < end) & (run.result == RUNNING) & (trials < max_trials)

    first = (run, empty_record(run, max_trials, keep_states=True))
    run, record = jax.lax.while_loop(going_on, lambda carry: attempt_step(problem, *carry), first)
    assert record is not None
    return run, record


def _errors(system: System, start_time: float, begin: State, runs: list[_ControlledRun]) -> tuple[np.ndarray, float]:
    """The largest relative error along each run, and the error of the reference."""
    times = np.concatenate([run.times for run in runs])
    order = np.argsort(times, kind="stable")
    exact = reference(system, times=times[order], start_time=start_time, state=begin)
    states = jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *(run.states for run in runs))
    errors = np.empty(len(times))
    errors[order] = jax.vmap(relative_error, (0, None, 0))(states, begin, exact.states)
    return np.max(errors.reshape(len(runs), COMPARED), axis=1), exact.error


def _controller(
    scheme: AbstractScheme, make: Callable[[float], AbstractController] | None, tolerance: float, duration: float
) -> AbstractController:
    if make is not None:
        controller = make(tolerance)
        if not isinstance(controller, AbstractController):
            raise TypeError(
                f"controller must be a function from a tolerance to a controller; at {tolerance:g} it gave "
                f"{controller!r}."
            )
        return controller
    return LyapunovControl(
        decrease=1 - tolerance,
        shrink=NEAR,
        grow=NEAR,
        # Short enough to pass, and the growth until the first rejection makes up for it in three steps.
        initial_step_size=duration / 100,
        bisections=BISECTIONS,
        rate="quadrature" if scheme.has_quadrature else "start",
        # Gradients would decide where the loss does not resolve a step: no run comes to that here.
        rounding=None,
    )


def _checked_tolerances(tolerances) -> np.ndarray:
    ladder = np.asarray(tolerances, np.float64)
    if ladder.ndim != 1 or len(ladder) < 3 or not 0 < ladder[0] < 1 or np.any(ladder[1:] != ladder[:-1] / 2):
        raise ValueError(
            f"tolerances={tolerances}: expected three or more numbers between 0 and 1, each half of the one before."
        )
    return ladder
