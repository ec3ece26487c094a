"""Explicit Euler in the dual variables of mirror flow."""

from typing import ClassVar

import jax
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._flow.mirror import MirrorFlow
from .._objective.oracle import Oracle
from .base import AbstractScheme, Trial


class MirrorEuler(AbstractScheme):
    r"""Explicit Euler for the dual variables: mirror descent.

    \[ x^+ = \nabla\phi^*\big(\nabla\phi(x) - h\,\nabla f(x)\big) \]

    Order 1, one gradient a step; the domain of the potential is kept at every step size. (Nemirovski and Yudin, 1983,
    Problem complexity and method efficiency in optimization.)

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.Entropy()), odeopt.MirrorEuler())
        solution = odeopt.minimise(lambda x, _: jnp.sum((x - 0.5) ** 2), solver, jnp.ones(2))
        ```
    """

    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1

    def check(self, flow: AbstractFlow) -> None:
        if not isinstance(flow, MirrorFlow):
            raise ValueError(
                f"MirrorEuler steps the dual variables of an odeopt.MirrorFlow; {type(flow).__name__} has none. Use "
                "Euler()."
            )

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        assert isinstance(flow, MirrorFlow)
        change = jax.tree.map(lambda g: -step_size * g, oracle.gradient)
        position = flow.potential.mirror_step(state.position, change)
        position = jax.tree.map(lambda new, old: new.astype(old.dtype), position, state.position)
        return Trial(State(position), oracle.at(position))
