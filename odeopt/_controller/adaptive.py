r"""Step sizes from the local error, from the dissipation, or from both.

The local error \(e\) says how well a step follows the flow; the **dissipation ratio**

\[ \rho = \frac{V(y^+) - V(y)}{h \sum_i b_i V'(Y_i)} \]

says how much of the dissipation it keeps: \(|1 - \rho|\) is \(O(h^p)\) with the stage quadrature of a scheme of order
\(p\), and \(O(h)\) with the rate at the start. Both are errors with an order, and one step size controller serves both.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .base import AbstractController, Attempt, Tolerance, Verdict, decided
from .pid import PID, Errors


class _AdaptiveState(eqx.Module):
    step_size: Array
    errors: Errors  # of the local error
    ratios: Errors  # of the dissipation
    rejections: Array  # consecutive


class AdaptiveControl(AbstractController):
    r"""Keep a step if its local error and the dissipation that it loses are small enough; choose the next from both.

    A step is kept iff \(e \le 1\) in units of the tolerance, and the energy falls at least at the fraction
    `decrease` of its rate. The next step size is the smaller of what the two errors \(e\) and \(|1 - \rho|\) / `defect`
    allow, and is not larger than this one after a rejection.

    **Arguments:**

    - `relative`, `absolute`, `step`: the tolerance, see `Tolerance`; all `None` (default): the local error is not
        looked at. `step` needs no unit: 1/2 with explicit Euler is the step \(1/L\) on a quadratic. From rest,
        where a first step is as small as its own error, flows with memory need `absolute` or `relative`.
    - `defect`: the wanted \(|1 - \rho|\), in (0, 1); beside the rate at one end (`rate` `"start"` or `"trial"`) the
        wanted \(1 - \rho\). `None`: the dissipation decides on keeping a step, and not on the next.
    - `decrease`: \(\lambda\), \(0 \le \lambda < 1\); `None`: the energy may rise (error control alone).
    - `pid`: the step size controller of both.
    - `rate`: as in `LyapunovControl`; `"quadrature"` makes the ratio as accurate as the scheme.
    - `initial_step_size`, `rounding`, `minimum_step_size`, `maximum_step_size`, `max_rejections`: as in
        `LyapunovControl`.

    **Raises:** `ValueError` for a parameter out of range, or if nothing is controlled. Source: Hairer, Nørsett and
    Wanner (1993), Solving Ordinary Differential Equations I, II.4; Söderlind (2003), Digital filters in adaptive
    time-stepping.

    !!! example

        ```python
        both = odeopt.AdaptiveControl(relative=1e-2, absolute=1e-4, defect=0.3, rate="quadrature")
        odeopt.Solver(odeopt.HeavyBall(friction=0.5), odeopt.Bosh3(), both)
        ```
    """

    relative: Array | None = eqx.field(converter=hyperparameter, default=None)
    absolute: Array | None = eqx.field(converter=hyperparameter, default=None)
    step: Array | None = eqx.field(converter=hyperparameter, default=None)
    # The middle of (0, 1): on a quadratic, gradient flow at the step 1/L, where explicit Euler makes most of a step.
    defect: Array | None = eqx.field(converter=hyperparameter, default=0.5)
    # As LyapunovControl.
    decrease: Array | None = eqx.field(converter=hyperparameter, default=0.1)
    pid: PID = eqx.field(default_factory=PID)
    rate: str = eqx.field(static=True, default="start")
    initial_step_size: Array | None = eqx.field(converter=hyperparameter, default=None)
    rounding: Array | None = eqx.field(converter=hyperparameter, default=10.0)
    minimum_step_size: Array = eqx.field(converter=hyperparameter, default=1e-25)
    maximum_step_size: Array = eqx.field(converter=hyperparameter, default=1e15)
    max_rejections: Array = eqx.field(converter=hyperparameter, default=100)

    @property
    def monotone(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.decrease is not None

    def __check_init__(self):
        ranges = {
            "relative": (lambda x: 0 <= x < float("inf"), "a finite number >= 0, or None"),
            "absolute": (lambda x: 0 <= x < float("inf"), "a finite number >= 0, or None"),
            "step": (lambda x: 0 <= x < float("inf"), "a finite number >= 0, or None"),
            "defect": (lambda x: 0 < x < 1, "0 < defect < 1, or None"),
            "decrease": (lambda x: 0 <= x < 1, "0 <= decrease < 1, or None"),
            "initial_step_size": (lambda x: 0 < x < float("inf"), "a finite step size > 0"),
            "rounding": (lambda x: x >= 0, "rounding >= 0, or None"),
            "max_rejections": (lambda x: x >= 1, "max_rejections >= 1"),
        }
        for name, (valid, expected) in ranges.items():
            value = getattr(self, name)
            if concrete(value) and not valid(float(value)):
                raise ValueError(f"AdaptiveControl({name}={float(value)}): expected {expected}.")
        if self.rate not in ("start", "trial", "quadrature"):
            raise ValueError(f"AdaptiveControl(rate={self.rate!r}): expected 'start', 'trial' or 'quadrature'.")
        given = [value for value in (self.relative, self.absolute, self.step) if value is not None]
        if given and all(concrete(value) and float(value) == 0 for value in given):
            raise ValueError("AdaptiveControl: relative, absolute and step are all 0: no error is that small.")
        if not given and self.defect is None:
            raise ValueError("AdaptiveControl: nothing chooses the step size. Give defect or a tolerance.")

    @property
    def tolerance(self) -> Tolerance | None:
        given = (self.relative, self.absolute, self.step)
        if all(value is None for value in given):
            return None
        return Tolerance(*(jnp.zeros(()) if value is None else value for value in given))

    def init(self, step_size: Array) -> _AdaptiveState:
        first = jnp.clip(step_size, self.minimum_step_size, self.maximum_step_size).astype(step_size.dtype)
        return _AdaptiveState(first, Errors.none(first), Errors.none(first), jnp.asarray(0, jnp.int32))

    def step_size(self, state: _AdaptiveState) -> Array:
        return state.step_size

    def bound(self, state: _AdaptiveState, step_size: Array, rate: Array) -> Array:
        if self.decrease is None:
            return jnp.full_like(step_size, jnp.inf)
        return self.decrease * step_size * jnp.minimum(rate, 0)

    def judge(self, state: _AdaptiveState, attempt: Attempt) -> Array:
        verdict = decided(attempt, self.bound(state, attempt.step_size, attempt.rate), self.rounding)
        return verdict if attempt.error is None else jnp.where(attempt.error <= 1, verdict, Verdict.REJECT)

    def update(self, state: _AdaptiveState, attempt: Attempt, verdict: Array, accepted: Array) -> _AdaptiveState:
        factors, errors, ratios = [], state.errors, state.ratios
        if attempt.error is not None:
            factors.append(self.pid.factor(attempt.error, state.errors, attempt.error_order))
            errors = state.errors.after(attempt.error, accepted)
        if self.defect is not None:
            lost, known = self._lost(attempt)
            allowed = self.pid.factor(lost, state.ratios, self._ratio_order(attempt))
            # A ratio that rounding hides speaks neither for a longer step nor for a shorter one.
            factors.append(jnp.where(known, allowed, 1.0).astype(allowed.dtype))
            ratios = state.ratios.after(lost, accepted & known)
        factor = jnp.min(jnp.stack(factors))
        factor = jnp.where(attempt.finite, factor, 1 / self.pid.shrink)
        # A rejected step is never tried again as it is, nor nearly so; and after a rejection nothing grows.
        factor = jnp.where(accepted, factor, jnp.minimum(factor, LONGEST_RETRY))
        factor = jnp.where(accepted & (state.rejections > 0), jnp.minimum(factor, 1.0), factor)
        step_size = jnp.minimum(attempt.step_size * factor, self.maximum_step_size).astype(attempt.step_size.dtype)
        rejections = jnp.where(accepted, 0, state.rejections + 1).astype(jnp.int32)
        return _AdaptiveState(step_size, errors, ratios, rejections)

    def exhausted(self, state: _AdaptiveState) -> Array:
        return (state.rejections >= self.max_rejections) | (state.step_size < self.minimum_step_size)

    def _lost(self, attempt: Attempt) -> tuple[Array, Array]:
        """The dissipation that a step loses, in units of the wanted, and whether rounding lets it be known."""
        assert self.defect is not None
        expected = attempt.step_size * attempt.rate
        ratio = attempt.change / jnp.where(expected < 0, expected, 1.0)
        # With the stages of the step a gain is as much an error as a loss. Beside the rate at one end it is none: that
        # of a flow that starts at rest multiplies within a step.
        lost = (jnp.abs(1 - ratio) if self.rate == "quadrature" else jnp.maximum(1 - ratio, 0.0)) / self.defect
        known = (jnp.abs(attempt.change) > attempt.rounding) & (expected < 0) & jnp.isfinite(lost)
        return jnp.where(known, lost, 1.0).astype(attempt.step_size.dtype), known

    def _ratio_order(self, attempt: Attempt) -> float:
        return float(attempt.order) if self.rate == "quadrature" else 1.0


# A step that was rejected is shortened at least by a half.
LONGEST_RETRY = 0.5
