r"""The step size as a radius of trust in a model of the energy.

\[ \rho = \frac{V(y^+) - V(y)}{h\,\bar V'} , \]

where \(h\,\bar V'\) is what a model promises, the scheme's own or Newton's, says how far the model is right.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .base import AbstractController, Attempt, decided

MODELS = ("scheme", "newton")


class _TrustState(eqx.Module):
    step_size: Array
    shrink: Array  # the factor of the next rejection
    rejections: Array  # consecutive


class TrustRegionControl(AbstractController):
    r"""Keep a step iff the energy falls at least at a fraction of what the model promises; trust the model accordingly.

    After an accepted step the step size is divided by \(\max(\tfrac13, 1 - (2\rho - 1)^3)\): three times longer where
    the model is right (\(\rho \ge 0.94\)), the same at \(\rho = \tfrac12\), up to half as long as \(\rho \to 0\). A
    rejected step is tried again 2, then 4, 8, ... times shorter than the one before.

    A flow in a metric, \(y' = -B^{-1} \nabla f\) with \(B\) near the Hessian, has a model too: the parabola whose
    minimum is the step of length 1. Against its decrease \(h (1 - h/2) V'\) the ratio is 1 on a quadratic at every
    \(h\), where against \(h V'\) Newton's own step has only 1/2. With `model="newton"` \(h \le 1\) remembers how far
    that parabola was right; the flows' own recommendation tries 1 in every step.

    **Arguments:**

    - `decrease`: \(\lambda\), \(0 \le \lambda < 1\): the least \(\rho\) with which a step is kept.
    - `model`: `"scheme"` (default): the scheme's quadrature, which of `LevenbergMarquardt` is the decrease of the
        linear model of the residuals; `"newton"`: \(h (1 - h/2) V'\), for `QuasiNewton`, `Newton`, `NewtonCG`,
        `GaussNewton` and `NaturalGradient` under `Euler`. No step is longer than 1 then.
    - `initial_step_size`: the first step size; `None`: a hundredth of the flow's `unit_of_time`.
    - `grow`, `shrink`: the largest factor after an accepted step (> 1), and the first after a rejection (> 1).
    - `rounding`, `minimum_step_size`, `maximum_step_size`, `max_rejections`: as in `LyapunovControl`.

    **Raises:** `ValueError` for a parameter out of range. Source: Nielsen (1999), Damping parameter in Marquardt's
    method.

    !!! example

        ```python
        control = odeopt.TrustRegionControl(initial_step_size=100.0)
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt(), control)
        ```
    """

    # Any decrease that is more than rounding's: a step that lowers the energy less than hoped for is still one.
    decrease: Array = eqx.field(converter=hyperparameter, default=1e-3)
    model: str = eqx.field(static=True, default="scheme")
    # In units of the columns of the Jacobian the damping has none: a thousandth of the largest curvature of a column
    # (Nielsen; Moré begins with a step a hundred times as long as the parameters).
    initial_step_size: Array | None = eqx.field(converter=hyperparameter, default=1e3)
    grow: Array = eqx.field(converter=hyperparameter, default=3.0)
    shrink: Array = eqx.field(converter=hyperparameter, default=2.0)
    rounding: Array | None = eqx.field(converter=hyperparameter, default=10.0)
    minimum_step_size: Array = eqx.field(converter=hyperparameter, default=1e-25)
    # Columns that were a million times larger once leave a damping of 1e-13 with it, which is none.
    maximum_step_size: Array = eqx.field(converter=hyperparameter, default=1e25)
    # Factors of 2, 4, 8, ... go through all step sizes between the two bounds in 16 rejections.
    max_rejections: Array = eqx.field(converter=hyperparameter, default=100)
    rate: ClassVar[str] = "quadrature"
    monotone: ClassVar[bool] = True

    def __check_init__(self):
        ranges = {
            "decrease": (lambda x: 0 <= x < 1, "0 <= decrease < 1"),
            "initial_step_size": (lambda x: 0 < x < float("inf"), "a finite step size > 0"),
            "grow": (lambda x: 1 < x < float("inf"), "grow > 1"),
            "shrink": (lambda x: 1 < x < float("inf"), "shrink > 1"),
            "rounding": (lambda x: x >= 0, "rounding >= 0, or None"),
            "minimum_step_size": (lambda x: x >= 0, "minimum_step_size >= 0"),
            "maximum_step_size": (lambda x: x > 0, "maximum_step_size > 0"),
            "max_rejections": (lambda x: x >= 1, "max_rejections >= 1"),
        }
        for name, (valid, expected) in ranges.items():
            value = getattr(self, name)
            if concrete(value) and not valid(float(value)):
                raise ValueError(f"TrustRegionControl({name}={float(value)}): expected {expected}.")
        if self.model not in MODELS:
            raise ValueError(f"TrustRegionControl(model={self.model!r}): expected one of {MODELS}.")

    def init(self, step_size: Array) -> _TrustState:
        first = jnp.clip(step_size, self.minimum_step_size, self._longest()).astype(step_size.dtype)
        return _TrustState(first, self.shrink.astype(first.dtype), jnp.asarray(0, jnp.int32))

    def step_size(self, state: _TrustState) -> Array:
        return state.step_size

    def bound(self, state: _TrustState, step_size: Array, rate: Array) -> Array:
        return self.decrease * self._promised(step_size, jnp.minimum(rate, 0))

    def judge(self, state: _TrustState, attempt: Attempt) -> Array:
        return decided(attempt, self.bound(state, attempt.step_size, attempt.rate), self.rounding)

    def update(self, state: _TrustState, attempt: Attempt, verdict: Array, accepted: Array) -> _TrustState:
        h = attempt.step_size
        promised = self._promised(h, attempt.rate)
        ratio = attempt.change / jnp.where(promised < 0, promised, -1.0)
        # What rounding hides says nothing against the model: longer steps are the ones that can be seen.
        known = (jnp.abs(attempt.change) > attempt.rounding) & (promised < 0)
        divisor = jnp.maximum(1 / self.grow, 1 - (2 * jnp.clip(ratio, 0.0, 1.0) - 1) ** 3)
        longer = h / jnp.where(known, divisor, 1 / self.grow)
        step_size = jnp.where(accepted, longer, h / state.shrink)
        return _TrustState(
            step_size=jnp.minimum(step_size, self._longest()).astype(h.dtype),
            shrink=jnp.where(accepted, self.shrink, 2 * state.shrink).astype(h.dtype),
            rejections=jnp.where(accepted, 0, state.rejections + 1).astype(jnp.int32),
        )

    def exhausted(self, state: _TrustState) -> Array:
        return (state.rejections >= self.max_rejections) | (state.step_size < self.minimum_step_size)

    def _promised(self, step_size: Array, rate: Array) -> Array:
        """The change of the energy by the model."""
        return step_size * rate if self.model == "scheme" else step_size * (1 - step_size / 2) * rate

    def _longest(self) -> Array:
        # Behind the minimum of the parabola nothing is gained, and from 2 on it promises none.
        return self.maximum_step_size if self.model == "scheme" else jnp.minimum(self.maximum_step_size, 1.0)
