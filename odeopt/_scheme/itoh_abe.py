"""The Itoh-Abe discrete gradient method."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle
from .._objective.rounds import Rounds
from .._tree import select
from .base import AbstractScheme, Trial
from .port_form import check_port_form, port_form

# An interval is doubled or, at worst, halved by each: enough from any length to any precision.
MOST_EVALUATIONS = 150
# Units of rounding that the difference of two energies may be wrong by, as everywhere in the library's checks.
OPERATIONS = 16
# Two products with the same matrix, one of them by its transpose, in units of rounding and relative to the matrix.
SYMMETRIC = 100


class ItohAbe(AbstractScheme):
    r"""The coordinate increment discrete gradient method: one parameter after the other, each by a scalar equation.

    For gradient flow, parameter \(i\) moves by \(s_i\) while those before it have moved already:

    \[ s_i = -\frac h{s_i} \big( f(\ldots, y_i + s_i, y_{i+1}, \ldots) - f(\ldots, y_i, y_{i+1}, \ldots) \big), \qquad
       f(y^+) - f(y) = -\tfrac1h \sum_i s_i^2. \]

    In a metric, \(y' = -P\,\nabla V(y)\), it goes along the columns of the Cholesky factor \(L L^\top = P(y)\) instead
    of the axes. Order 1; the energy falls at every step size and for every objective, and on a quadratic the step is
    that of successive over-relaxation, \(\omega = 2 h a / (2 + h a)\) for the curvature \(a\) of a parameter. It works
    where there is no gradient to speak of (kinks): values decide, and a directional derivative says only on which side
    to look.

    Each equation is solved to rounding in an interval that is found by doubling, so that there always is a solution
    where the energy is bounded below. Cost: some 5 to 20 values for each parameter, and no gradient; and a matrix of
    \(n^2\) entries is kept: for small problems. Where the metric is not positive definite and symmetric, the trial is
    not finite, and controllers reject it.

    **Raises:** `ValueError`, when a `Solver` is made, for a flow without `structure` or with a memory, whose equations
    do not fall apart into scalar ones. Source: Itoh and Abe (1988), Hamiltonian-conserving discrete canonical equations
    based on variational difference quotients; for optimization: Ehrhardt, Riis, Ringholm, Schönlieb (2018), A geometric
    integration approach to smooth optimisation: foundations of the discrete gradient method.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.ItohAbe())
        solution = odeopt.minimise(lambda x, _: jnp.sum(jnp.abs(x)), solver, jnp.ones(2), throw=False)
        ```
    """

    order: ClassVar[int] = 1
    # The one that the run evaluates where it stands.
    gradients_per_step: ClassVar[int] = 1

    def check(self, flow: AbstractFlow) -> None:
        check_port_form(self, flow)
        _check_no_memory(flow, eqx.filter_eval_shape(flow.init, jnp.ones(())))

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        _check_no_memory(flow, state)
        flat, unravel = jax.flatten_util.ravel_pytree(state)
        directions = self._directions(flow, t, state, oracle)
        h, rounds = step_size.astype(flat.dtype), Rounds(oracle)

        def energy(y: Array) -> Array:
            at = unravel(y)
            return flow.energy(t, at, rounds.begin().at(at.position)).astype(flat.dtype)

        def move(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            y, here, values = carry
            direction = directions[:, index]
            length, there, spent = _scalar_step(lambda s: energy(y + s * direction), here, h)
            return y + length * direction, there, values + spent

        begin = (flat, flow.energy(t, state, oracle).astype(flat.dtype), jnp.asarray(0, jnp.int32))
        end, _, values = jax.lax.fori_loop(0, flat.size, move, begin)
        rounds.count(values)
        end = unravel(end)
        return Trial(end, oracle.at(end.position))

    def _directions(self, flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> Array:
        """The columns of the Cholesky factor of the inverse metric; not a number where it has none."""
        flat, unravel = jax.flatten_util.ravel_pytree(state)

        def product(covector: Array) -> Array:
            return -jax.flatten_util.ravel_pytree(port_form(self, flow, t, state, oracle, unravel(covector)))[0]

        matrix = jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype))
        unit = float(jnp.finfo(flat.dtype).eps)
        symmetric = jnp.max(jnp.abs(matrix - matrix.T)) <= SYMMETRIC * unit * jnp.max(jnp.abs(matrix))
        return jnp.where(symmetric, jnp.linalg.cholesky(matrix), jnp.nan)


class _Search(NamedTuple):
    """Three places and their values: `last` and `other` on both sides of the root, `former` behind one of them."""

    last: Array
    last_value: Array
    other: Array
    other_value: Array
    former: Array
    former_value: Array
    following: Array  # where to evaluate next
    enclosed: Array
    found: Array
    energy: Array
    evaluations: Array


def _scalar_step(energy: Callable[[Array], Array], here: Array, step_size: Array) -> tuple[Array, Array, Array]:
    r"""The root \(s \ne 0\) of \(s^2 + h (V(s) - V(0))\); zero where \(V'(0)\) is.

    Doubling encloses it, and inverse quadratic interpolation or bisection finds it. (Chandrupatla, 1997, A new hybrid
    quadratic/bisection algorithm for finding the zero of a nonlinear function without using derivatives.)

    **Returns:** the root, the energy there, and how many values that took.
    """
    zero = jnp.zeros_like(here)
    slope = jax.jvp(energy, (zero,), (jnp.ones_like(here),))[1]
    side, euler = -jnp.sign(slope), step_size * jnp.abs(slope)
    unit = float(jnp.finfo(here.dtype).eps)

    def unfinished(search: _Search) -> Array:
        apart = jnp.abs(search.last - search.other) > 4 * unit * search.last
        return ~search.found & (apart | ~search.enclosed) & (search.evaluations < MOST_EVALUATIONS)

    def evaluate(search: _Search) -> _Search:
        length = search.following
        there = energy(side * length)
        # Divided by the length, which takes the root at zero away.
        value = length + step_size * (there - here) / length
        rounding = OPERATIONS * unit * step_size * (jnp.abs(there) + jnp.abs(here)) / length
        # What is not finite is too far.
        value = jnp.where(jnp.isfinite(value), value, jnp.inf)
        crossed = (value < 0) != (search.last_value < 0)
        former, former_value = select(crossed, (search.other, search.other_value), (search.last, search.last_value))
        other, other_value = select(crossed, (search.last, search.last_value), (search.other, search.other_value))
        enclosed = search.enclosed | crossed
        part = _interpolated(length, value, other, other_value, former, former_value)
        following = jnp.where(enclosed, length + part * (other - length), 2 * length)
        return _Search(
            length,
            value,
            other,
            other_value,
            former,
            former_value,
            following,
            enclosed,
            jnp.abs(value) <= rounding,
            there,
            search.evaluations + 1,
        )

    start = _Search(
        last=zero,
        last_value=-euler,
        other=zero,
        other_value=-euler,
        former=zero,
        former_value=-euler,
        following=euler,
        enclosed=jnp.asarray(False),
        found=~(jnp.abs(slope) > 0),
        energy=here,
        evaluations=jnp.asarray(0, jnp.int32),
    )
    search = jax.lax.while_loop(unfinished, evaluate, start)
    solved = jnp.isfinite(slope) & (search.evaluations < MOST_EVALUATIONS)
    # A directional derivative is a value and its tangent.
    return jnp.where(solved, side * search.last, jnp.nan), search.energy, search.evaluations + 2


def _interpolated(a: Array, at_a: Array, b: Array, at_b: Array, c: Array, at_c: Array) -> Array:
    """Where between `a` and `b` to look next, in parts of their distance from `a`."""
    place, level = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
    trusted = (level**2 < place) & ((1 - level) ** 2 < 1 - place)
    quadratic = at_a / (at_b - at_a) * at_c / (at_b - at_c)
    quadratic = quadratic + (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
    # Where there are two places only, the secant.
    part = jnp.where(c == b, at_a / (at_a - at_b), jnp.where(trusted, quadratic, 0.5))
    # Not so near an end that rounding keeps it there.
    unit = float(jnp.finfo(a.dtype).eps)
    least = jnp.minimum(2 * unit * jnp.abs(a / (b - a)), 0.5)
    return jnp.where(jnp.isfinite(part), jnp.clip(part, least, 1 - least), 0.5)


def _check_no_memory(flow: AbstractFlow, state: State) -> None:
    if jax.tree.leaves(state.memory):
        raise ValueError(
            f"ItohAbe steps one parameter after the other, and {type(flow).__name__} has a memory, with which the "
            "equations do not fall apart. Take Gonzalez or AveragedField."
        )
