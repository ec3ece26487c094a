"""The Gauss-Seidel scheme of the flow HNAG: position first, then the memory with the gradient at the new position."""

from typing import ClassVar

import jax
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._flow.hnag import HNAG
from .._flow.open_scale import calibrated
from .._objective.oracle import Oracle
from .base import AbstractScheme, Trial


class GaussSeidelHNAG(AbstractScheme):
    r"""Gauss-Seidel splitting of `HNAG`, each block implicit in itself and with what is already new of the others.

    \[ \frac{x^+ - x}{h} = v - x^+ - \beta\,\nabla f(x), \qquad
       \frac{v^+ - v}{h} = \frac\mu\gamma (x^+ - v^+) - \frac{\nabla f(x^+)}{\gamma}, \qquad
       \frac{\gamma^+ - \gamma}{h} = \mu - \gamma^+ \]

    Order 1; one gradient a step, because that at the end is the next step's first, so a rejected trial costs a
    gradient. For \(\mu\)-convex objectives with curvatures up to \(L\), at steps with \(L h^2 = \gamma (1 + h)\) and
    \(\beta = 1 / (L h)\), \(f - f^* + \tfrac\gamma2 |v - x^*|^2\) falls by the factor \(1 + h\) in every step: the
    accelerated rate, which explicit Euler does not keep.

    **Raises:** `ValueError`, when a `Solver` is made, for any other flow. Source: Chen and Luo (2019), First order
    optimization methods based on Hessian-driven Nesterov accelerated gradient flow.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.HNAG(), odeopt.GaussSeidelHNAG())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1

    def check(self, flow: AbstractFlow) -> None:
        if not isinstance(flow, HNAG):
            raise ValueError(
                f"GaussSeidelHNAG steps the flow HNAG only; got {type(flow).__name__}. Take a scheme for any flow, "
                "such as SemiImplicitEuler."
            )

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        assert isinstance(flow, HNAG)
        (v, ratio), h, mu, gamma = state.memory, step_size, flow.strong_convexity, flow.gamma(state)
        beta, pull = calibrated(flow, "hessian_damping"), step_size * mu / gamma
        position = jax.tree.map(
            # Written as an increment, which loses nothing where the step is short.
            lambda x, v, g: (x + h / (1 + h) * (v - x - beta * g)).astype(x.dtype),
            state.position,
            v,
            oracle.gradient,
        )
        there = oracle.at(position)
        v = jax.tree.map(
            lambda v, x, g: (v + (pull * (x - v) - h / gamma * g) / (1 + pull)).astype(v.dtype),
            v,
            position,
            there.gradient,
        )
        ratio = ((ratio + h * mu / calibrated(flow, "initial_gamma")) / (1 + h)).astype(ratio.dtype)
        return Trial(State(position, (v, ratio)), there)
