r"""Natural gradient flow: steepest descent in a metric of one's own.

\[ x' = -G(x)^{-1} g, \qquad V = f(x), \qquad V' = -\langle g, G(x)^{-1} g \rangle, \qquad g = \nabla f(x), \]

for any \(f\) and symmetric positive definite \(G\). (Amari, 1998, Natural gradient works efficiently in learning.)
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import lineax as lx
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .base import State
from .metric import AbstractMetricFlow


class NaturalGradient(AbstractMetricFlow):
    r"""Gradient flow in a Riemannian metric, the Fisher information above all.

    \[ x' = -G(x)^{-1} g, \qquad V = f, \qquad V' = -\langle g, G(x)^{-1} g \rangle \]

    The path does not depend on how the parameters are chosen, if the metric is that of what they stand for.

    **Arguments:**

    - `metric`: a function of the parameters that returns \(G(x)\), symmetric and positive definite, as an operator of
        lineax on trees of the structure of the parameters; or, where there is a better way to solve with it, a function
        \(w \mapsto G(x)^{-1} w\). Data that it needs are fields of an Equinox module whose `__call__` it is.
    - `linear_solver`: of lineax. The default is a direct solve that uses what the operator is tagged with;
        `lineax.CG(rtol, atol)` never makes a matrix, and suits many parameters. A solve that fails is not an error:
        step control judges the direction that comes out of it.

    Unit of time: \([G] [x]^2 / [f]\). **Raises:** `TypeError` if `metric` is no function or returns neither an operator
    nor a function. Source: Amari (1998).

    !!! example "A normal distribution, by mean and logarithm of the deviation"

        ```python
        import lineax


        def fisher(parameters):
            mean, log_deviation = parameters
            return lineax.DiagonalLinearOperator((jnp.exp(-2 * log_deviation), jnp.asarray(2.0)))

        def loss(parameters, data):
            mean, log_deviation = parameters
            return jnp.mean(0.5 * ((data - mean) / jnp.exp(log_deviation)) ** 2) + log_deviation

        solver = odeopt.Solver(odeopt.NaturalGradient(fisher))
        solution = odeopt.minimise(loss, solver, (jnp.asarray(0.0), jnp.asarray(0.0)), jnp.arange(5.0))
        ```
    """

    metric: Callable[[PyTree], Any]
    linear_solver: lx.AbstractLinearSolver = eqx.field(default_factory=lambda: lx.AutoLinearSolver(well_posed=True))

    def __check_init__(self):
        if not callable(self.metric):
            raise TypeError(
                f"NaturalGradient(metric={self.metric!r}): expected a function of the parameters that returns a "
                "lineax operator or a function that solves with the metric."
            )

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        metric = self.metric(state.position)
        if isinstance(metric, lx.AbstractLinearOperator):
            return lx.linear_solve(metric, covector, self.linear_solver, throw=False).value
        if callable(metric):
            return metric(covector)
        raise TypeError(
            f"NaturalGradient: the metric returned {type(metric).__name__}; expected a lineax operator, such as "
            "lineax.DiagonalLinearOperator, or a function that solves with the metric."
        )
