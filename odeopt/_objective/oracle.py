"""The objective's information at one point, computed only when asked for."""

from collections.abc import Callable
from functools import cached_property

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._tree import vdot
from .least_squares import AbstractLeastSquares, LeastSquares, Passes
from .objective import AbstractObjective, Merged, PartialObjective


class Tally:
    """How many passes over the objective were traced; the loop turns it into run-time counts.

    `values` counts every forward pass, those inside gradient passes included; `gradients` every backward pass.
    """

    def __init__(self):
        self.values = 0
        self.gradients = 0


class Oracle:
    """Value, gradient, curvature products and, of a sum of squares, residuals of an objective at one point.

    Every quantity is evaluated at most once, and only if it is read. An oracle belongs to the trace that created
    it: it must not outlive the branch of a `lax.cond` in which it was made.
    """

    # Of oracles that are put together from another, which keep nothing.
    _kept: PyTree = None

    def __init__(
        self,
        objective: AbstractObjective,
        point: PyTree,
        tally: Tally,
        value: Array | None = None,
        gradient: PyTree | None = None,
        kept: PyTree = None,
    ):
        self._objective = objective
        self._tally = tally
        self._value = value
        self._gradient = gradient
        self._pullback = None
        self._kept = kept
        self.point = point

    @property
    def value(self) -> Array:
        """The objective at the point, a scalar."""
        if self._value is None:
            self._tally.values += 1
            if self._objective.evaluation == "linearised":
                self._value, self._pullback = jax.vjp(self._objective.value, self.point)
            else:
                self._value = self._objective.value(self.point)
        return self._value

    # Kept, because a value that is divided among devices cannot be asked for from inside of it.
    @cached_property
    def value_dtype(self):
        """The dtype of the objective's value, which is not evaluated for it."""
        return (jax.eval_shape(self._objective.value, self.point) if self._value is None else self._value).dtype

    @property
    def may_stop(self) -> bool:
        """Whether the value is yet to be evaluated, and `value_until` can save work."""
        return self._value is None and self._objective.stops_early

    def value_until(self, hopeless: Callable[[Array], Array]) -> Array:
        """The value, or a lower bound of it that is `hopeless` and is taken for it from now on."""
        self._tally.values += 1
        self._value = self._objective.value_until(self.point, hopeless)
        return self._value

    @property
    def gradient(self) -> PyTree:
        """The gradient at the point, in the structure of the parameters."""
        if self._gradient is None:
            value = self.value
            if self._pullback is None:
                self._tally.values += 1
                value, pullback = jax.vjp(self._objective.value, self.point)
            else:
                pullback = self._pullback
            self._tally.gradients += 1
            (self._gradient,) = pullback(jnp.ones_like(value))
        return self._gradient

    def hvp(self, vector: PyTree) -> PyTree:
        """The Hessian at the point times `vector`, which has the structure of the parameters."""
        # Forward over reverse runs the forward and the backward pass and the tangent of each.
        self._tally.values += 2
        self._tally.gradients += 2
        gradient = jax.grad(self._objective.value)
        return jax.jvp(gradient, (self.point,), (vector,))[1]

    def hessian(self) -> Array:
        """The Hessian at the point, shape (N, N), in the order of `jax.flatten_util.ravel_pytree`."""
        flat, unravel = jax.flatten_util.ravel_pytree(self.point)
        self.count(1 + flat.size, 1 + flat.size)
        _, product = jax.linearize(jax.grad(lambda y: self._objective.value(unravel(y))), flat)
        columns = jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype))
        return 0.5 * (columns + columns.T)

    def kept(self, make: Callable[[], PyTree]) -> PyTree:
        """What a flow made of this point before, or makes now: the loop hands it from the end of a step to the next.

        For one quantity that costs more than a gradient, and depends on nothing but the point.
        """
        if self._kept is None:
            self._kept = make()
        return self._kept

    @property
    def what_is_kept(self) -> PyTree:
        """What is kept, or `None`."""
        return self._kept

    @property
    def residuals(self) -> Array:
        """The residuals of a `LeastSquares` at the point, shape (P,)."""
        self._tally.values += 1
        return self._least_squares().residuals(self.point)

    @property
    def residual_count(self) -> int:
        """How many residuals there are: P."""
        return jax.eval_shape(self._least_squares().residuals, self.point).size

    def jvp(self, vector: PyTree) -> Array:
        """The Jacobian of the residuals times `vector`, which has the structure of the parameters; shape (P,)."""
        self._tally.values += 2
        return jax.jvp(self._least_squares().residuals, (self.point,), (vector,))[1]

    def second_jvp(self, vector: PyTree) -> Array:
        """The second derivative of the residuals along `vector`, shape (P,)."""
        # The forward pass, its tangent and the tangents of both.
        self._tally.values += 4
        residuals = self._least_squares().residuals

        def slope(point):
            return jax.jvp(residuals, (point,), (vector,))[1]

        return jax.jvp(slope, (self.point,), (vector,))[1]

    def vjp(self, weights: Array) -> PyTree:
        """The transpose of the Jacobian times `weights`, shape (P,); in the structure of the parameters."""
        self._tally.values += 1
        self._tally.gradients += 1
        return jax.vjp(self._least_squares().residuals, self.point)[1](weights)[0]

    def jacobian(self) -> tuple[Array, Array]:
        """The residuals, shape (P,), and their Jacobian, shape (P, N), of a `LeastSquares`."""
        objective = self._least_squares()
        self.count(*objective.jacobian_passes(self.point))
        return objective.jacobian(self.point)

    def normal_equations(self) -> tuple[Array, Array]:
        r"""\(J^\top J\), shape (N, N), and the gradient \(J^\top r\), shape (N,), of a `LeastSquares`."""
        objective = self._least_squares()
        self.count(*objective.jacobian_passes(self.point))
        return objective.normal_equations(self.point)

    def gauss_newton(self) -> tuple[Callable[[Array], Array], Passes]:
        r"""\(v \mapsto J^\top J v\) for vectors of shape (N,), and the passes of a product, which the caller counts."""
        objective = self._least_squares()
        self._tally.values += 1
        return objective.gauss_newton(self.point), objective.gauss_newton_passes

    def _least_squares(self) -> AbstractLeastSquares:
        objective = self._objective
        while isinstance(objective, PartialObjective):
            objective = objective.full
        if not isinstance(objective, AbstractLeastSquares):
            raise TypeError(
                f"the residuals are needed here, and the objective ({type(objective).__name__}) has none. Write "
                "the loss as odeopt.LeastSquares(residual, args), where residual(y, args) returns what is squared."
            )
        return _of_trained(objective, self._objective)

    def of(self, objective: AbstractLeastSquares) -> "Oracle":
        """The oracle of another objective of the same parameters, at the same point and counted with this one.

        A model of which only a part is trained is put together for it.
        """
        return Oracle(_of_trained(objective, self._objective), self.point, self._tally)

    def at(self, point: PyTree) -> "Oracle":
        """The oracle at another point than the position of the state."""
        return Oracle(self._objective, point, self._tally)

    def count(self, values, gradients) -> None:
        """Count passes that run more often than they are traced (inside a loop): numbers, or integer arrays."""
        self._tally.values += values
        self._tally.gradients += gradients

    def fork(self, tally: Tally) -> "Oracle":
        """A copy that knows what this one knows, for use inside a branch; what it learns stays there."""
        copy = Oracle(self._objective, self.point, tally, self._value, self._gradient, self._kept)
        copy._pullback = self._pullback
        return copy

    def with_value(self, value: Array) -> "Oracle":
        """The same oracle with another value in place of the objective's own."""
        return _Substitute(self, self.point, value, None)

    def with_inputs(self, point: PyTree, value: Array, gradient: PyTree | None) -> "Oracle":
        """An oracle whose value and gradient are given numbers (of a tangent computation, say)."""
        return _Substitute(self, point, value, gradient)


