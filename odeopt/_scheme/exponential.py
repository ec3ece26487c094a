"""Exponential Euler for linearly damped memory."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, Damping, State
from .._objective.oracle import Oracle
from .._tree import add_scaled
from .base import AbstractScheme, Trial
from .semi_implicit import position_last


class ExponentialEuler(AbstractScheme):
    r"""Exponential Euler (ETD1) for the memory, then the position with the new memory.

    Memory that obeys \(m' = -r m + N(x)\), with the rates \(r\) of `flow.decay`, is advanced exactly for frozen
    \(N\):

    \[ m^+ = e^{-r h} m + \frac{1 - e^{-r h}}{r} N = m + h\,\varphi_1(-r h) F_m, \qquad
       \varphi_1(z) = \frac{e^z - 1}{z}, \qquad x^+ = x + h F_x(t + h, x, m^+) \]

    Of a mechanical flow the momentum is advanced with `flow.damping`, which is exact for a friction that depends on
    time too. Order 1, one gradient a step, unconditionally stable in the rates; at constant step heavy ball is SGD with
    momentum and Adam's flow is Adam. Memory without a rate is advanced by semi-implicit Euler.
    (Hochbruck and Ostermann, 2010, Exponential integrators.)

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Adam(), odeopt.ExponentialEuler())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        damping = flow.damping(t, step_size)
        if damping is None:
            slope = flow.vector_field(t, state, oracle).memory
            memory = damped_step(flow.decay(t, state), step_size, state.memory, slope)
        else:
            memory = kick(damping, state.memory, flow.minimised(oracle).gradient)
        return position_last(flow, t + step_size, step_size, State(state.position, memory), oracle)


def kick(damping: Damping, momentum: PyTree, gradient: PyTree) -> PyTree:
    """The momentum after a step under friction and the force of a frozen gradient."""
    return jax.tree.map(lambda p, g: (damping.factor * p - damping.weight * g).astype(p.dtype), momentum, gradient)


def damped_step(rates: PyTree, step_size: Array, memory: PyTree, slope: PyTree) -> PyTree:
    """Every part of the memory that one rate belongs to, advanced with that rate."""

    def part(rate, memory, slope):
        if rate is None:
            return add_scaled(memory, step_size, slope)
        return add_scaled(memory, step_size * _phi1(-rate * step_size), slope)

    return jax.tree.map(part, rates, memory, slope, is_leaf=lambda rate: rate is None)


def _phi1(z: Array) -> Array:
    """(exp(z) - 1) / z, and its limit 1 at z = 0."""
    safe = jnp.where(z == 0, 1.0, z)
    return jnp.where(z == 0, 1.0, jnp.expm1(safe) / safe)
