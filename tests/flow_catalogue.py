"""Every flow of the library, one line each: what the suites over all flows run on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax as lx
import optax

import odeopt


def kinetic_energy(p):
    """Quadratic at rest and linear far from it, of any tree."""
    return optax.tree.sum(jax.tree.map(lambda leaf: jnp.sum(jnp.sqrt(1 + leaf**2) - 1), p))


def speed(t, state, oracle):
    """Faster where it is flat."""
    return 1 / (1 + optax.tree.norm(oracle.gradient))


CATALOGUE: dict[str, Callable[[], odeopt.AbstractFlow]] = {
    # first order (Sign has a field that jumps; its smooth form stands for it)
    "gradient flow": odeopt.GradientFlow,
    "p-gradient flow": lambda: odeopt.PGradient(power=3.0, smoothing=0.2),
    "normalized": lambda: odeopt.Normalized(smoothing=0.3),
    "smooth sign": lambda: odeopt.SmoothSign(width=0.3),
    "clipped by norm": lambda: odeopt.ClippedByNorm(threshold=1.0),
    "clipped by coordinate": lambda: odeopt.ClippedByCoordinate(threshold=0.7),
    "spectral": lambda: odeopt.Spectral(smoothing=0.3),
    "mirror flow": lambda: odeopt.MirrorFlow(odeopt.HyperbolicEntropy(scale=0.5)),
    "natural gradient": lambda: odeopt.NaturalGradient(lambda x: lx.DiagonalLinearOperator(1 + x**2)),
    "natural gradient of residuals": lambda: odeopt.NaturalGradient(
        odeopt.LeastSquares(lambda x, _: jnp.concatenate([2 * x, jnp.sin(x)])), regularisation=0.1
    ),
    "Gauss-Newton": lambda: odeopt.GaussNewton(regularisation=0.1),
    "Newton": odeopt.Newton,
    "Newton, regularised": lambda: odeopt.Newton(regularisation=1.0),
    "Newton-CG": odeopt.NewtonCG,
    "quasi-Newton": odeopt.QuasiNewton,
    "quasi-Newton, pairs": lambda: odeopt.QuasiNewton(pairs=3),
    "AdaGrad": lambda: odeopt.AdaGrad(accumulation_rate=1.3, epsilon=0.2),
    "RMSProp": lambda: odeopt.RMSProp(scaling_rate=1.3, epsilon=0.2),
    "AEGD": lambda: odeopt.AEGD(shift=10.0),
    "AEGD, elementwise": lambda: odeopt.AEGD(shift=10.0, elementwise=True),
    # inertial
    "heavy ball": lambda: odeopt.HeavyBall(friction=0.7),
    "heavy ball, open friction": odeopt.HeavyBall,
    "Nesterov": odeopt.Nesterov,
    "Bregman Lagrangian": lambda: odeopt.BregmanLagrangian(power=3.0),
    "DIN": lambda: odeopt.DIN(friction=0.8, hessian_damping=0.3),
    "DIN, open constants": odeopt.DIN,
    "high resolution": lambda: odeopt.HighResolutionNesterov(learning_rate=0.1),
    "high resolution, strongly convex": lambda: odeopt.HighResolutionNesterov(0.1, strong_convexity=0.5),
    "HNAG": lambda: odeopt.HNAG(initial_gamma=2.0, hessian_damping=1.5),
    "HNAG, strongly convex": lambda: odeopt.HNAG(strong_convexity=0.5, initial_gamma=2.0, hessian_damping=1.5),
    "Hamiltonian descent": lambda: odeopt.HamiltonianDescent(kinetic_energy, friction=0.7),
    "relativistic": lambda: odeopt.Relativistic(speed=2.0, mass=1.5, friction=0.7),
    "friction-adaptive": lambda: odeopt.FrictionAdaptive(friction=0.2, relaxation=0.9, thermal_mass=1.3),
    "energy friction": lambda: odeopt.EnergyFriction(friction=0.8, initial_energy=30.0, lower_bound=-20.0),
    "graph tracking": lambda: odeopt.GraphTracking(rate=1.2, mobility=0.7, weight=0.4),
    # Adam and its relatives
    "Adam": lambda: odeopt.Adam(momentum_rate=1.3, scaling_rate=2.1, epsilon=0.2),
    "Adam, open epsilon": odeopt.Adam,
    "Adam with bias correction": lambda: odeopt.BiasCorrectedAdam(1.3, 2.1, 0.2),
    "NAdam": lambda: odeopt.NAdam(1.3, 2.1, 0.3, 0.2),
    "AdaGrad with momentum": lambda: odeopt.AdaGradMomentum(1.3, 2.1, 0.2),
    "AMSGrad": lambda: odeopt.AMSGrad(1.3, 2.1, 0.2),
    "Padam": lambda: odeopt.Padam(0.25, 1.3, 2.1, 0.2),
    "Adam with an L2 penalty": lambda: odeopt.AdamL2(0.4, 1.3, 2.1, 0.2),
    "AdamW": lambda: odeopt.AdamW(0.1, 1.3, 2.1, 0.2),
    "Shampoo": odeopt.Shampoo,
    # Lion-K
    "Lion": lambda: odeopt.Lion(1.3, 0.2, 0.02, 0.3),
    "normalized momentum": lambda: odeopt.LionK(odeopt.SmoothL2Norm(0.3), 1.3, 0.2, 0.02),
    "Muon": lambda: odeopt.Muon(1.3, 0.2, None, 0.3),
    # averaged, and made of flows
    "schedule-free": odeopt.ScheduleFree,
    "schedule-free Adam": lambda: odeopt.ScheduleFreeAdam(0.8, 0.5, 1.3, 0.2, 0.4),
    "L2 on Adam": lambda: odeopt.L2Regularised(odeopt.Adam(epsilon=0.1), 0.3),
    "restarted": lambda: odeopt.AdaptiveRestart(odeopt.HeavyBall(friction=0.1)),
    "in another time": lambda: odeopt.Rescaled(odeopt.HeavyBall(friction=0.7), speed),
    "one group": lambda: odeopt.PerGroup([(".*", odeopt.HeavyBall(friction=0.7))]),
}
