"""What keeps or rejects a trial step and proposes the next step size."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array

# Verdicts on a trial. SEARCH_ON: it passes, but the controller wants to try another step size first.
# UNDECIDED: the loss does not resolve the difference that the decision needs; gradients decide.
REJECT, ACCEPT, UNDECIDED, SEARCH_ON = 0, 1, 2, 3


class Attempt(eqx.Module):
    """What a controller may know of a trial: scalars only.

    **Attributes:**

    - `step_size`: the length of the step.
    - `change`: the change of the energy.
    - `rate`: the dissipation that the test refers to (see `AbstractController.rate`).
    - `rounding`: the level below which `change` is rounding noise; 0 where the test is off.
    - `finite`: whether the loss and the energy at the trial are finite numbers.
    """

    step_size: Array
    change: Array
    rate: Array
    rounding: Array
    finite: Array


class AbstractController(eqx.Module):
    """Judges trials and chooses step sizes from scalars; it knows nothing of parameters.

    **Attributes:**

    - `initial_step_size`: the first step size, in the flow's unit of time; `None`: a hundredth of the flow's
        `unit_of_time`.
    - `rate`: which dissipation the test refers to: at the `"start"` of the step, at the `"trial"`, or its stage
        `"quadrature"`.
    - `rounding`: multiples of the rounding unit of the loss below which gradients decide; `None` switches it off.

    **Class attributes:** `monotone`: whether an accepted step never raises the energy beyond rounding.
    """

    initial_step_size: eqx.AbstractVar[Array | None]
    rate: eqx.AbstractVar[str]
    rounding: eqx.AbstractVar[Array | None]
    monotone: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def init(self, step_size: Array) -> Any:
        """The controller's state before the first trial, from the first step size."""

    @abc.abstractmethod
    def step_size(self, state: Any) -> Array:
        """The length of the next trial."""

    @abc.abstractmethod
    def bound(self, step_size: Array, rate: Array) -> Array:
        """The largest change of the energy with which a step is kept, known before the trial is evaluated."""

    @abc.abstractmethod
    def judge(self, state: Any, attempt: Attempt) -> Array:
        """One of the verdicts, an int32 scalar."""

    @abc.abstractmethod
    def update(self, state: Any, attempt: Attempt, verdict: Array, accepted: Array) -> Any:
        """The state before the next trial; `accepted` is the final word on an undecided trial."""

    @abc.abstractmethod
    def exhausted(self, state: Any) -> Array:
        """Whether no step size is left to try."""
