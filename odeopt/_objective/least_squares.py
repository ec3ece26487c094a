r"""Sums of squares, whose residuals and Jacobian are known beside the value.

\[ f(y) = \tfrac12 |r(y)|^2, \qquad \nabla f = J^\top r, \qquad J = \partial r / \partial y. \]
"""

import abc
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._tree import size, vdot
from .chunked import check_samples, chunked, summed
from .objective import AbstractObjective

REDUCTIONS = ("sum", "mean")


class Passes(NamedTuple):
    """Forward and backward passes over the data."""

    values: int
    gradients: int


class AbstractLeastSquares(AbstractObjective):
    r"""An objective \(f = \tfrac12 |r|^2\) that can be asked for \(r\) and its Jacobian.

    Residuals are one vector of \(P\) entries in which weights are contained, parameters one vector of \(N\) entries in
    the order of `jax.flatten_util.ravel_pytree`. Two such objectives are added with `+`.
    """

    @abc.abstractmethod
    def residuals(self, parameters: PyTree) -> Array:
        """The residuals at `parameters`, shape (P,)."""

    @abc.abstractmethod
    def jacobian(self, parameters: PyTree) -> tuple[Array, Array]:
        """The residuals, shape (P,), and their Jacobian, shape (P, N)."""

    @abc.abstractmethod
    def normal_equations(self, parameters: PyTree) -> tuple[Array, Array]:
        r"""\(J^\top J\), shape (N, N), and \(J^\top r\), shape (N,), without the whole Jacobian where that is large."""

    @abc.abstractmethod
    def jacobian_passes(self, parameters: PyTree) -> Passes:
        """How many passes over the data a Jacobian is made of."""

    @abc.abstractmethod
    def gauss_newton(self, parameters: PyTree) -> Callable[[Array], Array]:
        r"""The product \(v \mapsto J^\top J v\) of vectors of shape (N,), without a Jacobian."""

    @property
    @abc.abstractmethod
    def gauss_newton_passes(self) -> Passes:
        """How many passes over the data such a product is made of."""

    @abc.abstractmethod
    def of(self, restore: Callable[[PyTree], PyTree]) -> "AbstractLeastSquares":
        """The same as a function of other parameters, from which `restore` makes those of this one."""

    def __add__(self, other: "AbstractLeastSquares") -> "AbstractLeastSquares":
        if not isinstance(other, AbstractLeastSquares):
            return NotImplemented
        return LeastSquaresSum((*_terms(self), *_terms(other)))


