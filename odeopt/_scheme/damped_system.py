r"""The linear systems of Levenberg-Marquardt's step, \((\tilde J^\top \tilde J + \mu)\,z = -\tilde J^\top r\).

\(\tilde J = J D^{-1}\) is the Jacobian in units \(D\) of the parameters, and \(\mu\) the damping.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import lineax as lx
import optimistix as optx
from jaxtyping import Array

from .._objective.oracle import Oracle

# Of conjugate gradients: the residual that is left, relative. The model is not better than that far from a solution,
# and near one a step takes two digits off.
RESIDUAL = 1e-2
# Products with the matrix for one system; fewer systems are better spent at the next point.
MOST_PRODUCTS = 200
# Every one divides the condition by the root of what the shift is of the square, some hundred in single precision.
ORTHOGONALISATIONS = 4
# They compute their residual anew every so many iterations (the default of lineax).
STABILISE_EVERY = 10


class Linearisation(eqx.Module):
    r"""What the Jacobian at a point leaves behind.

    **Attributes:** `position`, `units` \(D\), `gradient` \(\tilde J^\top r\), each (N,); `matrix`:
    \(\tilde J^\top \tilde J\), or, where the residuals are fewer, \(\tilde J \tilde J^\top\); `rows`:
    \((\tilde J, r)\). Each is `None` where nobody needs it.
    """

    position: Array
    units: Array
    gradient: Array
    matrix: Array | None = None
    rows: tuple[Array, Array] | None = None


class Factored:
    """A system with a matrix, by Cholesky's method."""

    def __init__(self, here: Linearisation, damping: Array):
        assert here.matrix is not None
        self._here = here
        # Below the rounding of the matrix, damping is no more than the rounding that makes it singular.
        least = jnp.finfo(damping.dtype).eps * jnp.trace(here.matrix)
        self._damping = damping + least
        identity = jnp.eye(len(here.matrix), dtype=here.matrix.dtype)
        self._factor = jsl.cho_factor(here.matrix + self._damping * identity)

    def step(self) -> tuple[Array, Array]:
        """The step in the units of the linearisation, shape (N,), and the decrease that the model promises for it."""
        here = self._here
        if here.rows is None:
            scaled = -jsl.cho_solve(self._factor, here.gradient)
        else:
            jacobian, residuals = here.rows
            scaled = -(jacobian.T @ jsl.cho_solve(self._factor, residuals))
        # Of an exact solution J'J z = -g - mu z.
        return scaled, 0.5 * (jnp.vdot(here.gradient, scaled) - self._damping * jnp.vdot(scaled, scaled))

    def correction(self, curvature: Array, oracle: Oracle) -> Array:
        r"""The same for \(r''(d, d) / 2\) in place of \(r\); `curvature`: \(r''(d, d)\), shape (P,)."""
        here = self._here
        if here.rows is not None:
            return -0.5 * (here.rows[0].T @ jsl.cho_solve(self._factor, curvature))
        pulled, _ = jax.flatten_util.ravel_pytree(oracle.vjp(curvature))
        return -0.5 * jsl.cho_solve(self._factor, pulled / here.units)


