"""The lists that the parametrised tests run over: a new flow, scheme, controller or problem is one entry here.

The energies and rates beside the flows are written by hand, in NumPy and float64: they are the truth that the
library is compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt


def named(names, later=()):
    """Names to run over, those of `later` in the slow set only: what others show as well, but in less time."""
    return [pytest.param(name, marks=pytest.mark.slow if name in later else ()) for name in names]


def alternating(names, first=0, every=2):
    """One name of `every`, the others in the slow set only: neighbours are of one kind."""
    return named(names, set(names) - set(list(names)[first::every]))


@dataclass(frozen=True)
class FlowCase:
    """A flow, its energy and the rate of that energy as functions of `(flow, x, memory, f, g)`, all NumPy."""

    make: Callable[[], Any]
    energy: Callable
    rate: Callable
    inertial: bool  # starts at rest, so that explicit Euler cannot lower its energy


def _root(flow, v):
    return np.sqrt(v + float(flow.epsilon) ** 2)


def _heavy_ball_energy(flow, x, v, f, g):
    return f + 0.5 * np.sum(v * v)


def _heavy_ball_rate(flow, x, v, f, g):
    return -float(flow.friction) * np.sum(v * v)


def _adam_energy(flow, x, memory, f, g):
    m, v = memory
    return f + np.sum(m * m / _root(flow, v)) / (2 * float(flow.momentum_rate))


def _adam_rate(flow, x, memory, f, g):
    (m, v), a, b = memory, float(flow.momentum_rate), float(flow.scaling_rate)
    root = _root(flow, v)
    return -np.sum(m * m / root * (1 + b * (g * g - v) / (4 * a * root**2)))


FLOWS: dict[str, FlowCase] = {
    "gradient flow": FlowCase(
        odeopt.GradientFlow,
        lambda flow, x, memory, f, g: f,
        lambda flow, x, memory, f, g: -np.sum(g * g),
        inertial=False,
    ),
    "heavy ball": FlowCase(lambda: odeopt.HeavyBall(friction=0.7), _heavy_ball_energy, _heavy_ball_rate, inertial=True),
    "heavy ball, open friction": FlowCase(odeopt.HeavyBall, _heavy_ball_energy, _heavy_ball_rate, inertial=True),
    "Adam": FlowCase(
        lambda: odeopt.Adam(momentum_rate=1.3, scaling_rate=2.1, epsilon=0.2), _adam_energy, _adam_rate, inertial=True
    ),
    "Adam, open epsilon": FlowCase(odeopt.Adam, _adam_energy, _adam_rate, inertial=True),
}

SCHEMES: dict[str, Callable[[], Any]] = {
    "Euler": odeopt.Euler,
    "SemiImplicitEuler": odeopt.SemiImplicitEuler,
    "ExponentialEuler": odeopt.ExponentialEuler,
    "Heun": odeopt.Heun,
    "Midpoint": odeopt.Midpoint,
    "Ralston": odeopt.Ralston,
    "Bosh3": odeopt.Bosh3,
    "RK4": odeopt.RK4,
    "Dopri5": odeopt.Dopri5,
    "Tsit5": odeopt.Tsit5,
    "SSPRK33": odeopt.SSPRK33,
    "WilliamsonRK3": odeopt.WilliamsonRK3,
    "CarpenterKennedyRK4": odeopt.CarpenterKennedyRK4,
}


class Thrown(odeopt.HeavyBall):
    """Starts with a velocity, for schemes that cannot leave rest."""

    def init(self, params):
        return odeopt.State(params, jnp.full_like(params, 0.5))


# Schemes that step some flows only: name -> (scheme, a flow for it).
SPECIAL_SCHEMES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "ConformalSymplecticEuler": (odeopt.ConformalSymplecticEuler, FLOWS["heavy ball"].make),
    "ExactDissipationEuler": (odeopt.ExactDissipationEuler, lambda: Thrown(friction=0.7)),
    "ExponentialStrang": (odeopt.ExponentialStrang, FLOWS["Adam"].make),
    "KineticRescaling": (lambda: odeopt.KineticRescaling(odeopt.ExponentialStrang()), FLOWS["Adam"].make),
    "Leapfrog": (odeopt.Leapfrog, FLOWS["heavy ball"].make),
    "PositionVerlet": (odeopt.PositionVerlet, FLOWS["heavy ball"].make),
    "from_diffrax": (lambda: odeopt.from_diffrax(diffrax.Bosh3()), FLOWS["heavy ball"].make),
}

# Schemes whose cost is known at run time only (stages, iterations, evaluations of the energy): as above.
RUN_TIME_SCHEMES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "AveragedField": (odeopt.AveragedField, FLOWS["heavy ball"].make),
    "Gonzalez": (odeopt.Gonzalez, FLOWS["heavy ball"].make),
    "ItohAbe": (odeopt.ItohAbe, FLOWS["gradient flow"].make),
    "LinearlyImplicitEuler": (lambda: odeopt.LinearlyImplicitEuler(tolerance=1e-6), FLOWS["heavy ball"].make),
    "RKC1": (odeopt.RKC1, FLOWS["gradient flow"].make),
    "RKC2": (odeopt.RKC2, FLOWS["gradient flow"].make),
    "RKL1": (odeopt.RKL1, FLOWS["gradient flow"].make),
    "RKL2": (odeopt.RKL2, FLOWS["gradient flow"].make),
    "RelaxationRK": (lambda: odeopt.RelaxationRK(odeopt.Heun()), FLOWS["heavy ball"].make),
}

CONTROLLERS: dict[str, Callable[[], Any]] = {
    "constant": lambda: odeopt.ConstantStep(1e-3),
    "default": odeopt.LyapunovControl,
    "memory": lambda: odeopt.LyapunovControl(decrease=0.5, grow=1e4, initial_step_size=0.1, hold_growth=False),
    "restart": lambda: odeopt.LyapunovControl(decrease=0.5, initial_step_size=0.1, search="restart"),
    "dichotomy": lambda: odeopt.LyapunovControl(decrease=0.5, shrink=30.0, grow=1e4, bisections=3),
    "rate at the trial": lambda: odeopt.LyapunovControl(rate="trial"),
    "quadrature": lambda: odeopt.LyapunovControl(rate="quadrature"),
    "loss test alone": lambda: odeopt.LyapunovControl(rounding=None),
    "scheduled": lambda: odeopt.ScheduledStep(optax.cosine_decay_schedule(1e-2, 200)),
    "error": odeopt.AdaptiveControl,
    "defect": odeopt.DefectControl,
    "average": odeopt.AverageControl,
    "balance": odeopt.BalanceControl,
    "maximum": odeopt.MaximumControl,
    "integral": odeopt.IntegralControl,
    "shadow": odeopt.ShadowControl,
    "trust region": lambda: odeopt.TrustRegionControl(initial_step_size=0.1),
    "trust in newton": lambda: odeopt.TrustRegionControl(model="newton", initial_step_size=1.0),
}


@dataclass(frozen=True)
class ProblemCase:
    """`value(y)` in operators and methods that NumPy and JAX share, its gradient by hand, and a start."""

    value: Callable
    gradient: Callable[[np.ndarray], np.ndarray]
    start: tuple[float, ...]

    def fn(self, y, args):
        return self.value(y)

    def y0(self, dtype=jnp.float64):
        return jnp.asarray(self.start, dtype)


_CURVATURES = np.array([0.3, 2.0, 9.0], np.float32)  # exact in float32, so that both precisions see one problem


def _rosenbrock(y):
    return (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2


def _rosenbrock_gradient(y):
    ridge = y[1] - y[0] ** 2
    return np.array([-2 * (1 - y[0]) - 400 * ridge * y[0], 200 * ridge])


def _two(y):
    """The scalar network w x + b on x = 0, 1 under G(z) = z**2 - 1: not convex, four minima, saddles, a maximum."""
    return 0.25 * ((y[1] ** 2 - 1) ** 2 + ((y[0] + y[1]) ** 2 - 1) ** 2)


def _two_gradient(y):
    z1, z2 = y[1], y[0] + y[1]
    d1, d2 = z1 * (z1**2 - 1), z2 * (z2**2 - 1)
    return np.array([d2, d1 + d2])


PROBLEMS: dict[str, ProblemCase] = {
    "quadratic with residual": ProblemCase(
        lambda y: 1 + 0.5 * (_CURVATURES * y**2).sum(), lambda y: _CURVATURES * y, (1.0, -2.0, 0.5)
    ),
    "Rosenbrock": ProblemCase(_rosenbrock, _rosenbrock_gradient, (-1.2, 1.0)),
    "two": ProblemCase(_two, _two_gradient, (1.7, 0.4)),
    "quartic": ProblemCase(lambda y: (y**4).sum(), lambda y: 4 * y**3, (1.0, -0.7)),
}
