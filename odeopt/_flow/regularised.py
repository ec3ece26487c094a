r"""A flow with \(L_2\) regularisation.

The flow of \(f + \tfrac{\lambda}{2} |x|^2\) in place of \(f\): its energy is one again, whatever the flow. For gradient
flow this is weight decay, \(x' = -\nabla f - \lambda x\). (Krogh and Hertz, 1991, A simple weight decay can improve
generalization.)
"""

import equinox as eqx
import optax
import optimistix as optx
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .base import AbstractFlow, Damping, DecayBound, State
from .combined_oracle import RegularisedOracle


class L2Regularised(AbstractFlow):
    r"""Any flow, on the objective plus \(\tfrac{\lambda}{2} |x|^2\).

    \[ f \to f + \tfrac{\lambda}{2} |x|^2, \qquad \nabla f \to \nabla f + \lambda x \]

    Everything of the flow stays: its energy is that of the regularised objective, its certificate holds for it, and the
    answer is the point where the energy ends. This is the weight decay that keeps a certificate with every flow; inside
    the momentum of Adam it is `L2Regularised(Adam(), ...)`, with the second moments made of regularised gradients too.

    **Arguments:**

    - `flow`: the flow.
    - `weight`: \(\lambda \ge 0\), in units of the objective over those of the parameters squared.

    **Raises:** `TypeError` if `flow` is none, `ValueError` if the weight is negative or not finite. Source: Krogh and
    Hertz (1991).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.L2Regularised(odeopt.HeavyBall(), weight=1e-3))
        solution = odeopt.minimise(lambda x, _: jnp.sum((x - 1) ** 4), solver, jnp.zeros(2))
        ```
    """

    flow: AbstractFlow
    weight: Array = eqx.field(converter=hyperparameter)
    judged_by = "energy"

    def __check_init__(self):
        if not isinstance(self.flow, AbstractFlow):
            raise TypeError(f"L2Regularised(flow={self.flow!r}): expected a flow, such as odeopt.HeavyBall().")
        if concrete(self.weight) and not 0 <= float(self.weight) < float("inf"):
            raise ValueError(f"L2Regularised(weight={float(self.weight)}): expected a finite number >= 0.")

    @property
    def certificate(self) -> str:
        return self.flow.certificate

    @property
    def weighs_objective(self) -> bool:
        return self.flow.weighs_objective

    def init(self, params: PyTree) -> State:
        return self.flow.init(params)

    def calibrate(self, state: State, oracle: Oracle) -> "L2Regularised":
        return L2Regularised(self.flow.calibrate(state, self._seen(oracle)), self.weight)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        return self.flow.vector_field(t, state, self._seen(oracle))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return self.flow.energy(t, state, self._seen(oracle))

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return self.flow.dissipation(t, state, self._seen(oracle))

    def jump(self, t: Array, before: State, after: State, oracle_before: Oracle, oracle_after: Oracle) -> PyTree:
        return self.flow.jump(t, before, after, self._seen(oracle_before), self._seen(oracle_after))

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return self.flow.kinetic_energy(t, state)

    def minimised(self, oracle: Oracle) -> Oracle:
        return self.flow.minimised(self._seen(oracle))

    def damping(self, t: Array, step_size: Array) -> Damping | None:
        return self.flow.damping(t, step_size)

    def structure(self, t: Array, state: State, oracle: Oracle, covector: State) -> State | None:
        return self.flow.structure(t, state, self._seen(oracle), covector)

    def decay(self, t: Array, state: State) -> PyTree:
        return self.flow.decay(t, state)

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        return self.flow.stationarity(t, state, self._seen(oracle), norm)

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return self.flow.unit_of_time(state, self._seen(oracle))

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree | None:
        return self.flow.rescaled_memory(t, state, factor)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound | None:
        return self.flow.predicted_decay(lojasiewicz_exponent, constant)

    def recommended(self):
        return self.flow.recommended()

    def discrete_equivalent(self, scheme, step_size: Array) -> optax.GradientTransformation | None:
        optimizer = self.flow.discrete_equivalent(scheme, step_size)
        return None if optimizer is None else optax.chain(optax.add_decayed_weights(self.weight), optimizer)

    def declares(self, method: str) -> bool:
        return self.flow.declares(method) and super().declares(method)

    def _seen(self, oracle: Oracle) -> Oracle:
        return RegularisedOracle(oracle, self.weight)
