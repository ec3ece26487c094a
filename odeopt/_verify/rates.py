r"""How fast an energy changes along its flow, and what contributes to it.

The truth is kept apart from the library's own derivative: the whole energy is differentiated through the objective by
reverse mode, and multiplied with \((1, F)\), where `automatic_dissipation` pushes tangents forward and is told the
gradient of the objective.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

from .._flow.base import State
from .._flow.dissipation import automatic_dissipation
from .._objective import reads
from .._tree import vdot
from .system import System

# What contributes to dV/dt besides the parts of the memory.
TIME, OBJECTIVE, GRADIENT, POSITION = (
    "explicit time",
    "objective, <grad f, x'>",
    "gradient, through the Hessian",
    "position",
)


# An array of JAX inside a trace, one of NumPy where results are judged.
Numbers = Any


class Rates(eqx.Module):
    r"""What is evaluated at a state.

    **Attributes:**

    - `rate`: \(dV/dt\), the independent truth; `declared`: as the flow has it; `automatic`: as the library derives it.
    - `parts`: the contributions to `rate`, in the order of `part_names`.
    - `scale`: the sum of the absolute values of all contributions, entry by entry: what rounding is relative to.
    - `steepness`: \(|\nabla V| |F|\), what the rate of a flow that goes straight down would be.
    - `speed`: \(|x'|\); `sensitivity`: how much the energy changes per relative change of the state, at most.
    - `energy`, `value`, `gradient_norm`, `stationarity`.
    """

    rate: Numbers
    declared: Numbers
    automatic: Numbers
    parts: Numbers
    scale: Numbers
    steepness: Numbers
    speed: Numbers
    sensitivity: Numbers
    energy: Numbers
    value: Numbers
    gradient_norm: Numbers
    stationarity: Numbers


def memory_parts(state: State) -> dict[str, PyTree]:
    """The memory in the parts that its author thinks in: as a whole if it looks like the parameters."""
    memory = state.memory
    if not jax.tree.leaves(memory):
        return {}
    if jax.tree.structure(memory) == jax.tree.structure(state.position):
        return {"memory": memory}
    children = jax.tree_util.tree_flatten_with_path(memory, is_leaf=lambda node: node is not memory)[0]
    return {f"memory{jax.tree_util.keystr(path)}": part for path, part in children if jax.tree.leaves(part)}


def part_names(state: State) -> tuple[str, ...]:
    """The names of the contributions to dV/dt."""
    return (TIME, OBJECTIVE, GRADIENT, POSITION, *memory_parts(state))


def rates(system: System, t: Array, state: State) -> Rates:
    """dV/dt at a state, in every way it can be had."""
    flow, oracle = system.flow, system.oracle(state.position)
    field = flow.vector_field(t, state, oracle)
    energy, (by_time, by_state) = jax.value_and_grad(system.energy, (0, 1))(t, state)
    slope, hessian_product = _through_objective(system, t, state, field)
    position = vdot(by_state.position, field.position)
    value_part = slope * vdot(oracle.gradient, field.position)
    direct = position - value_part - hessian_product
    # What is left of terms that cancel to rounding is none; near critical points gradients are rounded to 2e-10.
    size = jnp.abs(slope) * _absolute(oracle.gradient, field.position) + jnp.abs(hessian_product)
    direct = jnp.where(jnp.abs(direct) <= 1e-8 * size, 0.0, direct)
    slopes, speeds = memory_parts(by_state), memory_parts(field)
    memory = [vdot(slopes[name], speeds[name]) for name in slopes]
    automatic = automatic_dissipation(flow, t, state, oracle)
    declared = flow.dissipation(t, state, oracle) if flow.declares("dissipation") else automatic
    return Rates(
        rate=by_time + position + sum(memory),
        declared=declared,
        automatic=automatic,
        parts=jnp.stack([by_time, value_part, hessian_product, direct, *memory]),
        scale=jnp.abs(by_time) + size + jnp.abs(direct) + _absolute(by_state.memory, field.memory),
        steepness=jnp.sqrt((vdot(by_state, by_state) + by_time**2) * vdot(field, field)),
        speed=jnp.sqrt(vdot(field.position, field.position)),
        sensitivity=_absolute(by_state, state),
        energy=energy,
        value=oracle.value,
        gradient_norm=jnp.sqrt(vdot(oracle.gradient, oracle.gradient)),
        stationarity=flow.stationarity(t, state, oracle),
    )


def _through_objective(system: System, t: Array, state: State, field: State) -> tuple[Scalar, Scalar]:
    """The derivative of V with respect to the objective's value, and the part of dV/dt that its gradient brings."""
    flow, oracle = system.flow, system.oracle(state.position)
    reads_gradient = "gradient" in reads(flow.energy, t, state, oracle.value)

    def energy(value, gradient):
        return flow.energy(t, state, oracle.with_inputs(state.position, value, gradient))

    if not reads_gradient:
        return jax.grad(energy)(oracle.value, None), jnp.zeros_like(oracle.value)
    slope, by_gradient = jax.grad(energy, (0, 1))(oracle.value, oracle.gradient)
    return slope, vdot(by_gradient, oracle.hvp(field.position))


def _absolute(x: PyTree, y: PyTree) -> Scalar:
    return vdot(jax.tree.map(jnp.abs, x), jax.tree.map(jnp.abs, y))