class LeastSquares(AbstractLeastSquares):
    r"""A sum of squares, from a function that returns residuals.

    \[ f(y) = w \tfrac12 \sum_i r_i(y)^2 \quad \text{("sum")} \qquad \text{or} \qquad
       f(y) = w \tfrac1P \sum_{i=1}^{P} r_i(y)^2 \quad \text{("mean")} \]

    Several of them, such as the equation in the interior and the conditions on the boundary, are added:
    `LeastSquares(interior, points, per_sample=True) + LeastSquares(boundary, edge, per_sample=True, weight=100.0)`.

    **Arguments:**

    - `residual`: `residual(y, args)`, arrays of floating point in any structure, which are squared and summed here (so
        not a loss); with `per_sample`
        `residual(y, sample)`, the residuals of one sample. Written so, a row of the Jacobian costs the work of its own
        sample and not that of all: prefer it wherever the residuals are independent of each other.
    - `args`: handed to `residual`; with `per_sample` a pytree of arrays with the samples along their first axis.
    - `per_sample`: whether `residual` is for one sample.
    - `reduction`: `"sum"` (default, half of the sum of squares, as in SciPy) or `"mean"` (the mean square).
    - `weight`: \(w > 0\), or 0.
    - `chunk_size`: how many samples are evaluated at a time, for `per_sample`; `None` (default): all. Memory does not
        grow with the number of samples then, where no whole Jacobian is asked for.

    **Raises:** `ValueError` or `TypeError` for arguments that do not go together; when a run begins, for residuals that
    are complex, integer or none at all.

    !!! example "A decay rate and an amplitude"

        ```python
        t = jnp.linspace(0.0, 3.0, 20)
        data = (t, 2.0 * jnp.exp(-1.5 * t))
        misfit = odeopt.LeastSquares(lambda y, sample: y[0] * jnp.exp(-y[1] * sample[0]) - sample[1], data,
                                     per_sample=True)
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt())
        solution = odeopt.minimise(misfit, solver, jnp.array([1.0, 1.0]))
        ```
    """

    residual: Callable[[Any, Any], Any]
    args: PyTree = None
    per_sample: bool = eqx.field(static=True, default=False)
    reduction: str = eqx.field(static=True, default="sum")
    weight: Array = eqx.field(converter=hyperparameter, default=1.0)
    chunk_size: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if not callable(self.residual):
            raise TypeError(f"LeastSquares(residual={self.residual!r}): expected a function residual(y, args).")
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"LeastSquares(reduction={self.reduction!r}): expected one of {REDUCTIONS}.")
        if concrete(self.weight) and not 0 <= float(self.weight) < float("inf"):
            raise ValueError(f"LeastSquares(weight={float(self.weight)}): expected a finite weight >= 0.")
        if self.chunk_size is not None and not (isinstance(self.chunk_size, int) and self.chunk_size >= 1):
            raise ValueError(f"LeastSquares(chunk_size={self.chunk_size!r}): expected a whole number >= 1, or None.")
        if self.chunk_size is not None and not self.per_sample:
            raise ValueError("LeastSquares(chunk_size=...): only residuals per sample can be evaluated in chunks.")
        if self.per_sample:
            check_samples("LeastSquares(per_sample=True): args", self.args)

    @property
    def evaluation(self) -> str:
        # The forward pass of a trial is not kept in chunks: that is what makes their memory constant.
        return "linearised" if self.chunk_size is None else "lazy"

    def value(self, parameters: PyTree) -> Array:
        if self.chunk_size is None:
            return _half_square(self.residuals(parameters))
        trained, rest = eqx.partition(parameters, eqx.is_inexact_array)
        return chunked(trained, _HalfSquare(self, rest), self.chunk_size, self.args)

    def auxiliary(self, parameters: PyTree) -> PyTree:
        return None

    def residuals(self, parameters: PyTree) -> Array:
        if not self.per_sample:
            return self._weighted(self.residual(parameters, self.args), parameters)
        return self._over_samples(lambda sample: self._of_one(parameters, sample)).reshape(-1)

    def jacobian(self, parameters: PyTree) -> tuple[Array, Array]:
        if self.per_sample:
            residuals, jacobian = self._over_samples(lambda sample: self._rows(parameters, sample))
            return residuals.reshape(-1), jacobian.reshape(residuals.size, -1)
        flat, unravel = jax.flatten_util.ravel_pytree(parameters)
        return _jacobian(lambda y: self.residuals(unravel(y)), flat)

    def normal_equations(self, parameters: PyTree) -> tuple[Array, Array]:
        if self.chunk_size is None:
            residuals, jacobian = self.jacobian(parameters)
            return jacobian.T @ jacobian, jacobian.T @ residuals

        def of_chunk(samples):
            residuals, jacobian = jax.vmap(lambda sample: self._rows(parameters, sample))(samples)
            rows = jacobian.reshape(residuals.size, -1)
            return rows.T @ rows, rows.T @ residuals.reshape(-1)

        return summed(of_chunk, self.chunk_size, self.args)

    def jacobian_passes(self, parameters: PyTree) -> Passes:
        if self.per_sample:
            # Of each sample its own rows: together one backward pass over the data for every residual of a sample.
            of_one = eqx.filter_eval_shape(self.residual, parameters, self._one_sample())
            return Passes(1, size(of_one))
        rows = self._count(parameters)
        columns = size(parameters)
        return Passes(1 + columns, 0) if columns <= rows else Passes(1, rows)

    def gauss_newton(self, parameters: PyTree) -> Callable[[Array], Array]:
        flat, unravel = jax.flatten_util.ravel_pytree(parameters)
        if self.chunk_size is None:
            _, forward = jax.linearize(lambda y: self.residuals(unravel(y)), flat)
            backward = jax.linear_transpose(forward, flat)
            return lambda vector: backward(forward(vector))[0]
        chunk_size = self.chunk_size

        def product(vector: Array) -> Array:
            def of_chunk(samples):
                def residuals(y):
                    return jax.vmap(lambda sample: self._of_one(unravel(y), sample))(samples)

                _, tangent = jax.jvp(residuals, (flat,), (vector,))
                return jax.vjp(residuals, flat)[1](tangent)[0]

            return summed(of_chunk, chunk_size, self.args)

        return product

    @property
    def gauss_newton_passes(self) -> Passes:
        # In chunks nothing is kept: the forward pass is made anew for the tangent, and once more for the way back.
        return Passes(1, 1) if self.chunk_size is None else Passes(3, 1)

    def of(self, restore: Callable[[PyTree], PyTree]) -> "LeastSquares":
        return replace(self, residual=_Composed(self.residual, restore))

    def _over_samples(self, of_one: Callable[[PyTree], PyTree]) -> PyTree:
        if self.chunk_size is None:
            return jax.vmap(of_one)(self.args)
        return jax.lax.map(of_one, self.args, batch_size=self.chunk_size)

    def _of_one(self, parameters: PyTree, sample: PyTree) -> Array:
        return self._weighted(self.residual(parameters, sample), parameters)

    def _rows(self, parameters: PyTree, sample: PyTree) -> tuple[Array, Array]:
        flat, unravel = jax.flatten_util.ravel_pytree(parameters)
        return _rows(lambda y: self._of_one(unravel(y), sample), flat)

    def _weighted(self, returned: PyTree, parameters: PyTree) -> Array:
        r"""The residuals as one vector, of which the objective is half of the sum of squares."""
        flat = _flat(returned)
        factor = self.weight if self.reduction == "sum" else 2 * self.weight / self._count(parameters)
        return jnp.sqrt(factor).astype(flat.dtype) * flat

    def _count(self, parameters: PyTree) -> int:
        """The number of residuals."""
        if not self.per_sample:
            return size(eqx.filter_eval_shape(self.residual, parameters, self.args))
        samples = jax.tree.leaves(self.args)[0].shape[0]
        return samples * size(eqx.filter_eval_shape(self.residual, parameters, self._one_sample()))

    def _one_sample(self) -> PyTree:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.args)


