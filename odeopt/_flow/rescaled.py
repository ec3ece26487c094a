r"""A flow in another time.

With \(d\tau\) the new time and \(dt = \sigma\, d\tau\), \(\sigma > 0\), the equation is \(y' = \sigma F(t, y)\), \(t' =
\sigma\): the same curves at another speed, with the same energy, whose rate is \(\sigma V'\). (Sundman, 1913, Mémoire
sur le problème des trois corps.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .base import AbstractFlow, State


class Rescaled(AbstractFlow):
    r"""Any flow in a time that runs at another speed (Sundman's transformation).

    \[ y' = \sigma(t, y)\,F(t, y), \qquad t' = \sigma(t, y), \qquad V' \to \sigma V' \]

    The memory is `(clock, memory)`, with the time \(t\) of the flow on the clock, so that flows with explicit time are
    right too. With \(\sigma = 1/|\nabla f|\) gradient flow becomes normalized, with
    \(\sigma = \min(1, c/|\nabla f|)\) clipped.

    **Arguments:**

    - `flow`: the flow.
    - `speed`: `speed(t, state, oracle) -> scalar`, \(\sigma > 0\): time of the flow per unit of the new time; `t` and
        `state` are those of the flow. That it is positive is the user's claim.

    Unit of time: that of the flow over that of \(\sigma\).
    **Raises:** `TypeError` if `flow` is no flow or `speed` no function. Source: Sundman (1913); Hairer, Lubich and
    Wanner (2006), Geometric Numerical Integration, VIII.2.

    !!! example

        ```python
        speed = lambda t, state, oracle: 1 / jnp.sqrt(1 + optax.tree.norm(oracle.gradient) ** 2)
        solver = odeopt.Solver(odeopt.Rescaled(odeopt.GradientFlow(), speed))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    flow: AbstractFlow
    speed: Callable

    def __check_init__(self):
        if not isinstance(self.flow, AbstractFlow):
            raise TypeError(f"Rescaled(flow={self.flow!r}): expected a flow, such as odeopt.GradientFlow().")
        if not callable(self.speed):
            raise TypeError(f"Rescaled(speed={self.speed!r}): expected a function speed(t, state, oracle) > 0.")

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
        clock = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
        return State(inner.position, (clock, inner.memory))

    def calibrate(self, state: State, oracle: Oracle) -> "Rescaled":
        return Rescaled(self.flow.calibrate(_inner(state)[1], oracle), self.speed)

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        clock, inner = _inner(state)
        sigma = jnp.asarray(self.speed(clock, inner, oracle))
        if sigma.ndim:
            raise TypeError(f"Rescaled(speed=...): expected a function to a scalar, got one to shape {sigma.shape}.")
        field = self.flow.vector_field(clock, inner, oracle)
        field = jax.tree.map(lambda leaf: (sigma * leaf).astype(leaf.dtype), field)
        return State(field.position, (sigma.astype(clock.dtype), field.memory))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        return self.flow.energy(*_inner(state), oracle)

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        clock, inner = _inner(state)
        return self.speed(clock, inner, oracle) * self.flow.dissipation(clock, inner, oracle)

    def jump(self, t: Array, before: State, after: State, oracle_before: Oracle, oracle_after: Oracle) -> PyTree:
        clock, inner = _inner(after)
        return clock, self.flow.jump(clock, _inner(before)[1], inner, oracle_before, oracle_after)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        return self.flow.kinetic_energy(*_inner(state))

    def rescaled_memory(self, t: Array, state: State, factor: Array) -> PyTree | None:
        clock, inner = _inner(state)
        memory = self.flow.rescaled_memory(clock, inner, factor)
        return None if memory is None else (clock, memory)

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        return self.flow.stationarity(*_inner(state), oracle, norm)

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        clock, inner = _inner(state)
        return self.flow.unit_of_time(inner, oracle) / self.speed(clock, inner, oracle)

    def recommended(self):
        from .._scheme.chebyshev import RKC1
        from .._scheme.semi_implicit import SemiImplicitEuler

        stiff = isinstance(self.flow.recommended()[0], RKC1)
        return RKC1() if stiff else SemiImplicitEuler(), super().recommended()[1]

    def declares(self, method: str) -> bool:
        return self.flow.declares(method) and super().declares(method)


def _inner(state: State) -> tuple[Array, State]:
    """The time of the flow, and its state."""
    clock, memory = state.memory
    return clock, State(state.position, memory)
