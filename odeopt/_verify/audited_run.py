"""A run of the library whose acceptance test is repeated, from the states that it has saved."""

from dataclasses import dataclass

import jax
import numpy as np

from .._controller.base import AbstractController
from .._flow.base import State
from .._minimise import minimise
from .._results import RESULTS
from .._scheme.base import AbstractScheme
from .._solver import Solver
from .._stop import Stop
from .attempt import EPS, OPERATIONS, Attempts, attempt_all
from .check import Check
from .system import System

# Ends of a run that no correct flow, scheme and objective can bring about; the last one where V is claimed to fall.
BROKEN, RISES = ("nonfinite_start", "nonfinite_dissipation"), ("energy_rises",)
# A rate is a sum of terms that may cancel: positive is one that has half of its digits left. In units of the energy
# over the flow's unit of time.
POSITIVE = EPS**0.5
# Relative to the start. Energies are quadratic in it: further on, steps change them by little more than their rounding.
SETTLED = 1e-6


@dataclass(frozen=True)
class AuditedRun:
    """The accepted steps of a run, recomputed; arrays of shape `(steps,)` unless said otherwise.

    **Attributes:**

    - `times`: shape `(steps + 1,)`, of the states, in the flow's unit of time; `states`: those states.
    - `step_size`, `change`, `bound`: of each step: its length, what it changed V by, and the largest change that the
        controller keeps.
    - `energy`, `dissipation`: V and dV/dt at the states, shape `(steps + 1,)`.
    - `tolerance`: what `change` may exceed `bound` by: rounding, and the band in which the controller has decided
        from gradients because the loss does not resolve the difference.
    - `rejected`: trials that were not kept; `result`: why the run ended before its last trial, empty if it did not;
        `broken`: whether that is something that no correct flow does.
    - `rising`: the indices of states where dV/dt > 0, beyond doubt of rounding.
    """

    times: np.ndarray
    states: State
    step_size: np.ndarray
    change: np.ndarray
    bound: np.ndarray
    energy: np.ndarray
    dissipation: np.ndarray
    tolerance: np.ndarray
    rejected: int
    result: str
    broken: bool
    rising: np.ndarray

    @property
    def rises(self) -> int:
        """In how many steps the energy has risen beyond rounding."""
        return int(np.sum(self.change > self.tolerance))


def audit_run(
    system: System, scheme: AbstractScheme, controller: AbstractController, trials: int, claimed: bool
) -> tuple[System, AuditedRun]:
    """The system as the run has calibrated it, and the run; to be called in double precision.

    **Arguments:** `claimed`: whether the flow claims that its energy falls here.
    """
    solution = minimise(
        system.objective,
        Solver(system.flow, scheme, controller),
        system.start.position,
        stop=Stop(relative_gradient_norm=SETTLED),
        max_steps=trials,
        history="states",
        throw=False,
    )
    assert solution.history is not None
    history = solution.history.trimmed()
    system = System(solution.state.solver.flow, system.objective, system.start)
    saved = State(history.position, history.memory)
    states = jax.tree.map(lambda first, rest: np.concatenate([np.asarray(first)[None], rest]), system.start, saved)
    times = np.concatenate([[0.0], history.t])
    # A step beyond the last state, of any length, so that its energy is known too.
    step_sizes = np.append(history.step_size, 1.0)
    found = attempt_all(system, scheme, controller, times, states, step_sizes)
    return system, AuditedRun(
        times=times,
        states=states,
        step_size=np.asarray(history.step_size),
        change=np.diff(found.energy),
        bound=np.asarray(found.bound[:-1]),
        energy=np.asarray(found.energy),
        dissipation=np.asarray(found.start),
        tolerance=_tolerance(found, controller),
        rejected=int(solution.stats["rejected"]),
        result="" if bool(solution.result == RESULTS.max_steps_reached) else str(solution.result),
        rising=np.flatnonzero(found.start * float(system.unit_of_time()) > POSITIVE * np.asarray(found.size)),
        broken=any(bool(solution.result == getattr(RESULTS, name)) for name in BROKEN + (RISES if claimed else ())),
    )


def _tolerance(found: Attempts, controller: AbstractController) -> np.ndarray:
    undecided = 0.0 if controller.rounding is None else float(controller.rounding) * EPS * found.loss_size
    level = OPERATIONS * EPS * found.size + undecided
    return np.asarray(level[:-1] + level[1:])


def run_checks(run: AuditedRun, controller: AbstractController, claimed: bool) -> tuple[Check, ...]:
    """What the recomputed run says of flow, scheme and controller; `claimed` as above."""
    steps = len(run.step_size)
    ended = f"{steps} steps accepted, {run.rejected} trials rejected{run.result and '. '}{run.result}"
    failed = steps == 0 or run.broken
    checks = [Check("the run", False if failed else None, ended)]
    if claimed:
        checks.append(_dissipates(run))
    if failed:
        return tuple(checks)
    if not controller.monotone:
        return (*checks, _how_often_it_rises(run, controller))
    return (*checks, _acceptance(run), _descent(run))


def _dissipates(run: AuditedRun) -> Check:
    name = "dV/dt along the run"
    count = len(run.dissipation)
    if not np.all(np.isfinite(run.dissipation)):
        lost = int(np.sum(~np.isfinite(run.dissipation)))
        return Check(name, False, f"not a finite number in {lost} of {count} states")
    if len(run.rising) == 0:
        return Check(name, True, f"never positive in {count} states, {np.min(run.dissipation):.3g} at the least")
    first = run.rising[0]
    return Check(
        name,
        False,
        f"positive in {len(run.rising)} of {count} states, first after step {first} (dV/dt = "
        f"{run.dissipation[first]:.3e}): the declared energy is not one of this flow; check signs and factors",
    )


def _acceptance(run: AuditedRun) -> Check:
    name = "acceptance inequality, recomputed"
    excess = run.change - run.bound - run.tolerance
    worst = int(np.argmax(excess))
    # Not (excess > 0): a change that is no number is not acceptable.
    if not np.all(excess <= 0):
        return Check(
            name,
            False,
            f"step {worst + 1} (h = {run.step_size[worst]:.3g}) changed the energy by {run.change[worst]:.6e}, where "
            f"at most {run.bound[worst]:.6e} is kept; {int(np.sum(~(excess <= 0)))} of {len(excess)} steps. The energy "
            "that the loop sees is not that of the saved states: does the flow read anything but (t, state, oracle)?",
        )
    resolved = int(np.sum(np.abs(run.change - run.bound) > run.tolerance))
    return Check(name, True, f"holds at all {len(excess)} steps, at {resolved} of them beyond doubt of rounding")


def _descent(run: AuditedRun) -> Check:
    name = "energy never rises"
    if run.rises:
        worst = int(np.argmax(run.change - run.tolerance))
        return Check(
            name,
            False,
            f"it rises in {run.rises} of {len(run.change)} steps beyond rounding, by {run.change[worst]:.3e} in step "
            f"{worst + 1}",
        )
    return Check(name, True, f"from {run.energy[0]:.6g} to {run.energy[-1]:.6g} in {len(run.change)} steps")


def _how_often_it_rises(run: AuditedRun, controller: AbstractController) -> Check:
    return Check(
        "energy along the run",
        None,
        f"{type(controller).__name__} may keep a step in which the energy rises: it does in {run.rises} of "
        f"{len(run.change)}, from {run.energy[0]:.6g} to {run.energy[-1]:.6g} in all",
    )
