r"""Newton's flow without a matrix: conjugate gradients on the quadratic model, ended early.

\[ x' = d, \qquad H d \approx -g, \qquad V = f(x), \qquad V' = \langle g, d \rangle < 0. \]
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._objective.rounds import Rounds
from .._tree import vdot
from .base import State
from .curvature import AbstractCurvatureFlow
from .open_scale import calibrated, check_positive, with_open

# The residual that the first solve may leave, over the gradient (Nocedal and Wright, 7.1).
LOOSEST = 0.5


class _Iteration(NamedTuple):
    """Of conjugate gradients: the direction so far, its residual, the next direction, and when to end."""

    solution: Array
    residual: Array
    search: Array
    rounds: Array
    ended: Array


class NewtonCG(AbstractCurvatureFlow):
    r"""Truncated Newton flow: the direction of Newton's method as far as a few products with the Hessian know it.

    \[ x' = d, \qquad |H d + g| \le \min\Big(\tfrac12, \sqrt{|g| / s}\Big)\, |g|, \qquad V = f, \qquad
       V' = \langle g, d \rangle \]

    Conjugate gradients begin at zero and end at this residual, which shrinks with the gradient, so that the last steps
    are Newton's; or at a direction of negative curvature, along which they go down once more, as far as if the
    curvature were positive. Every direction met on the way descends. How many products are made changes from point to
    point, and the field jumps there.

    **Arguments:**

    - `slope`: \(s > 0\), in the unit of the gradient; `None` (default): the norm of the gradient at the start.
    - `max_products`: with the Hessian, for one direction; >= 1.

    Unit of time: none. Memory: five vectors. **Raises:** `ValueError` for an argument out of range. Source: Dembo and
    Steihaug (1983), Truncated-Newton algorithms for large-scale unconstrained optimization; Royer, O'Neill, Wright
    (2020), A Newton-CG algorithm with complexity guarantees for smooth unconstrained optimization.

    !!! example

        ```python
        def bowls(x, _):
            return jnp.sum(jnp.cosh(jnp.linspace(0.1, 3.0, 1000) * x))

        solution = odeopt.minimise(bowls, odeopt.Solver(odeopt.NewtonCG()), jnp.ones(1000))
        ```
    """

    slope: Array | None = eqx.field(converter=hyperparameter, default=None)
    # As many as conjugate gradients need at a condition of about 1e4; more are better spent at the next point.
    max_products: int = eqx.field(static=True, default=200)
    continuous: ClassVar[bool] = False
    countable: ClassVar[bool] = False

    def __check_init__(self):
        check_positive(self, "slope", "in the unit of the gradient")
        if not isinstance(self.max_products, int) or self.max_products < 1:
            raise ValueError(f"NewtonCG(max_products={self.max_products!r}): expected a whole number >= 1.")

    def calibrate(self, state: State, oracle: Oracle) -> "NewtonCG":
        slope = jnp.sqrt(vdot(oracle.gradient, oracle.gradient))
        return with_open(self, "slope", jnp.where(slope > 0, slope, 1.0))

    def direction(self, oracle: Oracle) -> PyTree:
        gradient, unravel = jax.flatten_util.ravel_pytree(oracle.gradient)
        size = jnp.linalg.norm(gradient)
        fraction = jnp.minimum(LOOSEST, jnp.sqrt(size / calibrated(self, "slope"))).astype(gradient.dtype)
        rounds = Rounds(oracle)

        def product(vector):
            return jax.flatten_util.ravel_pytree(rounds.begin().hvp(unravel(vector)))[0]

        def going_on(now: _Iteration):
            return ~now.ended & (now.rounds < self.max_products)

        def step(now: _Iteration) -> _Iteration:
            after = _conjugate_step(now, product(now.search))
            return after._replace(ended=after.ended | (jnp.linalg.norm(after.residual) <= fraction * size))

        nothing = jnp.zeros_like(gradient)
        first = _Iteration(nothing, gradient, -gradient, jnp.asarray(0, jnp.int32), size == 0)
        last = jax.lax.while_loop(going_on, step, first)
        rounds.count(last.rounds)
        return unravel(last.solution)


def _conjugate_step(now: _Iteration, image: Array) -> _Iteration:
    """One step of conjugate gradients; `image`: the Hessian times the search direction."""
    square = jnp.vdot(now.residual, now.residual)
    curvature = jnp.vdot(now.search, image)
    # Of a curvature that is rounding alone neither the sign nor the size is known.
    noise = jnp.finfo(square.dtype).eps * jnp.linalg.norm(now.search) * jnp.linalg.norm(image)
    length = square / jnp.maximum(jnp.abs(curvature), noise)
    # On a plane there is no curvature at all; the search direction is then taken as it is.
    length = jnp.where(jnp.isfinite(length), length, 1.0)
    residual = now.residual + length * image
    search = -residual + jnp.vdot(residual, residual) / square * now.search
    return _Iteration(now.solution + length * now.search, residual, search, now.rounds + 1, curvature <= noise)
