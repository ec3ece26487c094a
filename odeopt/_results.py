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
    def __getattr__(cls, name: str):
        item = super().__getattr__(name)  # pyright: ignore[reportAttributeAccessIssue]
        return Result(item._value, item._enumeration)


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
    step_underflow = (
        "No step size in the controller's range was acceptable. The flow may start at rest under a scheme that cannot "
        "leave it (use SemiImplicitEuler), the energy may not be one of this flow, or the loss may have a jump here."
    )
    nonfinite_start = "The loss or the energy is not a finite number at the start. Start elsewhere, or mend the loss."
    nonfinite_dissipation = (
        "The rate of change of the energy or the gradient is not a finite number here, although the loss is. Mend "
        "the gradient (a square root or a norm at zero is the usual cause)."
    )
    unbounded_below = "The loss falls without bound: it has no minimum to be found."
    interrupted = "The run was interrupted; the best point so far is returned."
    time_limit_reached = "The time limit was reached."


def code(result) -> int:
    """The number under which a result is kept inside compiled loops."""
    return int(result._value)


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
    )
)
