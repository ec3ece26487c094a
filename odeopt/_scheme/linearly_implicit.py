"""Linearly implicit Euler."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._flow.gradient import GradientFlow
from .._flow.schedule_free_adam import ScheduleFreeAdam
from .._objective.oracle import Oracle
from .._objective.rounds import Rounds
from .base import AbstractScheme, Trial

# Conjugate gradients compute their residual anew every so many iterations (the default of lineax).
STABILISE_EVERY = 10


class LinearlyImplicitEuler(AbstractScheme):
    r"""Linearly implicit (Rosenbrock) Euler: one Newton step of implicit Euler.

    \[ y^+ = y + d, \qquad \Big(I - h\, \tfrac{\partial F}{\partial y}(t + h, y)\Big)\, d = h F(t + h, y) \]

    Order 1 and, on linear problems, L-stable: at any step size directions of large curvature are damped like
    \(1 / (1 + h \lambda)\). For gradient flow it is the step of Levenberg and Marquardt on the Hessian with damping
    \(1/h\): gradient descent for short steps, Newton's method for long ones. Where \(h\) times a negative curvature is
    near -1 the matrix is singular; such trials go astray, and controllers reject them.

    The matrix is never formed: the system is solved by conjugate gradients for gradient flow, whose matrix is
    symmetric, and by GMRES, restarted after `restart` products, for every other flow; without a preconditioner. The
    residual \(|h F - (I - h F') d| \le\) `tolerance` \(\cdot\, |h F|\) is where the solve ends. Where it gets there in
    no `max_iterations` products the trial is not finite, and controllers shorten the step, which makes the matrix
    better.

    Cost: the linearisation is a gradient at the start of the step, and each product with the derivative of the field
    counts as another. GMRES is counted in whole cycles of `restart` products and a residual.

    **Arguments:**

    - `tolerance`: of the residual, relative to the right-hand side; 0 < tolerance < 1. It bounds what can be seen of
        the order. In float32 the residual comes down to some 1e-7 times \(h \lambda\).
    - `max_iterations`: products at most, >= 1.
    - `restart`: Arnoldi vectors that GMRES keeps, each of the size of the state, >= 1. Of stiff oscillations (little
        friction, steps much longer than the fastest period) the system is not solved to the tolerance however many
        there are: such a trial is not finite, and is rejected.

    **Raises:** `ValueError` for an argument out of range. Source: Hairer and Wanner (1996), Solving Ordinary
    Differential Equations II, IV.7; Levenberg (1944), A method for the solution of certain non-linear problems in least
    squares.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.LinearlyImplicitEuler())
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
        ```
    """

    # The step itself has an error of h F' / 2 of its length: three digits are as many as a step longer than explicit
    # ones has.
    tolerance: float = eqx.field(static=True, default=1e-3)
    # A step that needs more is better cut in parts: the iterations grow with the root of its length.
    max_iterations: int = eqx.field(static=True, default=200)
    # The default of lineax.
    restart: int = eqx.field(static=True, default=20)
    order: ClassVar[int] = 1
    # The one that is known, and the linearisation; products come on top.
    gradients_per_step: ClassVar[int] = 2

    def __check_init__(self):
        if not 0 < self.tolerance < 1:
            raise ValueError(f"LinearlyImplicitEuler(tolerance={self.tolerance}): expected 0 < tolerance < 1.")
        for name in ("max_iterations", "restart"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"LinearlyImplicitEuler({name}={value!r}): expected a whole number >= 1.")

    def check(self, flow: AbstractFlow) -> None:
        if isinstance(flow, ScheduleFreeAdam):
            raise ValueError(
                "LinearlyImplicitEuler linearises the field at the end of a step, where the average of squares of "
                "ScheduleFreeAdam would still be the empty one of the start. Use ScheduleFreeStep()."
            )

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        flat, unravel = jax.flatten_util.ravel_pytree(state)
        rounds = Rounds(oracle)

        def field(y: Array) -> Array:
            at = unravel(y)
            slope = flow.vector_field(t + step_size, at, rounds.begin().at(at.position))
            return jax.flatten_util.ravel_pytree(slope)[0].astype(flat.dtype)

        slope, derivative = jax.linearize(field, flat)
        h = step_size.astype(flat.dtype)
        size = jnp.linalg.norm(slope)
        # Of length 1, so that a tolerance without a unit is one relative to the right-hand side.
        direction = slope / jnp.where(size > 0, size, 1.0)
        symmetric = isinstance(flow, GradientFlow)
        operator = lx.FunctionLinearOperator(
            lambda v: v - h * derivative(v),
            jax.ShapeDtypeStruct(flat.shape, flat.dtype),
            lx.positive_semidefinite_tag if symmetric else (),
        )
        solver = self._solver(symmetric, flat.size)
        solved = lx.linear_solve(operator, direction, solver, throw=False)
        successful = solved.result == lx.RESULTS.successful
        change = jnp.where(successful, h * size * solved.value, jnp.nan)
        rounds.count(1 + self._products(symmetric, flat.size, solved.stats["num_steps"]))
        end = unravel(flat + change)
        return Trial(end, oracle.at(end.position))

    def _solver(self, symmetric: bool, size: int) -> lx.AbstractLinearSolver:
        if symmetric:
            return lx.CG(
                rtol=0.0,
                atol=self.tolerance,
                norm=optx.two_norm,
                stabilise_every=STABILISE_EVERY,
                max_steps=self.max_iterations,
            )
        # Its first round makes the first residual alone.
        cycles = 1 + -(-self.max_iterations // min(self.restart, size))
        return lx.GMRES(rtol=0.0, atol=self.tolerance, norm=optx.two_norm, max_steps=cycles, restart=self.restart)

    def _products(self, symmetric: bool, size: int, rounds: Array) -> Array:
        """How many products with the matrix a solve has made."""
        if symmetric:
            return 1 + rounds + rounds // STABILISE_EVERY
        return 1 + (rounds - 1) * (min(self.restart, size) + 1)
