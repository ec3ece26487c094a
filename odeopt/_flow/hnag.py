r"""The flow of Hessian-driven Nesterov accelerated gradient (HNAG).

\[ x' = v - x - \beta g, \quad v' = \frac\mu\gamma (x - v) - \frac g\gamma, \quad \gamma' = \mu - \gamma, \qquad
   g = \nabla f(x), \]
\[ V = f(x) + \frac\gamma2 |v - x|^2, \qquad
   V' = -\beta |g|^2 + \beta\gamma\, \langle g, v - x \rangle - \frac{\mu + 3\gamma}{2}\, |v - x|^2, \]

for any \(f\), and at most 0 if and only if \(\beta\gamma^2 \le 2\mu + 6\gamma\). Because \(\gamma\) goes from its first
value to \(\mu\), and the condition is convex in it, it holds throughout if it holds at both. For \(\mu\)-convex \(f\)
also \(f - f^* + \tfrac\gamma2 |v - x^*|^2\) falls at least like \(e^{-t}\).

(Chen and Luo, 2019, First order optimization methods based on Hessian-driven Nesterov accelerated gradient flow.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import add_scaled, subtract, vdot
from .base import AbstractFlow, DecayBound, State
from .inertia import check_not_negative, frequency
from .open_scale import calibrated, check_positive, with_open
from .strict import strict_decay


class HNAG(AbstractFlow):
    r"""Accelerated flow with Hessian damping, in a time in which convex objectives fall like \(e^{-t}\).

    \[ x' = v - x - \beta g, \quad v' = \frac\mu\gamma (x - v) - \frac g\gamma, \quad \gamma' = \mu - \gamma, \qquad
       V = f(x) + \frac\gamma2 |v - x|^2 \]

    The memory is \((v, \gamma / \gamma_0)\). `GaussSeidelHNAG` is the scheme of its authors, with proven rates for
    convex objectives; recommended is `ExponentialEuler`, whose rejected trials cost no gradient. Without strong
    convexity steps become as short as \(2/k\), so that \(k\) of them reach the time \(2 \ln k\).

    **Arguments:**

    - `strong_convexity`: \(\mu \ge 0\), in \([f] / [x]^2\): a lower bound of the curvature; 0 if none is known.
    - `initial_gamma`: \(\gamma_0 > 0\), in \([f] / [x]^2\). `None` (default): \(0.03\, \omega^2\) with the curvature
        along the first gradient, \(\omega^2 = |g^\top H g| / |g|^2\) (one Hessian-vector product).
    - `hessian_damping`: \(\beta \ge 0\), in \([x]^2 / [f]\), with \(\beta \gamma_0^2 \le 2\mu + 6\gamma_0\) and
        \(\beta \mu \le 8\). `None` (default): \(1 / \omega^2\), or less where the condition asks for it.

    Time has no unit. With the constants left open, scaling the objective or the parameters changes nothing.
    **Raises:** `ValueError` if a constant is out of range, or the energy could rise. Source: Chen and Luo (2019).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HNAG())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    strong_convexity: Array = eqx.field(converter=hyperparameter, default=0.0)
    initial_gamma: Array | None = eqx.field(converter=hyperparameter, default=None)
    hessian_damping: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_not_negative(self, "strong_convexity")
        check_positive(self, "initial_gamma", "in units of a curvature")
        check_not_negative(self, "hessian_damping")
        mu, beta = self.strong_convexity, self.hessian_damping
        for name, gamma in (("initial_gamma", self.initial_gamma), ("strong_convexity", mu)):
            if not (concrete(mu) and concrete(beta) and concrete(gamma)):
                continue
            if float(beta * gamma**2) > float(2 * mu + 6 * gamma):
                raise ValueError(
                    f"HNAG(strong_convexity={float(mu)}, hessian_damping={float(beta)}) at gamma = {name} = "
                    f"{float(gamma)}: hessian_damping * gamma**2 must be at most 2 * strong_convexity + 6 * gamma, "
                    "otherwise the energy can rise along the flow. Take a smaller hessian_damping."
                )

    def init(self, params: PyTree) -> State:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return State(params, (params, jnp.ones((), dtype)))

    def calibrate(self, state: State, oracle: Oracle) -> "HNAG":
        if self.initial_gamma is not None and self.hessian_damping is not None:
            return self
        curvature = frequency(oracle) ** 2
        gamma = OPEN_GAMMA * curvature
        if self.hessian_damping is not None:
            gamma = jnp.minimum(gamma, _largest_gamma(self))
        flow = with_open(self, "initial_gamma", gamma)
        return with_open(flow, "hessian_damping", jnp.minimum(OPEN_DAMPING / curvature, _largest_damping(flow)))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        (v, ratio), mu, beta = state.memory, self.strong_convexity, calibrated(self, "hessian_damping")
        x, g, gamma = state.position, oracle.gradient, self.gamma(state)
        return State(
            jax.tree.map(lambda x, v, g: v - x - beta * g, x, v, g),
            (
                jax.tree.map(lambda x, v, g: (mu * (x - v) - g) / gamma, x, v, g),
                mu / calibrated(self, "initial_gamma") - ratio,
            ),
        )

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return oracle.value + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        mu, beta, gamma = self.strong_convexity, calibrated(self, "hessian_damping"), self.gamma(state)
        g, apart = oracle.gradient, subtract(state.memory[0], state.position)
        return beta * (gamma * vdot(g, apart) - vdot(g, g)) - 0.5 * (mu + 3 * gamma) * vdot(apart, apart)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        apart = subtract(state.memory[0], state.position)
        return 0.5 * self.gamma(state) * vdot(apart, apart)

    def gamma(self, state: State) -> Array:
        r"""\(\gamma\) at a state."""
        return calibrated(self, "initial_gamma") * state.memory[1]

    def decay(self, t: Array, state: State) -> PyTree:
        return (self.strong_convexity / self.gamma(state), jnp.ones_like(t))

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        v, ratio = state.memory
        return add_scaled(state.position, factor, subtract(v, state.position)), ratio

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        # About the start x'' = -(H / gamma) x.
        return jnp.minimum(1.0, jnp.sqrt(calibrated(self, "initial_gamma")) / frequency(oracle))

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound | None:
        mu, beta = float(self.strong_convexity), float(calibrated(self, "hessian_damping"))
        if mu == 0 or not 0 < beta * mu < 8:
            return None  # gamma goes to zero, or the energy is not strict in the limit
        # In the limit of long times, where gamma = mu.
        return strict_decay(lojasiewicz_exponent, constant, beta, -0.5 * beta * mu, 2 * mu, mu)

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()


# Where none is given, in units of the curvature along the first gradient and of its inverse.
# Measured: benchmarks/core.py, table "inertial".
OPEN_GAMMA = 0.03
OPEN_DAMPING = 1.0
# What is left open is kept this far inside the condition on the constants, so that the energy stays strict.
MARGIN = 0.5


def _largest_damping(flow: HNAG) -> Array:
    r"""The largest \(\beta\) that calibration may choose."""
    mu, gamma = flow.strong_convexity, calibrated(flow, "initial_gamma")
    at_start, at_end = (2 * mu + 6 * gamma) / gamma**2, 8 / jnp.where(mu > 0, mu, 1.0)
    return MARGIN * jnp.where(mu > 0, jnp.minimum(at_start, at_end), at_start)


def _largest_gamma(flow: HNAG) -> Array:
    r"""The largest \(\gamma_0\) that calibration may choose; any will do without Hessian damping."""
    mu, beta = flow.strong_convexity, calibrated(flow, "hessian_damping")
    root = (3 + jnp.sqrt(9 + 2 * beta * mu)) / jnp.where(beta > 0, beta, 1.0)
    return jnp.where(beta > 0, MARGIN * root, jnp.inf)
