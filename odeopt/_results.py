"""Why a run stopped."""

from typing import Any

import equinox as eqx


class _Probe(eqx.Enumeration):
    item = ""


# Equinox exports enumerations but not the class of their items.
_Item: Any = type(_Probe.item)


class Result(_Item):
    """A member of `RESULTS`; `str` gives its sentence."""

    def __str__(self) -> str:
        return self._enumeration[self]


class _Sentences(type(eqx.Enumeration)):
    _name_to_item: dict[str, Any]

    def __init__(cls, *arguments):
        super().__init__(*arguments)
        # Written from the members themselves, so that `help` cannot disagree with them.
        listed = "\n".join(f"- `{name}`: {cls[item]}" for name, item in cls._name_to_item.items())
        cls.__doc__ = f"{cls.__doc__}\n\n{listed}"

    def __getattr__(cls, name: str):
        item = cls._name_to_item.get(name)
        if item is None:
            members = ", ".join(cls._name_to_item)
            raise AttributeError(f"{cls.__name__} has no member {name!r}; it has {members}.")
        return Result(item._value, item._enumeration)

    def __dir__(cls):
        return [*super().__dir__(), *cls._name_to_item]


class RESULTS(eqx.Enumeration, metaclass=_Sentences):
    """Why a run stopped. `str(result)` is the sentence; members compare with `==`."""

    converged = "The stopping tolerance has been met."
    target_reached = "The target loss has been reached."
    max_steps_reached = (
        "The maximum number of trial steps was used up before the stopping tolerance was met. Raise max_steps, or "
        "continue with state=solution.state."
    )
    max_evaluations_reached = "The budget of evaluations has been used up."
    rounding_floor_reached = (
        "The loss and its gradient no longer resolve the decrease that the test asks for (rounding): this flow and "
        "scheme get no further here in this precision. Use float64, or stop here."
    )
    energy_rises = (
        "The declared energy rises along the flow here (dV/dt > 0), so that no short step can lower it: the energy is "
        "not one of this flow. Check signs and factors in vector_field and energy. A balance law, such as AdamW's, "
        "needs BalanceControl; a metric, a preconditioner or a speed of yours has to be positive."
    )
    step_underflow = (
        "No step size in the controller's range (or not the only one, if it is constant) leads to a finite state whose "
        "energy is as low as it should be. Usual causes: the energy is not one of "
        "this flow (check signs in vector_field and energy); the flow is at rest under a scheme that cannot leave it "
        "(use SemiImplicitEuler); a constant step is too long, so that the run diverged; the start is as good as this "
        "precision allows; the loss has a jump here."
    )
    nonfinite_start = (
        "The loss or the energy is not a finite number at the start. Start elsewhere, or mend the loss. Some flows "
        "have a domain: positive parameters under an entropy, parameters within 1 / weight_decay under Lion and Muon."
    )
    nonfinite_dissipation = (
        "The rate of change of the energy or the gradient is not a finite number here, although the loss is. Mend "
        "the gradient (a square root or a norm at zero is the usual cause), or shorten a constant step with which the "
        "run has diverged."
    )
    unbounded_below = "The loss falls without bound: it has no minimum to be found."
    interrupted = "The run was interrupted; the best point so far is returned."
    time_limit_reached = "The time limit was reached."
    schedule_ended = "The schedule of step sizes has come to one that is not positive."


def code(result) -> int:
    """The number under which a result is kept inside compiled loops."""
    return int(result._value)


def name_of(number: int) -> str:
    """The member of `RESULTS` that a code stands for."""
    return next(name for name, item in RESULTS._name_to_item.items() if item._value == number)


# Inside a loop: not stopped yet.
RUNNING = -1


def from_code(value) -> Result:
    """The result of a code, traced or not."""
    return Result(value, RESULTS)


# Ends that the user asked for; all others raise where `throw=True`.
EXPECTED = tuple(
    code(getattr(RESULTS, name))
    for name in (
        "converged",
        "target_reached",
        "max_evaluations_reached",
        "interrupted",
        "time_limit_reached",
        "schedule_ended",
    )
)
