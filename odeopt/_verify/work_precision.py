r"""Work against precision: what an error costs, in gradients and in seconds.

Every contestant follows the exact trajectory from one regular state to one time, at constant steps of a ladder of
lengths. (Hairer, Nørsett, Wanner, 1993, Solving Ordinary Differential Equations I, II.10.)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._flow.base import AbstractFlow, State
from .._scheme.base import AbstractScheme
from .case import system_of
from .contestants import Contestant, scheme_contestants, solver_contestants
from .reference import Reference, reference
from .segment import relative_error, segment_times
from .stopwatch import seconds_alternating
from .system import System, in_double_precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From errors of size one to those of rounding for the schemes of high order, in ten halvings of the step.
LADDER = tuple(2**k for k in range(11))
# The median of five forgives two that something else on the machine has slowed down.
REPEATS = 5


@dataclass(frozen=True)
class WorkPrecision:
    """What an error costs, of several contestants on one flow.

    **Attributes:** arrays have shape `(contestants, n)` unless said otherwise, `n` the number of step sizes.

    - `flow`: its name; `names`: of the contestants, those of diffrax with its name before theirs; `ours`: for each,
        whether it is a scheme of this library.
    - `steps`, `step_sizes`: shape `(n,)`: how many steps, and their length in the flow's unit of time.
    - `errors`: relative, of the whole state at `end_time`.
    - `gradients`: how many were evaluated: counted along the run for schemes of this library. For solvers of diffrax
        the evaluations of a vector field are counted while the solver takes one step and two; each further step costs
        what the second did.
    - `timings`: shape `(contestants, n, repeats)`, seconds of every run, without compilation.
    - `start_time`, `end_time`: of the runs; `reference_error`: relative, estimated.
    """

    flow: str
    names: tuple[str, ...]
    ours: tuple[bool, ...]
    steps: np.ndarray
    step_sizes: np.ndarray
    errors: np.ndarray
    gradients: np.ndarray
    timings: np.ndarray
    start_time: float
    end_time: float
    reference_error: float

    @property
    def seconds(self) -> np.ndarray:
        """The median over the repeats."""
        return np.median(self.timings, axis=-1)

    def gradients_at(self, name: str, error: float) -> float:
        """How many gradients a contestant needs for an error, between two step sizes by a line in logarithms.

        What its longest step costs where that is more accurate already; NaN where none of its steps is accurate enough.
        """
        index = self._index(name)
        return _cost_at(self.gradients[index], self.errors[index], error)

    def seconds_at(self, name: str, error: float) -> float:
        """How many seconds a contestant needs for an error, as in `gradients_at`."""
        index = self._index(name)
        return _cost_at(self.seconds[index], self.errors[index], error)

    def seconds_ratio(self, name: str, other: str, error: float) -> float:
        """The seconds that a contestant needs for an error over those of another: the median over the repeats.

        The two run close to each other in every repeat, so that a machine that is slow for a while slows both.
        """
        first, second = (
            [_cost_at(seconds, self.errors[index], error) for seconds in self.timings[index].T]
            for index in (self._index(name), self._index(other))
        )
        return float(np.median(np.divide(first, second)))

    def __str__(self) -> str:
        title = f"Work and precision on {self.flow}: error at t = {self.end_time:.4g} from t = {self.start_time:.4g}"
        head = f"{'contestant':24s}{'steps':>7s}{'h':>12s}{'error':>11s}{'gradients':>11s}{'ms':>11s}"
        rows = [
            f"{name:24s}{steps:7d}{h:12.3e}{error:11.2e}{gradients:11d}{1e3 * seconds:11.3g}"
            for index, name in enumerate(self.names)
            for steps, h, error, gradients, seconds in zip(
                self.steps,
                self.step_sizes,
                self.errors[index],
                self.gradients[index],
                self.seconds[index],
                strict=True,
            )
        ]
        repeats = self.timings.shape[-1]
        return "\n".join([title, head, *rows, f"median of {repeats} runs; reference {self.reference_error:.0e}"])

    def plot(self, axes=None) -> "Figure":
        """Errors over gradients and over seconds, diffrax dashed; on two `axes` if given. Needs matplotlib."""
        from ..plot import work_precision

        return work_precision(self, axes=axes)

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"name={name!r}: expected one of {', '.join(self.names)}.")
        return self.names.index(name)


@in_double_precision
def work_precision(
    flow: AbstractFlow,
    problem: tuple | None = None,
    *,
    schemes: Mapping[str, AbstractScheme] | Sequence[AbstractScheme] | None = None,
    solvers: Mapping[str, diffrax.AbstractSolver] | Sequence[diffrax.AbstractSolver] | None = None,
    start_time: float | int = 0.0,
    settling: float | int | None = None,
    duration: float | int | None = None,
    steps: Sequence[int] = LADDER,
    repeats: int = REPEATS,
) -> WorkPrecision:
    r"""Measure what an error costs: schemes of this library and solvers of diffrax, at constant steps, in float64.

    All start from one state on the exact trajectory and follow the same vector field to one time, where their errors
    are taken against one reference solution. They are timed in one process, in turns, after a run that compiles: once
    for all step sizes. No trajectory is kept, so that the parameters may be many.

    **Arguments:**

    - `flow`, `problem`: as for `reference_solution`.
    - `schemes`: of this library, a sequence or a dict of names. `None`: the explicit Runge-Kutta schemes and what the
        flow recommends. Empty: none.
    - `solvers`: explicit solvers of diffrax, likewise. `None`: those with the same tableaus.
    - `start_time`, `settling`, `duration`: as for `convergence_order`.
    - `steps`: the numbers of steps, increasing.
    - `repeats`: how often each run is timed.

    **Returns:** a `WorkPrecision`: the numbers, `gradients_at(name, error)`, `seconds_at(name, error)`, a table as its
    `str`, and `plot()`.

    **Raises:** `ValueError` for steps that do not increase, times or repeats that are not positive; `TypeError` or
    `ValueError` for a scheme or solver that cannot follow the flow; `InaccurateReferenceError` where the flow has no
    reference. Source: Hairer, Nørsett, Wanner (1993), Solving Ordinary Differential Equations I, II.10.

    !!! example

        ```python
        flow = odeopt.HeavyBall(friction=0.5)
        result = odeopt.work_precision(flow, schemes=[odeopt.Heun()], solvers=[diffrax.Heun()])
        print(result.gradients_at("Heun", 1e-4) / result.gradients_at("diffrax.Heun", 1e-4))
        ```
    """
    ladder = _checked_steps(steps)
    if not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats={repeats!r}: expected a whole number >= 1.")
    system = system_of(flow, problem)
    contestants = [*scheme_contestants(system, schemes), *solver_contestants(system, solvers)]
    if not contestants:
        raise ValueError("schemes and solvers are both empty: expected one contestant at least.")
    times = segment_times(system, start_time, settling, duration)
    exact = reference(system, times=times, start_time=start_time, tolerance=1e-13)
    errors, gradients, timings = _measured(system, contestants, exact, ladder, repeats)
    return WorkPrecision(
        flow=type(system.flow).__name__,
        names=tuple(contestant.name for contestant in contestants),
        ours=tuple(contestant.ours for contestant in contestants),
        steps=ladder,
        step_sizes=(times[2] - times[1]) / ladder,
        errors=errors,
        gradients=gradients,
        timings=timings,
        start_time=float(times[1]),
        end_time=float(times[2]),
        reference_error=exact.error,
    )


def _measured(
    system: System, contestants: list[Contestant], exact: Reference, ladder: np.ndarray, repeats: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors, gradients and timings, contestants along the first axis and step sizes along the second."""
    start, end = (jax.tree.map(lambda leaf, at=at: jnp.asarray(leaf[at]), exact.states) for at in (1, 2))
    runs = [_compiled(contestant, system, exact.times, start) for contestant in contestants]
    error_of = jax.jit(relative_error)
    # Those of the same tableau side by side, so that each pair is timed at nearly the same moment.
    order = sorted(range(len(runs)), key=lambda index: contestants[index].name.removeprefix("diffrax."))
    errors, gradients = [], []
    timings = np.zeros((len(runs), len(ladder), repeats))
    for rung, count in enumerate(ladder):
        number = jnp.asarray(count, jnp.int32)
        # This first run compiles, and warms up.
        found = [(float(error_of(state, start, end)), int(spent)) for state, _, spent in (run(number) for run in runs)]
        errors.append([error for error, _ in found])
        gradients.append([spent for _, spent in found])
        timings[order, rung] = seconds_alternating([partial(runs[index], number) for index in order], repeats)
    return np.transpose(errors), np.transpose(gradients), timings


