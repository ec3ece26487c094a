"""Declarations of flows that both the wrong and the right ones are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from odeopt import AbstractFlow, State


def dot(x, y):
    return optax.tree.vdot(x, y)


def rest(params):
    return jax.tree.map(jnp.zeros_like, params)


class Ball(AbstractFlow):
    """Heavy ball, right; the others below differ from it in one place."""

    friction: float = 0.7

    def init(self, params):
        return State(params, rest(params))

    def vector_field(self, t, state, oracle):
        force = jax.tree.map(lambda v, g: -self.friction * v - g, state.memory, oracle.gradient)
        return State(state.memory, force)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * dot(state.memory, state.memory)


MASS = np.array([1.0, 4.0, 0.5])


class Massive(Ball):
    """Heavy ball with a mass for each parameter."""

    def vector_field(self, t, state, oracle):
        return State(state.memory, (-self.friction * state.memory - oracle.gradient) / MASS)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(MASS * state.memory**2)


class GradientEnergy(AbstractFlow):
    """Gradient flow with V = |g|^2 / 2, which falls where the objective is convex."""

    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        return State(-oracle.gradient)

    def energy(self, t, state, oracle):
        return 0.5 * jnp.sum(oracle.gradient**2)


def three_parameters():
    return lambda y, args: jnp.sum(jnp.cos(y)) + 0.1 * jnp.sum(y**2), jnp.array([1.0, -0.5, 2.0])
