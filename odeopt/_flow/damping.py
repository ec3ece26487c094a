r"""Friction over a step, solved exactly: constant, and inversely proportional to time."""

import jax.numpy as jnp
from jaxtyping import Array

from .base import Damping


def constant_damping(friction: Array, step_size: Array) -> Damping:
    r"""\(E = e^{-\gamma h}\) and \(W = (1 - e^{-\gamma h}) / \gamma\), which is \(h\) without friction."""
    exponent = friction * step_size
    safe = jnp.where(exponent == 0, 1.0, exponent)
    weight = jnp.where(exponent == 0, step_size, step_size * (-jnp.expm1(-safe) / safe))
    return Damping(jnp.exp(-exponent), weight)


def inverse_time_damping(power: Array, t: Array, step_size: Array) -> Damping:
    r"""The friction \(\gamma = r/t\): \(E = (t/(t+h))^r\) and \(W = (t + h - t E) / (r + 1)\); regular at \(t = 0\).

    Written with \(\log(t/(t+h))\), so that nothing cancels where \(h\) is small beside \(t\).
    """
    end = t + step_size
    # log(t / (t + h)), minus infinity at t = 0: then nothing is left of the old momentum.
    logarithm = jnp.log1p(-step_size / jnp.where(end > 0, end, 1.0))
    # Without friction everything is left, at t = 0 too, where the product would be 0 times infinity.
    factor = jnp.where(power == 0, 1.0, jnp.exp(power * logarithm))
    weight = -end * jnp.expm1((power + 1) * logarithm) / (power + 1)
    return Damping(factor, weight)
