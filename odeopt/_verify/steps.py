r"""The audit of the discrete energy: what the steps of a scheme under a controller do to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np

from .._controller.base import AbstractController
from .._flow.base import AbstractFlow, State
from .._scheme.base import AbstractScheme
from .._solver import Solver
from .audited_run import AuditedRun, audit_run, run_checks
from .case import claims_descent, system_of
from .check import Check, all_passed
from .dissipation_ratio import DissipationRatio, dissipation_ratio, ratio_checks
from .follow import regular_states
from .largest_step import LargestSteps, at_rest, largest_steps, step_checks
from .march import check_step
from .system import System, in_double_precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# States along the run from which the largest step size is looked for: enough for a distribution and a picture.
LOOKED_AT = 24


@dataclass(frozen=True)
class StepAudit:
    """What the steps of a scheme under a controller do to the energy of a flow.

    **Attributes:**

    - `flow`, `scheme`, `controller`: names.
    - `run`: the accepted steps of a run, recomputed from its saved states: `step_size`, `change`, `bound`,
        `tolerance`, `energy`, `rises`.
    - `ratio`: the change of the energy over the dissipation, on a ladder of step sizes; `None` where dV/dt is zero.
    - `along`: the largest step sizes that pass from states of the run; `rest`: from states at rest. `None` for a
        controller that keeps every step.
    - `checks`: what was found.
    """

    flow: str
    scheme: str
    controller: str
    run: AuditedRun
    ratio: DissipationRatio | None
    along: LargestSteps | None
    rest: LargestSteps | None
    checks: tuple[Check, ...]

    @property
    def dead_locks(self) -> int:
        """How many of the states that were looked at no step size leaves."""
        return sum(int(np.sum(steps.locked)) for steps in (self.along, self.rest) if steps is not None)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all_passed(self.checks)

    def __str__(self) -> str:
        lines = [f"{self.flow}, {self.scheme}, {self.controller}", *map(str, self.checks)]
        return "\n".join(lines if self.ratio is None else lines + _table(self.ratio))

    def plot(self, axes=None) -> "Figure":
        """The dissipation ratio over h, and the largest step sizes along the run; on two `axes` if given.

        Needs matplotlib.
        """
        from ..plot import steps

        return steps(self, axes=axes)


@in_double_precision
def audit_steps(
    flow: AbstractFlow,
    scheme: AbstractScheme | None = None,
    controller: AbstractController | None = None,
    problem: tuple | None = None,
    *,
    trials: int = 300,
) -> StepAudit:
    r"""Check in float64 that the steps of a solver lower the energy as its flow and its controller say.

    1. *Acceptance.* A run is made and its test repeated from the saved states: \(V^+ - V \le\) the controller's bound
       in every step, up to rounding, and \(V\) never rises. (A controller that keeps every step: how often it rises.)
    2. *Dissipation ratio.* \((V^+ - V) / (h \sum_i b_i V'_i) = 1 + O(h^p)\) with the stage quadrature of a scheme of
       order \(p\), and \(1 + O(h)\) with \(V'\) at the start of the step; states with \(V' = 0\) are left out.
    3. *Largest step size* that passes the test, from states along the run.
    4. *Dead locks*: states, and states at rest above all, from which no step size passes. A solver that cannot start
       from rest fails: explicit Euler changes the energy of a heavy ball by \(+h^2 |g|^2 / 2\) there, for every \(h\).
       Where a flow does not claim that its energy falls (a balance law), dead locks are told and not judged.

    **Arguments:**

    - `flow`: scales that it leaves open are calibrated at the start of the problem.
    - `scheme`, `controller`: `None`: what the flow recommends.
    - `problem`: `(fn, y0)` or `(fn, y0, args)`, as for `minimise`; `None`: a built-in smooth function of four
        parameters, not convex unless the flow claims nothing on others.
    - `trials`: the length of the run, rejected trials included.

    **Returns:** a `StepAudit`: `passed`, `checks`, the numbers behind them, a table as its `str`, and `plot()`.

    **Raises:** `TypeError` or `ValueError` for arguments of another kind, or a declaration that cannot be evaluated.
    Source: Bensaid, Poëtte, Turpault (2023), Deterministic neural networks optimization from a continuous and energy
    point of view.

    !!! example

        ```python
        audit = odeopt.audit_steps(odeopt.HeavyBall(friction=0.5), odeopt.Heun())
        print(audit)
        assert audit.passed
        assert not odeopt.audit_steps(odeopt.HeavyBall(friction=0.5), odeopt.Euler()).passed  # cannot start
        ```
    """
    if not isinstance(trials, int) or trials < 1:
        raise ValueError(f"trials={trials!r}: expected a whole number >= 1.")
    solver = Solver(flow, scheme, controller)
    scheme, controller = solver.scheme, solver.controller
    system = system_of(flow, problem)
    check_step(system, scheme)
    claimed = claims_descent(flow, problem)
    system, run = audit_run(system, scheme, controller, trials, claimed)
    times, states = regular_states(system)
    ratio = dissipation_ratio(system, scheme, controller, times, states)
    checks = (*run_checks(run, controller, claimed), *ratio_checks(ratio, scheme))
    names = (type(system.flow).__name__, type(scheme).__name__, type(controller).__name__)
    if not controller.monotone:
        nothing = f"{names[2]} may keep steps in which the energy rises: no largest step size is looked for"
        return StepAudit(*names, run, ratio, None, None, (*checks, Check("acceptance test", None, nothing)))
    along = _along_the_run(system, scheme, controller, run)
    rest = _from_rest(system, scheme, controller, states)
    return StepAudit(*names, run, ratio, along, rest, (*checks, *step_checks(along, rest, scheme, claimed)))


def _along_the_run(
    system: System, scheme: AbstractScheme, controller: AbstractController, run: AuditedRun
) -> LargestSteps:
    # The first states of a run are the most diverse, its last ones may be lost in rounding: more of the former.
    index = np.unique(np.geomspace(1, len(run.times), LOOKED_AT).round().astype(int)) - 1
    states = jax.tree.map(lambda leaf: leaf[index], run.states)
    return largest_steps(system, scheme, controller, index, run.times[index], states)


def _from_rest(system: System, scheme: AbstractScheme, controller: AbstractController, states: State) -> LargestSteps:
    """From where the flow starts, and from rest at some regular states."""
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[None], system.start)
    rest = jax.tree.map(lambda *leaves: np.concatenate(leaves), start, at_rest(system, states))
    count = len(jax.tree.leaves(rest)[0])
    return largest_steps(system, scheme, controller, np.full(count, -1), np.zeros(count), rest)


def _table(ratio: DissipationRatio) -> list[str]:
    """The distance of the ratio from 1, root mean square over the states, with local orders."""
    slopes = {"rate at start": ratio.start_slope, "stage quadrature": ratio.quadrature_slope}
    columns = {name: slope for name, slope in slopes.items() if slope is not None}
    head = f"{'h':>10s}" + "".join(f"{name:>18s}{'order':>7s} " for name in columns)
    rows = [
        f"{h:10.3e}"
        + "".join(
            f"{slope.errors[i]:18.2e}{slope.local_orders[i]:7.2f}{'*' if slope.used[i] else ' '}"
            for slope in columns.values()
        )
        for i, h in enumerate(ratio.step_size)
    ]
    return ["|dissipation ratio - 1|, * on the fitted line", head, *rows]
