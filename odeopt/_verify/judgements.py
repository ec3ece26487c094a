# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# NumPy and JAX arrays alike are handed around here.
"""The questions that an audit of an energy asks of a survey, and how each is judged."""

import numpy as np

from .._flow.base import AbstractFlow
from .check import Check
from .survey import Survey, relative
from .trajectories import MAX_STEPS
from .trajectories import TOLERANCE as STEP

# Of the sum of the absolute contributions to dV/dt. Near critical points, where the states are 1e-6 away from one, a
# gradient is rounded to 2e-10 of itself, and two ways to evaluate it differ by a few of that.
TOLERANCE = 1e-8
# Errors of a trajectory, in units of what a relative change of the state by the tolerance of one step does to V: a
# thousand steps, each with an error of one tolerance, and all errors of one sign. Measured: at most 20 of them.
STEPS = 1e3
# Of the energy itself, which is a sum: a few units of rounding for each of its terms.
ROUNDING = 64 * float(np.finfo(np.float64).eps)
# What counts as zero of something that is of size one elsewhere: the position of an equilibrium moves by rounding only.
NOTHING = 1e-9
# A direction of descent is one if more than rounding is left of it.
LEVEL = 1e-12


def name_on(name: str, survey: Survey) -> str:
    """The name of a check, and what it was asked on where that is not a built-in landscape."""
    return name if len(survey.terrain.names) > 1 else f"{name}, on {survey.terrain.names[0]}"


def reached(survey: Survey) -> Check:
    """How many states there are; without any nothing can be judged."""
    name = name_on("states", survey)
    random, lanes = survey.samples.reached, survey.trajectories.reached
    outside = np.sum(random & ~survey.usable[: survey.driven])
    if not np.any(np.isfinite(survey.rates.rate[survey.usable])):
        return Check(
            name,
            False,
            "at no state is everything a finite number, the flow's own start included. Evaluate init, vector_field and "
            "energy at t = 0 by hand: a division by the time, by a norm that is zero at rest, or a root or logarithm "
            "of a negative number (objectives may have either sign) is the usual reason.",
        )
    if not np.any(lanes[:, 1:]):
        return Check(
            name,
            False,
            "no solution leaves its start: the vector field or dV/dt is not finite there, or the solution ends at "
            "once. A norm that is zero at rest has no derivative (write its square as a sum of squares), and a "
            "friction r/t is finite at t = 0 if written r / max(t, t0) or r / (t + t0).",
        )
    message = f"{np.sum(random) - outside} random states, and {np.sum(lanes)} along {len(lanes)} solutions"
    dropped = [
        f"{count} {what}"
        for count, what in (
            (np.sum(~random), "random states, which the flow did not reach in 256 steps or which grew beyond 1e8"),
            (outside, "random states, at which the objective is not a finite number"),
            (
                np.sum(~lanes[:, -1]),
                f"ends of solutions, which {MAX_STEPS} steps between nodes did not reach",
            ),
        )
        if count
    ]
    return Check(name, None, message + ("; left out: " + "; ".join(dropped) if dropped else ""))


def mismatch(survey: Survey) -> np.ndarray:
    """The error of the declared dissipation, relative; infinite where it is no number though dV/dt is one."""
    rates = survey.rates
    error = relative(np.abs(rates.declared - rates.rate), rates.scale)
    return np.where(survey.begun, np.where(np.isnan(error), np.inf, error), 0.0)


def dissipation(flow: AbstractFlow, survey: Survey, explain) -> list[Check]:
    """Whether dV/dt is what the flow declares and what the library derives."""
    rates, error = survey.rates, mismatch(survey)
    automatic = relative(np.abs(rates.automatic - rates.rate), rates.scale)[survey.finite]
    largest = np.max(automatic, initial=0.0)
    checks = [
        Check(
            name_on("dissipation, derived", survey),
            bool(largest <= TOLERANCE),
            f"automatic differentiation by the library and through the whole energy differ by at most {largest:.0e} of "
            "the sum of all contributions"
            + ("" if largest <= TOLERANCE else "; does the energy read the objective in a way that hides its tangent?"),
        )
    ]
    if not flow.declares("dissipation"):
        return checks
    name = name_on("dissipation, declared", survey)
    if np.max(error) <= TOLERANCE:
        message = f"the closed form differs from dV/dt by at most {np.max(error):.0e} of the sum of all contributions"
        return [Check(name, True, message), *checks]
    share = np.mean(error[survey.begun] > TOLERANCE)
    return [Check(name, False, f"wrong at {share:.0%} of the states. {explain(survey)}"), *checks]


