"""A scheme at constant step size: what is left of a run when nothing decides over its steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._check import restated
from .._flow.base import State
from .._objective import Oracle, Tally
from .._scheme.base import AbstractScheme
from .system import System

EPS = float(np.finfo(np.float64).eps)


class _Carry(NamedTuple):
    state: State
    gradient: PyTree  # None where the next step evaluates its first gradient itself
    gradients: Array  # how many have been evaluated


def march(
    system: System, scheme: AbstractScheme, start_time: Array, start: State, step_size: Array, steps: Array
) -> State:
    """The state after so many steps of a constant size.

    The number of steps may be traced: one compilation serves all step sizes. A gradient that the scheme has evaluated
    at the end of its step (first same as last) is handed on and not evaluated again.
    """
    return counted_march(system, scheme, start_time, start, step_size, steps)[0]


def counted_march(
    system: System, scheme: AbstractScheme, start_time: Array, start: State, step_size: Array, steps: Array
) -> tuple[State, Array]:
    """`march`, and how many gradients it has evaluated."""
    hands_on, relaxes = _abilities(system, scheme, start)

    def step(t: Array, length: Array, carry: _Carry) -> tuple[_Carry, Array | None]:
        tally = Tally()
        oracle = Oracle(system.objective, carry.state.position, tally, gradient=carry.gradient)
        trial = scheme.step(system.flow, t, length, carry.state, oracle)
        gradient = trial.oracle.gradient if hands_on else None
        gradients = carry.gradients + jnp.asarray(tally.gradients, jnp.int32)
        return _Carry(_like(trial.state, start), gradient, gradients), trial.elapsed

    first = system.oracle(start.position).gradient if hands_on else None
    begin = _Carry(start, first, jnp.asarray(1 if hands_on else 0, jnp.int32))
    if relaxes:
        end = _arrive(step, begin, start_time, start_time + steps * step_size, step_size)
    else:
        # A product and not a sum over steps, which would gather their rounding errors.
        end = jax.lax.fori_loop(0, steps, lambda i, c: step(start_time + i * step_size, step_size, c)[0], begin)
    return end.state, end.gradients


def _arrive(step: Callable, begin: _Carry, start_time: Array, end_time: Array, step_size: Array) -> _Carry:
    """As many steps as it takes of a scheme whose steps are not quite as long as asked: the last ones, forward or
    back, cover what is missing, and each leaves a part of it, until rounding hides the rest."""

    def under_way(carry):
        t, _, spare = carry
        return (jnp.abs(end_time - t) > 4 * EPS * jnp.maximum(jnp.abs(end_time), jnp.abs(start_time))) & (spare > 0)

    def go_on(carry):
        t, inner, spare = carry
        inner, elapsed = step(t, jnp.clip(end_time - t, -step_size, step_size), inner)
        return t + elapsed, inner, spare - 1

    # Twice as many as asked for, and enough to halve the last one to nothing.
    spare = 2 * jnp.ceil((end_time - start_time) / step_size).astype(jnp.int32) + 60
    return jax.lax.while_loop(under_way, go_on, (start_time, begin, spare))[1]


def check_step(system: System, scheme: AbstractScheme) -> None:
    """Ask for one step abstractly.

    **Raises:** `TypeError` or `ValueError` that says which scheme failed on which flow, and what it said.
    """
    if not isinstance(scheme, AbstractScheme):
        raise TypeError(f"scheme must be a scheme such as odeopt.Heun(); got {scheme!r}.")
    try:
        _abilities(system, scheme, system.start)
    except Exception as error:
        place = f"{type(scheme).__name__} cannot take a step of {type(system.flow).__name__}"
        raise restated(error, place) from error


def _abilities(system: System, scheme: AbstractScheme, start: State) -> tuple[bool, bool]:
    """Whether the gradient at the end of a step is known after it, and whether a step has a length of its own; found by
    an abstract trace."""
    answers = []

    def step(start):
        tally = Tally()
        oracle = Oracle(system.objective, start.position, tally)
        number = jnp.zeros((), jnp.float64)
        trial = scheme.step(system.flow, number, number, start, oracle)
        # A scheme whose number of stages is decided at run time has counted with numbers of this trace.
        tally.gradients = 0
        # Reading it counts where it has to be evaluated.
        _ = trial.oracle.gradient
        answers.append((tally.gradients == 0, trial.elapsed is not None))
        return trial.state

    jax.eval_shape(step, start)
    return answers[-1]


def _like(state: State, start: State) -> State:
    """In the dtypes of the start, as the library's own loop stores it."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), state, start)
