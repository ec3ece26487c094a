"""Is this a flow? Asked abstractly, before anything is computed."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._flow.base import State
from ._objective import Oracle, Tally
from ._run import Problem, run_dtype


def check_declaration(problem: Problem, position: PyTree, value: jax.ShapeDtypeStruct) -> None:
    """Evaluate the declaration of a flow abstractly and compare the structure of what it returns.

    **Raises:** `TypeError` or `ValueError` that names the method, what it returned and what was expected.
    """
    flow = problem.solver.flow
    name = type(flow).__name__
    state = eqx.filter_eval_shape(flow.init, position)
    if not isinstance(state, State):
        raise TypeError(f"{name}.init returned {type(state).__name__}; expected odeopt.State(position, memory).")
    _same_structure(f"{name}.init", "position", state.position, position)
    for leaf in jax.tree.leaves(state.memory):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{name}.init: the memory has a leaf of dtype {leaf.dtype}; expected floating point. Keep counters in "
                "the time t or in the flow."
            )
    t = jax.ShapeDtypeStruct((), run_dtype(value.dtype, position))

    def declaration(t, state):
        oracle = Oracle(problem.objective, state.position, Tally())
        calibrated = flow.calibrate(state, oracle)
        return (
            calibrated.vector_field(t, state, oracle),
            calibrated.energy(t, state, oracle),
            calibrated.kinetic_energy(t, state),
            calibrated.stationarity(t, state, oracle),
        )

    field, energy, kinetic, stationarity = eqx.filter_eval_shape(declaration, t, state)
    if not isinstance(field, State):
        raise TypeError(
            f"{name}.vector_field returned {type(field).__name__}; expected odeopt.State(position, memory), the time "
            "derivative of both."
        )
    _same_structure(f"{name}.vector_field", "position", field.position, state.position)
    _same_structure(f"{name}.vector_field", "memory", field.memory, state.memory)
    _scalar(f"{name}.energy", energy)
    _scalar(f"{name}.kinetic_energy", kinetic)
    _scalar(f"{name}.stationarity", stationarity)
    dissipation = eqx.filter_eval_shape(lambda t, state: _calibrated_dissipation(problem, t, state), t, state)
    _scalar(f"{name}.dissipation", dissipation)


def _calibrated_dissipation(problem: Problem, t, state):
    oracle = Oracle(problem.objective, state.position, Tally())
    return problem.solver.flow.calibrate(state, oracle).dissipation(t, state, oracle)


def _same_structure(method: str, part: str, given: PyTree, expected: PyTree) -> None:
    if jax.tree.structure(given) != jax.tree.structure(expected):
        raise ValueError(
            f"{method}: the {part} has the structure {jax.tree.structure(given)}; expected that of the state, "
            f"{jax.tree.structure(expected)}."
        )
    given_leaves = jax.tree_util.tree_leaves_with_path(given)
    for (path, leaf), wanted in zip(given_leaves, jax.tree.leaves(expected), strict=True):
        if jnp.shape(leaf) != wanted.shape:
            raise ValueError(
                f"{method}: {part}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}; expected {wanted.shape}, "
                "as in the state."
            )


def _scalar(method: str, value) -> None:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        raise TypeError(f"{method} returned {type(value).__name__}; expected a scalar array.")
    if shape != ():
        raise ValueError(f"{method} returned an array of shape {shape}; expected a scalar. Sum over the parameters.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{method} returned dtype {dtype}; expected floating point.")
