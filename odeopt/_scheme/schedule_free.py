"""The step of schedule-free Adam."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._flow.open_scale import calibrated
from .._flow.schedule_free_adam import ScheduleFreeAdam
from .._objective.oracle import Oracle
from .base import AbstractScheme, Trial


class ScheduleFreeStep(AbstractScheme):
    r"""Squares first, then the point with the new squares, then the average with the new point: each exactly.

    \[ v^+ = v + (1 - e^{-b h}) (g^2 - v), \qquad z^+ = z - h\,\frac{g}{D(t + h, v^+)}, \qquad
       x^+ = x + \Big(1 - \Big(\frac{T}{T + h}\Big)^{r + 1}\Big) (z^+ - x) \]

    A gradient that is met for the first time is so divided by its own size, and never by an older, smaller one. Order
    1, one gradient a step. (Defazio et al., 2024, The road less scheduled.)

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.ScheduleFreeAdam(), odeopt.ScheduleFreeStep(), odeopt.ConstantStep(0.01))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2), max_steps=100, throw=False)
        ```
    """

    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1

    def check(self, flow: AbstractFlow) -> None:
        if not isinstance(flow, ScheduleFreeAdam):
            raise ValueError(
                f"ScheduleFreeStep is made for the average of odeopt.ScheduleFreeAdam; {type(flow).__name__} has none. "
                "Use SemiImplicitEuler() or ExponentialEuler()."
            )

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        assert isinstance(flow, ScheduleFreeAdam)
        (z, v), gradient = state.memory, flow.gradient(state, oracle)
        renewed, age = -jnp.expm1(-flow.scaling_rate * step_size), t + calibrated(flow, "delay")
        v = jax.tree.map(lambda v, g: (v + renewed * (g**2 - v)).astype(v.dtype), v, gradient)
        root = flow.root(t + step_size, v)
        z = jax.tree.map(lambda z, g, root: (z - step_size * g / root).astype(z.dtype), z, gradient, root)
        weight = 1 - (age / (age + step_size)) ** (flow.averaging_power + 1)
        x = jax.tree.map(lambda x, z: (x + weight * (z - x)).astype(x.dtype), state.position, z)
        return Trial(State(x, (z, v)), oracle.at(x))