def _of_trained(squares: AbstractLeastSquares, seen: AbstractObjective) -> AbstractLeastSquares:
    """A sum of squares as a function of the parameters that `seen` is one of."""
    if not isinstance(seen, PartialObjective):
        return squares
    return _of_trained(squares, seen.full).of(Merged(seen.frozen))


class _Substitute(Oracle):
    """An oracle with numbers put in place of the objective's own; what is not given comes from the original."""

    def __init__(self, original: Oracle, point: PyTree, value: Array, gradient: PyTree | None):
        super().__init__(original._objective, point, original._tally, value, gradient)
        self._original = original

    @property
    def gradient(self) -> PyTree:
        return self._original.gradient if self._gradient is None else self._gradient


class Recorder(Oracle):
    """Stands in for an oracle in an abstract trace and notes what was read."""

    def __init__(self, point: PyTree, value: Array):
        self.point = point
        self._stand_in = value
        self._tally = Tally()
        self.read: set[str] = set()

    @property
    def value(self) -> Array:
        self.read.add("value")
        return self._stand_in

    @property
    def gradient(self) -> PyTree:
        self.read.add("gradient")
        return self.point

    def hvp(self, vector: PyTree) -> PyTree:
        self.read.add("hvp")
        return vector

    def hessian(self) -> Array:
        self.read.add("hvp")
        flat = jax.flatten_util.ravel_pytree(self.point)[0]
        return jnp.outer(flat, flat)

    def kept(self, make: Callable[[], PyTree]) -> PyTree:
        return make()

    def of(self, objective: AbstractLeastSquares) -> Oracle:
        self.read.add("gradient")
        return self

    def _least_squares(self) -> AbstractLeastSquares:
        # Any residuals will do: nothing is evaluated.
        self.read.add("gradient")
        return LeastSquares(lambda y, _: y)

    def at(self, point: PyTree) -> Oracle:
        self.read.add("elsewhere")
        return self

    def fork(self, tally: Tally) -> Oracle:
        return self

    def with_value(self, value: Array) -> Oracle:
        return self

    def with_inputs(self, point: PyTree, value: Array, gradient: PyTree | None) -> Oracle:
        return self


def reads(method, t: Array, state, value: Array) -> frozenset[str]:
    """What `method(t, state, oracle)` asks of the oracle, found by an abstract trace.

    **Arguments:** `method`: a method of a flow; `t`, `state`, `value`: arrays or shapes of the time, the state and
    the objective's value.

    **Returns:** a subset of `{"value", "gradient", "hvp", "elsewhere"}`.
    """
    recorders = []

    def traced(t, state, value):
        recorder = Recorder(state.position, value)
        recorders.append(recorder)
        return method(t, state, recorder)

    eqx.filter_eval_shape(traced, t, state, value)
    return frozenset(recorders[-1].read)


def directional_change(before: Oracle, after: Oracle, displacement: PyTree) -> Array:
    r"""The change of the objective between two points, from gradients alone.

    \[ f(x^+) - f(x) \approx \tfrac12 \langle \nabla f(x) + \nabla f(x^+),\, x^+ - x \rangle \]

    Exact for quadratic functions, third order otherwise, and free of the cancellation that the difference of two
    nearly equal values suffers. (Hager and Zhang, 2005, A new conjugate gradient method with guaranteed descent and
    an efficient line search.)
    """
    half = jax.tree.map(lambda a, b: 0.5 * (a + b), before.gradient, after.gradient)
    return vdot(half, displacement)
