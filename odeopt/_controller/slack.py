r"""Tests that let the energy rise for a while: the required decrease less a slack that was earned before.

All of them keep a step iff

\[ V(y^+) - V(y) \le \lambda h V'(y) + s, \qquad s \ge 0, \]

and differ in the slack \(s\): how far the energy stands below a reference \(C \ge V\) made of earlier energies. They
search for a step size as `LyapunovControl` does.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .base import AbstractController, Attempt
from .lyapunov import LyapunovControl


class _SlackState(eqx.Module):
    search: Any
    slack: Array
    record: Array  # what the slack is made from


class _Slackened(AbstractController):
    """The search of a `LyapunovControl`, with a slack in its test."""

    search: eqx.AbstractVar[LyapunovControl]
    monotone: ClassVar[bool] = False

    @abc.abstractmethod
    def _first(self, like: Array) -> Array:
        """The record before the first step."""

    @abc.abstractmethod
    def _earn(self, state: _SlackState, attempt: Attempt) -> tuple[Array, Array]:
        """Slack and record after an accepted step."""

    @property
    def initial_step_size(self) -> Array | None:
        return self.search.initial_step_size

    @property
    def rate(self) -> str:
        return self.search.rate

    @property
    def rounding(self) -> Array | None:
        return self.search.rounding

    def init(self, step_size: Array) -> _SlackState:
        search = self.search.init(step_size)
        return _SlackState(search, jnp.zeros_like(search.step_size), self._first(search.step_size))

    def step_size(self, state: _SlackState) -> Array:
        return self.search.step_size(state.search)

    def bound(self, state: _SlackState, step_size: Array, rate: Array) -> Array:
        return self.search.bound(state.search, step_size, rate) + state.slack

    def judge(self, state: _SlackState, attempt: Attempt) -> Array:
        return self.search.judge(state.search, _relieved(attempt, state.slack))

    def update(self, state: _SlackState, attempt: Attempt, verdict: Array, accepted: Array) -> _SlackState:
        slack, record = self._earn(state, attempt)
        return _SlackState(
            self.search.update(state.search, _relieved(attempt, state.slack), verdict, accepted),
            jnp.where(accepted, jnp.maximum(slack, 0), state.slack).astype(state.slack.dtype),
            jnp.where(accepted, record, state.record).astype(state.record.dtype),
        )

    def exhausted(self, state: _SlackState) -> Array:
        return self.search.exhausted(state.search)


def _relieved(attempt: Attempt, slack: Array) -> Attempt:
    return eqx.tree_at(lambda a: a.change, attempt, attempt.change - slack)


class AverageControl(_Slackened):
    r"""The non-monotone test of Zhang and Hager: the reference is a weighted mean of all energies so far.

    \[ C^+ = \frac{\eta Q C + V^+}{Q^+}, \qquad Q^+ = \eta Q + 1, \qquad C_0 = V_0,\; Q_0 = 1. \]

    Flows with little friction and energies that are not quite smooth make longer steps under it.

    **Arguments:**

    - `weight`: \(\eta\), \(0 \le \eta \le 1\): 0 is the monotone test, 1 the mean of all energies.
    - `search`: the `LyapunovControl` that searches for the step size and holds \(\lambda\).

    **Raises:** `ValueError` for a weight out of range. Source: Zhang and Hager (2004), A nonmonotone line search
    technique and its application to unconstrained optimization.

    !!! example

        ```python
        odeopt.Solver(odeopt.HeavyBall(), controller=odeopt.AverageControl(weight=0.85))
        ```
    """

    # The value of the paper's experiments.
    weight: Array = eqx.field(converter=hyperparameter, default=0.85)
    search: LyapunovControl = eqx.field(default_factory=LyapunovControl)

    def __check_init__(self):
        if concrete(self.weight) and not 0 <= float(self.weight) <= 1:
            raise ValueError(f"AverageControl(weight={float(self.weight)}): expected 0 <= weight <= 1.")

    def _first(self, like: Array) -> Array:
        return jnp.ones_like(like)  # Q

    def _earn(self, state: _SlackState, attempt: Attempt) -> tuple[Array, Array]:
        # With D = C - V the update reads D+ = eta Q (D - (V+ - V)) / Q+: differences only, nothing cancels.
        kept = self.weight * state.record
        return kept * (state.slack - attempt.change) / (kept + 1), kept + 1


class MaximumControl(_Slackened):
    r"""The non-monotone test of Grippo, Lampariello and Lucidi: the reference is the largest of the last energies.

    \[ C = \max(V_n, V_{n-1}, \ldots, V_{n-M+1}) \]

    **Arguments:**

    - `window`: \(M \ge 1\), a whole number; 1 is the monotone test.
    - `search`: the `LyapunovControl` that searches for the step size and holds \(\lambda\).

    **Raises:** `ValueError` for a window below 1. Source: Grippo, Lampariello and Lucidi (1986), A nonmonotone line
    search technique for Newton's method.

    !!! example

        ```python
        odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.MaximumControl(window=5))
        ```
    """

    # The window of the paper's experiments.
    window: int = eqx.field(static=True, default=10)
    search: LyapunovControl = eqx.field(default_factory=LyapunovControl)

    def __check_init__(self):
        if not isinstance(self.window, int) or self.window < 1:
            raise ValueError(f"MaximumControl(window={self.window}): expected a whole number >= 1.")

    def _first(self, like: Array) -> Array:
        # The last energies above the present one; before the first step there are none.
        return jnp.full((self.window,), -jnp.inf, like.dtype).at[0].set(0.0)

    def _earn(self, state: _SlackState, attempt: Attempt) -> tuple[Array, Array]:
        shifted = jnp.concatenate([jnp.zeros((1,), state.record.dtype), state.record[:-1] - attempt.change])
        return jnp.max(shifted), shifted


class IntegralControl(_Slackened):
    r"""The integral form of the test: what a step dissipates beyond the required, later steps may spend.

    \[ V_n - V_0 \le \lambda \sum_{k < n} h_k V'_k, \]

    so that the energy is not monotone, but falls over all in proportion to the dissipation.

    **Arguments:** `search`: the `LyapunovControl` that searches for the step size and holds \(\lambda\).

    Source: Bensaid, Poëtte and Turpault (2023), Deterministic neural networks optimization from a continuous and energy
    point of view.

    !!! example

        ```python
        odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.IntegralControl())
        ```
    """

    search: LyapunovControl = eqx.field(default_factory=LyapunovControl)

    def _first(self, like: Array) -> Array:
        return jnp.zeros_like(like)

    def _earn(self, state: _SlackState, attempt: Attempt) -> tuple[Array, Array]:
        required = self.search.bound(state.search, attempt.step_size, attempt.rate)
        return state.slack + required - attempt.change, state.record


class BalanceControl(_Slackened):
    r"""The test of a balance law: a step is kept if the energy follows its own rate, where that is positive too.

    \[ V(y^+) - V(y) \le h\,V' + (1 - \lambda)\,h\,|V'| \]

    Where \(V' \le 0\) this is the test of `LyapunovControl`; where the flow declares a supply of energy, the energy may
    rise by it, and by the fraction \(1 - \lambda\) more. For flows with `certificate = "balance_law"`.

    **Arguments:** `search`: the `LyapunovControl` that searches for the step size and holds \(\lambda\).

    Source: Bensaid, Poëtte and Turpault (2023), for the test where \(V' \le 0\).

    !!! example

        ```python
        odeopt.Solver(odeopt.AdamW(), controller=odeopt.BalanceControl())
        ```
    """

    search: LyapunovControl = eqx.field(default_factory=LyapunovControl)

    def _first(self, like: Array) -> Array:
        return jnp.zeros_like(like)

    def _earn(self, state: _SlackState, attempt: Attempt) -> tuple[Array, Array]:
        return state.slack, state.record

    def _supplied(self, step_size: Array, rate: Array) -> Array:
        return (2 - self.search.decrease) * step_size * jnp.maximum(rate, 0)

    def bound(self, state: _SlackState, step_size: Array, rate: Array) -> Array:
        return super().bound(state, step_size, rate) + self._supplied(step_size, rate)

    def judge(self, state: _SlackState, attempt: Attempt) -> Array:
        return super().judge(state, _relieved(attempt, self._supplied(attempt.step_size, attempt.rate)))
