"""The largest step size that passes the acceptance test from a state, and the states from which none does."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from .._controller.base import AbstractController
from .._flow.base import State
from .._scheme.base import AbstractScheme
from .._scheme.exponential import ExponentialEuler
from .._scheme.semi_implicit import SemiImplicitEuler
from .attempt import EPS, OPERATIONS, attempt_all
from .check import Check
from .follow import change_along_flow
from .system import System

# In the flow's unit of time; two step sizes a decade. Below, the change of the energy from rest, h**2 / 2 in natural
# units, is lost in rounding; above, no flow is followed by an explicit scheme.
WIDE = np.logspace(-9, 6, 31)
# Each halves the half decade on a logarithmic scale: the largest step size is known to 1e-4.
BISECTIONS = 13
# A state that the flow itself cannot lower by so many times the rounding of the energy says nothing about steps, and
# one that it lowers by no more than the error of following it (a flow without dissipation) neither.
SPENT = 100.0


@dataclass(frozen=True)
class LargestSteps:
    """The largest step sizes that pass from some states; arrays of shape `(states,)`.

    **Attributes:**

    - `index`: of the state along the run, 0 for the start; -1 for a state at rest that no run has visited.
    - `largest`: in the flow's unit of time; `inf` where the longest that was tried passes; NaN where none does, and
        where the flow itself changes the energy no more than rounding does.
    - `locked`: whether no step size passes although the flow itself changes the energy.
    - `flow_change`: what the flow itself changes the energy by in one unit of time.
    """

    index: np.ndarray
    largest: np.ndarray
    locked: np.ndarray
    flow_change: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Where some step size passes."""
        return ~np.isnan(self.largest)


def largest_steps(
    system: System,
    scheme: AbstractScheme,
    controller: AbstractController,
    index: np.ndarray,
    times: np.ndarray,
    states: State,
) -> LargestSteps:
    """Scan a wide range for the longest step size that passes, and bisect its logarithm against the next that fails.

    To be called in double precision. A step passes or fails only where rounding leaves no doubt.
    """
    step_size = WIDE * float(system.unit_of_time())
    count = len(times)
    state, length = (part.ravel() for part in np.indices((count, len(step_size))))
    repeated = jax.tree.map(lambda leaf: leaf[state], states)
    found = attempt_all(system, scheme, controller, times[state], repeated, step_size[length])
    passes = np.reshape(found.passes, (count, -1))
    any_passes = np.any(passes, axis=1)
    last = passes.shape[1] - 1 - np.argmax(passes[:, ::-1], axis=1)
    passed = step_size[last]
    failed = step_size[np.minimum(last + 1, len(step_size) - 1)]
    for _ in range(BISECTIONS):
        middle = np.sqrt(passed * failed)
        here = attempt_all(system, scheme, controller, times, states, middle).passes
        passed, failed = np.where(here, middle, passed), np.where(here, failed, middle)
    largest = np.where(last == len(step_size) - 1, np.inf, passed)
    flow_change, error = change_along_flow(system, times, states)
    rounding = 2 * OPERATIONS * EPS * np.reshape(found.size, passes.shape)[:, 0]
    # Not (spent): a change that is no number is that of an energy which falls or rises without bound.
    alive = ~(np.abs(flow_change) <= SPENT * rounding + error)
    return LargestSteps(
        index=index,
        largest=np.where(any_passes & alive, largest, np.nan),
        locked=~any_passes & alive,
        flow_change=flow_change,
    )


def at_rest(system: System, states: State) -> State:
    """The positions of some states with the memory that the flow starts with there; in double precision."""
    positions = jax.tree.map(jnp.asarray, states.position)
    return jax.tree.map(np.asarray, jax.vmap(system.flow.init)(positions))


def step_checks(along: LargestSteps, rest: LargestSteps, scheme: AbstractScheme, claimed: bool) -> tuple[Check, ...]:
    """Whether the pair of flow and scheme can start from rest and go on along a run.

    **Arguments:** `claimed`: whether the flow claims that its energy falls; where it does not, no dead lock is a fault.
    """
    judged = (_starts(rest, scheme), _goes_on(along))
    if not claimed:
        judged = tuple(
            Check(check.name, None, f"{check.message}. The flow does not claim that its energy falls")
            if check.passed is False
            else check
            for check in judged
        )
    return (*judged, _distribution(along))


def _starts(rest: LargestSteps, scheme: AbstractScheme) -> Check:
    name = "starts from rest"
    locked = int(np.sum(rest.locked))
    if not locked:
        found = int(np.sum(rest.found))
        unknown = "" if found == len(rest.largest) else "; the others are lost in rounding"
        return Check(name, True, f"some step size passes from {found} of {len(rest.largest)} states at rest{unknown}")
    where = f"from {locked} of {len(rest.largest)} states as flow.init makes them, no step size passes"
    if np.any(rest.flow_change[rest.locked] > 0):
        return Check(
            name, False, f"{where}: the flow itself raises its declared energy there (check signs and factors)"
        )
    advice = (
        "Is this the energy of the vector field, and finite there?"
        if isinstance(scheme, (SemiImplicitEuler, ExponentialEuler)) or scheme.order > 1
        else "use SemiImplicitEuler or ExponentialEuler (memory first), or a Runge-Kutta scheme of order 2 or more."
    )
    return Check(
        name,
        False,
        f"dead lock: {where}, whatever its length, so that a run cannot start. {type(scheme).__name__} does not lower "
        f"this energy from rest: {advice}",
    )


def _goes_on(along: LargestSteps) -> Check:
    name = "dead locks along the run"
    # The start is judged with the states at rest.
    inside = along.index > 0
    locked = np.flatnonzero(along.locked & inside)
    if not np.any(inside):
        return Check(name, None, "the run has no state but its start")
    if len(locked) == 0:
        return Check(name, True, f"none in {np.sum(inside)} states")
    change = along.flow_change[locked[0]]
    return Check(
        name,
        False,
        f"no step size passes from {len(locked)} of {np.sum(inside)} states, first that after step "
        f"{along.index[locked[0]]}, where the flow itself changes the energy by {change:.3e} in a unit of time",
    )


def _distribution(along: LargestSteps) -> Check:
    name = "largest step size that passes"
    known = along.largest[along.found]
    if len(known) == 0:
        return Check(name, None, "no step size passes in any state, beyond doubt of rounding")
    return Check(
        name,
        None,
        f"{np.min(known):.3g} at the least, {np.median(known):.3g} in the median, over {len(known)} states of the run",
    )
