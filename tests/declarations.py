"""Declarations of flows, wrong and right: what a person writes, and what the library has to say to it.

`WRONG` and `RIGHT` are lists to be run over, by the audit of energies and by everything that contains it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import odeopt
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


# --- wrong ------------------------------------------------------------------------------------------------------------


class Uphill(AbstractFlow):
    """Gradient flow with the wrong sign."""

    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        return State(oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value


class PushedUphill(Ball):
    def vector_field(self, t, state, oracle):
        return State(state.memory, -self.friction * state.memory + oracle.gradient)


class NoHalf(Ball):
    def energy(self, t, state, oracle):
        return oracle.value + dot(state.memory, state.memory)


class NoKineticEnergy(Ball):
    def energy(self, t, state, oracle):
        return oracle.value


class NegativeKineticEnergy(Ball):
    def energy(self, t, state, oracle):
        return oracle.value - 0.5 * dot(state.memory, state.memory)


class TimedEnergy(Ball):
    """x' = w v with w = 1 + e^-t, V = f + w |v|^2 / 2: right but for the derivative of w in the dissipation."""

    def vector_field(self, t, state, oracle):
        weight = 1 + jnp.exp(-t)
        return State(weight * state.memory, -self.friction * state.memory - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * (1 + jnp.exp(-t)) * dot(state.memory, state.memory)

    def dissipation(self, t, state, oracle):
        return -self.friction * (1 + jnp.exp(-t)) * dot(state.memory, state.memory)


class NoForce(Ball):
    """The gradient is not read at all."""

    def vector_field(self, t, state, oracle):
        return State(state.memory, -self.friction * state.memory)


class WrongFrictionDeclared(Ball):
    """Friction r / (t + 1) in the field, r in the dissipation."""

    def vector_field(self, t, state, oracle):
        return State(state.memory, -self.friction / (t + 1) * state.memory - oracle.gradient)

    def dissipation(self, t, state, oracle):
        return -self.friction * dot(state.memory, state.memory)


class HalfDissipationDeclared(Ball):
    def dissipation(self, t, state, oracle):
        return -0.5 * self.friction * dot(state.memory, state.memory)


class PositiveDissipationDeclared(Ball):
    def dissipation(self, t, state, oracle):
        return self.friction * dot(state.memory, state.memory)


class WrongShape(Ball):
    """A velocity for every parameter, and one number in the derivative."""

    def vector_field(self, t, state, oracle):
        return State(state.memory, jnp.sum(-self.friction * state.memory - oracle.gradient))


class ForgottenMemory(Ball):
    def init(self, params):
        return State(params)


class VectorEnergy(Ball):
    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * state.memory**2


class NotANumber(Ball):
    """A norm in the direction of a velocity that is zero at rest."""

    def vector_field(self, t, state, oracle):
        direction = state.memory / jnp.sqrt(jnp.sum(state.memory**2))
        return State(direction, -self.friction * state.memory - oracle.gradient)


def adam(momentum_rate, scaling_rate, epsilon):
    """Adam without the check of its constructor."""
    flow = odeopt.Adam(momentum_rate, momentum_rate, epsilon)
    return eqx.tree_at(lambda flow: flow.scaling_rate, flow, jnp.asarray(scaling_rate))


class NoPreconditioner(odeopt.Adam):
    """Adam with the kinetic energy of momentum without a preconditioner."""

    def kinetic_energy(self, t, state):
        m, _ = state.memory
        return dot(m, m) / (2 * self.momentum_rate)

    dissipation = AbstractFlow.dissipation


class RisingWeight(Ball):
    """Nesterov's energy for convex functions, without its terms that need the minimiser: V = t^2 (f + |v|^2 / 2)."""

    def vector_field(self, t, state, oracle):
        return State(state.memory, -3 / jnp.maximum(t, 0.1) * state.memory - oracle.gradient)

    def energy(self, t, state, oracle):
        return t**2 * (oracle.value + 0.5 * dot(state.memory, state.memory))


MASS = np.array([1.0, 4.0, 0.5])


class Massive(Ball):
    """Heavy ball with a mass for each parameter."""

    def vector_field(self, t, state, oracle):
        return State(state.memory, (-self.friction * state.memory - oracle.gradient) / MASS)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(MASS * state.memory**2)


class NoMass(Massive):
    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(state.memory**2)


class DoubleForce(Ball):
    """The gradient counted twice."""

    def vector_field(self, t, state, oracle):
        return State(state.memory, -self.friction * state.memory - 2 * oracle.gradient)


class Decayed(AbstractFlow):
    """Gradient flow with weight decay, and the loss without it as the energy."""

    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        return State(-oracle.gradient - 0.1 * state.position)

    def energy(self, t, state, oracle):
        return oracle.value


class GradientEnergy(AbstractFlow):
    """Gradient flow with V = |g|^2 / 2, which falls where the objective is convex."""

    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        return State(-oracle.gradient)

    def energy(self, t, state, oracle):
        return 0.5 * jnp.sum(oracle.gradient**2)


class WrongStationarity(Ball):
    """Weight decay is in the objective here, but stationarity is that of another problem."""

    def stationarity(self, t, state, oracle):
        return jnp.sqrt(dot(state.position, state.position))


@dataclass(frozen=True)
class Wrong:
    """A wrong declaration; `check`: the one that has to fail; `says`: a part of what it has to say."""

    make: Callable[[], Any]
    check: str
    says: str
    problem: Callable[[], tuple] | None = None


def three_parameters():
    return lambda y, args: jnp.sum(jnp.cos(y)) + 0.1 * jnp.sum(y**2), jnp.array([1.0, -0.5, 2.0])


SIGN, DECLARED, DECLARATION = "sign of dV/dt", "dissipation, declared", "declaration"

WRONG: dict[str, Wrong] = {
    "sign of the gradient": Wrong(Uphill, SIGN, "opposite sign of the gradient"),
    "sign of the force": Wrong(PushedUphill, SIGN, "opposite sign of the gradient"),
    "no friction": Wrong(lambda: Ball(friction=0.0), SIGN, "nothing is dissipated"),
    "gradient forgotten": Wrong(NoForce, "equilibria", "Does vector_field read oracle.gradient"),
    "negative friction": Wrong(lambda: Ball(friction=-0.3), SIGN, "friction or decay, has the wrong sign"),
    "half missing in the kinetic energy": Wrong(NoHalf, SIGN, "multiplied by about 0.5"),
    "kinetic part missing": Wrong(NoKineticEnergy, SIGN, "the kinetic part of V is missing"),
    "sign of the kinetic energy": Wrong(NegativeKineticEnergy, SIGN, "its sign is wrong"),
    "force counted twice": Wrong(DoubleForce, SIGN, "multiplied by about 0.5"),
    "explicit time forgotten": Wrong(TimedEnergy, DECLARED, "with respect to the explicit time is missing"),
    "wrong friction declared": Wrong(WrongFrictionDeclared, DECLARED, "Where it is worst"),
    "factor two missing in the dissipation": Wrong(HalfDissipationDeclared, DECLARED, "a factor 2 is missing"),
    "sign of the dissipation": Wrong(PositiveDissipationDeclared, DECLARED, "its sign is wrong"),
    "memory of the wrong shape": Wrong(WrongShape, DECLARATION, "WrongShape.vector_field: memory has shape ()"),
    "memory forgotten in init": Wrong(ForgottenMemory, DECLARATION, "ForgottenMemory.vector_field"),
    "energy that is a vector": Wrong(VectorEnergy, DECLARATION, "VectorEnergy.energy returned an array of shape (4,)"),
    "not a number at rest": Wrong(NotANumber, "states", "a norm that is zero at rest"),
    "Adam with b = 4.4 a": Wrong(
        lambda: adam(1.0, 4.4, 1e-3), SIGN, "memory[1] in vector_field multiplied by about 0.9091"
    ),
    "Adam with b = 40 a": Wrong(
        lambda: adam(1.0, 40.0, 1e-3), SIGN, "memory[1] in vector_field multiplied by about 0.1"
    ),
    "energy weighted with t^2": Wrong(RisingWeight, SIGN, "explicit time in V that raises it"),
    "energy without the mass matrix": Wrong(NoMass, SIGN, "is a mass matrix", three_parameters),
    "energy without the preconditioner": Wrong(
        lambda: NoPreconditioner(1.0, 1.0, 0.1), SIGN, "a preconditioner or a factor missing"
    ),
    "weight decay missing in the energy": Wrong(Decayed, SIGN, "V does not know of it"),
    "convex claim without saying so": Wrong(GradientEnergy, SIGN, "declare certificate = 'convex_only'"),
    "stationarity of another problem": Wrong(WrongStationarity, "equilibria", "Declare `stationarity`"),
}


# --- right ------------------------------------------------------------------------------------------------------------


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
