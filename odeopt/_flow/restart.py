r"""Adaptive restart: the momentum is dropped where it points uphill.

A jump: if \(\langle \nabla f, x' \rangle > 0\) after a step, the memory loses its kinetic energy and the flow's clock
is set back to zero. The energy falls by the kinetic part. (O'Donoghue and Candès, 2015, Adaptive restart for
accelerated gradient schemes.)
"""

import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .._tree import select, vdot
from .base import AbstractFlow, State


class AdaptiveRestart(AbstractFlow):
    r"""An inertial flow that starts anew wherever it moves uphill.

    After an accepted step with \(\langle \nabla f(x), x' \rangle > 0\) the momentum is set to zero, which lowers
    \(V = f + K\) by the kinetic energy \(K\), and the time of the flow to zero, so that a friction \(r/t\) begins
    again. The memory is `(origin, memory)`, with the time of the last restart.

    **Arguments:** `flow`: an inertial flow whose kinetic energy can be taken out of its memory
    (`AbstractFlow.rescaled_memory`), and whose energy does not contain the time.

    **Raises:** `TypeError` if `flow` is none, `ValueError` if it has no kinetic energy of that kind. Source: O'Donoghue
    and Candès (2015).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.AdaptiveRestart(odeopt.HeavyBall(friction=0.1)))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    flow: AbstractFlow

    def __check_init__(self):
        if not isinstance(self.flow, AbstractFlow):
            raise TypeError(f"AdaptiveRestart(flow={self.flow!r}): expected a flow, such as odeopt.HeavyBall().")
        if not self.flow.declares("rescaled_memory"):
            raise ValueError(
                f"AdaptiveRestart({type(self.flow).__name__}): the flow declares no rescaled_memory, so that its "
                "kinetic energy cannot be taken away. Restart an inertial flow, such as HeavyBall or Nesterov."
            )

    @property
    def certificate(self) -> str:
        return self.flow.certificate

    @property
    def judged_by(self) -> str:
        return self.flow.judged_by

    @property
    def weighs_objective(self) -> bool:
        return self.flow.weighs_objective

    def init(self, params: PyTree) -> State:
        inner = self.flow.init(params)
        origin = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
        return State(inner.position, (origin, inner.memory))

    def calibrate(self, state: State, oracle: Oracle) -> "AdaptiveRestart":
        return AdaptiveRestart(self.flow.calibrate(_inner(state), oracle))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        field = self.flow.vector_field(_since(t, state), _inner(state), oracle)
        return State(field.position, (jnp.zeros_like(state.memory[0]), field.memory))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return self.flow.energy(_since(t, state), _inner(state), oracle)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return self.flow.dissipation(_since(t, state), _inner(state), oracle)

    def jump(self, t: Array, before: State, after: State, oracle_before: Oracle, oracle_after: Oracle) -> PyTree:
        since, inner = _since(t, after), _inner(after)
        velocity = self.flow.vector_field(since, inner, oracle_after).position
        uphill = vdot(oracle_after.gradient, velocity) > 0
        at_rest = self.flow.rescaled_memory(since, inner, jnp.zeros_like(since))
        return select(uphill, (t.astype(after.memory[0].dtype), at_rest), after.memory)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return self.flow.kinetic_energy(_since(t, state), _inner(state))

    def decay(self, t: Array, state: State) -> PyTree:
        return None, self.flow.decay(_since(t, state), _inner(state))

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree:
        return state.memory[0], self.flow.rescaled_memory(_since(t, state), _inner(state), factor)

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        return self.flow.stationarity(_since(t, state), _inner(state), oracle, norm)

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        return self.flow.unit_of_time(_inner(state), oracle)

    def recommended(self):
        return self.flow.recommended()

    def declares(self, method: str) -> bool:
        return super().declares(method) and (method == "jump" or self.flow.declares(method))


def _inner(state: State) -> State:
    return State(state.position, state.memory[1])


def _since(t: Array, state: State) -> Array:
    """The time of the flow: since the last restart."""
    return t - state.memory[0].astype(t.dtype)
