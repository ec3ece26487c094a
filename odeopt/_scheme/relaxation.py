r"""Relaxation Runge-Kutta methods.

(Ketcheson, 2019, Relaxation Runge-Kutta methods: conservation and stability for inner-product norms; Ranocha, Sayyari,
Dalcin, Parsani, Ketcheson, 2020, Relaxation Runge-Kutta methods: fully discrete explicit entropy-stable schemes for the
compressible Euler and Navier-Stokes equations; Ranocha, Lóczi, Ketcheson, 2020, General relaxation methods for
initial-value problems with application to multistep schemes.)
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle
from .._objective.rounds import Rounds
from .._tree import add_scaled, subtract
from .base import AbstractScheme, Trial
from .explicit_rk import ExplicitRK

# Where the root is farther from 1 the step is too long for the stages to say anything of its end: gamma - 1 is
# proportional to h**(order - 1). A second order method reaches it at half of its limit of stability or so.
FARTHEST = 0.3
# The second point of the secant: inside of that range, and far enough for the energies to differ in more than rounding.
SECOND = 0.1
# The secant method gains a factor of 1.6 in digits with each evaluation: from 1e-1 to 1e-16 it needs six.
MOST_EVALUATIONS = 10
# Units of rounding that the difference of two energies may be wrong by, as everywhere in the library's checks.
OPERATIONS = 16


class RelaxationRK(AbstractScheme):
    r"""An explicit Runge-Kutta method whose steps end where the energy has fallen by what its stages say.

    With the slopes \(k_i\) at the stages \(Y_i\) of the tableau,

    \[ y^+ = y + \gamma h\, d, \qquad t^+ = t + \gamma h, \qquad d = \sum_i b_i k_i, \qquad
       V(t^+, y^+) - V(t, y) = \gamma h \sum_i b_i V'(Y_i), \]

    where \(\gamma = 1 + O(h^{p-1})\) is found by a secant iteration, at a forward pass for each of its three to six
    evaluations of an energy that reads the loss alone. The order \(p\) is that of the tableau. Because the weights are
    not negative and \(V' \le 0\), the energy never rises, beyond its own rounding; energies that depend on time and
    balance laws are treated alike. The time in a history advances by \(\gamma h\); the step size beside it is \(h\).

    Where there is no such \(\gamma\) between 0.7 and 1.3 the trial is not finite, and controllers reject it. That also
    happens at the end of a run, where the energy changes by less than its rounding.

    **Arguments:**

    - `scheme`: an `ExplicitRK` of order >= 2 without negative weights: Heun, Midpoint, Ralston, Bosh3, SSPRK33, RK4 or
        one with your own tableau.
    - `one_sided`: keep \(\gamma = 1\) where the energy falls by at least as much as the stages say. That costs a single
        evaluation, and \(V^+ - V \le \gamma h \sum_i b_i V'(Y_i)\) takes the place of the equality.

    **Raises:** `TypeError` for another scheme; `ValueError` for a tableau with a negative weight (what it says need not
    be a decrease) or of order 1 (explicit Euler's only \(\gamma\) on a convex function is 0).
    Source: Ketcheson (2019); Ranocha, Lóczi, Ketcheson (2020).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.5), odeopt.RelaxationRK(odeopt.Heun()))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    scheme: ExplicitRK
    one_sided: bool = eqx.field(static=True, default=False)
    has_quadrature: ClassVar[bool] = True

    def __check_init__(self):
        _check_tableau(self.scheme)

    @property
    def order(self) -> int:
        return self.scheme.order

    @property
    def gradients_per_step(self) -> int:
        return self.scheme.gradients_per_step

    @property
    def has_error(self) -> bool:
        return self.scheme.has_error

    @property
    def error_order(self) -> int:
        return self.scheme.error_order

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        stages, end_weight = _without_end(self.scheme)
        trial = stages.step(flow, t, step_size, state, oracle)
        assert trial.quadrature is not None
        change, rate = subtract(trial.state, state), trial.quadrature()
        gamma = self._gamma(flow, t, step_size, state, oracle, change, rate)
        elapsed = (gamma * step_size).astype(t.dtype)
        end = add_scaled(state, gamma, change)
        there = oracle.at(end.position)

        def error() -> State:
            assert trial.error is not None
            estimate = trial.error()
            if end_weight == 0:
                return estimate
            return add_scaled(estimate, end_weight * step_size, flow.vector_field(t + elapsed, end, there))

        return Trial(end, there, error if self.has_error else None, lambda: rate, elapsed)

    def _gamma(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, change: State, rate: Array
    ) -> Array:
        """The factor of the step; not a number where none is found."""
        begin, promised = flow.energy(t, state, oracle), step_size * rate
        rounding = OPERATIONS * float(jnp.finfo(begin.dtype).eps)
        begin = begin.astype(t.dtype)
        rounds = Rounds(oracle)

        def defect(gamma: Array) -> tuple[Array, Array]:
            """What the energy falls too little, and what of that may be rounding."""
            end = add_scaled(state, gamma, change)
            energy = flow.energy(t + gamma * step_size, end, rounds.begin().at(end.position)).astype(t.dtype)
            excess = energy - begin - gamma * promised
            return excess.astype(t.dtype), rounding * (jnp.abs(energy) + jnp.abs(begin))

        def searching(search: _Secant) -> Array:
            return ~search.settled & (search.evaluations < MOST_EVALUATIONS)

        def evaluate(search: _Secant) -> _Secant:
            gamma, before, first = search.following, search.gamma, search.evaluations == 0
            excess, unseen = defect(gamma)
            settled = jnp.abs(excess) <= unseen
            if self.one_sided:
                settled = settled | (first & (excess <= 0))
            # Divided by gamma, because gamma = 0 is a root of the defect, too; what is left is nearly a straight line.
            value = excess / gamma
            secant = gamma - value * (gamma - before) / (value - search.value)
            following = jnp.where(first, 1 - SECOND * jnp.sign(excess), jnp.clip(secant, 1 - FARTHEST, 1 + FARTHEST))
            return _Secant(gamma, value, following, settled, search.evaluations + 1)

        one = jnp.ones_like(begin)
        start = _Secant(one, jnp.zeros_like(begin), one, jnp.asarray(False), jnp.asarray(0, jnp.int32))
        end = jax.lax.while_loop(searching, evaluate, start)
        rounds.count(end.evaluations)
        return jnp.where(end.settled, end.gamma, jnp.nan)


class _Secant(NamedTuple):
    gamma: Array
    value: Array
    following: Array  # where to evaluate next
    settled: Array
    evaluations: Array


class _WithoutEnd(ExplicitRK):
    """A scheme less its last stage, which stands at the end of the step and has no weight in it."""

    def __init__(self, scheme: ExplicitRK):
        self.nodes, self.coefficients, self.order = scheme.nodes[:-1], scheme.coefficients[:-1], scheme.order
        self.weights, self.error_weights = scheme.weights[:-1], scheme.error_weights[:-1]


def _without_end(scheme: ExplicitRK) -> tuple[ExplicitRK, float]:
    """The scheme without a stage at its end, which is somewhere else after relaxation, and its weight in the error."""
    if not scheme.last_stage_is_end:
        return scheme, 0.0
    return _WithoutEnd(scheme), scheme.error_weights[-1]


def _check_tableau(scheme) -> None:
    if not isinstance(scheme, ExplicitRK):
        hint = f" Did you mean {scheme.__name__}()?" if isinstance(scheme, type) else ""
        raise TypeError(
            f"RelaxationRK(scheme={scheme!r}): expected a Runge-Kutta scheme with a tableau, as odeopt.Heun().{hint}"
        )
    name = type(scheme).__name__
    if scheme.order < 2:
        raise ValueError(
            f"RelaxationRK({name}()): the order is {scheme.order}, expected >= 2. Such a step follows the slope at its "
            "beginning, and on a convex function only a step of length 0 has all of the decrease that this slope "
            "promises: there is nothing to solve for. Take Heun, Ralston or Bosh3."
        )
    if min(scheme.weights) < 0:
        raise ValueError(
            f"RelaxationRK({name}()): the weight {min(scheme.weights):.4g} is negative, so that the stages may ask for "
            "an energy that is higher than where the step begins. Take a scheme without negative weights: Heun, "
            "Midpoint, Ralston, Bosh3, SSPRK33 or RK4."
        )
