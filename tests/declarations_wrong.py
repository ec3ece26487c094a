"""Wrong declarations as people write them, and what the library has to say to each.

`WRONG` is a list to be run over, by the audit of energies and by everything that contains it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from declarations import Ball, GradientEnergy, Massive, dot, three_parameters

import odeopt
from odeopt import AbstractFlow, State


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