class LeastSquaresSum(AbstractLeastSquares):
    """Several sums of squares of the same parameters, made by adding them."""

    terms: tuple[AbstractLeastSquares, ...]

    @property
    def evaluation(self) -> str:
        return "lazy" if any(term.evaluation == "lazy" for term in self.terms) else "linearised"

    def value(self, parameters: PyTree) -> Array:
        return reduce(jnp.add, [term.value(parameters) for term in self.terms])

    def auxiliary(self, parameters: PyTree) -> PyTree:
        return None

    def residuals(self, parameters: PyTree) -> Array:
        return jnp.concatenate([term.residuals(parameters) for term in self.terms])

    def jacobian(self, parameters: PyTree) -> tuple[Array, Array]:
        residuals, jacobians = zip(*[term.jacobian(parameters) for term in self.terms], strict=True)
        return jnp.concatenate(residuals), jnp.concatenate(jacobians)

    def normal_equations(self, parameters: PyTree) -> tuple[Array, Array]:
        matrices, vectors = zip(*[term.normal_equations(parameters) for term in self.terms], strict=True)
        return reduce(jnp.add, matrices), reduce(jnp.add, vectors)

    def jacobian_passes(self, parameters: PyTree) -> Passes:
        passes = [term.jacobian_passes(parameters) for term in self.terms]
        # Of the term that takes most: a pass over the data is one over those of all terms.
        return Passes(max(p.values for p in passes), max(p.gradients for p in passes))

    def gauss_newton(self, parameters: PyTree) -> Callable[[Array], Array]:
        products = [term.gauss_newton(parameters) for term in self.terms]
        return lambda vector: reduce(jnp.add, [product(vector) for product in products])

    @property
    def gauss_newton_passes(self) -> Passes:
        passes = [term.gauss_newton_passes for term in self.terms]
        return Passes(max(p.values for p in passes), max(p.gradients for p in passes))

    def of(self, restore: Callable[[PyTree], PyTree]) -> "LeastSquaresSum":
        return LeastSquaresSum(tuple(term.of(restore) for term in self.terms))


class _HalfSquare(eqx.Module):
    """Of some of the samples; a module, because what a differentiation rule is given may hold traced numbers."""

    objective: LeastSquares
    rest: PyTree

    def __call__(self, trained: PyTree, samples: PyTree) -> Array:
        parameters = eqx.combine(trained, self.rest)
        return _half_square(jax.vmap(lambda sample: self.objective._of_one(parameters, sample))(samples))


class _Composed(eqx.Module):
    """A residual function of other parameters."""

    residual: Callable
    restore: Callable

    def __call__(self, parameters: PyTree, args: PyTree):
        return self.residual(self.restore(parameters), args)


def _terms(objective: AbstractLeastSquares) -> tuple[AbstractLeastSquares, ...]:
    return objective.terms if isinstance(objective, LeastSquaresSum) else (objective,)


def _half_square(residuals: Array) -> Array:
    return 0.5 * vdot(residuals, residuals)


def _jacobian(residuals: Callable[[Array], Array], y: Array) -> tuple[Array, Array]:
    """By columns where they are fewer than the rows."""
    if y.size > jax.eval_shape(residuals, y).size:
        return _rows(residuals, y)
    value, product = jax.linearize(residuals, y)
    return value, jax.vmap(product, out_axes=1)(jnp.eye(y.size, dtype=y.dtype))


def _rows(residuals: Callable[[Array], Array], y: Array) -> tuple[Array, Array]:
    value, pullback = jax.vjp(residuals, y)
    return value, jax.vmap(lambda row: pullback(row)[0])(jnp.eye(value.size, dtype=value.dtype))


def _flat(returned: PyTree) -> Array:
    """The residuals that a function returned as one vector.

    **Raises:** `TypeError` or `ValueError` for what cannot be residuals.
    """
    leaves = jax.tree.leaves(returned)
    if not leaves:
        raise TypeError(f"the residual function returned {returned!r}; expected arrays of floating point.")
    for leaf in leaves:
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"the residual function returned complex numbers ({dtype}); return their real and imaginary parts, "
                "such as (r.real, r.imag)."
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"the residual function returned dtype {dtype}; expected floating point.")
    flat = jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])
    if flat.size == 0:
        raise ValueError("the residual function returned no residual at all (arrays of size 0).")
    return flat
