"""Projection onto the dissipation by scaling the kinetic energy."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle
from .base import AbstractScheme, Trial
from .leapfrog import Leapfrog
from .quadrature import trapezoid

# The order up to which each estimate of the dissipation keeps that of the scheme; None: however high it is.
RATES = {"start": 1, "trapezoid": 2, "quadrature": None}


class KineticRescaling(AbstractScheme):
    r"""Any scheme, and after each step as much less kinetic energy as the energy has fallen too little.

    For energies \(V = U + K\) whose kinetic part \(K\) is quadratic in a part of the memory. Where a step ends above
    \(V_* = V + h\,\overline{V'}\), that part of the memory is multiplied by \(s\),

    \[ s^2 = \frac{V_* - U(x^+)}{K(m^+)} \le 1, \]

    so that \(V^+ = V_*\), in closed form and without a further evaluation. Where \(U(x^+) > V_*\) no factor reaches it;
    the step is left as it is, for the controller to judge, and so is a step that ends below \(V_*\).

    The order of the scheme is kept up to that of the estimate \(\overline{V'}\) of the mean dissipation:

    | `rate` | \(\overline{V'}\) | order kept | beyond the scheme itself |
    |---|---|---|---|
    | `"start"` | \(V'\) at the start of the step | 1 | nothing |
    | `"trapezoid"` | the mean of \(V'\) at start and end | 2 | the gradient at the end, if \(V'\) reads it |
    | `"quadrature"` | the scheme's own quadrature | all | nothing |

    (The gradient at the end is the next step's first: it costs something only where the step is rejected.) Near
    \(K = 0\), where the ball turns, the factor is far from 1 at any step size, and the order can fall there.

    **Arguments:** `scheme`: any that can step the flow; `rate`: as above.

    **Raises:** `ValueError` for an unknown `rate`, or `"quadrature"` with a scheme that has none; when a `Solver` is
    made, for a flow without `rescaled_memory` and `kinetic_energy`. Source: Hairer, Lubich, Wanner (2006), Geometric
    Numerical Integration, IV.4 (projection methods).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.5), odeopt.KineticRescaling(odeopt.Leapfrog()))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    scheme: AbstractScheme = eqx.field(default_factory=Leapfrog)
    rate: str = eqx.field(static=True, default="trapezoid")

    def __check_init__(self):
        if self.rate not in RATES:
            raise ValueError(f"KineticRescaling(rate={self.rate!r}): expected one of {', '.join(map(repr, RATES))}.")
        if self.rate == "quadrature" and not self.scheme.has_quadrature:
            raise ValueError(
                f"KineticRescaling(rate='quadrature'): {type(self.scheme).__name__} has no quadrature. Use "
                "rate='trapezoid'."
            )

    @property
    def order(self) -> int:
        kept = RATES[self.rate]
        return self.scheme.order if kept is None else min(self.scheme.order, kept)

    @property
    def gradients_per_step(self) -> int:
        return self.scheme.gradients_per_step

    @property
    def has_quadrature(self) -> bool:
        return self.scheme.has_quadrature

    @property
    def has_error(self) -> bool:
        return self.scheme.has_error

    @property
    def error_order(self) -> int:
        return self.scheme.error_order

    def check(self, flow: AbstractFlow) -> None:
        missing = [method for method in ("rescaled_memory", "kinetic_energy") if not flow.declares(method)]
        if missing:
            raise ValueError(
                f"KineticRescaling needs an energy with a kinetic part that can be scaled, and {type(flow).__name__} "
                f"declares no {' and no '.join(missing)}. Define {'it' if len(missing) == 1 else 'them'} if part of "
                "the energy is quadratic in the memory, or take the scheme without it."
            )
        self.scheme.check(flow)

    def init(self, flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> PyTree:
        return self.scheme.init(flow, t, state, oracle)

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        trial = self.scheme.step(flow, t, step_size, state, oracle, learnt)
        elapsed = step_size if trial.elapsed is None else trial.elapsed
        end, there = trial.state, trial.oracle
        target = flow.energy(t, state, oracle) + elapsed * self._mean_rate(flow, t, elapsed, state, oracle, trial)
        excess = flow.energy(t + elapsed, end, there) - target
        factor = _factor(excess, flow.kinetic_energy(t + elapsed, end))
        memory = flow.rescaled_memory(t + elapsed, end, factor)
        return Trial(State(end.position, memory), there, trial.error, trial.quadrature, trial.elapsed, trial.learnt)

    def _mean_rate(
        self, flow: AbstractFlow, t: Array, elapsed: Array, state: State, oracle: Oracle, trial: Trial
    ) -> Array:
        if self.rate == "start":
            return flow.dissipation(t, state, oracle)
        if self.rate == "quadrature" and trial.quadrature is not None:
            return trial.quadrature()
        return trapezoid(flow, t, elapsed, (state, trial.state), (oracle, trial.oracle))


def _factor(excess: Array, kinetic: Array) -> Array:
    """What the memory is multiplied by to take the excess from its kinetic energy; 1 where that cannot be done."""
    possible = (excess > 0) & (excess <= kinetic)
    return jnp.where(possible, jnp.sqrt(1 - excess / jnp.where(possible, kinetic, 1.0)), 1.0)
