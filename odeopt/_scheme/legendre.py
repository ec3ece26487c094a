"""Runge-Kutta-Legendre methods."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import hyperparameter
from .stabilised import MOST_STAGES, SAFETY, AbstractStabilisedRK, Stage, check_stages


class RKL1(AbstractStabilisedRK):
    r"""The Runge-Kutta-Legendre method of order 1.

    \[ Y_1 = y + w_1 h F_0, \qquad Y_j = \tfrac{2j - 1}{j} (Y_{j-1} + w_1 h F_{j-1}) - \tfrac{j - 1}{j} Y_{j-2},
       \qquad y^+ = Y_s, \qquad w_1 = \tfrac{2}{s^2 + s} \]

    Stable for \(h \rho \le s^2 + s\), with \(\rho\) the spectral radius of the flow: half of what `RKC1` reaches. In
    return \(|R| < 1\) everywhere inside, without a damping parameter. The choice of the number of stages, the arguments
    (but `damping`) and the flows that it is for are those of `RKC1`.

    **Raises:** `ValueError` for an argument out of range. Source: Meyer, Balsara, Aslam (2014), A stabilized
    Runge-Kutta-Legendre method for explicit super-time-stepping of parabolic and mixed equations.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.RKL1())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    stages: int | None = eqx.field(static=True, default=None)
    max_stages: int = eqx.field(static=True, default=MOST_STAGES)
    safety: Array = eqx.field(converter=hyperparameter, default=SAFETY)
    order: ClassVar[int] = 1

    def __check_init__(self):
        check_stages(self, self.fewest)

    def stages_for(self, reach: Array) -> Array:
        return 0.5 * (jnp.sqrt(1 + 4 * reach) - 1)

    def first_stage(self, stages: Array, dtype) -> tuple[Array, Array]:
        s = stages.astype(dtype)
        w1 = 2 / (s * (s + 1))
        return w1, w1

    def next_stage(self, index: Array, carry: Array) -> tuple[Stage, Array]:
        j = jnp.asarray(index, carry.dtype)
        return Stage((j - 1) / j, (2 * j - 1) / j * carry), carry


class RKL2(AbstractStabilisedRK):
    r"""The Runge-Kutta-Legendre method of order 2.

    \[ Y_1 = y + b_1 w_1 h F_0, \qquad Y_j = (1 - \mu_j - \nu_j)\, y + \mu_j Y_{j-1} + \nu_j Y_{j-2}
       + \tilde\mu_j h F_{j-1} + \tilde\gamma_j h F_0, \qquad y^+ = Y_s, \]
    \[ \mu_j = \tfrac{2j - 1}{j} \tfrac{b_j}{b_{j-1}}, \quad \nu_j = -\tfrac{j - 1}{j} \tfrac{b_j}{b_{j-2}}, \quad
       \tilde\mu_j = \mu_j w_1, \quad \tilde\gamma_j = -(1 - b_{j-1})\, \tilde\mu_j, \quad
       w_1 = \tfrac{4}{s^2 + s - 2}, \]

    where \(b_j = \tfrac{j^2 + j - 2}{2 j (j + 1)}\) and \(b_0 = b_1 = b_2 = \tfrac13\). Stable for
    \(h \rho \le \tfrac12 (s^2 + s - 2)\), with \(\rho\) the spectral radius of the flow: three quarters of what `RKC2`
    reaches, without a damping parameter. The number of stages that is chosen is odd: with an even one the fastest
    directions of the longest step are not damped at all. The choice, the arguments (but `damping`) and the flows that
    it is for are else those of `RKC1`; the error estimate is that of `RKC2`.

    **Raises:** `ValueError` for an argument out of range. Source: Meyer, Balsara, Aslam (2014), A stabilized
    Runge-Kutta-Legendre method for explicit super-time-stepping of parabolic and mixed equations.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.RKL2(), odeopt.AdaptiveControl(step=0.1))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    stages: int | None = eqx.field(static=True, default=None)
    max_stages: int = eqx.field(static=True, default=MOST_STAGES)
    safety: Array = eqx.field(converter=hyperparameter, default=SAFETY)
    order: ClassVar[int] = 2
    fewest: ClassVar[int] = 3
    spacing: ClassVar[int] = 2
    # For many stages and a linear problem 2/5 is the error itself; twice that, because for few stages it is more.
    error_factor: ClassVar[float] = 0.8

    def __check_init__(self):
        check_stages(self, 2)

    def stages_for(self, reach: Array) -> Array:
        return 0.5 * (jnp.sqrt(9 + 8 * reach) - 1)

    def first_stage(self, stages: Array, dtype) -> tuple[Array, Array]:
        s = stages.astype(dtype)
        w1 = 4 / (s * (s + 1) - 2)
        return w1 / 3, w1

    def next_stage(self, index: Array, carry: Array) -> tuple[Stage, Array]:
        w1, j = carry, jnp.asarray(index, carry.dtype)
        b_before = _weight(j - 1)
        mu = (2 * j - 1) / j * _weight(j) / b_before
        momentum = (j - 1) / j * _weight(j) / _weight(j - 2)
        return Stage(momentum, mu * w1, pull=mu - momentum - 1, first=-(1 - b_before) * mu * w1), carry


def _weight(j: Array) -> Array:
    """b_j, and that of stage 2 for those before it."""
    j = jnp.maximum(j, 2)
    return (j**2 + j - 2) / (2 * j * (j + 1))
