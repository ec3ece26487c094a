"""What the parts of a combined flow see of the objective: a regularised one, or that of some parameters only."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._objective.least_squares import AbstractLeastSquares
from .._objective.oracle import Oracle, Tally
from .._tree import add_scaled, vdot


class RegularisedOracle(Oracle):
    r"""The oracle of \(f + \tfrac{\lambda}{2} |x|^2\), from one of \(f\)."""

    def __init__(self, original: Oracle, weight: Array):
        self._original, self._weight = original, weight
        self.point = original.point

    @property
    def value(self) -> Array:
        return self._original.value + self._penalty(self._original.value.dtype)

    @property
    def gradient(self) -> PyTree:
        return add_scaled(self._original.gradient, self._weight, self.point)

    def hvp(self, vector: PyTree) -> PyTree:
        return add_scaled(self._original.hvp(vector), self._weight, vector)

    def hessian(self) -> Array:
        matrix = self._original.hessian()
        return matrix + self._weight * jnp.eye(len(matrix), dtype=matrix.dtype)

    def of(self, objective: AbstractLeastSquares) -> Oracle:
        return self._original.of(objective)

    def _least_squares(self) -> AbstractLeastSquares:
        raise TypeError(
            "the residuals of a regularised objective are not known. Add the penalty as residuals instead: "
            "objective + odeopt.LeastSquares(lambda y, _: y, weight=...)."
        )

    def count(self, values, gradients) -> None:
        self._original.count(values, gradients)

    def fork(self, tally: Tally) -> Oracle:
        return RegularisedOracle(self._original.fork(tally), self._weight)

    def at(self, point: PyTree) -> Oracle:
        return RegularisedOracle(self._original.at(point), self._weight)

    def with_value(self, value: Array) -> Oracle:
        # The value that is put in place is that of the regularised objective.
        return RegularisedOracle(self._original.with_value(value - self._penalty(value.dtype)), self._weight)

    def with_inputs(self, point: PyTree, value: Array, gradient: PyTree | None) -> Oracle:
        penalty = 0.5 * self._weight * vdot(point, point)
        shifted = None if gradient is None else add_scaled(gradient, -self._weight, point)
        original = self._original.with_inputs(point, (value - penalty).astype(value.dtype), shifted)
        return RegularisedOracle(original, self._weight)

    def _penalty(self, dtype) -> Array:
        return (0.5 * self._weight * vdot(self.point, self.point)).astype(dtype)


class PartOracle(Oracle):
    """The oracle of some of the parameters, the others held where they are.

    **Arguments:** `original`: of all parameters; `select`: takes some of the parameters out of a tree of all (and
    leaves `None` in place of the others); `rest`: the other parameters.
    """

    def __init__(self, original: Oracle, select: Callable[[PyTree], PyTree], rest: PyTree):
        self._original, self._select, self._rest = original, select, rest
        self.point = select(original.point)

    @property
    def value(self) -> Array:
        return self._original.value

    @property
    def gradient(self) -> PyTree:
        return self._select(self._original.gradient)

    def hvp(self, vector: PyTree) -> PyTree:
        still = jax.tree.map(lambda leaf: 0 * leaf, self._rest)
        return self._select(self._original.hvp(eqx.combine(vector, still)))

    def hessian(self) -> Array:
        flat, unravel = jax.flatten_util.ravel_pytree(self.point)
        eye = jnp.eye(flat.size, dtype=flat.dtype)
        # One product is counted where it is traced.
        rounds = (flat.size - 1) * 2
        columns = jax.vmap(lambda unit: jax.flatten_util.ravel_pytree(self.hvp(unravel(unit)))[0])(eye)
        self._original.count(rounds, rounds)
        return 0.5 * (columns + columns.T)

    def of(self, objective: AbstractLeastSquares) -> Oracle:
        return PartOracle(self._original.of(objective), self._select, self._rest)

    def _least_squares(self) -> AbstractLeastSquares:
        return self._original._least_squares().of(_Completed(self._rest))

    def count(self, values, gradients) -> None:
        self._original.count(values, gradients)

    def fork(self, tally: Tally) -> Oracle:
        return PartOracle(self._original.fork(tally), self._select, self._rest)

    def at(self, point: PyTree) -> Oracle:
        return PartOracle(self._original.at(eqx.combine(point, self._rest)), self._select, self._rest)

    def with_value(self, value: Array) -> Oracle:
        return PartOracle(self._original.with_value(value), self._select, self._rest)


class _Completed(eqx.Module):
    """Some of the parameters put together with the others."""

    rest: PyTree

    def __call__(self, part: PyTree) -> PyTree:
        return eqx.combine(part, self.rest)