class Orthogonal:
    r"""A system with the Jacobian itself: no square of it loses the smaller half of its singular values.

    With as many columns as the smaller space has dimensions, \(A = \tilde J\) or \(\tilde J^\top\),
    \(\binom{A}{\sqrt\mu I} = \binom{Q_1}{Q_2} R\), by Cholesky's method with shifts, repeated (Fukaya, Kannan,
    Nakatsukasa, Yamamoto and Yanagisawa, 2020, Shifted Cholesky QR for computing the QR factorization of
    ill-conditioned matrices): products of matrices, where reflections are hundreds of short steps.
    """

    def __init__(self, here: Linearisation, damping: Array):
        assert here.rows is not None
        self._here, self._damping = here, damping
        jacobian, _ = here.rows
        self._wide = jacobian.shape[0] < jacobian.shape[1]
        tall = jacobian.T if self._wide else jacobian
        identity = jnp.eye(tall.shape[1], dtype=tall.dtype)
        orthogonal, self._triangle = _factors(jnp.concatenate([tall, jnp.sqrt(damping) * identity]))
        self._orthogonal = orthogonal[: len(tall)]

    def step(self) -> tuple[Array, Array]:
        """As that of `Factored`."""
        assert self._here.rows is not None
        jacobian, residuals = self._here.rows
        scaled = -self._solve(residuals)
        image = jacobian @ scaled
        return scaled, jnp.vdot(image, residuals) + 0.5 * jnp.vdot(image, image)

    def correction(self, curvature: Array, oracle: Oracle) -> Array:
        """As that of `Factored`."""
        return -0.5 * self._solve(curvature)

    def _solve(self, residuals: Array) -> Array:
        r"""\((\tilde J^\top \tilde J + \mu)^{-1} \tilde J^\top r\)."""
        if self._wide:
            return self._orthogonal @ jsl.solve_triangular(self._triangle, residuals, trans="T")
        return jsl.solve_triangular(self._triangle, self._orthogonal.T @ residuals)


def _factors(matrix: Array) -> tuple[Array, Array]:
    """An orthogonal matrix of the same shape, and a triangular one, whose product is `matrix`."""
    identity = jnp.eye(matrix.shape[1], dtype=matrix.dtype)

    def again(_, factors: tuple[Array, Array]) -> tuple[Array, Array]:
        orthogonal, triangle = factors
        square = orthogonal.T @ orthogonal
        shift = jnp.finfo(matrix.dtype).eps * jnp.trace(square)
        factor = jnp.linalg.cholesky(square + shift * identity, upper=True)
        return jsl.solve_triangular(factor, orthogonal.T, trans="T").T, factor @ triangle

    return jax.lax.fori_loop(0, ORTHOGONALISATIONS, again, (matrix, identity))


class Iterated:
    """A system without a matrix, by conjugate gradients from zero; ended early, they still go downhill."""

    def __init__(self, here: Linearisation, damping: Array, oracle: Oracle):
        self._here, self._damping, self._oracle = here, damping, oracle
        self._product, self._passes = oracle.gauss_newton()

    def step(self) -> tuple[Array, Array]:
        """As that of `Factored`."""
        here = self._here
        scaled = self._solve(-here.gradient)
        image = self._scaled_product(scaled)
        self._count(1)
        return scaled, jnp.vdot(here.gradient, scaled) + 0.5 * jnp.vdot(scaled, image)

    def correction(self, curvature: Array, oracle: Oracle) -> Array:
        """As that of `Factored`."""
        pulled, _ = jax.flatten_util.ravel_pytree(oracle.vjp(curvature))
        return -0.5 * self._solve(pulled / self._here.units)

    def _scaled_product(self, vector: Array) -> Array:
        return self._product(vector / self._here.units) / self._here.units

    def _solve(self, right: Array) -> Array:
        size = jnp.linalg.norm(right)
        operator: Callable[[Array], Array] = lambda v: self._scaled_product(v) + self._damping * v  # noqa: E731
        shape = jax.ShapeDtypeStruct(right.shape, right.dtype)
        system = lx.FunctionLinearOperator(operator, shape, lx.positive_semidefinite_tag)
        solver = lx.CG(
            rtol=0.0, atol=RESIDUAL, norm=optx.two_norm, stabilise_every=STABILISE_EVERY, max_steps=MOST_PRODUCTS
        )
        # Of length 1, so that a tolerance without a unit is one relative to the right-hand side.
        solved = lx.linear_solve(system, right / jnp.where(size > 0, size, 1.0), solver, throw=False)
        rounds = solved.stats["num_steps"].astype(jnp.int32)
        self._count(1 + rounds + rounds // STABILISE_EVERY)
        return size * solved.value

    def _count(self, products: Array | int) -> None:
        self._oracle.count(products * self._passes.values, products * self._passes.gradients)
