# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# NumPy and JAX arrays alike are handed around here.
"""Which term of a declaration is wrong: a sentence for each of the ways in which a person gets it wrong.

A hypothesis is a change of the declaration; it is believed if the declaration so changed would be right at every state
that was looked at. Those that explain more are asked first.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._flow.base import State
from .._tree import vdot
from .judgements import TOLERANCE, mismatch
from .points import Points, at
from .rates import GRADIENT, OBJECTIVE, POSITION, TIME, Numbers, Rates, rates
from .survey import Survey, relative
from .terrain import AbstractTerrain, system_on

# States on which the changed declarations are evaluated; those where it is wrong come first.
TRIED = 1024
# How exact a fitted number is.
FIT = 1e-6
# On so many convex states without a violation a claim holds on convex objectives.
CONVEX_STATES = 100


def explain_mismatch(survey: Survey) -> str:
    """Why a declared dissipation is not dV/dt."""
    chosen = survey.begun & np.isfinite(survey.rates.declared)
    if np.any(survey.begun & ~chosen):
        return "It is not a finite number at some states where dV/dt is one."
    found = at(survey.rates, chosen)
    close = lambda guess: bool(np.all(np.abs(found.declared - guess) <= TOLERANCE * found.scale))  # noqa: E731
    for name, part in zip(survey.parts, found.parts.T, strict=True):
        if np.any(part != 0) and close(found.rate - part):
            return _MISSING.get(name, f"The contribution of {name} is missing.")
    factor = _common_factor(found.declared, found.rate, found.scale)
    if factor and close(factor * found.rate):
        return f"It is {factor:.6g} times dV/dt: {_factor_words(1 / factor)}."
    for name, part in zip(survey.parts, found.parts.T, strict=True):
        factor = _common_factor(found.declared - found.rate, part, found.scale)
        if factor and close(found.rate + factor * part):
            return f"The contribution of {name} is counted {1 + factor:.6g} times."
    error = np.where(chosen, mismatch(survey), 0.0)
    worst = at(survey.rates, int(np.argmax(error)))
    terms = _listed(survey.parts, worst.parts)
    return f"Where it is worst it is {worst.declared:.5g}, and dV/dt = {worst.rate:.5g} ({terms})."


_MISSING = {
    TIME: "The derivative of V with respect to the explicit time is missing: d/dt of what depends on t in V.",
    OBJECTIVE: "The work of the objective, <grad f, x'>, is missing.",
    GRADIENT: "The part that comes through the Hessian is missing.",
    POSITION: "The part of V that depends on the position directly is missing.",
}


def explain_rise(survey: Survey) -> str:
    """Why an energy rises."""
    evidence = _evidence(survey)
    for hypothesis in (
        _convex_only,
        _kinetic_part_missing,
        _explicit_time,
        _factor,
        _reversed,
        _unforced,
        _uncancelled,
    ):
        sentence = hypothesis(survey, evidence)
        if sentence:
            return sentence
    return _largest_part(survey, evidence)


class Changed(eqx.Module):
    """dV/dt under changed declarations, at one state or many.

    **Attributes:** `reversed`: with the opposite gradient in the vector field; `unforced`: on an objective without a
    gradient, and `unforced_parts` its contributions; `along`, `opposite`: on a plane with this gradient, and with the
    opposite one; `steered`: how much x' depends on the memory.
    """

    reversed: Numbers
    unforced: Numbers
    unforced_parts: Numbers
    along: Numbers
    opposite: Numbers
    steered: Numbers


@dataclass(frozen=True)
class Evidence:
    """The states on which hypotheses are tried, and what was found there.

    **Attributes:** `names`: of the contributions; `rates`; `changed`; `worst`: the state at which V rises most.
    """

    names: tuple[str, ...]
    rates: Rates
    changed: Changed
    worst: int

    @property
    def memory(self) -> list[int]:
        """Which contributions are those of the memory."""
        return [index for index, name in enumerate(self.names) if name not in (TIME, OBJECTIVE, GRADIENT, POSITION)]

    def repaired(self, rate: np.ndarray) -> bool:
        """Whether a rate is nowhere positive."""
        return bool(np.all(rate <= TOLERANCE * self.rates.scale))


def _evidence(survey: Survey) -> Evidence:
    # Every state that is wrong or, where those are few, the most doubtful ones.
    doubt = np.where(survey.judged, survey.relative_rate, -np.inf)
    order = np.argsort(-doubt)[: np.sum(survey.judged)]
    wrong = int(np.sum(doubt > TOLERANCE))
    half = order[:wrong][:: max(wrong // (TRIED // 2), 1)][: TRIED // 2]
    rest = order[:: max(len(order) // (TRIED - len(half)), 1)][: TRIED - len(half)]
    # Always as many, so that nothing is compiled twice.
    chosen = np.resize(np.concatenate([half, rest]), TRIED)
    points, found = at(survey.points, chosen), at(survey.rates, chosen)
    changed = jax.tree.map(np.asarray, _changed_at(survey.terrain, points))
    return Evidence(survey.parts, found, changed, int(np.argmax(relative(found.rate, found.scale))))


@eqx.filter_jit
def _changed_at(terrain: AbstractTerrain, points: Points) -> Changed:
    return eqx.filter_vmap(lambda point: _changed(terrain, point))(points)


def _changed(terrain: AbstractTerrain, point: Points) -> Changed:
    flow, t, state, system = point.flow, point.t, point.state, point.system(terrain)
    oracle = system.oracle(state.position)
    minus = jax.tree.map(jnp.negative, oracle.gradient)
    nothing = jax.tree.map(jnp.zeros_like, oracle.gradient)

    def on_plane(gradient):
        plane = terrain.plane(state.position, oracle.value, gradient)
        return rates(system_on(flow, plane, state), t, state)

    by_state = jax.grad(system.energy, 1)(t, state)
    field = flow.vector_field(t, state, oracle.with_inputs(state.position, oracle.value, minus))
    unforced = on_plane(nothing)
    fresh = flow.vector_field(t, State(state.position, flow.init(state.position).memory), oracle)
    steered = vdot(*(2 * [jax.tree.map(jnp.subtract, system.vector_field(t, state).position, fresh.position)]))
    return Changed(
        reversed=jax.grad(system.energy, 0)(t, state) + vdot(by_state, field),
        unforced=unforced.rate,
        unforced_parts=unforced.parts,
        along=on_plane(oracle.gradient).rate,
        opposite=on_plane(minus).rate,
        steered=steered,
    )


def _convex_only(survey: Survey, evidence: Evidence) -> str:
    convex = survey.judged & survey.terrain.convex[survey.points.index]
    violated = np.any(survey.relative_rate[convex] > TOLERANCE)
    if survey.certificate != "lyapunov" or violated or np.sum(convex) < CONVEX_STATES:
        return ""
    return (
        "On convex objectives it falls everywhere: declare certificate = 'convex_only', or choose an energy that falls "
        "on others too."
    )


def _kinetic_part_missing(survey: Survey, evidence: Evidence) -> str:
    if np.any(evidence.rates.parts[:, evidence.memory]) or not np.any(evidence.changed.steered > 0):
        return ""
    return (
        "The energy does not depend on the memory, although x' does: the kinetic part of V is missing. Add one whose "
        "derivative with respect to the memory is the velocity, such as |v|^2 / 2 where x' = v."
    )


def _explicit_time(survey: Survey, evidence: Evidence) -> str:
    time = evidence.rates.parts[:, evidence.names.index(TIME)]
    if not np.any(time > 0) or not evidence.repaired(evidence.rates.rate - time):
        return ""
    return (
        "It is the explicit time in V that raises it: without the derivative of its time-dependent coefficients dV/dt "
        "would be <= 0 at every state. Drop or bound those coefficients."
    )


def _factor(survey: Survey, evidence: Evidence) -> str:
    """Whether a number before the part of V that the memory holds repairs it, or before the rate of a part of it."""
    if not evidence.memory:
        return ""
    found = evidence.rates
    part = np.sum(found.parts[:, evidence.memory], axis=1)
    factor = _repairing_factor(found.rate - part, part, found.scale)
    if factor is not None:
        return (
            f"With the part of V that depends on the memory multiplied by about {factor:.4g} dV/dt would be <= 0 at "
            f"every state: {_factor_words(factor)}, there or in the force on the memory."
        )
    for index in evidence.memory if len(evidence.memory) > 1 else []:
        part, name = found.parts[:, index], evidence.names[index]
        factor = _repairing_factor(found.rate - part, part, found.scale)
        if factor is not None:
            return (
                f"It is {name} that raises it ({_listed(evidence.names, found.parts[evidence.worst])}): with the "
                f"derivative of {name} in vector_field multiplied by about {factor:.4g} dV/dt would be <= 0 at every "
                "state."
            )
    return ""


def _repairing_factor(rest: np.ndarray, part: np.ndarray, scale: np.ndarray) -> float | None:
    """A number c such that rest + c * part <= 0 everywhere, the one nearest to 1."""
    room = TOLERANCE * scale - rest
    counts = np.abs(part) > TOLERANCE * scale
    if np.any(room[~counts] < 0) or not np.any(counts):
        return None
    bound = np.divide(room, part, out=np.zeros_like(room), where=counts)
    lower = np.max(bound[counts & (part < 0)], initial=-np.inf)
    upper = np.min(bound[counts & (part > 0)], initial=np.inf)
    if lower > upper:
        return None
    return float(np.clip(1.0, lower, upper))


def _reversed(survey: Survey, evidence: Evidence) -> str:
    if not evidence.repaired(evidence.changed.reversed):
        return ""
    return (
        "With the opposite sign of the gradient in vector_field dV/dt would be <= 0 at every state: the flow is pushed "
        "uphill."
    )


def _unforced(survey: Survey, evidence: Evidence) -> str:
    """Whether V rises already where nothing pushes: then the damping is wrong, not the coupling to the objective."""
    rate = relative(evidence.changed.unforced, np.sum(np.abs(evidence.changed.unforced_parts), axis=1))
    if not np.any(rate > TOLERANCE):
        return ""
    parts = evidence.changed.unforced_parts[int(np.argmax(rate))]
    name = evidence.names[int(np.argmax(parts))]
    return (
        f"V rises already where the gradient is zero, through {name} ({_listed(evidence.names, parts)}): what {name} "
        "does without a force, its friction or decay, has the wrong sign or is too strong for this V."
    )


def _uncancelled(survey: Survey, evidence: Evidence) -> str:
    """Whether dV/dt has a part that changes its sign with the gradient: no energy can have one."""
    odd = 0.5 * np.abs(evidence.changed.along - evidence.changed.opposite)
    if not np.any(odd > TOLERANCE * evidence.rates.scale):
        return ""
    parts = evidence.rates.parts[evidence.worst]
    if not evidence.memory:
        return (
            "A part of dV/dt changes its sign with the gradient: x' has a part that does not come from the gradient, "
            f"and V does not know of it ({_listed(evidence.names, parts)})."
        )
    others = [evidence.names[index] for index in evidence.memory]
    return (
        "A part of dV/dt changes its sign with the gradient: what the gradient does to V through x' is not cancelled "
        f"by what it does through {' and '.join(others)} ({_listed(evidence.names, parts)}). The derivative of V with "
        "respect to the memory must be the velocity x' up to a constant: is a mass matrix, a preconditioner or a "
        "factor missing in V, or a term of vector_field?"
    )


def _largest_part(survey: Survey, evidence: Evidence) -> str:
    parts = evidence.rates.parts[evidence.worst]
    name = evidence.names[int(np.argmax(parts))]
    return f"The largest positive contribution is that of {name} ({_listed(evidence.names, parts)})."


def _common_factor(numerator: np.ndarray, denominator: np.ndarray, scale: np.ndarray) -> float:
    """The number that the first is most nearly of the second at all states, by least squares; 0 for none."""
    x, y = relative(denominator, scale), relative(numerator, scale)
    return float(x @ y / (x @ x)) if np.any(x) else 0.0


def _factor_words(factor: float) -> str:
    """What somebody has forgotten who is wrong by this factor."""
    if abs(factor + 1) < FIT:
        return "its sign is wrong"
    sign = "its sign is wrong, and " if factor < 0 else ""
    return f"{sign}a factor {abs(factor):.4g} is missing"


def _listed(names: tuple[str, ...], parts: np.ndarray) -> str:
    return ", ".join(f"{name}: {part:.3g}" for name, part in zip(names, parts, strict=True) if part != 0)
