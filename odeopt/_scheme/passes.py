"""What a scheme that loops over its stages has to count itself."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from .._flow.base import State
from .._objective.oracle import Oracle, Tally


def passes(method: Callable[..., Any], t: Array, state: State, oracle: Oracle) -> Tally:
    """The passes over the objective that one call of `method(t, state, oracle)` costs; found by an abstract trace."""
    tally = Tally()
    jax.eval_shape(lambda: method(t, state, oracle.fork(tally).at(state.position)))
    return tally
