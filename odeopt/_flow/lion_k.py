r"""The flows of the Lion-K family: the gradient of a convex function of momentum, with decoupled weight decay.

\[ m' = -a\,(g + m), \qquad \tilde m = (1 - \beta)\,m - \beta g, \qquad x' = \nabla K(\tilde m) - \lambda x, \]

where \(-m\) averages the gradient, and \(\tilde m\) looks ahead: \(\tilde m = m + \tfrac{\beta}{a} m'\). With the
conjugate function \(K^*\), \(z = \nabla K^*(\lambda x)\) and \(c = (1 - \beta) / (1 + \beta \lambda / a)\),

\[ V = f(x) + \frac1\lambda K^*(\lambda x)
       + \frac{c}{a} \big( K(m) + K^*(\lambda x) - \lambda \langle x, m \rangle \big), \]
\[ V' = -\frac{a + \lambda}{a + \beta \lambda} \langle \tilde m - z,\ \nabla K(\tilde m) - \lambda x \rangle
        - \frac{c}{\beta} \langle \tilde m - m,\ \nabla K(\tilde m) - \nabla K(m) \rangle \le 0
   \quad\text{iff}\quad 0 \le \beta \le 1, \]

for any \(f\): both brackets are those of a monotone map. The flow minimises
\(f(x) + \tfrac1\lambda K^*(\lambda x)\), a constraint \(\lambda x \in \operatorname{dom} K^*\). Without weight decay
\(V = f + \tfrac{1 - \beta}{a} K(m)\).

(Chen, Liu, Liang and Liu, 2024, Lion secretly solves constrained optimization: as Lyapunov predicts.)
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .._tree import subtract, vdot
from .base import AbstractFlow, State
from .convex_function import AbstractConvexFunction
from .discrete import momentum_through

if TYPE_CHECKING:
    from .._scheme.base import AbstractScheme


class LionK(AbstractFlow):
    r"""Momentum through the gradient of a convex function of one's choice, with decoupled weight decay.

    \[ m' = -a\,(g + m), \quad \tilde m = (1 - \beta)\,m - \beta g, \quad x' = \nabla K(\tilde m) - \lambda x, \]
    \[ V = f + \frac1\lambda K^*(\lambda x)
           + \frac{c}{a} \big( K(m) + K^*(\lambda x) - \lambda \langle x, m \rangle \big), \qquad
       c = \frac{1 - \beta}{1 + \beta \lambda / a} \]

    It minimises \(f + \tfrac1\lambda K^*(\lambda x)\): \(f\) under a constraint on \(\lambda x\), and `stationarity` is
    the norm of what vanishes at its minimisers. `Lion` (the absolute values) and `Muon` (the nuclear norm) are made of
    it. The memory is \(m\), the average of the gradient with the sign of a momentum.

    With weight decay the energy is infinite outside of the domain of \(K^*\), for the norms where \(\lambda x\) has a
    dual norm above one. The flow stays inside; outside it falls towards the domain like \(e^{-\lambda t}\) (phase 1 of
    the source), but not along any energy: a run that starts there ends at once, with `nonfinite_start`. Scale the
    start, or take a smaller \(\lambda\). Near the bound a smooth norm has a conjugate as steep as \(|g|^3 / d^2\): the
    smaller \(d\), the fewer digits of `stationarity` does a rounded position resolve.

    **Arguments:**

    - `function`: \(K\): `SmoothL1Norm()`, `SmoothL2Norm()`, `SmoothNuclearNorm()`, `L1Norm()`, `NuclearNorm()`, or an
        `AbstractConvexFunction` of one's own.
    - `momentum_rate`: \(a > 0\) per unit of time.
    - `gradient_weight`: \(\beta\), the weight of the present gradient beside the momentum, \(0 \le \beta \le 1\). With
        \(\beta > 0\) the energy of a smooth strictly convex \(K\) falls wherever the flow moves.
    - `weight_decay`: \(\lambda \ge 0\) per unit of time; `None` (default): none, and \(K^*\) is not needed.

    Unit of time: that of the parameters over those of \(\nabla K\), for norms the unit of the parameters: every entry
    (`Lion`), every singular value (`Muon`) or the whole (`SmoothL2Norm`) moves by at most 1 per unit of time.
    **Raises:** `ValueError` if an argument is out of range, `TypeError` if `function` is none. Source: Chen, Liu, Liang
    and Liu (2024).

    !!! example "Normalized momentum"

        ```python
        solver = odeopt.Solver(odeopt.LionK(odeopt.SmoothL2Norm()))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    function: AbstractConvexFunction
    momentum_rate: Array = eqx.field(converter=hyperparameter, default=1.0)
    # Lion's: beta_1 = 0.9.
    gradient_weight: Array = eqx.field(converter=hyperparameter, default=0.1)
    weight_decay: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        name, a, beta, decay = type(self).__name__, self.momentum_rate, self.gradient_weight, self.weight_decay
        if not isinstance(self.function, AbstractConvexFunction):
            hint = f" Write {self.function.__name__}()." if isinstance(self.function, type) else ""
            raise TypeError(f"{name}(function={self.function!r}): expected an odeopt.AbstractConvexFunction.{hint}")
        if concrete(a) and not 0 < float(a) < float("inf"):
            raise ValueError(f"{name}(momentum_rate={float(a)}): expected a finite rate > 0.")
        if concrete(beta) and not 0 <= float(beta) <= 1:
            raise ValueError(
                f"{name}(gradient_weight={float(beta)}): expected a number from 0 to 1, otherwise the energy can rise "
                "along the flow. (Per step: beta1 = 1 - gradient_weight.)"
            )
        if concrete(decay) and not 0 <= float(decay) < float("inf"):
            raise ValueError(f"{name}(weight_decay={float(decay)}): expected a finite rate >= 0, or None.")

    @property
    def judged_by(self) -> str:
        return "loss" if self.weight_decay is None else "energy"

    def init(self, params: PyTree) -> State:
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def calibrate(self, state: State, oracle: Oracle) -> "LionK":
        return eqx.tree_at(lambda flow: flow.function, self, self.function.calibrate(oracle.gradient))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        slope = jax.tree.map(lambda m, g: -self.momentum_rate * (g + m), state.memory, oracle.gradient)
        return State(self._velocity(state, oracle)[1], slope)

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        if self.weight_decay is None:
            return oracle.value + self.kinetic_energy(t, state)
        decay = self.weight_decay
        safe = jnp.where(decay > 0, decay, 1.0)
        # K*(u) is of second order in u: without decay nothing is left of the quotient.
        penalty = jnp.where(decay > 0, self.function.conjugate(self._pull(state)) / safe, 0.0)
        return oracle.value + penalty + self.kinetic_energy(t, state)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        m, g = state.memory, oracle.gradient
        ahead, velocity = self._velocity(state, oracle)
        gain = jax.tree.map(lambda there, here: there - here, self.function.gradient(ahead), self.function.gradient(m))
        # (ahead - m) / beta, also where beta is zero.
        turning = vdot(jax.tree.map(lambda m, g: g + m, m, g), gain)
        if self.weight_decay is None:
            return -vdot(ahead, velocity) + (1 - self.gradient_weight) * turning
        a, beta, decay = self.momentum_rate, self.gradient_weight, self.weight_decay
        distance = subtract(ahead, self.function.conjugate_gradient(self._pull(state)))
        return -(a + decay) / (a + beta * decay) * vdot(distance, velocity) + self._weight() * turning

    def kinetic_energy(self, t: Array, state: State) -> Array:
        m = state.memory
        gap = self.function.value(m)
        if self.weight_decay is not None:
            pull = self._pull(state)
            gap = gap + self.function.conjugate(pull) - vdot(pull, m)
        return self._weight() / self.momentum_rate * gap

    def discrete_equivalent(self, scheme: "AbstractScheme", step_size: Array) -> optax.GradientTransformation | None:
        from .._scheme.exponential import ExponentialEuler
        from .._scheme.semi_implicit import SemiImplicitEuler
        from .._scheme.tableaus import Euler

        old_momentum = isinstance(scheme, Euler)
        if isinstance(scheme, ExponentialEuler):
            kept = jnp.exp(-self.momentum_rate * step_size)
        elif old_momentum or isinstance(scheme, SemiImplicitEuler):
            kept = 1 - self.momentum_rate * step_size
        else:
            return None
        weights = self.gradient_weight, self.weight_decay
        return momentum_through(self.function.gradient, step_size, kept, *weights, new_momentum=not old_momentum)

    def decay(self, t: Array, state: State) -> PyTree:
        return self.momentum_rate

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        if self.weight_decay is None:
            return norm(oracle.gradient)
        return norm(self.function.residual(oracle.gradient, self._pull(state)))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return 1 / self.momentum_rate

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.exponential import ExponentialEuler

        return ExponentialEuler(), LyapunovControl()

    def _velocity(self, state: State, oracle: Oracle) -> tuple[PyTree, PyTree]:
        """The momentum that looks ahead, and what it makes of the position."""
        beta = self.gradient_weight
        ahead = jax.tree.map(lambda m, g: (1 - beta) * m - beta * g, state.memory, oracle.gradient)
        velocity = self.function.gradient(ahead)
        return ahead, velocity if self.weight_decay is None else subtract(velocity, self._pull(state))

    def _pull(self, state: State) -> PyTree:
        return jax.tree.map(lambda x: self.weight_decay * x, state.position)

    def _weight(self) -> Array:
        beta, decay = self.gradient_weight, self.weight_decay
        return 1 - beta if decay is None else (1 - beta) / (1 + beta * decay / self.momentum_rate)
