r"""Natural gradient flow: steepest descent in a metric of one's own.

\[ x' = -G(x)^{-1} g, \qquad V = f(x), \qquad V' = -\langle g, G(x)^{-1} g \rangle, \qquad g = \nabla f(x), \]

for any \(f\) and symmetric positive definite \(G\). (Amari, 1998, Natural gradient works efficiently in learning.)
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.least_squares import AbstractLeastSquares
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import State
from .curvature import newton_steps
from .metric import AbstractMetricFlow
from .open_scale import check_nonnegative
from .pseudo_inverse import decomposed


class NaturalGradient(AbstractMetricFlow):
    r"""Gradient flow in a Riemannian metric, the Fisher information above all.

    \[ x' = -G(x)^{-1} g, \qquad V = f, \qquad V' = -\langle g, G(x)^{-1} g \rangle \]

    The path does not depend on how the parameters are chosen, if the metric is that of what they stand for.

    **Arguments:**

    - `metric`: a function of the parameters that returns \(G(x)\), symmetric and positive definite, as an operator of
        lineax on trees of the structure of the parameters; or, where there is a better way to solve with it, a function
        \(w \mapsto G(x)^{-1} w\). Data that it needs are fields of an Equinox module whose `__call__` it is. Or an
        `odeopt.LeastSquares`, whose residuals are what distances are measured in: \(G = J^\top J\), inverted on the
        directions that change it. With the derivatives that an energy is made of for residuals, it is the energy
        natural gradient of Müller and Zeinhofer.
        No step is longer than 1, so the scale counts: with \(\tfrac12 \overline{|u'|^2}\) in the energy take the
        residual \(u'\) with `reduction="mean", weight=0.5` (the mean form is twice the half sum).
    - `regularisation`: \(\delta \ge 0\), added to the metric of a `LeastSquares`, in its unit; 0 by default. Networks
        have directions that change next to nothing, and need some, say \(10^{-8}\) to \(10^{-6}\) of its largest
        eigenvalue.
    - `linear_solver`: of lineax, for operators. The default is a direct solve that uses what the operator is tagged
        with; `lineax.CG(rtol, atol)` never makes a matrix, and suits many parameters. A solve that fails is not an
        error: step control judges the direction that comes out of it.

    Unit of time: \([G] [x]^2 / [f]\). **Raises:** `TypeError` if `metric` is no function or returns neither an operator
    nor a function, `ValueError` for a regularisation out of range. Source: Amari (1998); Müller and Zeinhofer (2023),
    Achieving high accuracy with PINNs via energy natural gradient descent.

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

    metric: Callable[[PyTree], Any] | AbstractLeastSquares
    regularisation: Array = eqx.field(converter=hyperparameter, default=0.0)
    linear_solver: lx.AbstractLinearSolver = eqx.field(default_factory=lambda: lx.AutoLinearSolver(well_posed=True))

    def __check_init__(self):
        if not callable(self.metric) and not isinstance(self.metric, AbstractLeastSquares):
            raise TypeError(
                f"NaturalGradient(metric={self.metric!r}): expected a function of the parameters that returns a "
                "lineax operator or a function that solves with the metric, or an odeopt.LeastSquares."
            )
        check_nonnegative(self, "regularisation", "in the unit of the metric")
        if not isinstance(self.linear_solver, lx.AbstractLinearSolver):
            raise TypeError(
                f"NaturalGradient(linear_solver={self.linear_solver!r}): expected a solver of lineax, such as "
                "lineax.CG(rtol=1e-6, atol=0.0)."
            )

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        return State(jax.tree.map(jnp.negative, self._ascent(t, state, oracle)))

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        return -vdot(oracle.gradient, self._ascent(t, state, oracle))

    def recommended(self):
        return newton_steps() if isinstance(self.metric, AbstractLeastSquares) else super().recommended()

    def _ascent(self, t: Array, state: State, oracle: Oracle) -> PyTree:
        return oracle.kept(lambda: self.inverse_metric(t, state, oracle, oracle.gradient))

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        if isinstance(self.metric, AbstractLeastSquares):
            _, jacobian = oracle.of(self.metric).jacobian()
            flat, unravel = jax.flatten_util.ravel_pytree(covector)
            return unravel(decomposed(jacobian).solve(flat, self.regularisation.astype(flat.dtype)))
        metric = self.metric(state.position)
        if isinstance(metric, lx.AbstractLinearOperator):
            return lx.linear_solve(metric, covector, self.linear_solver, throw=False).value
        if callable(metric):
            return metric(covector)
        raise TypeError(
            f"NaturalGradient: the metric returned {type(metric).__name__}; expected a lineax operator, such as "
            "lineax.DiagonalLinearOperator, or a function that solves with the metric."
        )
