"""A flow on an objective as an ordinary differential equation in double precision: what every check evaluates."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._check import check_declaration
from .._flow.base import AbstractFlow, State
from .._objective import Oracle, PartialObjective, Tally, as_objective, check_scalar_value
from .._parameters import split_parameters
from .._run import Problem
from .._solver import Solver
from .._stop import Stop
from .._tree import cast_floating

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_double_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a function in float64, whatever JAX is set to, and leave that setting as it was.

    What the function returns must be NumPy arrays: JAX arrays of float64 lose digits outside.
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return wrapped


class System(eqx.Module):
    """A calibrated flow on an objective; all methods are pure, and work under `jit` and `vmap`.

    **Attributes:** `flow`: calibrated; `objective`: of the trained leaves; `start`: the state from `flow.init`.
    """

    flow: AbstractFlow
    objective: PartialObjective
    start: State

    def oracle(self, position: PyTree) -> Oracle:
        """A fresh oracle; it must not outlive the trace that it was made in."""
        return Oracle(self.objective, position, Tally())

    def vector_field(self, t: Array, state: State) -> State:
        return self.flow.vector_field(t, state, self.oracle(state.position))

    def energy(self, t: Array, state: State) -> Array:
        return self.flow.energy(t, state, self.oracle(state.position))

    def dissipation(self, t: Array, state: State) -> Array:
        """As the flow declares it, or the library derives it."""
        return self.flow.dissipation(t, state, self.oracle(state.position))

    def stationarity(self, t: Array, state: State) -> Array:
        return self.flow.stationarity(t, state, self.oracle(state.position))

    def unit_of_time(self) -> Array:
        return self.flow.unit_of_time(self.start, self.oracle(self.start.position))


def system(flow: AbstractFlow, fn: Any, y0: PyTree, args: PyTree = None) -> System:
    """The system of a flow on `fn(y, args)` from `y0`; to be called in double precision.

    **Raises:** what `minimise` raises for a declaration that cannot be evaluated.
    """
    objective = as_objective(cast_floating(fn, jnp.float64), cast_floating(args, jnp.float64), False)
    parameters, frozen = split_parameters(y0)
    parameters = cast_floating(parameters, jnp.float64)
    partial = PartialObjective(objective, frozen)
    flow = cast_floating(flow, jnp.float64)
    value = check_scalar_value(partial, parameters)
    check_declaration(Problem(partial, Solver(flow), Stop()), parameters, value)
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), flow.init(parameters))
    calibrated = cast_floating(flow.calibrate(start, Oracle(partial, parameters, Tally())), jnp.float64)
    return System(calibrated, partial, start)
