"""Everything that is known at the point where a run stands."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._flow.base import AbstractFlow, State
from ._objective.oracle import Oracle
from ._stop import Stop


class EnergySplit(eqx.Module):
    r"""The energy as \(V = c f + K\), with \(f\) the objective's value.

    Energies are compared through it: the change \(c^+ (f^+ - f) + (c^+ - c) f + (K^+ - K)\) loses no digits of a
    kinetic part that is small beside the loss, and the change of \(f\) can be had from gradients instead.
    """

    slope: Array
    rest: Array

    def total(self, value: Array) -> Array:
        return self.slope * value + self.rest


class Snapshot(eqx.Module):
    """The state with the objective and the energy at it."""

    state: State
    value: Array
    gradient: PyTree
    split: EnergySplit
    dissipation: Array
    stationarity: Array
    kinetic: Array

    @property
    def energy(self) -> Array:
        return self.split.total(self.value)


def split_energy(flow: AbstractFlow, t: Array, state: State, oracle: Oracle, dtype) -> EnergySplit:
    """The two parts of the energy at a point, as scalars of `dtype`."""
    value = oracle.value

    def energy(value):
        return flow.energy(t, state, oracle.with_value(value))

    slope = jax.grad(energy)(value)
    if _is_constant(jax.grad(energy), value):
        rest = energy(jnp.zeros_like(value))
    else:
        rest = energy(value) - slope * value
    return EnergySplit(slope.astype(dtype), rest.astype(dtype))


def energy_change(before: EnergySplit, after: EnergySplit, value: Array, value_change: Array) -> Array:
    """The change of the energy when the objective changes by `value_change` from `value`."""
    return after.slope * value_change + (after.slope - before.slope) * value + (after.rest - before.rest)


def stationarity(flow: AbstractFlow, stop: Stop, t: Array, state: State, oracle: Oracle, dtype) -> Array:
    """The flow's stationarity in the norm that the stopping criteria name."""
    if stop.norm is Stop.norm:
        return flow.stationarity(t, state, oracle).astype(dtype)
    return flow.stationarity(t, state, oracle, stop.norm).astype(dtype)


def _is_constant(function, value: Array) -> bool:
    """Whether no operation of a scalar function leads from its argument to its result."""
    jaxpr = jax.make_jaxpr(function)(value).jaxpr
    dependent = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(isinstance(var, type(jaxpr.invars[0])) and var in dependent for var in equation.invars):
            dependent.update(equation.outvars)
    return not any(isinstance(var, type(jaxpr.invars[0])) and var in dependent for var in jaxpr.outvars)
