"""Who takes part in a work-precision diagram: schemes of this library and solvers of diffrax, at constant steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax.experimental import io_callback
from jaxtyping import Array

from .._check import restated
from .._flow.base import AbstractFlow, State
from .._objective import Oracle, Tally
from .._scheme import RK4, Bosh3, Dopri5, Euler, Heun, Tsit5
from .._scheme.base import AbstractScheme
from .march import check_step, counted_march
from .system import System


@dataclass(frozen=True)
class Contestant:
    """One that runs against others.

    **Attributes:** `name`; `ours`: whether it is a scheme of this library; `run`: from `(system, start_time, start,
    end_time, steps)` to the state at the end, how many steps were taken, and how many gradients they evaluated.
    """

    name: str
    ours: bool
    run: Callable[[System, Array, State, Array, Array], tuple[State, Array, Array]]


def scheme_contestants(
    system: System, schemes: Mapping[str, AbstractScheme] | Sequence[AbstractScheme] | None
) -> list[Contestant]:
    """The schemes of a user, or those of the library and what the flow recommends.

    **Raises:** `TypeError` or `ValueError` for what is no scheme, cannot step the flow, or is named twice.
    """
    named = _named("schemes", _default_schemes(system.flow) if schemes is None else schemes)
    for scheme in named.values():
        check_step(system, scheme)
    return [Contestant(name, True, _marching(scheme)) for name, scheme in named.items()]


def solver_contestants(
    system: System, solvers: Mapping[str, diffrax.AbstractSolver] | Sequence[diffrax.AbstractSolver] | None
) -> list[Contestant]:
    """The solvers of a user, or those of diffrax whose tableaus the library shares.

    **Raises:** `TypeError` or `ValueError` for what is no explicit solver, cannot solve the flow, or is named twice.
    """
    defaults = (diffrax.Euler(), diffrax.Heun(), diffrax.Bosh3(), diffrax.Dopri5(), diffrax.Tsit5())
    named = _named("solvers", defaults if solvers is None else solvers)
    for solver in named.values():
        _check_solver(system, solver)
    return [Contestant(f"diffrax.{name}", False, _solving(system, solver)) for name, solver in named.items()]


def _default_schemes(flow: AbstractFlow) -> list[AbstractScheme]:
    schemes = [Euler(), Heun(), Bosh3(), RK4(), Dopri5(), Tsit5()]
    recommended = flow.recommended()[0]
    known = any(type(scheme) is type(recommended) for scheme in schemes)
    return schemes if known else [*schemes, recommended]


def _named(argument: str, given: Any) -> dict[str, Any]:
    """By their own names, or those of the user."""
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, Sequence):
        raise TypeError(f"{argument} must be a sequence, or a dict of names; got {type(given).__name__}.")
    names = [type(one).__name__ for one in given]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f'{argument}: {twice[0]} stands there more than once. Name them: {{"first": ..., ...}}.')
    return dict(zip(names, given, strict=True))


def _marching(scheme: AbstractScheme):
    def run(system, start_time, start, end_time, steps):
        state, gradients = counted_march(system, scheme, start_time, start, (end_time - start_time) / steps, steps)
        return state, steps, gradients

    return run


def _solving(system: System, solver: diffrax.AbstractSolver):
    first, second = _evaluations(solver)
    each = _gradients_per_evaluation(system)

    def run(system, start_time, start, end_time, steps):
        solution = _solve(system.vector_field, solver, start_time, start, end_time, steps)
        taken = solution.stats["num_steps"]
        end = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        return end, taken, each * (first + (second - first) * (taken - 1))

    return run


def _solve(field, solver: diffrax.AbstractSolver, start_time, start, end_time, steps) -> diffrax.Solution:
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: field(t, y)),
        solver,
        start_time,
        end_time,
        (end_time - start_time) / steps,
        start,
        stepsize_controller=diffrax.ConstantStepSize(),
        saveat=diffrax.SaveAt(t1=True),
        # The cheapest: it records nothing for a backward pass.
        adjoint=diffrax.ForwardMode(),
        max_steps=None,
        throw=False,
    )


def _check_solver(system: System, solver: Any) -> None:
    if not isinstance(solver, diffrax.AbstractSolver) or isinstance(solver, diffrax.AbstractImplicitSolver):
        raise TypeError(f"solvers must be explicit solvers such as diffrax.Tsit5(); got {solver!r}.")
    number = jnp.zeros((), jnp.float64)
    try:
        jax.eval_shape(lambda start: _solve(system.vector_field, solver, number, start, number, 1).ys, system.start)
    except Exception as error:
        place = f"diffrax.{type(solver).__name__} cannot solve {type(system.flow).__name__}"
        raise restated(error, place) from error


def _evaluations(solver: diffrax.AbstractSolver) -> tuple[int, int]:
    """How often the solver evaluates its vector field in one step, and in two: counted while it runs."""
    calls = 0

    def count():
        nonlocal calls
        calls += 1

    def field(t, y):
        io_callback(count, None)
        return -y

    @jax.jit
    def run(steps):
        return _solve(field, solver, 0.0, jnp.ones(()), 0.1 * steps, steps).ys

    found = []
    for steps in (1, 2):
        calls = 0
        jax.block_until_ready(run(steps))
        jax.effects_barrier()
        found.append(calls)
    return found[0], found[1]


def _gradients_per_evaluation(system: System) -> int:
    """How many gradients one evaluation of the vector field needs; found by an abstract trace."""
    tally = Tally()

    def field(t, state):
        return system.flow.vector_field(t, state, Oracle(system.objective, state.position, tally))

    jax.eval_shape(field, jnp.zeros((), jnp.float64), system.start)
    return tally.gradients
