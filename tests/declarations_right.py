"""Right declarations, to which the library has nothing to say.

`RIGHT` is a list to be run over, by the audit of energies and by everything that contains it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from declarations import Ball, GradientEnergy, Massive, dot, rest, three_parameters

import odeopt
from odeopt import AbstractFlow, State


class Nesterov(Ball):
    """Friction r / (t + 1)."""

    def vector_field(self, t, state, oracle):
        force = jax.tree.map(lambda v, g: -3 / (t + 1) * v - g, state.memory, oracle.gradient)
        return State(state.memory, force)


class FlooredNesterov(Ball):
    """Friction r / t, held below t0: the field has a kink there."""

    def vector_field(self, t, state, oracle):
        return State(state.memory, -3 / jnp.maximum(t, 0.3) * state.memory - oracle.gradient)


class InertialNewton(AbstractFlow):
    r"""x'' + a x' + b H x' + g = 0 without the Hessian; strict: V' = -a |y - b g|^2 - b |g|^2."""

    a: float = 0.8
    b: float = 0.3

    def init(self, params):
        return State(params, rest(params))

    def vector_field(self, t, state, oracle):
        y, g = state.memory, oracle.gradient
        return State(y - self.b * g, -self.a * y + (self.a * self.b - 1) * g)

    def energy(self, t, state, oracle):
        return (1 + self.a * self.b) * oracle.value + 0.5 * jnp.sum(state.memory**2)

    def dissipation(self, t, state, oracle):
        y, g = state.memory, oracle.gradient
        return -self.a * jnp.sum((y - self.b * g) ** 2) - self.b * jnp.sum(g**2)


class GraphTracking(AbstractFlow):
    """The velocity is drawn to -al g, with a Hessian-vector product; a strict energy that reads the gradient."""

    al: float = 0.5
    c: float = 1.5
    k: float = 1.0  # 4 al k c >= 1

    def init(self, params):
        return State(params, rest(params))

    def vector_field(self, t, state, oracle):
        v, g = state.memory, oracle.gradient
        return State(v, -self.k * (v + self.al * g) - self.al * oracle.hvp(v))

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * self.c * jnp.sum((state.memory + self.al * oracle.gradient) ** 2)


class Relativistic(Ball):
    """The speed never exceeds one."""

    def vector_field(self, t, state, oracle):
        p = state.memory
        return State(p / jnp.sqrt(1 + jnp.sum(p**2)), -self.friction * p - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + jnp.sqrt(1 + jnp.sum(state.memory**2))


class PositiveMirror(AbstractFlow):
    """Entropic mirror flow of positive parameters, x = exp(z): (log x)' = -g; the memory is the dual point."""

    def init(self, params):
        return State(params, jnp.log(params))

    def vector_field(self, t, state, oracle):
        return State(-jnp.exp(state.memory) * oracle.gradient, -oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value


class SoftSign(AbstractFlow):
    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        return State(jax.tree.map(lambda g: -g / jnp.sqrt(g**2 + 0.01), oracle.gradient))

    def energy(self, t, state, oracle):
        return oracle.value


class Rescaled(Ball):
    """Heavy ball in another time, s = t + t^2 / 2: all rates times 1 + t."""

    def vector_field(self, t, state, oracle):
        rate = 1 + t
        return State(rate * state.memory, rate * (-self.friction * state.memory - oracle.gradient))


class ConvexEnergy(GradientEnergy):
    certificate: ClassVar[str] = "convex_only"


class Balance(odeopt.Adam):
    """Adam with weight decay: an exact balance of its energy, of either sign."""

    certificate: ClassVar[str] = "balance_law"

    def vector_field(self, t, state, oracle):
        field = super().vector_field(t, state, oracle)
        decayed = jax.tree.map(lambda rate, x: rate - 0.01 * x, field.position, state.position)
        return State(decayed, field.memory)

    def stationarity(self, t, state, oracle):
        field = self.vector_field(t, state, oracle)
        return jnp.sqrt(dot(field.position, field.position) + dot(oracle.gradient, oracle.gradient))

    dissipation = AbstractFlow.dissipation
    discrete_equivalent = AbstractFlow.discrete_equivalent


class Thermostat(AbstractFlow):
    """Friction that adapts itself; its memory holds a velocity and one number."""

    def init(self, params):
        return State(params, {"velocity": rest(params), "friction": jnp.zeros(())})

    def vector_field(self, t, state, oracle):
        v, xi = state.memory["velocity"], state.memory["friction"]
        force = jax.tree.map(lambda v, g: -g - (0.2 + xi) * v, v, oracle.gradient)
        return State(v, {"velocity": force, "friction": dot(v, v) - 0.5 * xi})

    def energy(self, t, state, oracle):
        v, xi = state.memory["velocity"], state.memory["friction"]
        return oracle.value + 0.5 * dot(v, v) + 0.5 * xi**2


def pytree_problem():
    def fn(y, args):
        return jnp.sum(jnp.sin(y["a"])) + jnp.sum((y["b"] - args) ** 2) * y["c"] ** 2

    return fn, {"a": jnp.array([0.3, -1.0]), "b": jnp.ones((2, 2)), "c": jnp.array(0.7)}, jnp.array(2.0)


def equinox_problem():
    """A small network on eight points; everything beside its weights stays out of the state."""
    model = eqx.nn.MLP(2, 1, 3, 1, activation=jnp.tanh, key=jax.random.PRNGKey(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))

    def loss(model, x):
        return jnp.mean((jax.vmap(model)(x)[:, 0] - jnp.sin(x[:, 0])) ** 2)

    return loss, model, x


def positive_problem():
    return lambda y, args: jnp.sum(y * jnp.log(y)) + jnp.sum(jnp.cos(y)), jnp.array([0.5, 1.5, 3.0])


@dataclass(frozen=True)
class Right:
    """A right declaration and, where it needs one, its problem."""

    make: Callable[[], Any]
    problem: Callable[[], tuple] | None = None


RIGHT: dict[str, Right] = {
    "gradient flow": Right(odeopt.GradientFlow),
    "heavy ball with a closed form": Right(lambda: odeopt.HeavyBall(friction=0.5)),
    "Adam at b = 3.9 a": Right(lambda: odeopt.Adam(momentum_rate=1.0, scaling_rate=3.9, epsilon=1e-3)),
    "Adam with open constant": Right(odeopt.Adam),
    "friction r / (t + 1)": Right(Nesterov),
    "friction r / max(t, t0)": Right(FlooredNesterov),
    "strict energy": Right(InertialNewton),
    "strict energy that reads the gradient": Right(GraphTracking),
    "mass matrix": Right(Massive, three_parameters),
    "Equinox model": Right(lambda: odeopt.Adam(epsilon=0.01), equinox_problem),
    "pytree of parameters": Right(Nesterov, pytree_problem),
    "relativistic": Right(Relativistic),
    "positive parameters": Right(PositiveMirror, positive_problem),
    "soft sign": Right(SoftSign),
    "another time": Right(Rescaled),
    "energy for convex objectives": Right(ConvexEnergy),
    "balance law": Right(lambda: Balance(1.0, 1.0, 0.1)),
    "memory of two kinds": Right(Thermostat),
}
