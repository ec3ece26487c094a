"""What a scheme that loops over its stages has to count itself."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle, Tally


def passes(method: Callable[..., Any], t: Array, state: State, oracle: Oracle) -> Tally:
    """The passes over the objective that one call of `method(t, state, oracle)` costs; found by an abstract trace."""
    tally = Tally()
    jax.eval_shape(lambda: method(t, state, oracle.fork(tally).at(state.position)))
    return tally


def check_countable(scheme: Any, flow: AbstractFlow) -> None:
    """**Raises:** `ValueError` for a flow whose passes are known while it runs only, inside of the scheme's loop."""
    if not flow.countable:
        raise ValueError(
            f"{type(scheme).__name__} takes its stages in a loop, where the passes over the objective that "
            f"{type(flow).__name__} decides on while it runs cannot be counted. Use Euler(), or another scheme without."
        )
