"""The audit of an energy: is V what its author says it is, and if not, which term is wrong?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from .._flow.base import AbstractFlow
from . import judgements
from .case import as_case, system_of
from .check import Check, all_passed, told
from .counterexample import CounterExample, counterexample
from .diagnosis import explain_mismatch, explain_rise
from .judgements import TOLERANCE
from .points import at, rates_at
from .rates import Rates
from .samples import draw_samples
from .squares import SquareLandscapes, UsersSquares
from .survey import Survey, claimed, relative, survey
from .system import System, in_double_precision, system
from .terrain import AbstractTerrain, Landscapes, Users

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Random states on the built-in landscapes. At b = 4.4 a, where random memories alone find nothing, a third of them
# show that Adam's energy can rise; a thousand would do for a violation that is a hundred times as rare.
SAMPLES = 4096
# In one dimension, where a violation is only looked for again to be shown.
READABLE_SAMPLES = 1024


@dataclass(frozen=True)
class EnergyAudit:
    """What was found about the energy of a flow.

    **Attributes:**

    - `flow`, `certificate`: the name of the flow and what it claims.
    - `checks`: the questions and their answers.
    - `counterexample`: a state at which the declaration is wrong, in as few digits as show it; `None` if none is.
    - `rows`: of the table, one for each objective: its name, the states on it, those with dV/dt > 0, the largest
        dV/dt over the sum of its absolute contributions, and the largest error of the declared dissipation, likewise.
    - `relative_rate`, `gradient_norm`: shape `(states,)`, at the states where the sign was judged.
    - `t`, `energy`, `account`: shape `(solutions, nodes)`: times in units of the longest, V, and V at the start plus
        the integral of the dissipation; not a number where a solution was not followed.
    """

    flow: str
    certificate: str
    checks: tuple[Check, ...]
    counterexample: CounterExample | None
    rows: tuple[tuple, ...]
    relative_rate: np.ndarray
    gradient_norm: np.ndarray
    t: np.ndarray
    energy: np.ndarray
    account: np.ndarray

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all_passed(self.checks)

    @property
    def table(self) -> str:
        """The rows as a text."""
        head = ("objective", "states", "dV/dt > 0", "largest dV/dt", "error of declared")
        rows = [head, *((name, str(n), str(k), f"{r:.1e}", f"{e:.0e}") for name, n, k, r, e in self.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{row[0]:<{widths[0]}}" + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))
            for row in rows
        )

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        lines = [f"Energy of {self.flow} (claim: {self.certificate}): {verdict}", *map(str, self.checks)]
        if self.rows:
            lines += ["", self.table]
        if self.counterexample is not None:
            lines += ["", "Counter-example", str(self.counterexample)]
        return "\n".join(lines)

    def plot(self, axes: Any = None) -> "Figure":
        """The audit in three panels: the sign of dV/dt, the account of V along solutions, the counter-example.

        **Arguments:** `axes`: three axes to draw on; `None`: those of a new figure.

        **Returns:** the matplotlib figure.
        """
        from ..plot import energy

        return energy(self, axes=axes)


@in_double_precision
def audit_energy(
    flow: AbstractFlow, problem: tuple | None = None, *, samples: int = SAMPLES, seed: int = 0
) -> EnergyAudit:
    r"""Check that the energy of a flow is what the flow declares it to be, and say which term is wrong if it is not.

    Asked are: (a) whether a declared `dissipation` is \(dV/dt = \partial_t V + \langle \nabla V, F \rangle\), and
    whether the library derives it right, against reverse-mode differentiation through the objective; (b) whether
    \(dV/dt \le 0\) at random states that the flow can be in, on convex and other objectives, far from critical points
    and as near as \(10^{-6}\); (c) whether \(V\) falls along solutions from the flow's own start, and by the integral
    of its dissipation; (d) whether the flow rests exactly where its `stationarity` vanishes; (e) whether the energy is
    strict, which decides the schemes that can start from rest. What is positive by less than \(10^{-8}\) of the
    sum of its absolute contributions is taken for rounding.

    The states of (b) are reached, not drawn: the flow is driven from its `init` by random gradients, so that its
    memory is one that it can have. For `certificate = "convex_only"` only states that were reached on a convex
    objective are judged, and for `"balance_law"` no sign at all.

    **Arguments:**

    - `flow`: an instance of the flow; scales that it leaves open are set on each objective.
    - `problem`: `(fn, y0)` or `(fn, y0, args)`, as for `minimise`: the parameters then have the structure of `y0`, and
        `fn` is looked at beside the built-in objectives. `None`: a vector of four parameters.
    - `samples`: how many random states; fewer are taken where they are large (two million numbers in all).
    - `seed`: of all that is random.

    **Returns:** an `EnergyAudit`: `audit.passed`; `print(audit)`; `audit.plot()`; `audit.counterexample`. A
    declaration that cannot be evaluated is an audit that has not passed.

    **Raises:** `TypeError` if `flow` is no flow or `problem` no problem, `ValueError` for `samples` below one. Source:
    Belotto da Silva and Gazeau (2020), A general system of differential equations to model first-order adaptive
    algorithms, for the energies of Adam on which the sampling was tried.

    !!! example

        ```python
        audit = odeopt.audit_energy(odeopt.HeavyBall(friction=0.5))
        assert audit.passed
        print(audit)
        ```
    """
    if not isinstance(flow, AbstractFlow):
        hint = f" Write {flow.__name__}()." if isinstance(flow, type) and issubclass(flow, AbstractFlow) else ""
        raise TypeError(f"flow must be an instance of odeopt.AbstractFlow; got {flow!r}.{hint}")
    if samples < 1:
        raise ValueError(f"samples={samples}: expected at least one random state.")
    as_case(problem)  # a problem that is none is a wrong call, and no wrong declaration
    try:
        whole = system_of(flow, problem)
        surveys = _surveys(flow, whole, problem is not None, np.random.default_rng(seed), samples)
        return _judged(flow, surveys, seed)
    except Exception as error:  # the user's own code may raise anything
        return _cannot_be_evaluated(flow, error)


def _surveys(
    flow: AbstractFlow, whole: System, with_users: bool, random: np.random.Generator, samples: int
) -> list[Survey]:
    found = [survey(_landscapes(flow), flow, whole.start, random, samples)]
    if with_users:
        users = (UsersSquares if flow.needs_residuals else Users)(whole.objective, whole.start.position)
        found.append(survey(users, flow, whole.start, random, found[0].samples))
    return found


def _landscapes(flow: AbstractFlow) -> AbstractTerrain:
    return SquareLandscapes() if flow.needs_residuals else Landscapes()


def _judged(flow: AbstractFlow, surveys: list[Survey], seed: int) -> EnergyAudit:
    checks: list[Check] = []
    for part in surveys:
        states = judgements.reached(part)
        checks.append(states)
        if states.passed is False:
            continue
        checks += judgements.dissipation(flow, part, explain_mismatch)
        checks.append(judgements.sign(part, explain_rise))
        checks += judgements.along_solutions(part)
        if np.any(~part.moving):
            checks += [judgements.equilibria(part), judgements.strictness(part)]
    return EnergyAudit(
        flow=type(flow).__name__,
        certificate=flow.certificate,
        checks=tuple(checks),
        counterexample=_counterexample(flow, surveys, seed),
        rows=tuple(row for part in surveys for row in _rows(part)),
        relative_rate=np.concatenate([part.relative_rate[part.judged] for part in surveys]),
        gradient_norm=np.concatenate([part.rates.gradient_norm[part.judged] for part in surveys]),
        **_accounts(surveys[0]),
    )


def _rows(part: Survey) -> list[tuple]:
    rows, rate, error = [], part.relative_rate, judgements.mismatch(part)
    for index, name in enumerate(part.terrain.names):
        here = part.finite & (part.points.index == index)
        judged = part.judged & here
        if np.any(here):
            largest = np.max(rate[judged]) if np.any(judged) else np.nan
            rows.append((name, int(np.sum(here)), int(np.sum(rate[judged] > TOLERANCE)), largest, np.max(error[here])))
    return rows


def _accounts(part: Survey) -> dict[str, np.ndarray]:
    """Solutions away from critical points, as they are drawn."""
    reached = part.trajectories.reached[part.moving]
    lost = np.where(reached, 0.0, np.nan)
    t, energy = part.trajectories.t[part.moving], part.along("energy")[part.moving]
    longest = np.where(t[:, -1:] > 0, t[:, -1:], 1.0)
    account = energy[:, :1] + part.trajectories.dissipated[part.moving]
    return {"t": t / longest + lost, "energy": energy + lost, "account": account + lost}


def _counterexample(flow: AbstractFlow, surveys: list[Survey], seed: int) -> CounterExample | None:
    """Of a rise of V before one of a wrong dissipation, and in one dimension where the flow has one."""
    for violation, expected in ((_rise, "dV/dt <= 0"), (_error, "the declared dissipation is dV/dt")):
        for part in surveys:
            wrong = np.where(part.judged if violation is _rise else part.begun, violation(part.rates), 0.0)
            if np.any(wrong > TOLERANCE):
                small = _in_one_dimension(flow, violation, seed)
                terrain, points, found, wrong = small or (part.terrain, part.points, part.rates, wrong)
                which = int(np.argmax(wrong))
                return counterexample(terrain, at(points, which), at(found, which), violation, expected)
    return None


def _rise(rates: Rates) -> np.ndarray | np.floating:
    return np.nan_to_num(relative(np.asarray(rates.rate), np.asarray(rates.scale)), nan=0.0)


def _error(rates: Rates) -> np.ndarray | np.floating:
    # Of one state a difference is a number, and no longer an array.
    difference = np.asarray(np.abs(np.asarray(rates.declared) - np.asarray(rates.rate)))
    return np.nan_to_num(relative(difference, np.asarray(rates.scale)), nan=np.inf)


def _in_one_dimension(flow: AbstractFlow, violation, seed: int):
    """Random states of a single parameter and how wrong the declaration is there; `None` for a flow of more."""
    terrain = _landscapes(flow)
    try:
        start = system(flow, terrain.moved(jnp.asarray(0), jnp.zeros(1)), jnp.ones(1)).start
        drawn = draw_samples(terrain, flow, start.position, np.random.default_rng(seed), READABLE_SAMPLES)
        found = rates_at(terrain, drawn.points)
    except Exception:  # a flow of matrices, say, or one with a mass matrix: its own code says so in its own way
        return None
    judged = drawn.reached & np.isfinite(found.rate)
    if violation is _rise:
        judged &= claimed(flow.certificate, terrain, drawn.points, len(judged))
    wrong = np.where(judged, violation(found), 0.0)
    return (terrain, drawn.points, found, wrong) if np.any(wrong > TOLERANCE) else None


def _cannot_be_evaluated(flow: AbstractFlow, error: Exception) -> EnergyAudit:
    nothing = np.zeros(0)
    return EnergyAudit(
        flow=type(flow).__name__,
        certificate=flow.certificate,
        checks=(Check("declaration", False, told(error)),),
        counterexample=None,
        rows=(),
        relative_rate=nothing,
        gradient_norm=nothing,
        t=np.zeros((0, 0)),
        energy=np.zeros((0, 0)),
        account=np.zeros((0, 0)),
    )
