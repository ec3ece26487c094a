"""A heavy ball whose energy falls by exactly what friction takes."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective import LeastSquares, Oracle, Tally
from .._tree import add_scaled, vdot
from .base import AbstractScheme, Trial
from .mechanical import check_mechanical, damping_of


class ExactDissipationEuler(AbstractScheme):
    r"""Explicit Euler for the position, and the multiple of the force that makes the energy balance exact.

    \[ x^+ = x + h v, \qquad v^+ = v - \gamma h\, w - u\, \nabla f(x), \qquad w = \frac{v + v^+}{2}, \]

    where \(u\), close to \(h\), is the smaller root of

    \[ \tfrac12 |g|^2 u^2 - \langle v, g \rangle\, u + \big(1 + \tfrac{\gamma h}{2}\big) \big(f(x^+) - f(x)\big) = 0,
       \qquad g = \nabla f(x). \]

    Then \(V^+ - V = -\gamma h\, |w|^2\) for \(V = f + \tfrac12 |v|^2\): an equality, to rounding, at every step size.
    (A friction that depends on time enters with its integral over the step in place of \(\gamma h\).) Order 1, one
    gradient a step, and a rejected trial costs a forward pass alone.

    Where there is no real root the trial is not finite, and controllers reject it. That makes it a scheme to repeat
    published results with, and hardly one to train with:

    - It cannot leave rest. With \(v = 0\) the position stands still at every step size, and a run from there ends with
      `step_underflow`: give it a flow whose `init` sets a velocity.
    - It cannot turn. A ball that rolls uphill, \(\langle v, g \rangle > 0\), needs
      \(h < \langle v, g \rangle / (2 |g|^2)\) to leading order, and the smaller root leaves it rolling uphill: steps
      shrink with \(\langle v, g \rangle\), and the run stalls there. (The larger root is a reflection, and no step.)

    **Raises:** `ValueError`, when a `Solver` is made, for a flow that is not mechanical or whose velocity is not the
    momentum itself. Source: Bensaid, Poëtte, Turpault (2023), Deterministic neural networks optimization from a
    continuous and energy point of view (LC_EM).

    !!! example

        ```python
        class Thrown(odeopt.HeavyBall):
            def init(self, params):
                return odeopt.State(params, jax.tree.map(jnp.ones_like, params))

        solver = odeopt.Solver(Thrown(friction=0.5), odeopt.ExactDissipationEuler())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2), throw=False)
        ```
    """

    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1

    def check(self, flow: AbstractFlow) -> None:
        check_mechanical(self, flow)
        if not _moves_with_momentum(flow):
            raise ValueError(
                f"ExactDissipationEuler needs the kinetic energy |p|**2 / 2, that is x' = p, and the vector_field of "
                f"{type(flow).__name__} returns another velocity than the memory itself. Take Leapfrog, which steps "
                "every kinetic energy."
            )

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        here = flow.minimised(oracle)
        velocity, force = state.memory, here.gradient
        friction = -jnp.log(damping_of(flow, t, step_size).factor)
        position = add_scaled(state.position, step_size, velocity)
        there = oracle.at(position)
        rise = (1 + 0.5 * friction) * (flow.minimised(there).value - here.value)
        multiple = _smaller_root(0.5 * vdot(force, force), vdot(velocity, force), rise)
        slowed, pushed = (1 - 0.5 * friction) / (1 + 0.5 * friction), multiple / (1 + 0.5 * friction)
        velocity = jax.tree.map(lambda v, g: (slowed * v - pushed * g).astype(v.dtype), velocity, force)
        return Trial(State(position, velocity), there)


def _smaller_root(a: Array, b: Array, c: Array) -> Array:
    """The root of a u**2 - b u + c that is smaller in size; NaN where none is real, and where b = c = 0."""
    root = jnp.sqrt(b**2 - 4 * a * c)
    # The other root, (b + root) / (2 a), is subtracted from nothing: no digits are lost.
    return 2 * c / jnp.where(b < 0, b - root, b + root)


def _moves_with_momentum(flow: AbstractFlow) -> bool:
    """Whether x' is the memory itself; found by an abstract trace with one scalar parameter."""
    answers = []

    def trace(position: Array) -> None:
        oracle = Oracle(LeastSquares(lambda y, _: y), position, Tally())
        state = flow.init(position)
        velocity = flow.calibrate(state, oracle).vector_field(jnp.ones_like(position), state, oracle).position
        answers.append(velocity is state.memory)

    jax.eval_shape(trace, jnp.ones(()))
    return answers[-1]
