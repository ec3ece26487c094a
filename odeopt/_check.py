"""Is this a flow? Asked abstractly, before anything is computed."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._flow.base import AbstractFlow, State
from ._objective import Oracle, Tally
from ._run import Problem
from ._snapshot import run_dtype
from ._stop import Stop

# How many arrays of a tree an error message lists.
LISTED = 4


def check_declaration(problem: Problem, position: PyTree, value: jax.ShapeDtypeStruct) -> None:
    """Evaluate the declaration of a flow abstractly and compare the structure of what it returns.

    **Raises:** `TypeError` or `ValueError` that names the method, what it returned and what was expected; or the
    method that failed, on what, and why.
    """
    flow = problem.solver.flow
    seen = f"parameters {_listed(position)}"
    state = eqx.filter_eval_shape(lambda position: _ask(flow, seen, "init", position), position)
    _check_start(type(flow).__name__, state, position)
    t = jax.ShapeDtypeStruct((), run_dtype(value.dtype, position))
    eqx.filter_eval_shape(partial(_check_methods, problem), t, state)


def restated(error: Exception, place: str, advice: str = "") -> Exception:
    """An error of the user's code with its place; the boundary raises nothing but `TypeError` and `ValueError`."""
    kind = ValueError if isinstance(error, ValueError) else TypeError
    # The command line finds the line of the user's file in this traceback.
    return kind(f"{place}: {type(error).__name__}: {error}{advice}").with_traceback(error.__traceback__)


def _check_start(name: str, state, position: PyTree) -> None:
    if not isinstance(state, State):
        raise TypeError(f"{name}.init returned {_kind(state)}; expected odeopt.State(position, memory).")
    _same_structure(f"{name}.init", "position", state.position, position, "the parameters")
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.memory):
        if not _is_array(leaf):
            raise TypeError(
                f"{name}.init: memory{jax.tree_util.keystr(path)} is {leaf!r}, a Python {type(leaf).__name__}; "
                "expected arrays such as jnp.zeros_like(params), or None where the flow has no memory."
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{name}.init: the memory has a leaf of dtype {leaf.dtype}; expected floating point. Keep counters in "
                "the time t or in the flow."
            )


def _check_methods(problem: Problem, t, state: State) -> None:
    """Every method that a run calls, in an abstract trace."""
    oracle = Oracle(problem.objective, state.position, Tally())
    # An objective that has no gradient speaks for itself, and not through the first method that reads it.
    _ = oracle.gradient
    flow, name = problem.solver.flow, type(problem.solver.flow).__name__
    seen = f"a state with position {_listed(state.position)} and memory {_listed(state.memory)} (what init returned)"
    calibrated = _ask(flow, seen, "calibrate", state, oracle)
    if not isinstance(calibrated, AbstractFlow):
        raise TypeError(f"{name}.calibrate returned {_kind(calibrated)}; expected the flow with its scales set.")
    ask = partial(_ask, calibrated, seen)
    field = ask("vector_field", t, state, oracle)
    if not isinstance(field, State):
        raise TypeError(
            f"{name}.vector_field returned {_kind(field)}; expected odeopt.State(position, memory), the time "
            "derivative of both."
        )
    _same_structure(f"{name}.vector_field", "position", field.position, state.position)
    _same_structure(f"{name}.vector_field", "memory", field.memory, state.memory)
    # The loop hands the norm over only where the user has chosen one.
    norm = () if problem.stop.norm is Stop.norm else (problem.stop.norm,)
    _scalar(f"{name}.energy", ask("energy", t, state, oracle))
    _scalar(f"{name}.kinetic_energy", ask("kinetic_energy", t, state))
    _scalar(f"{name}.stationarity", ask("stationarity", t, state, oracle, *norm))
    _scalar(f"{name}.dissipation", ask("dissipation", t, state, oracle))
    if calibrated.declares("jump"):
        memory = ask("jump", t, state, state, oracle, oracle)
        _same_structure(f"{name}.jump", "memory", memory, state.memory)


def _ask(flow: AbstractFlow, seen: str, method: str, *arguments) -> Any:
    """What a method of a flow returns, or an error that names it and says what it was called on."""
    try:
        return getattr(flow, method)(*arguments)
    except Exception as error:
        place = f"{type(flow).__name__}.{method} failed on {seen}"
        raise restated(error, place, _advice(flow, method, error)) from error


def _advice(flow: AbstractFlow, method: str, error: Exception) -> str:
    if isinstance(error, AttributeError) and isinstance(error.obj, Oracle):
        return ". An oracle has value, gradient, hvp(vector) and at(point)."
    if method == "dissipation" and not flow.declares(method):
        return " It is derived from energy by automatic differentiation; declare a closed form instead."
    return ""


def _same_structure(method: str, part: str, given: PyTree, expected: PyTree, whose: str = "the state") -> None:
    if jax.tree.structure(given) != jax.tree.structure(expected):
        raise ValueError(
            f"{method}: the {part} has the structure {jax.tree.structure(given)}; expected that of {whose}, "
            f"{jax.tree.structure(expected)}."
        )
    given_leaves = jax.tree_util.tree_leaves_with_path(given)
    for (path, leaf), wanted in zip(given_leaves, jax.tree.leaves(expected), strict=True):
        place = f"{method}: {part}{jax.tree_util.keystr(path)}"
        if not _is_array(leaf):
            raise TypeError(f"{place} is {leaf!r}, a Python {type(leaf).__name__}; expected an array, as in {whose}.")
        if leaf.shape != wanted.shape:
            raise ValueError(f"{place} has shape {leaf.shape}; expected {wanted.shape}, as in {whose}.")


def _scalar(method: str, value) -> None:
    if not _is_array(value):
        raise TypeError(f"{method} returned {type(value).__name__}; expected a scalar array.")
    if value.shape != ():
        raise ValueError(
            f"{method} returned an array of shape {value.shape}; expected a scalar. Sum over the parameters."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{method} returned dtype {value.dtype}; expected floating point.")


def _is_array(leaf) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _kind(given) -> str:
    return "an array" if _is_array(given) else type(given).__name__


def _listed(tree: PyTree) -> str:
    """The shapes of a tree in a few words."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        return repr(tree)
    words = [f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}".strip() for path, leaf in leaves[:LISTED]]
    return ", ".join(words) + (f", ... ({len(leaves)} arrays)" if len(leaves) > LISTED else "")
