"""Everything that is known at the point where a run stands."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array, PyTree

from ._flow.base import AbstractFlow, State
from ._objective.oracle import Oracle
from ._stop import Stop


class EnergySplit(eqx.Module):
    r"""The energy as \(V = c f + K\), with \(f\) the objective's value.

    Energies are compared through it: the change \(c^+ (f^+ - f) + (c^+ - c) f + (K^+ - K)\) loses no digits of a
    kinetic part that is small beside the loss, and the change of \(f\) can be had from gradients instead.
    """

    slope: Array | None  # None: one, as for most energies; not a number that every trial would have to carry along
    rest: Array

    def total(self, value: Array) -> Array:
        return self.scaled(value) + self.rest

    def scaled(self, value: Array) -> Array:
        return value if self.slope is None else self.slope * value


class Snapshot(eqx.Module):
    """The state with the objective and the energy at it."""

    state: State
    value: Array
    gradient: PyTree
    split: EnergySplit
    dissipation: Array
    stationarity: Array

    @property
    def energy(self) -> Array:
        return self.split.total(self.value)


def split_energy(flow: AbstractFlow, t: Array, state: State, oracle: Oracle, dtype) -> EnergySplit:
    """The two parts of the energy at a point, as scalars of `dtype`."""
    value = oracle.value

    def energy(value):
        return flow.energy(t, state, oracle.with_value(value))

    derivative = jax.grad(energy)
    jaxpr = jax.make_jaxpr(derivative)(value).jaxpr
    if not _depends_on_argument(jaxpr):
        rest = energy(jnp.zeros_like(value)).astype(dtype)
        is_one = isinstance(jaxpr.outvars[0], Literal) and jaxpr.outvars[0].val == 1
        return EnergySplit(None if is_one else derivative(value).astype(dtype), rest)
    slope = derivative(value)
    return EnergySplit(slope.astype(dtype), (energy(value) - slope * value).astype(dtype))


def energy_change(before: EnergySplit, after: EnergySplit, value: Array, value_change: Array) -> Array:
    """The change of the energy when the objective changes by `value_change` from `value`."""
    change = after.scaled(value_change) + (after.rest - before.rest)
    if before.slope is None or after.slope is None:
        return change
    return change + (after.slope - before.slope) * value


def stationarity(flow: AbstractFlow, stop: Stop, t: Array, state: State, oracle: Oracle, dtype) -> Array:
    """The flow's stationarity in the norm that the stopping criteria name."""
    if stop.norm is Stop.norm:
        return flow.stationarity(t, state, oracle).astype(dtype)
    return flow.stationarity(t, state, oracle, stop.norm).astype(dtype)


def _depends_on_argument(jaxpr: Jaxpr) -> bool:
    """Whether any operation leads from the arguments of a scalar function to its result."""
    dependent = set(jaxpr.invars)

    def is_dependent(variable) -> bool:
        return not isinstance(variable, Literal) and variable in dependent

    for equation in jaxpr.eqns:
        if any(map(is_dependent, equation.invars)):
            dependent.update(equation.outvars)
    return any(map(is_dependent, jaxpr.outvars))