def _compiled(
    contestant: Contestant, system: System, times: np.ndarray, start: State
) -> Callable[[Array], tuple[State, Array, Array]]:
    """The run of a contestant as a function of the number of steps, compiled at its first call.

    Arrays are arguments and not constants of the program. `jax.jit` in place of `eqx.filter_jit`, which takes some
    tenth of a millisecond for every call: as long as a short run.
    """
    arrays, rest = eqx.partition((system, *map(jnp.asarray, times[1:]), start), eqx.is_array)

    @jax.jit
    def run(arrays, steps):
        system, start_time, end_time, start = eqx.combine(arrays, rest)
        return contestant.run(system, start_time, start, end_time, steps)

    return partial(run, arrays)


def _cost_at(costs: np.ndarray, errors: np.ndarray, error: float) -> float:
    reached = np.flatnonzero(errors <= error)
    if len(reached) == 0:
        return float("nan")
    at = reached[0]
    if at == 0 or errors[at] == 0 or not np.isfinite(errors[at - 1]):
        return float(costs[at])
    between = [at, at - 1]
    return float(np.exp(np.interp(np.log(error), np.log(errors[between]), np.log(costs[between]))))


def _checked_steps(steps: Sequence[int]) -> np.ndarray:
    ladder = np.asarray(steps)
    whole = ladder.ndim == 1 and len(ladder) >= 1 and np.issubdtype(ladder.dtype, np.integer)
    if not whole or ladder[0] < 1 or np.any(np.diff(ladder) <= 0):
        raise ValueError(f"steps={steps}: expected increasing numbers of steps >= 1.")
    return ladder
