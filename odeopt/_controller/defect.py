r"""Step sizes from a model of the dissipation defect.

Over a step of length \(h\) the energy falls by \(h D\) less a defect, \(D = -V'\), and the defect per unit of time,
\(\Delta V / h + D\), is to first order proportional to \(h\). The largest step that passes the test is therefore about

\[ h^* = h\, \frac{(1 - \lambda) D}{\Delta V / h + D}. \]

(Bensaid, Poëtte, Turpault, 2023, Deterministic neural networks optimization from a continuous and energy point of
view.)
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .base import AbstractController, Attempt, Verdict, decided


class _DefectState(eqx.Module):
    step_size: Array
    rejections: Array  # consecutive


class DefectControl(AbstractController):
    r"""The Lyapunov test, with the next step size from a model of the dissipation defect.

    After acceptances and rejections alike

    \[ h^+ = \varrho\, h\, \frac{(1 - \lambda) D}{\max\big( \Delta V / h + D,\; \epsilon (1 - \lambda) D \big)}, \qquad
       D = -V'(y), \]

    so that steps grow at most by \(\varrho / \epsilon\). Where a trial is not finite or \(D = 0\), the step is divided
    by `shrink` after a rejection and kept after an acceptance.

    **Arguments:**

    - `decrease`: \(\lambda\), \(0 \le \lambda < 1\).
    - `safety`: \(\varrho\), in (0, 1).
    - `floor`: \(\epsilon\), in (0, 1).
    - `shrink`: > 1; a rejected step is shortened at least by the factor `safety` and at most by `shrink`.
    - `initial_step_size`, `rate`, `rounding`, `minimum_step_size`, `maximum_step_size`, `max_rejections`: as in
        `LyapunovControl`.

    **Raises:** `ValueError` for a parameter out of range. Source: Bensaid, Poëtte and Turpault (2023).

    !!! example

        ```python
        odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.DefectControl())
        ```
    """

    # decrease, safety and floor are the published ones.
    decrease: Array = eqx.field(converter=hyperparameter, default=0.5)
    safety: Array = eqx.field(converter=hyperparameter, default=0.9)
    floor: Array = eqx.field(converter=hyperparameter, default=0.01)
    # The published factor of the search with long jumps.
    shrink: Array = eqx.field(converter=hyperparameter, default=30.0)
    initial_step_size: Array | None = eqx.field(converter=hyperparameter, default=None)
    rate: str = eqx.field(static=True, default="start")
    rounding: Array | None = eqx.field(converter=hyperparameter, default=10.0)
    minimum_step_size: Array = eqx.field(converter=hyperparameter, default=1e-25)
    maximum_step_size: Array = eqx.field(converter=hyperparameter, default=1e15)
    max_rejections: Array = eqx.field(converter=hyperparameter, default=100)
    monotone: ClassVar[bool] = True

    def __check_init__(self):
        ranges = {
            "decrease": (lambda x: 0 <= x < 1, "0 <= decrease < 1"),
            "safety": (lambda x: 0 < x < 1, "0 < safety < 1"),
            "floor": (lambda x: 0 < x < 1, "0 < floor < 1"),
            "shrink": (lambda x: 1 < x < float("inf"), "shrink > 1"),
            "initial_step_size": (lambda x: 0 < x < float("inf"), "a finite step size > 0"),
            "rounding": (lambda x: x >= 0, "rounding >= 0, or None"),
            "max_rejections": (lambda x: x >= 1, "max_rejections >= 1"),
        }
        for name, (valid, expected) in ranges.items():
            value = getattr(self, name)
            if concrete(value) and not valid(float(value)):
                raise ValueError(f"DefectControl({name}={float(value)}): expected {expected}.")
        if self.rate not in ("start", "trial", "quadrature"):
            raise ValueError(f"DefectControl(rate={self.rate!r}): expected 'start', 'trial' or 'quadrature'.")

    def init(self, step_size: Array) -> _DefectState:
        first = jnp.clip(step_size, self.minimum_step_size, self.maximum_step_size).astype(step_size.dtype)
        return _DefectState(first, jnp.asarray(0, jnp.int32))

    def step_size(self, state: _DefectState) -> Array:
        return state.step_size

    def bound(self, state: _DefectState, step_size: Array, rate: Array) -> Array:
        return self.decrease * step_size * jnp.minimum(rate, 0)

    def judge(self, state: _DefectState, attempt: Attempt) -> Array:
        return decided(attempt, self.bound(state, attempt.step_size, attempt.rate), self.rounding)

    def update(self, state: _DefectState, attempt: Attempt, verdict: Array, accepted: Array) -> _DefectState:
        factor = self._factor(attempt, verdict)
        # A rejected step that the model would lengthen (its defect is not linear there, or rounding decided) is
        # shortened.
        retried = jnp.clip(factor, 1 / self.shrink, self.safety)
        step_size = attempt.step_size * jnp.where(accepted, factor, retried)
        return _DefectState(
            jnp.minimum(step_size, self.maximum_step_size).astype(attempt.step_size.dtype),
            jnp.where(accepted, 0, state.rejections + 1).astype(jnp.int32),
        )

    def exhausted(self, state: _DefectState) -> Array:
        return (state.rejections >= self.max_rejections) | (state.step_size < self.minimum_step_size)

    def _factor(self, attempt: Attempt, verdict: Array) -> Array:
        wanted = (1 - self.decrease) * jnp.maximum(-attempt.rate, 0)
        defect = attempt.change / attempt.step_size - attempt.rate
        factor = self.safety * wanted / jnp.maximum(defect, self.floor * wanted)
        # What rounding hides is no defect.
        known = attempt.finite & (wanted > 0) & jnp.isfinite(factor) & (verdict != Verdict.UNDECIDED)
        unknown = jnp.where(verdict == Verdict.REJECT, 1 / self.shrink, 1.0)
        return jnp.where(known, factor, unknown)
