r"""Step control that preserves dissipation.

A step \(y \to y^+\) of length \(h\) is kept iff the energy falls at least at a fixed fraction of the continuous rate,

\[ V(y^+) - V(y) \le \lambda\, h\, V'(y), \qquad 0 \le \lambda < 1. \]

(Bensaid, Poëtte, Turpault, 2023, Deterministic neural networks optimization from a continuous and energy point of
view.) Explicit Euler on gradient flow makes it Armijo's rule.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .base import AbstractController, Attempt, Verdict

# Nocedal and Wright, 2006, Numerical Optimization, 3.5: neither nearly the same step again nor one that is far too
# short.
INTERPOLATED = (0.1, 0.5)


class _Bracket(eqx.Module):
    """The dichotomy's memory of one search: largest step that passed, smallest that failed, bisections left."""

    passed: Array
    failed: Array
    left: Array


class _LyapunovState(eqx.Module):
    step_size: Array
    first: Array  # the step size that a restarting search begins with
    growth: Array  # the factor after the next accepted step
    rejections: Array  # consecutive
    bracket: _Bracket | None


class LyapunovControl(AbstractController):
    r"""Keep a step iff the energy falls at least at the fraction \(\lambda\) of its continuous rate.

    **Arguments:**

    - `decrease`: \(\lambda\), \(0 \le \lambda < 1\).
    - `shrink`: a rejected step is tried again `shrink` times shorter; > 1.
    - `grow`: the next step starts `grow` times longer than the last accepted one; >= 1.
    - `initial_step_size`: in the flow's unit of time; `None`: a hundredth of the flow's `unit_of_time`.
    - `search`: `"memory"` (each search starts from the last accepted step) or `"restart"` (each starts at the
        initial step size, which keeps basins of attraction, at more trials).
    - `bisections`: the dichotomy: after a step that passed behind one that failed, bisect the logarithm of the step
        size that many times and keep the largest step that passed.
    - `interpolate`: shorten a rejected step to the minimum of the parabola through the energy at both ends and its rate
        at the first, between a tenth and a half of it, instead of by `shrink`.
    - `hold_growth`: do not grow in the step after a rejection.
    - `scouting_growth`: the growth until the first rejection, so that a start many orders too small costs little.
    - `rate`: the rate the test refers to: at the `"start"`, at the `"trial"`, or the stage `"quadrature"`.
    - `rounding`: multiples of the rounding unit of the loss; where the decision would depend on less, it is taken from
        gradients (approximate Wolfe test, Hager and Zhang, 2005). `None`: never.
    - `minimum_step_size`, `maximum_step_size`: bounds on the step.
    - `max_rejections`: consecutive rejections after which the run ends with a result that says why.

    **Raises:** `ValueError` for a parameter out of range.

    !!! example "The published methods"

        ```python
        memory = odeopt.LyapunovControl(decrease=0.5, shrink=2, grow=1e4, initial_step_size=0.1,
                                        hold_growth=False, rounding=None)
        restart = odeopt.LyapunovControl(decrease=0.5, shrink=2, initial_step_size=0.1, search="restart")
        dichotomy = odeopt.LyapunovControl(decrease=0.5, shrink=30, grow=1e4, bisections=3)
        ```
    """

    # decrease, grow and hold_growth: measured, benchmarks/core.py, table "controller".
    decrease: Array = eqx.field(converter=hyperparameter, default=0.1)
    shrink: Array = eqx.field(converter=hyperparameter, default=2.0)
    grow: Array = eqx.field(converter=hyperparameter, default=2.0)
    initial_step_size: Array | None = eqx.field(converter=hyperparameter, default=None)
    search: str = eqx.field(static=True, default="memory")
    bisections: int = eqx.field(static=True, default=0)
    interpolate: bool = eqx.field(static=True, default=False)
    hold_growth: bool = eqx.field(static=True, default=True)
    scouting_growth: Array = eqx.field(converter=hyperparameter, default=10.0)
    rate: str = eqx.field(static=True, default="start")
    # Hager and Zhang's form of the test holds down to the rounding of the loss; 10 units cover the reductions of a
    # mean over up to 1e5 samples (pairwise sums lose one unit per factor of two, and half of them cancel).
    rounding: Array | None = eqx.field(converter=hyperparameter, default=10.0)
    # The float32 range less the room that h**2 and h * V' need.
    minimum_step_size: Array = eqx.field(converter=hyperparameter, default=1e-25)
    maximum_step_size: Array = eqx.field(converter=hyperparameter, default=1e15)
    # 2**-100 spans every step size between the two bounds above that a search can meet.
    max_rejections: Array = eqx.field(converter=hyperparameter, default=100)
    monotone: ClassVar[bool] = True

    def __check_init__(self):
        ranges = {
            "decrease": (lambda x: 0 <= x < 1, "0 <= decrease < 1"),
            "shrink": (lambda x: 1 < x < float("inf"), "shrink > 1"),
            "grow": (lambda x: 1 <= x < float("inf"), "grow >= 1"),
            "scouting_growth": (lambda x: 1 <= x < float("inf"), "scouting_growth >= 1"),
            "initial_step_size": (lambda x: 0 < x < float("inf"), "a finite step size > 0"),
            "rounding": (lambda x: x >= 0, "rounding >= 0, or None"),
            "minimum_step_size": (lambda x: x >= 0, "minimum_step_size >= 0"),
            "maximum_step_size": (lambda x: x > 0, "maximum_step_size > 0"),
            "max_rejections": (lambda x: x >= 1, "max_rejections >= 1"),
        }
        for name, (valid, expected) in ranges.items():
            value = getattr(self, name)
            if concrete(value) and not valid(float(value)):
                raise ValueError(f"LyapunovControl({name}={float(value)}): expected {expected}.")
        choices = {"search": ("memory", "restart"), "rate": ("start", "trial", "quadrature")}
        for name, expected in choices.items():
            if getattr(self, name) not in expected:
                raise ValueError(f"LyapunovControl({name}={getattr(self, name)!r}): expected one of {expected}.")
        if not isinstance(self.bisections, int) or self.bisections < 0:
            raise ValueError(f"LyapunovControl(bisections={self.bisections}): expected a whole number >= 0.")

    @property
    def rejects_early(self) -> bool:
        return self.rate == "start" and not self.interpolate

    def init(self, step_size: Array) -> _LyapunovState:
        first = jnp.clip(step_size, self.minimum_step_size, self.maximum_step_size).astype(step_size.dtype)
        return _LyapunovState(
            step_size=first,
            first=first,
            growth=jnp.maximum(self.grow, self.scouting_growth).astype(first.dtype),
            rejections=jnp.asarray(0, jnp.int32),
            bracket=self._new_bracket(first) if self.bisections else None,
        )

    def step_size(self, state: _LyapunovState) -> Array:
        return state.step_size

    def bound(self, state: _LyapunovState, step_size: Array, rate: Array) -> Array:
        # A positive rate would allow the energy to rise; a flow that has one is declared wrongly.
        return self.decrease * step_size * jnp.minimum(rate, 0)

    def judge(self, state: _LyapunovState, attempt: Attempt) -> Array:
        excess = attempt.change - self.bound(state, attempt.step_size, attempt.rate)
        verdict = jnp.where(excess <= 0, self._on_pass(state), Verdict.REJECT)
        # `excess` is NaN or infinite where the energy is: such a trial is never undecided and never passes.
        if self._tests_gradients:
            verdict = jnp.where(jnp.abs(excess) <= attempt.rounding, Verdict.UNDECIDED, verdict)
        return jnp.where(attempt.finite, verdict, Verdict.REJECT).astype(jnp.int32)

    def update(self, state: _LyapunovState, attempt: Attempt, verdict: Array, accepted: Array) -> _LyapunovState:
        after_pass = self._next_first(state, attempt.step_size)
        bracket, after_failure = self._shorter(state, attempt, verdict)
        step_size = jnp.where(accepted, after_pass, after_failure).astype(attempt.step_size.dtype)
        return _LyapunovState(
            step_size=jnp.minimum(step_size, self.maximum_step_size.astype(step_size.dtype)),
            first=state.first,
            growth=self._next_growth(state, accepted).astype(state.growth.dtype),
            rejections=jnp.where(accepted, 0, state.rejections + 1).astype(jnp.int32),
            bracket=bracket and _choose(accepted, self._new_bracket(step_size), bracket),
        )

    def exhausted(self, state: _LyapunovState) -> Array:
        return (state.rejections >= self.max_rejections) | (state.step_size < self.minimum_step_size)

    @property
    def _tests_gradients(self) -> bool:
        return self.rounding is not None

    def _on_pass(self, state: _LyapunovState):
        """The verdict on a step that passes: with a dichotomy, search on while bisections are left."""
        if state.bracket is None:
            return Verdict.ACCEPT
        searching = (state.bracket.failed < jnp.inf) & (state.bracket.left > 0)
        return jnp.where(searching, Verdict.SEARCH_ON, Verdict.ACCEPT)

    def _next_first(self, state: _LyapunovState, accepted: Array) -> Array:
        """The first step size of the next search."""
        if self.search == "restart":
            return state.first
        return state.growth * accepted

    def _next_growth(self, state: _LyapunovState, accepted: Array) -> Array:
        """Held at one for one step after a rejection; what it was before the first rejection is never regained."""
        after_pass = jnp.where(state.growth == 1, self.grow, state.growth) if self.hold_growth else state.growth
        return jnp.where(accepted, after_pass, 1.0 if self.hold_growth else self.grow)

    def _shorter(self, state: _LyapunovState, attempt: Attempt, verdict: Array) -> tuple[_Bracket | None, Array]:
        """The next step size of the same search, and what the dichotomy has learnt."""
        tried = attempt.step_size
        shorter = tried * self._interpolated(attempt) if self.interpolate else tried / self.shrink
        if state.bracket is None:
            return None, shorter
        passed = jnp.where(verdict == Verdict.SEARCH_ON, tried, state.bracket.passed)
        failed = jnp.where(verdict == Verdict.SEARCH_ON, state.bracket.failed, tried)
        bisecting = (passed > 0) & (state.bracket.left > 0)
        middle = jnp.sqrt(passed) * jnp.sqrt(failed)
        # Bisections used up and the last one failed: the largest step that passed is tried once more, and kept.
        step_size = jnp.where(bisecting, middle, jnp.where(passed > 0, passed, shorter))
        return _Bracket(passed, failed, state.bracket.left - bisecting.astype(jnp.int32)), step_size

    def _interpolated(self, attempt: Attempt) -> Array:
        """The minimum of the parabola through V, V' and V+ in units of the step, safeguarded."""
        expected = attempt.step_size * attempt.rate
        minimum = -expected / (2 * (attempt.change - expected))
        least, most = INTERPOLATED
        return jnp.where(jnp.isfinite(minimum), jnp.clip(minimum, least, most), 1 / self.shrink)

    def _new_bracket(self, like: Array) -> _Bracket:
        return _Bracket(jnp.zeros_like(like), jnp.full_like(like, jnp.inf), jnp.asarray(self.bisections, jnp.int32))


def _choose(predicate: Array, on_true: _Bracket, on_false: _Bracket) -> _Bracket:
    return _Bracket(
        jnp.where(predicate, on_true.passed, on_false.passed),
        jnp.where(predicate, on_true.failed, on_false.failed),
        jnp.where(predicate, on_true.left, on_false.left),
    )
