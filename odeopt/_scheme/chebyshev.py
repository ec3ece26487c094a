r"""Runge-Kutta-Chebyshev methods.

Their coefficients are made of \(T_j(w_0), T_j'(w_0), T_j''(w_0)\) with \(w_0 = 1 + \epsilon / s^2\), by the recurrence
of the Chebyshev polynomials. It is written for the differences of two neighbours, which are sums of positive terms: no
digits are lost, in float32 neither, where \(w_0\) itself has half of the digits of \(w_0 - 1\) only.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete, hyperparameter
from .stabilised import MOST_STAGES, SAFETY, AbstractStabilisedRK, Stage, check_stages


class _Chebyshev(NamedTuple):
    """T, T' and T'' of one degree at `1 + excess`, and each less that of the degree before."""

    excess: Array
    value: Array
    slope: Array
    bend: Array
    value_gain: Array
    slope_gain: Array
    bend_gain: Array


def _first_degree(excess: Array) -> _Chebyshev:
    one, zero = jnp.ones_like(excess), jnp.zeros_like(excess)
    return _Chebyshev(excess, 1 + excess, one, zero, excess, one, zero)


def _next_degree(p: _Chebyshev) -> _Chebyshev:
    r"""From \(T_{j+1} = 2 w T_j - T_{j-1}\) and its derivatives."""
    value_gain = p.value_gain + 2 * p.excess * p.value
    slope_gain = p.slope_gain + 2 * p.value + 2 * p.excess * p.slope
    bend_gain = p.bend_gain + 4 * p.slope + 2 * p.excess * p.bend
    return _Chebyshev(
        p.excess, p.value + value_gain, p.slope + slope_gain, p.bend + bend_gain, value_gain, slope_gain, bend_gain
    )


def _degree(excess: Array, degree: Array) -> _Chebyshev:
    return jax.lax.fori_loop(1, degree, lambda _, p: _next_degree(p), _first_degree(excess))


