"""Hyper-parameters: numbers of a flow or controller that are traced, so that a sweep does not recompile."""

from typing import Any, TypeGuard, overload

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike


@overload
def hyperparameter(value: None) -> None: ...
@overload
def hyperparameter(value: ArrayLike) -> Array: ...


def hyperparameter(value: Any) -> Any:
    """A number as a traced leaf of strong dtype; `None` (still open) stays `None`.

    The converter of the fields that hold hyper-parameters.
    """
    if isinstance(value, (bool, int, float)) or hasattr(value, "dtype"):
        return jnp.asarray(value, dtype=jnp.result_type(float))
    if isinstance(value, str):
        raise TypeError(f"a hyper-parameter is the text {value!r}; expected a number, or None where it may be open.")
    return value  # None, or a placeholder that a transformation of the tree put there


def concrete(value) -> TypeGuard[Array]:
    """Whether a hyper-parameter is one known number, so that a condition on it can be checked in Python."""
    return isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.ndim == 0
