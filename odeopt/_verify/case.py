"""What a flow is tried on: an objective, a start and its data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import PyTree

from .._flow.base import AbstractFlow
from .._objective import AbstractObjective, LeastSquares
from .system import System, system


class Case(NamedTuple):
    """An objective `fn(y, args)` and the start `y0`, as for `minimise`."""

    fn: Callable[[Any, Any], Any] | AbstractObjective
    y0: PyTree
    args: PyTree = None


def _ravine(y, _):
    """Smooth, not convex, not separable, bounded below, with curvatures of size one: no scheme is at its limit."""
    return jnp.sum(jnp.cos(y)) + 0.5 * jnp.sum((y - 0.5 * jnp.roll(y, 1)) ** 2) + 0.1 * jnp.sum(jnp.sin(y) ** 4)


def _valley(y, _):
    """Smooth, convex, not separable, with curvatures of size one: for flows that claim nothing on other functions."""
    return jnp.sum(jnp.logaddexp(y, -y)) + 0.25 * jnp.sum((y - 0.5 * jnp.roll(y, 1)) ** 2)


def _bends(y, _):
    """Residuals of size one, twice as many as parameters, for flows that ask for them."""
    return jnp.concatenate([y - 0.5 * jnp.roll(y, 1), 1 + 0.5 * jnp.sin(y * jnp.roll(y, 1))])


# Four parameters, no two alike, none near a critical point.
DEFAULT = Case(_ravine, (1.3, -0.6, 0.4, 2.1))
CONVEX = Case(_valley, DEFAULT.y0)


def as_case(problem: tuple | None, default: Case = DEFAULT) -> Case:
    """The case that a user means by `problem`: `(fn, y0)`, `(fn, y0, args)`, or `None` for a built-in one.

    **Raises:** `TypeError` for anything else.
    """
    if problem is None:
        return Case(default.fn, jnp.asarray(default.y0))
    if not isinstance(problem, tuple) or len(problem) not in (2, 3) or not _is_objective(problem[0]):
        raise TypeError(
            f"problem must be a tuple (fn, y0) or (fn, y0, args), as for odeopt.minimise; got {type(problem).__name__}."
        )
    return Case(*problem)


def _is_objective(given: Any) -> bool:
    return callable(given) or isinstance(given, AbstractObjective)


def system_of(flow: AbstractFlow, problem: tuple | None) -> System:
    """The system of a flow on a user's problem, or on a built-in one that its claim covers; in double precision."""
    if flow.needs_residuals:
        return system(flow, *as_case(problem, Case(LeastSquares(_bends), DEFAULT.y0)))
    return system(flow, *as_case(problem, CONVEX if flow.certificate == "convex_only" else DEFAULT))


def claims_descent(flow: AbstractFlow, problem: tuple | None) -> bool:
    """Whether the energy of a flow is claimed to fall on a user's problem, or on the built-in one."""
    # Of a user's function it is not known whether it is convex.
    return flow.certificate == "lyapunov" or (flow.certificate == "convex_only" and problem is None)
