"""Conformal symplectic Euler."""

from typing import ClassVar

from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, Damping, State
from .._objective.oracle import Oracle
from .base import AbstractScheme, Trial
from .exponential import kick
from .mechanical import check_mechanical, damping_of
from .semi_implicit import position_last


class ConformalSymplecticEuler(AbstractScheme):
    r"""Conformal symplectic Euler of a mechanical flow: exact friction, then symplectic Euler.

    \[ p^+ = e^{-\int_t^{t+h} \gamma}\, p - h \nabla f(x), \qquad x^+ = x + h \nabla k(p^+) \]

    Order 1, one gradient a step, and a rejected trial costs a forward pass alone. Every step contracts the volume of
    phase space by exactly \(e^{-n \int \gamma}\) for \(n\) parameters, as the flow does. At constant step a heavy ball
    of friction \(\gamma\) is SGD with momentum \(\beta = e^{-\gamma h}\) and learning rate \(h^2\): the other way
    round, \(h = \sqrt{\text{learning rate}}\) and \(\gamma = -\ln(\beta) / h\). Stable on curvature \(L\) for
    \(h^2 L < 2 (1 + e^{-\gamma h})\).

    **Raises:** `ValueError`, when a `Solver` is made, for a flow that is not mechanical. Source: Bhatt, Floyd, Moore
    (2016), Second order conformal symplectic schemes for damped Hamiltonian systems; França, Sulam, Robinson, Vidal
    (2020), Conformal symplectic and relativistic optimization.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.5), odeopt.ConformalSymplecticEuler())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1

    def check(self, flow: AbstractFlow) -> None:
        check_mechanical(self, flow)

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        factor = damping_of(flow, t, step_size).factor
        momentum = kick(Damping(factor, step_size), state.memory, flow.minimised(oracle).gradient)
        return position_last(flow, t + step_size, step_size, State(state.position, momentum), oracle)
