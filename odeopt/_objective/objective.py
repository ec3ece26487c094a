"""What is minimised."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._parameters import merge_parameters


class AbstractObjective(eqx.Module):
    """A scalar function of the parameters that says how it is evaluated.

    `evaluation` is `"linearised"` (the forward pass of a trial is kept and transposed if the step is accepted: a
    rejected trial costs one forward pass, an accepted one a forward and a backward pass) or `"lazy"` (nothing is
    kept: an accepted trial costs two forward passes and one backward pass, in less memory).

    !!! example

        ```python
        from typing import ClassVar


        class Misfit(odeopt.AbstractObjective):
            matrix: jax.Array
            target: jax.Array
            evaluation: ClassVar[str] = "lazy"

            def value(self, parameters):
                return 0.5 * jnp.sum((self.matrix @ parameters - self.target) ** 2)

            def auxiliary(self, parameters):
                return None


        misfit = Misfit(jnp.eye(2), jnp.ones(2))
        solution = odeopt.minimise(misfit, odeopt.Solver(odeopt.HeavyBall()), jnp.zeros(2))
        ```
    """

    @property
    @abc.abstractmethod
    def evaluation(self) -> str:
        """`"linearised"` or `"lazy"`."""

    @abc.abstractmethod
    def value(self, parameters: PyTree) -> Array:
        """The objective at `parameters`, a scalar of floating point."""

    @abc.abstractmethod
    def auxiliary(self, parameters: PyTree) -> PyTree:
        """What the user's function returns beside the value; `None` if nothing."""

    @property
    def stops_early(self) -> bool:
        """Whether `value_until` can do with less than all of the work of `value`."""
        return False

    def value_until(self, parameters: PyTree, hopeless: Callable[[Array], Array]) -> Array:
        """The objective at `parameters`; or any lower bound of it for which `hopeless(bound)` is true.

        `hopeless`: false up to some number, and true above.
        """
        return self.value(parameters)

    @property
    def rounding(self) -> Array | None:
        """What rounding does to a value, relative to it; `None`: what its type says."""
        return None

    def fitted(self, parameters: PyTree) -> "AbstractObjective":
        """The objective with what it leaves open chosen for parameters like these, when a run begins."""
        return self

    def placed(self, tree: PyTree) -> PyTree:
        """A tree of a run in which everything that is made like the parameters lies where they lie."""
        return tree


class Objective(AbstractObjective):
    r"""A plain function \(f(y, \text{args})\) as an objective.

    **Arguments:**

    - `fn`: `fn(y, args) -> scalar`, or `fn(y, args) -> (scalar, aux)` with `has_aux=True`.
    - `args`: any pytree, handed to `fn`. Data belong here, not in a closure: closed-over arrays become constants of
        the compiled program.
    - `has_aux`: whether `fn` returns something beside the value.
    - `evaluation`: `"linearised"` (default) or `"lazy"`.

    !!! example

        ```python
        objective = odeopt.Objective(lambda y, target: jnp.sum((y - target) ** 2), args=jnp.ones(3))
        odeopt.minimise(objective, odeopt.Solver(odeopt.GradientFlow()), jnp.zeros(3))
        ```
    """

    fn: Callable[[Any, Any], Any]
    args: PyTree = None
    has_aux: bool = eqx.field(static=True, default=False)
    evaluation: str = eqx.field(static=True, default="linearised")  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]

    def __check_init__(self):
        if self.evaluation not in ("linearised", "lazy"):
            raise ValueError(f"Objective(evaluation={self.evaluation!r}): expected 'linearised' or 'lazy'.")

    def value(self, parameters: PyTree) -> Array:
        returned = self.fn(parameters, self.args)
        return jnp.asarray(_number(returned[0] if self.has_aux else returned))

    def auxiliary(self, parameters: PyTree) -> PyTree:
        return self.fn(parameters, self.args)[1] if self.has_aux else None


def _number(returned):
    """What a function returned, if it can be a number at all."""
    if isinstance(returned, (bool, int, float, complex)) or (hasattr(returned, "dtype") and hasattr(returned, "shape")):
        return returned
    hint = " If it returns (value, aux), pass has_aux=True." if isinstance(returned, tuple) else ""
    raise TypeError(
        f"the objective must return one floating-point number; it returned a {type(returned).__name__}.{hint}"
    )


class PartialObjective(AbstractObjective):
    """An objective as a function of the trained leaves alone; the others are held at `frozen`."""

    full: AbstractObjective
    frozen: PyTree

    @property
    def evaluation(self) -> str:
        return self.full.evaluation

    def value(self, parameters: PyTree) -> Array:
        return self.full.value(merge_parameters(parameters, self.frozen))

    def auxiliary(self, parameters: PyTree) -> PyTree:
        return self.full.auxiliary(merge_parameters(parameters, self.frozen))

    @property
    def stops_early(self) -> bool:
        return self.full.stops_early

    @property
    def rounding(self) -> Array | None:
        return self.full.rounding

    def placed(self, tree: PyTree) -> PyTree:
        return self.full.placed(tree)

    def value_until(self, parameters: PyTree, hopeless: Callable[[Array], Array]) -> Array:
        return self.full.value_until(merge_parameters(parameters, self.frozen), hopeless)


class Merged(eqx.Module):
    """The parameters of the full objective from the trained leaves."""

    frozen: PyTree

    def __call__(self, parameters: PyTree) -> PyTree:
        return merge_parameters(parameters, self.frozen)


def as_objective(fn, args: PyTree, has_aux: bool) -> AbstractObjective:
    """`fn` itself if it is an objective already, otherwise `Objective(fn, args, has_aux)`."""
    if isinstance(fn, AbstractObjective):
        if args is not None or has_aux:
            raise ValueError(
                f"{type(fn).__name__} carries its own data: pass args and has_aux to it and not beside it."
            )
        return fn
    if not callable(fn):
        raise TypeError(f"fn must be a function fn(y, args) -> scalar or an objective; got {type(fn).__name__}.")
    return Objective(fn, args, has_aux)


def check_scalar_value(objective: AbstractObjective, parameters: PyTree) -> jax.ShapeDtypeStruct:
    """The shape and dtype of the value, or an error that says what the function returned instead of a number."""
    try:
        value = eqx.filter_eval_shape(objective.value, parameters)
    except TypeError as error:
        if "positional argument" not in str(error):
            raise
        raise TypeError(
            f"{error}. The objective is called as fn(y, args), also where it needs no args; a loss as loss(model, x)."
        ) from error
    if value.shape != ():
        raise ValueError(
            f"the objective must return a scalar; it returned an array of shape {value.shape}. "
            "Reduce it with jnp.mean or jnp.sum."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"the objective must return a floating-point number; it returned dtype {value.dtype}.")
    return value
