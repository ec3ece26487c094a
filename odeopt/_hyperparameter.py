"""Hyper-parameters: numbers of a flow or controller that are traced, so that a sweep does not recompile."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array


def hyperparameter(value) -> Array | None:
    """A number as a traced leaf of strong dtype; `None` (still open) stays `None`."""
    if isinstance(value, (bool, int, float)) or hasattr(value, "dtype"):
        return jnp.asarray(value, dtype=jnp.result_type(float))
    return value  # None, or a placeholder that a transformation of the tree put there


def hyperparameter_field(**default) -> Any:
    """A dataclass field converted by `hyperparameter`; `default=` as in `dataclasses.field`."""
    return eqx.field(converter=hyperparameter, **default)


def concrete(value) -> bool:
    """Whether a hyper-parameter is one known number, so that a condition on it can be checked in Python."""
    return isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer) and value.ndim == 0
