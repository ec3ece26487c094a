"""Constants that a flow leaves open until it has seen the objective: set, read and checked in one way."""

from typing import TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete
from .._tree import vdot
from .base import AbstractFlow

_Flow = TypeVar("_Flow", bound=AbstractFlow)


def with_open(flow: _Flow, name: str, value: Array) -> _Flow:
    """The flow with a constant set that its constructor left open; one that was given stays as it is."""
    if getattr(flow, name) is not None:
        return flow
    return eqx.tree_at(lambda flow: getattr(flow, name), flow, value, is_leaf=lambda leaf: leaf is None)


def calibrated(flow: AbstractFlow, name: str) -> Array:
    """A constant of a calibrated flow.

    **Raises:** `ValueError` if it is still open.
    """
    value = getattr(flow, name)
    if value is None:
        raise ValueError(
            f"{type(flow).__name__}({name}=None) has not been calibrated: minimise and train do it; elsewhere call "
            f"flow.calibrate(state, oracle) first or give {name}."
        )
    return value


def check_positive(flow: AbstractFlow, name: str, unit: str) -> None:
    """Whether a constant is positive and finite, where it is known and not open.

    **Raises:** `ValueError` that names the flow, the constant and its `unit`.
    """
    value = getattr(flow, name)
    if concrete(value) and not 0 < float(value) < float("inf"):
        raise ValueError(f"{type(flow).__name__}({name}={float(value)}): expected a finite number > 0, {unit}.")


def check_nonnegative(flow: AbstractFlow, name: str, unit: str, below: float = float("inf")) -> None:
    """Whether a constant is at least zero and less than `below`, where it is known and not open.

    **Raises:** `ValueError` that names the flow, the constant and its `unit`.
    """
    value = getattr(flow, name)
    if concrete(value) and not 0 <= float(value) < below:
        bound = "a finite number" if below == float("inf") else f"a number below {below:g} and"
        raise ValueError(f"{type(flow).__name__}({name}={float(value)}): expected {bound} >= 0, {unit}.")


def root_mean_square(gradient: PyTree, count: int) -> Array:
    """The norm of a gradient for each of `count` parts of it; 1 for a zero gradient.

    A zero gradient sets no scale, and needs none: the flow starts at an equilibrium.
    """
    square = vdot(gradient, gradient) / count
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 1.0)
