"""What inertial flows share: the frequency that is the unit of their open constants, and the range of given ones."""

import jax.numpy as jnp
from jaxtyping import Array

from .._hyperparameter import concrete
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import AbstractFlow


def frequency(oracle: Oracle) -> Array:
    """The square root of the curvature along the gradient; 1 where that says nothing (zero gradient, no curvature)."""
    gradient = oracle.gradient
    square = vdot(gradient, gradient)
    curvature = jnp.abs(vdot(gradient, oracle.hvp(gradient))) / jnp.where(square > 0, square, 1.0)
    return jnp.where((curvature > 0) & jnp.isfinite(curvature), jnp.sqrt(curvature), 1.0)


def check_not_negative(flow: AbstractFlow, name: str) -> None:
    """Whether a constant whose sign decides that of \\(dV/dt\\) is at least zero and finite, where it is known.

    **Raises:** `ValueError` that names the flow, the constant and the reason.
    """
    value = getattr(flow, name)
    if concrete(value) and not 0 <= float(value) < float("inf"):
        raise ValueError(
            f"{type(flow).__name__}({name}={float(value)}): {name} must be >= 0 and finite, otherwise the energy grows "
            "along the flow."
        )