def sign(survey: Survey, explain) -> Check:
    """Whether the energy falls wherever it is claimed to."""
    name, rate = name_on("sign of dV/dt", survey), survey.relative_rate
    lost = survey.usable & ~survey.finite
    if np.any(lost):
        return Check(
            name,
            False,
            f"V or dV/dt is not a finite number at {np.sum(lost)} of {np.sum(survey.usable)} states that the flow can "
            "be in. Where a square root or a norm may be zero its derivative is infinite: sqrt(v + e**2) has one.",
        )
    if survey.certificate == "balance_law":
        positive = np.mean(rate[survey.finite] > TOLERANCE)
        return Check(name, None, f"not claimed (a balance law); dV/dt > 0 at {positive:.1%} of the states")
    judged = survey.judged
    if not np.any(judged):
        return Check(name, None, "claimed on convex objectives only; this one is not known to be convex")
    wrong = judged & (rate > TOLERANCE)
    where = "convex objectives" if survey.certificate == "convex_only" else "objectives convex and not"
    if np.all(np.abs(rate[judged]) <= TOLERANCE):
        return Check(
            name,
            False,
            f"dV/dt = 0 at all of {np.sum(judged)} states: nothing is dissipated, so that no solution comes to rest. "
            "Is a friction missing in vector_field?",
        )
    if not np.any(wrong):
        return Check(
            name,
            True,
            f"dV/dt <= 0 at all of {np.sum(judged)} states that have not come to rest ({where}, near critical points "
            "too)",
        )
    return Check(
        name,
        False,
        f"dV/dt > 0 at {np.sum(wrong)} of {np.sum(judged)} states ({where}), by up to {np.max(rate[wrong]):.0%} of the "
        f"sum of all contributions. {explain(survey)}",
    )


def allowed_error(survey: Survey) -> np.ndarray:
    """What a solution that is known to a tolerance can be wrong in V, for each solution."""
    finite = survey.trajectories.reached
    sensitivity = np.max(np.where(finite, survey.along("sensitivity"), 0.0), axis=1)
    energy = np.max(np.where(finite, np.abs(survey.along("energy")), 0.0), axis=1)
    return STEPS * STEP * sensitivity + ROUNDING * energy


def along_solutions(survey: Survey) -> list[Check]:
    """Whether V falls along solutions, and by what the declared dissipation says."""
    reached, energy = survey.trajectories.reached, survey.along("energy")
    change = energy - energy[:, :1]
    allowed = allowed_error(survey)[:, None]
    # A difference between neighbours where both were reached.
    steps = np.where(reached[:, 1:] & reached[:, :-1], np.diff(energy, axis=1), 0.0)
    account = np.where(reached, np.abs(change - survey.trajectories.dissipated), 0.0)
    turnover = np.max(np.where(reached, np.abs(change), 0.0))
    return [_falls(survey, steps, allowed), _account(survey, account, allowed, turnover)]


def _falls(survey: Survey, steps: np.ndarray, allowed: np.ndarray) -> Check:
    name = name_on("V along solutions", survey)
    if survey.certificate == "balance_law":
        return Check(name, None, "not claimed to fall (a balance law)")
    claimed = np.ones(len(steps), bool)
    if survey.certificate == "convex_only":
        claimed = survey.terrain.convex[survey.trajectories.along(survey.points.index[survey.driven :])[:, 0]]
    if not np.any(claimed):
        return Check(name, None, "claimed to fall on convex objectives only; this one is not known to be convex")
    excess = np.where(claimed[:, None], steps / np.maximum(allowed, np.finfo(float).tiny), 0.0)
    lane, node = np.unravel_index(np.argmax(excess), excess.shape)
    if excess[lane, node] <= 1:
        return Check(name, True, f"V never rises along {np.sum(claimed)} solutions")
    t = survey.trajectories.t[lane]
    what = survey.terrain.names[survey.trajectories.along(survey.points.index[survey.driven :])[lane, 0]]
    return Check(
        name,
        False,
        f"V rises by {steps[lane, node]:.2g} between t = {t[node]:.3g} and t = {t[node + 1]:.3g} on the {what}",
    )


