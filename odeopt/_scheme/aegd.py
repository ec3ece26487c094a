"""The energy-stable step of AEGD."""

from typing import ClassVar

import jax
from jaxtyping import Array, PyTree

from .._flow.aegd import AEGD
from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle
from .base import AbstractScheme, Trial
from .semi_implicit import position_last


class AEGDStep(AbstractScheme):
    r"""The auxiliary variable by implicit Euler, which is linear in it, then the position with the new one.

    \[ r^+ = \frac{r}{1 + 2 \eta\,|\nabla F|^2}, \qquad x^+ = x - 2 \eta\, r^+ \nabla F, \qquad
       (r^+)^2 = r^2 - (r^+ - r)^2 - \frac{|x^+ - x|^2}{\eta} \]

    exactly and for every \(\eta > 0\), with the step size \(\eta\); likewise elementwise. Order 1, one gradient a step.
    (Liu and Tian, 2020, AEGD: adaptive gradient descent with energy.)

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.AEGD(shift=1.0), odeopt.AEGDStep(), odeopt.ConstantStep(0.1))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1

    def check(self, flow: AbstractFlow) -> None:
        if not isinstance(flow, AEGD):
            raise ValueError(
                f"AEGDStep is made for the auxiliary variable of odeopt.AEGD; {type(flow).__name__} has none. Use "
                "SemiImplicitEuler() or ExponentialEuler()."
            )

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        assert isinstance(flow, AEGD)
        rates = flow.decay_rates(oracle)
        memory = jax.tree.map(lambda r, rate: (r / (1 + step_size * rate)).astype(r.dtype), state.memory, rates)
        return position_last(flow, t + step_size, step_size, State(state.position, memory), oracle)