class RKC1(AbstractStabilisedRK):
    r"""The damped Runge-Kutta-Chebyshev method of order 1.

    \[ Y_1 = y + \tfrac{w_1}{w_0} h F_0, \qquad Y_j = 2 w_0 \tfrac{T_{j-1}}{T_j} Y_{j-1} - \tfrac{T_{j-2}}{T_j} Y_{j-2}
       + 2 w_1 \tfrac{T_{j-1}}{T_j} h F_{j-1}, \qquad y^+ = Y_s, \]

    where \(T_j = T_j(w_0)\), \(w_0 = 1 + \eta / s^2\) and \(w_1 = T_s / T_s'\). \(s\) gradients take it over a step of
    length up to about \((2 - \tfrac43 \eta)\, s^2 / \rho\), with \(\rho\) the spectral radius of the flow (for gradient
    flow the largest curvature): \(s\) times as far as those of explicit Euler. Each stage stands at its own time, so
    that flows with explicit time are right. The error estimate \(\tfrac h2 (F_0 + F^+) - (y^+ - y)\) is free where the
    step is accepted.

    The number of stages is chosen for every trial, as the smallest with which it is stable. \(\rho\) is estimated by a
    power iteration, some ten gradients at the start, and one or two every 25 trials, after a rejection and where the
    step has doubled. A step that would need more than `max_stages` is not made: the trial is not finite, and
    controllers reject it.

    For flows with a spectrum near the negative real axis: gradient flow, also preconditioned, and overdamped ones; all
    of the state is stepped together. On oscillating flows (little friction) it is not stable: more damping widens the
    strip around the axis, at shorter steps.

    **Arguments:**

    - `stages`: \(s \ge 1\), for every step; `None` (default): as many as needed.
    - `max_stages`: the largest number that is chosen.
    - `safety`: what the estimate of \(\rho\) is multiplied by, >= 1.
    - `damping`: \(\eta \ge 0\). In the interval of stability, \(|R| \le 1 / T_s(w_0) \approx 1 - \eta\), but near 0.

    **Raises:** `ValueError` for an argument out of range. Source: van der Houwen and Sommeijer (1980), Verwer (1996);
    for optimization: Eftekhari, Vandereycken, Vilmart, Zygalakis (2021), Explicit stabilised gradient descent for
    faster strongly convex optimisation.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.RKC1())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    stages: int | None = eqx.field(static=True, default=None)
    max_stages: int = eqx.field(static=True, default=MOST_STAGES)
    safety: Array = eqx.field(converter=hyperparameter, default=SAFETY)
    # Verwer, 1996: five per cent are enough, and cost three per cent of the interval.
    damping: Array = eqx.field(converter=hyperparameter, default=0.05)
    order: ClassVar[int] = 1

    def __check_init__(self):
        check_stages(self, self.fewest)
        _check_damping(self)

    def stages_for(self, reach: Array) -> Array:
        # The interval is (1 + w0) T_s'(w0) / T_s(w0) > 2 s**2 tanh(x) / x.
        x = _scaled_angle(self.damping, reach)
        return jnp.sqrt(reach * x / (2 * jnp.tanh(x)))

    def first_stage(self, stages: Array, dtype) -> tuple[Array, tuple[_Chebyshev, Array]]:
        excess = _excess(self.damping, stages, dtype)
        last = _degree(excess, stages)
        w1 = last.value / last.slope
        return w1 / (1 + excess), (_first_degree(excess), w1)

    def next_stage(self, index: Array, carry: tuple[_Chebyshev, Array]) -> tuple[Stage, tuple[_Chebyshev, Array]]:
        before, w1 = carry
        here = _next_degree(before)
        momentum = (before.value - before.value_gain) / here.value
        return Stage(momentum, 2 * w1 * before.value / here.value), (here, w1)


class _RKC2Carry(NamedTuple):
    polynomial: _Chebyshev
    w1: Array
    b: Array  # of the stage before
    b_before: Array  # of the one before that


class RKC2(AbstractStabilisedRK):
    r"""The Runge-Kutta-Chebyshev method of order 2.

    \[ Y_1 = y + b_1 w_1 h F_0, \qquad Y_j = (1 - \mu_j - \nu_j)\, y + \mu_j Y_{j-1} + \nu_j Y_{j-2}
       + \tilde\mu_j h F_{j-1} + \tilde\gamma_j h F_0, \qquad y^+ = Y_s, \]
    \[ \mu_j = \tfrac{2 b_j w_0}{b_{j-1}}, \quad \nu_j = -\tfrac{b_j}{b_{j-2}}, \quad
       \tilde\mu_j = \tfrac{2 b_j w_1}{b_{j-1}}, \quad \tilde\gamma_j = -(1 - b_{j-1} T_{j-1})\, \tilde\mu_j, \quad
       b_j = \tfrac{T_j''}{(T_j')^2}, \]

    where \(T_j = T_j(w_0)\), \(w_0 = 1 + \epsilon / s^2\), \(w_1 = T_s' / T_s''\) and \(b_0 = b_1 = b_2\). \(s\)
    gradients take it over a step of length up to about \(\tfrac23 (s^2 - 1)(1 - \tfrac2{15} \epsilon) / \rho\): a third
    as far as those of `RKC1`, and the flow is followed more closely. The error estimate is
    \(\tfrac45 (y - y^+) + \tfrac25 h (F_0 + F^+)\), free where the step is accepted.

    The choice of the number of stages, the arguments and the flows that it is for are those of `RKC1`; \(s \ge 2\), and
    `damping` is \(\epsilon\).

    **Raises:** `ValueError` for an argument out of range. Source: Sommeijer, Shampine, Verwer (1998), RKC: an explicit
    solver for parabolic PDEs.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.RKC2(), odeopt.AdaptiveControl(step=0.1))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    stages: int | None = eqx.field(static=True, default=None)
    max_stages: int = eqx.field(static=True, default=MOST_STAGES)
    safety: Array = eqx.field(converter=hyperparameter, default=SAFETY)
    # As in RKC: |R| <= 0.95 or so, and two per cent of the interval lost.
    damping: Array = eqx.field(converter=hyperparameter, default=2 / 13)
    order: ClassVar[int] = 2
    fewest: ClassVar[int] = 2
    # As in RKC; for many stages and a linear problem 6/11 would be the error itself.
    error_factor: ClassVar[float] = 0.8

    def __check_init__(self):
        check_stages(self, self.fewest)
        _check_damping(self)

    def stages_for(self, reach: Array) -> Array:
        # The interval is (1 + w0) T_s''(w0) / T_s'(w0) > 2 (s**2 - 1) (x coth(x) - 1) / x**2.
        x = _scaled_angle(self.damping, reach)
        return jnp.sqrt(1 + reach * x**2 / (2 * (x / jnp.tanh(x) - 1)))

    def first_stage(self, stages: Array, dtype) -> tuple[Array, _RKC2Carry]:
        excess = _excess(self.damping, stages, dtype)
        first, last = _first_degree(excess), _degree(excess, stages)
        w1, b = last.slope / last.bend, _weight(_next_degree(first))
        return b * w1, _RKC2Carry(first, w1, b, b)

    def next_stage(self, index: Array, carry: _RKC2Carry) -> tuple[Stage, _RKC2Carry]:
        before, w1, b_before, b_before_that = carry
        here = _next_degree(before)
        b = _weight(here)
        mu, momentum, slope = 2 * (1 + here.excess) * b / b_before, b / b_before_that, 2 * w1 * b / b_before
        stage = Stage(momentum, slope, pull=mu - momentum - 1, first=-(1 - b_before * before.value) * slope)
        return stage, _RKC2Carry(here, w1, b, b_before)


def _weight(p: _Chebyshev) -> Array:
    return p.bend / p.slope**2


def _excess(damping: Array, stages: Array, dtype) -> Array:
    """w0 - 1."""
    return damping.astype(dtype) / stages.astype(dtype) ** 2


def _scaled_angle(damping: Array, like: Array) -> Array:
    r"""\(x = \sqrt{2 \epsilon}\), so that \(T_s(w_0) \approx \cosh x\)."""
    # The limit of no damping within rounding: for the formulas above x = 0 is 0 / 0.
    least = float(jnp.finfo(like.dtype).eps) ** 0.25
    return jnp.maximum(jnp.sqrt(2 * damping.astype(like.dtype)), least)


def _check_damping(scheme: RKC1 | RKC2) -> None:
    if concrete(scheme.damping) and not 0 <= float(scheme.damping) < float("inf"):
        raise ValueError(f"{type(scheme).__name__}(damping={float(scheme.damping)}): expected a finite number >= 0.")
