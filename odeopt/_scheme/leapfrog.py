r"""Dissipative leapfrogs: friction and force on the momentum, drift of the position, in symmetric order.

Friction is solved exactly, \(p \leftarrow E\,p\) with \(E = e^{-\int \gamma}\) over half a step; kick
\(p \leftarrow p - h \nabla f(x)\) and drift \(x \leftarrow x + h \nabla k(p)\) are shears. So every step contracts the
volume of phase space as the flow does, and a symmetric order makes it second order.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, Damping, State
from .._objective.oracle import Oracle
from .base import AbstractScheme, Trial
from .exponential import kick
from .mechanical import check_mechanical, damping_of
from .quadrature import trapezoid
from .semi_implicit import position_last


class Leapfrog(AbstractScheme):
    r"""Dissipative (conformal symplectic) leapfrog, kick-drift-kick; without friction it is velocity Verlet.

    \[ p_1 = E_1 p - \tfrac h2 \nabla f(x), \qquad x^+ = x + h \nabla k(p_1), \qquad
       p^+ = E_2 \big( p_1 - \tfrac h2 \nabla f(x^+) \big) \]

    with the friction of the two halves solved exactly, \(E_1 = e^{-\int_t^{t+h/2} \gamma}\) and
    \(E_2 = e^{-\int_{t+h/2}^{t+h} \gamma}\), for a friction that depends on time too. Order 2; one gradient a step,
    because that at the end is the next step's first, so a rejected trial costs a gradient. A step contracts the volume
    of phase space by exactly \(e^{-n \int \gamma}\) for \(n\) parameters. Stable on curvature \(L\) for
    \(h \sqrt L < 2\). Other names: Störmer-Verlet, Strang splitting of the mechanical flow. Its quadrature is the
    trapezoidal rule. From a friction that is singular at the start, \(r/t\), take `ExponentialStrang`: its kicks are
    damped as well, and it keeps its order there.

    **Raises:** `ValueError`, when a `Solver` is made, for a flow that is not mechanical. Source: Bhatt, Floyd, Moore
    (2016), Second order conformal symplectic schemes for damped Hamiltonian systems; França, Jordan, Vidal (2021), On
    dissipative symplectic integration with applications to gradient-based optimization; Hairer, Lubich, Wanner (2003),
    Geometric numerical integration illustrated by the Störmer-Verlet method.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.5), odeopt.Leapfrog())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    order: ClassVar[int] = 2
    gradients_per_step: ClassVar[int] = 1
    has_quadrature: ClassVar[bool] = True

    def check(self, flow: AbstractFlow) -> None:
        check_mechanical(self, flow)

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        half = 0.5 * step_size
        first, second = damping_of(flow, t, half).factor, damping_of(flow, t + half, half).factor
        momentum = kick(Damping(first, half), state.memory, flow.minimised(oracle).gradient)
        drifted = position_last(flow, t + half, step_size, State(state.position, momentum), oracle)
        there = drifted.oracle
        end = State(
            drifted.state.position, kick(Damping(second, second * half), momentum, flow.minimised(there).gradient)
        )
        return Trial(end, there, quadrature=lambda: trapezoid(flow, t, step_size, (state, end), (oracle, there)))


class PositionVerlet(AbstractScheme):
    r"""Dissipative leapfrog, drift-kick-drift: one gradient, at the midpoint.

    \[ x_1 = x + \tfrac h2 \nabla k(E_1 p), \qquad p_1 = E_1 p - h \nabla f(x_1), \qquad
       x^+ = x_1 + \tfrac h2 \nabla k(p_1), \qquad p^+ = E_2 p_1 \]

    Order 2, phase volume and range of stability as of `Leapfrog`. It costs two gradients a step here, the one at the
    midpoint and the one at the end, which every accepted step evaluates; that of `Leapfrog` serves both purposes.

    **Raises:** `ValueError`, when a `Solver` is made, for a flow that is not mechanical. Source: Tuckerman, Berne,
    Martyna (1992), Reversible multiple time scale molecular dynamics; Bhatt, Floyd, Moore (2016).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HeavyBall(friction=0.5), odeopt.PositionVerlet())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    order: ClassVar[int] = 2
    gradients_per_step: ClassVar[int] = 2

    def check(self, flow: AbstractFlow) -> None:
        check_mechanical(self, flow)

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        half = 0.5 * step_size
        first, second = damping_of(flow, t, half).factor, damping_of(flow, t + half, half).factor
        momentum = _slowed(first, state.memory)
        middle = position_last(flow, t, half, State(state.position, momentum), oracle)
        momentum = kick(Damping(jnp.ones_like(first), step_size), momentum, flow.minimised(middle.oracle).gradient)
        end = position_last(flow, t + half, half, State(middle.state.position, momentum), middle.oracle)
        return Trial(State(end.state.position, _slowed(second, momentum)), end.oracle)


def _slowed(factor: Array, momentum: PyTree) -> PyTree:
    return jax.tree.map(lambda p: (factor * p).astype(p.dtype), momentum)