def _account(survey: Survey, account: np.ndarray, allowed: np.ndarray, turnover: float) -> Check:
    name = name_on("V and the integral of dV/dt", survey)
    excess = account / np.maximum(allowed, np.finfo(float).tiny)
    lane, node = np.unravel_index(np.argmax(excess), excess.shape)
    if excess[lane, node] <= 1:
        return Check(
            name,
            True,
            f"V(t) - V(0) is the integral of the dissipation to {np.max(account):.0e} (V changes by {turnover:.2g})",
        )
    t, index = survey.trajectories.t[lane, node], survey.trajectories.along(survey.points.index[survey.driven :])
    energy = survey.along("energy")[lane]
    return Check(
        name,
        False,
        f"at t = {t:.3g} on the {survey.terrain.names[index[lane, 0]]} V has changed by "
        f"{energy[node] - energy[0]:.4g}, the integral of the declared dissipation is {survey.trajectories.dissipated[lane, node]:.4g}",  # noqa: E501
    )


def equilibria(survey: Survey) -> Check:
    """Whether the flow stays exactly where its stationarity says that it has arrived."""
    name, wrong = "equilibria", []
    index = survey.trajectories.along(survey.points.index[survey.driven :])[:, 0]
    moved, stationarity = survey.trajectories.moved[:, -1], survey.along("stationarity")[:, 0]
    for landscape, title in enumerate(survey.terrain.names):
        away = int(np.flatnonzero((index == landscape) & survey.moving)[0])
        still = int(np.flatnonzero((index == landscape) & ~survey.moving)[0])
        stays = moved[still] <= NOTHING * moved[away]
        vanishes = stationarity[still] <= NOTHING * stationarity[away]
        if not moved[away] > 0:
            wrong.append(f"the flow does not leave a point of the {title} that is not critical")
        elif not stationarity[away] > 0:
            wrong.append(f"stationarity is {stationarity[away]:.2g} at a point of the {title} that the flow leaves")
        elif stays and not vanishes:
            wrong.append(f"the flow stays at a point of the {title} where stationarity is {stationarity[still]:.2g}")
        elif vanishes and not stays:
            wrong.append(f"stationarity vanishes at a critical point of the {title}, which the flow leaves")
    wrong += _ends(survey, index)
    if wrong:
        advice = "Declare `stationarity` so that it vanishes where the flow rests"
        if any("does not leave" in what for what in wrong):
            advice = "Does vector_field read oracle.gradient, with its sign?"
        return Check(name, False, f"{'; '.join(wrong)}. {advice}")
    return Check(
        name, True, "the flow rests exactly where its stationarity vanishes, and solutions tend to both at once"
    )


def _ends(survey: Survey, index: np.ndarray) -> list[str]:
    """Whether, on convex objectives, solutions come to rest and to stationarity together."""
    wrong = []
    speed, stationarity = survey.along("speed"), survey.along("stationarity")
    for lane in np.flatnonzero(survey.moving & survey.terrain.convex[index] & survey.trajectories.reached[:, -1]):
        if not (np.max(speed[lane]) > 0 and np.max(stationarity[lane]) > 0):
            continue
        slow = speed[lane, -1] / np.max(speed[lane])
        close = stationarity[lane, -1] / np.max(stationarity[lane])
        # Three and more orders of magnitude apart: no difference of exponents of one decay.
        if slow < 1e-6 and close > 1e-2:
            wrong.append(
                f"on the {survey.terrain.names[index[lane]]} the flow stops where stationarity has not vanished"
            )
        if close < 1e-6 and slow > 1e-2:
            wrong.append(f"on the {survey.terrain.names[index[lane]]} the flow goes on where stationarity has vanished")
    return wrong


def strictness(survey: Survey) -> Check:
    """Where the rate is zero though the flow moves: what decides which schemes can start from rest."""
    name = "strictness"
    rate, steepness = np.abs(survey.along("rate"))[:, 0], survey.along("steepness")[:, 0]
    level = survey.moving & (steepness > 0) & (rate <= LEVEL * steepness)
    random = survey.finite & (survey.rates.steepness > 0)
    flat = np.abs(survey.rates.rate) <= LEVEL * survey.rates.steepness
    share = np.sum(flat & random) / max(np.sum(random), 1)
    if np.any(level):
        return Check(
            name,
            None,
            "not strict: at the start dV/dt = 0 although the flow moves. A straight step from there, as explicit Euler "
            "takes, cannot lower V; a scheme that uses the new memory in the same step can (SemiImplicitEuler, "
            "ExponentialEuler), and so can those of order 2 and more",
        )
    if share > 0:
        return Check(name, None, f"not strict: dV/dt = 0 at {share:.1%} of the states although the flow moves")
    return Check(name, None, "strict: dV/dt < 0 wherever the flow moves; every scheme can start from rest")
