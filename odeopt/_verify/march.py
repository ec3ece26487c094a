"""A scheme at constant step size: what is left of a run when nothing decides over its steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._check import restated
from .._flow.base import State
from .._objective import Oracle, Tally
from .._scheme.base import AbstractScheme
from .system import System


class _Carry(NamedTuple):
    state: State
    gradient: PyTree  # None where the next step evaluates its first gradient itself


def march(
    system: System, scheme: AbstractScheme, start_time: Array, start: State, step_size: Array, steps: Array
) -> State:
    """The state after so many steps of a constant size.

    The number of steps may be traced: one compilation serves all step sizes. A gradient that the scheme has evaluated
    at the end of its step (first same as last) is handed on and not evaluated again.
    """
    hands_on = _hands_on(system, scheme, start)

    def step(index, carry):
        # A product and not a sum over steps, which would gather their rounding errors.
        t = start_time + index * step_size
        oracle = Oracle(system.objective, carry.state.position, Tally(), gradient=carry.gradient)
        trial = scheme.step(system.flow, t, step_size, carry.state, oracle)
        return _Carry(_like(trial.state, start), trial.oracle.gradient if hands_on else None)

    first = system.oracle(start.position).gradient if hands_on else None
    return jax.lax.fori_loop(0, steps, step, _Carry(start, first)).state


def check_step(system: System, scheme: AbstractScheme) -> None:
    """Ask for one step abstractly.

    **Raises:** `TypeError` or `ValueError` that says which scheme failed on which flow, and what it said.
    """
    if not isinstance(scheme, AbstractScheme):
        raise TypeError(f"scheme must be a scheme such as odeopt.Heun(); got {scheme!r}.")
    try:
        _hands_on(system, scheme, system.start)
    except Exception as error:
        place = f"{type(scheme).__name__} cannot take a step of {type(system.flow).__name__}"
        raise restated(error, place) from error


def _hands_on(system: System, scheme: AbstractScheme, start: State) -> bool:
    """Whether the gradient at the end of a step is known after it; found by an abstract trace."""
    answers = []

    def step(start):
        tally = Tally()
        oracle = Oracle(system.objective, start.position, tally)
        number = jnp.zeros((), jnp.float64)
        trial = scheme.step(system.flow, number, number, start, oracle)
        before = tally.gradients
        # Reading it counts where it has to be evaluated.
        _ = trial.oracle.gradient
        answers.append(tally.gradients == before)
        return trial.state

    jax.eval_shape(step, start)
    return answers[-1]


def _like(state: State, start: State) -> State:
    """In the dtypes of the start, as the library's own loop stores it."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), state, start)
