r"""Stabilised explicit Runge-Kutta methods: many stages, not for a higher order but for a longer step.

With \(s\) stages the interval of stability on the negative real axis has a length proportional to \(s^2\): for each
gradient, proportional to \(s\). (van der Houwen and Sommeijer, 1980, On the internal stability of explicit, m-stage
Runge-Kutta methods for large m-values; Verwer, 1996, Explicit Runge-Kutta methods for parabolic partial differential
equations.)
"""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._hyperparameter import concrete
from .._objective.oracle import Oracle
from .._objective.rounds import Rounds
from .._tree import add_scaled
from .base import AbstractScheme, Trial
from .passes import check_countable
from .spectral_radius import Spectrum, estimate, first_guess

# As in RKC: what the power iteration, which approaches the spectral radius from below, may be short of.
SAFETY = 1.2
# A trial that is rejected costs as many gradients. Rounding is no narrower bound: in float32, from a start near the
# minimum of a quadratic of 2000 variables, 200 stages are wrong by 1e-6 of the state, 1000 by 1e-5 (10 times as much
# without increments).
MOST_STAGES = 200


class Stage(NamedTuple):
    r"""One stage in increments, \(Z_j = Y_j - y\) and \(D_j = Z_j - Z_{j-1}\).

    \[ D_j = \text{pull}\; Z_{j-1} + \text{momentum}\; D_{j-1} + h\, (\text{slope}\; F_{j-1} + \text{first}\; F_0) \]

    `pull` and `first` are `None` in methods of order 1, which have no such terms.
    """

    momentum: Array
    slope: Array
    pull: Array | None = None
    first: Array | None = None


class AbstractStabilisedRK(AbstractScheme):
    r"""A method of \(s\) stages by a recurrence of three terms; a subclass gives its coefficients.

    Written in increments, because what rounding does to a stage then stays as large as it was, and does not grow like
    the number of stages that follow. However many stages there are, they take two arrays of the size of the state
    beside it (order 2: three).

    **Attributes:** `stages`: their number; `None`: as many as the step needs; `max_stages`, `safety`: of that choice.
    """

    stages: eqx.AbstractVar[int | None]
    max_stages: eqx.AbstractVar[int]
    safety: eqx.AbstractVar[Array]
    # The fewest stages, and what their number is a multiple of beyond it.
    fewest: ClassVar[int] = 1
    spacing: ClassVar[int] = 1
    # What the defect in the trapezoidal rule is multiplied by to estimate the local error: for order 1 it is the error.
    error_factor: ClassVar[float] = 1.0

    @abc.abstractmethod
    def stages_for(self, reach: Array) -> Array:
        r"""The number of stages, not rounded, that makes the step stable; `reach`: \(h \rho\), scalar."""

    @abc.abstractmethod
    def first_stage(self, stages: Array, dtype) -> tuple[Array, Any]:
        """The coefficient of the first slope in the first stage, and what the recurrence starts with; in `dtype`."""

    @abc.abstractmethod
    def next_stage(self, index: Array, carry: Any) -> tuple[Stage, Any]:
        """The coefficients of stage `index`, from 2 on, and what the recurrence goes on with."""

    @property
    def gradients_per_step(self) -> int:
        """Of a step with the fewest stages, where their number is chosen along the run."""
        return self.fewest if self.stages is None else self.stages

    @property
    def has_error(self) -> bool:
        return True

    @property
    def error_order(self) -> int:
        return self.order + 1

    def check(self, flow: AbstractFlow) -> None:
        check_countable(self, flow)

    def init(self, flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> Spectrum | None:
        return first_guess(flow, t, state, oracle) if self.stages is None else None

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        if self.stages is None:
            known = first_guess(flow, t, state, oracle) if learnt is None else learnt
            learnt = estimate(flow, t, step_size, state, oracle, known)
            stages, possible = self._chosen(step_size * learnt.radius)
        else:
            stages, possible = jnp.asarray(self.stages, jnp.int32), jnp.asarray(True)
        slope = flow.vector_field(t, state, oracle)
        moved = self._moved(flow, t, step_size, state, oracle, slope, jnp.where(possible, stages, 1))
        end = jax.tree.map(lambda y, z: jnp.where(possible, y + z, jnp.nan).astype(y.dtype), state, moved)
        there = oracle.at(end.position)

        def error() -> State:
            after = flow.vector_field(t + step_size, end, there)
            return jax.tree.map(
                lambda f, g, z: self.error_factor * (0.5 * step_size * (f + g) - z), slope, after, moved
            )

        return Trial(end, there, error, learnt=learnt)

    def _chosen(self, reach: Array) -> tuple[Array, Array]:
        """The number of stages, and whether that is a possible one."""
        needed = self.stages_for(self.safety.astype(reach.dtype) * reach)
        # Bounded before it becomes an integer, which an infinite number has not.
        needed = jnp.ceil(jnp.clip(needed, self.fewest, self.max_stages + 1)).astype(jnp.int32)
        beyond = needed - self.fewest
        stages = needed + (-beyond) % self.spacing
        return stages, jnp.isfinite(reach) & (stages <= self.max_stages)

    def _moved(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, slope: State, stages: Array
    ) -> State:
        """How far the last stage is from the state."""
        rounds = Rounds(oracle)
        coefficient, recurrence = self.first_stage(stages, t.dtype)
        moved = jax.tree.map(lambda f: (coefficient * step_size) * f.astype(t.dtype), slope)

        def stage(index, carry):
            moved, gain, clock, tick, recurrence = carry
            stage, recurrence = self.next_stage(index, recurrence)
            point = jax.tree.map(lambda y, z: (y + z).astype(y.dtype), state, moved)
            there = flow.vector_field(t + clock * step_size, point, rounds.begin().at(point.position))
            gain = _increment(stage, step_size, moved, gain, there, slope)
            # The clock is a state of slope one: so each stage stands where its recurrence takes it.
            one = jnp.ones_like(t)
            tick = _increment(stage, one, clock, tick, one, one)
            moved = jax.tree.map(jnp.add, moved, gain)
            return moved, gain, clock + tick, tick, recurrence

        begin = (moved, moved, coefficient, coefficient, recurrence)
        moved = jax.lax.fori_loop(2, stages + 1, stage, begin)[0]
        rounds.count(stages - 1)
        return moved


def _increment(stage: Stage, step_size: Array, moved: PyTree, gain: PyTree, slope: PyTree, first: PyTree) -> PyTree:
    """The formula of `Stage`."""
    scaled = jax.tree.map(lambda d: stage.momentum * d, gain)
    scaled = add_scaled(scaled, stage.slope * step_size, slope)
    if stage.pull is None or stage.first is None:
        return scaled
    return add_scaled(add_scaled(scaled, stage.pull, moved), stage.first * step_size, first)


def check_stages(scheme: AbstractStabilisedRK, fewest: int) -> None:
    """**Raises:** `ValueError` if a number of stages, their bound or the safety factor is out of range."""
    name = type(scheme).__name__
    for field in ("stages", "max_stages"):
        value = getattr(scheme, field)
        if not (value is None and field == "stages") and not (isinstance(value, int) and value >= fewest):
            raise ValueError(f"{name}({field}={value!r}): expected a whole number >= {fewest}.")
    if concrete(scheme.safety) and not 1 <= float(scheme.safety) < float("inf"):
        raise ValueError(
            f"{name}(safety={float(scheme.safety)}): expected a factor >= 1; the estimate of the spectral radius comes "
            "from below."
        )
