"""Everything that is known at the point where a run stands."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._flow.base import AbstractFlow, State
from ._objective.dependence import depends_on_arguments, literal_result
from ._objective.oracle import Oracle, reads
from ._stop import Stop
from ._tree import vdot


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
    blur: Array | None  # None where no decision is taken from gradients
    kept: PyTree = None  # what the flow keeps of the point (`Oracle.kept`)

    @property
    def energy(self) -> Array:
        return self.split.total(self.value)


def split_energy(flow: AbstractFlow, t: Array, state: State, oracle: Oracle, dtype) -> EnergySplit:
    """The two parts of the energy at a point, as scalars of `dtype`."""
    value = oracle.value
    if "gradient" in reads(flow.energy, t, state, value):
        # Evaluated here, because what the oracle learnt inside the trace below could not be used outside of it.
        _ = oracle.gradient

    energy = _of_value(flow, t, state, oracle)
    derivative = jax.grad(energy)
    jaxpr = jax.make_jaxpr(derivative)(value).jaxpr
    if not depends_on_arguments(jaxpr):
        rest = energy(jnp.zeros_like(value)).astype(dtype)
        return EnergySplit(None if literal_result(jaxpr) == 1 else derivative(value).astype(dtype), rest)
    slope = derivative(value)
    return EnergySplit(slope.astype(dtype), (energy(value) - slope * value).astype(dtype))


def known_split(flow: AbstractFlow, t: Array, state: State, oracle: Oracle, dtype) -> EnergySplit | None:
    """The two parts of the energy where they are known before the objective is evaluated, or `None`."""
    unknown = jnp.zeros((), oracle.value_dtype)
    if "gradient" in reads(flow.energy, t, state, unknown):
        return None

    slope = jax.grad(_of_value(flow, t, state, oracle))
    if depends_on_arguments(jax.make_jaxpr(slope)(unknown).jaxpr):
        return None
    return split_energy(flow, t, state, oracle.with_value(unknown), dtype)


def _of_value(flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> Callable[[Array], Array]:
    """The energy as a function of the objective's value alone."""
    return lambda value: flow.energy(t, state, oracle.with_value(value))


def energy_change(before: EnergySplit, after: EnergySplit, value: Array, value_change: Array) -> Array:
    """The change of the energy when the objective changes by `value_change` from `value`."""
    change = after.scaled(value_change) + (after.rest - before.rest)
    if before.slope is None or after.slope is None:
        return change
    return change + (after.slope - before.slope) * value


def run_dtype(value_dtype, position: PyTree):
    """The dtype of all scalars of a run: that of the loss and the parameters, at least float32."""
    return jnp.result_type(value_dtype, jnp.float32, *jax.tree.leaves(position))


def rounding_unit(loss_dtype, position: PyTree) -> float:
    """The unit of rounding of the coarsest type that the loss is computed in."""
    dtypes = [loss_dtype, *(leaf.dtype for leaf in jax.tree.leaves(position))]
    return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)


def blur(oracle: Oracle, position: PyTree) -> Array:
    """How much the loss is uncertain because the position is rounded.

    Every parameter is moved by its own rounding error, at random: the square root of the sum of the squares.
    """
    moved = jax.tree.map(jnp.multiply, oracle.gradient, position)
    value = oracle.value
    return (rounding_unit(value.dtype, position) * jnp.sqrt(vdot(moved, moved))).astype(
        run_dtype(value.dtype, position)
    )


def stationarity(flow: AbstractFlow, stop: Stop, t: Array, state: State, oracle: Oracle, dtype) -> Array:
    """The flow's stationarity in the norm that the stopping criteria name."""
    if stop.norm is Stop.norm:
        return flow.stationarity(t, state, oracle).astype(dtype)
    return flow.stationarity(t, state, oracle, stop.norm).astype(dtype)
