r"""The spectral radius of a vector field, by a nonlinear power iteration.

\[ \rho \approx \frac{|F(t, y + d\,u) - F(t, y)|}{d}, \qquad u \leftarrow \frac{F(t, y + d\,u) - F(t, y)}{\rho\,d},
   \qquad |u| = 1. \]

(Sommeijer, Shampine, Verwer, 1998, RKC: an explicit solver for parabolic PDEs.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._flow.base import AbstractFlow, State
from .._objective.oracle import Oracle
from .._objective.rounds import Rounds
from .._tree import add_scaled, select, subtract, vdot

# The iteration ends when an estimate differs from the one before by less than this part of it. Measured on spectra of
# 1000 curvatures (uniform, log-uniform, of a random matrix, and of a few outliers): after 3 to 8 gradients the estimate
# is short by 2 to 13 %, which the safety factor covers; 1 % as in RKC, takes 4 to 11 gradients for 1 to 9 %.
SETTLED = 0.02
# As in RKC: two largest eigenvalues of one size, or a complex pair, are never told apart.
MOST_ITERATIONS = 50
# As in RKC.
STEPS_BETWEEN_ESTIMATES = 25
# A step that is twice as long as that of the last estimate goes where nothing is known of the curvature.
MUCH_LONGER = 2.0


class Spectrum(eqx.Module):
    """What is known of the spectrum of a vector field along a run.

    **Attributes:** `direction`: of the largest eigenvalue, of length 1; `radius`: per unit of time, 0 where nothing is
    known; `age`: trials since the last estimate; `step_size`: of the trial with that estimate; `t`: where the last
    trial began.
    """

    direction: State
    radius: Array
    age: Array
    step_size: Array
    t: Array


def first_guess(flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> Spectrum:
    """What there is before the first estimate: a direction that leaves no part of the spectrum out.

    The vector field itself has most of the large eigenvalues in it, but where a run starts in a subspace of slow
    directions it has none of them.
    """
    leaves, structure = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    noise = structure.unflatten(
        [jax.random.normal(key, leaf.shape, _working(t)) for key, leaf in zip(keys, leaves, strict=True)]
    )
    both = jax.tree.map(jnp.add, _normalised(flow.vector_field(t, state, oracle), t), _normalised(noise, t))
    return Spectrum(
        direction=_normalised(both, t),
        radius=jnp.zeros_like(t),
        age=jnp.asarray(STEPS_BETWEEN_ESTIMATES, jnp.int32),
        step_size=jnp.zeros_like(t),
        t=jnp.full_like(t, jnp.nan),
    )


def estimate(flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, known: Spectrum) -> Spectrum:
    """The spectrum at a state, estimated anew where the last estimate is old, the step much longer than it was then,
    or the last trial, from the same time, has been rejected.

    Every iteration costs one evaluation of the vector field. Where that is not finite the last estimate is kept.
    """
    due = (known.age >= STEPS_BETWEEN_ESTIMATES) | (step_size > MUCH_LONGER * known.step_size) | (known.t == t)
    slope = flow.vector_field(t, state, oracle)
    distance = _distance(t, state)
    rounds = Rounds(oracle)

    def unsettled(carry):
        _, radius, before, iterations = carry
        return due & (iterations < MOST_ITERATIONS) & (jnp.abs(radius - before) > SETTLED * radius)

    def iterate(carry):
        direction, before, _, iterations = carry
        moved = add_scaled(state, distance, direction)
        change = subtract(flow.vector_field(t, moved, rounds.begin().at(moved.position)), slope)
        radius = _norm(change, t) / distance
        finite = jnp.isfinite(radius)
        # A direction in which the field is constant is not one to go on from.
        direction = select(finite & (radius > 0), _normalised(change, t), direction)
        return direction, jnp.where(finite, radius, before), before, iterations + 1

    begin = (known.direction, known.radius, jnp.full_like(t, jnp.inf), jnp.asarray(0, jnp.int32))
    direction, radius, _, iterations = jax.lax.while_loop(unsettled, iterate, begin)
    rounds.count(iterations)
    return Spectrum(
        direction=direction,
        radius=radius,
        age=jnp.where(due, 1, known.age + 1).astype(jnp.int32),
        step_size=jnp.where(due, step_size, known.step_size).astype(t.dtype),
        t=t,
    )


def _distance(t: Array, state: State) -> Array:
    """How far to go for a difference: half of the digits of the state are left to the field, half to the change."""
    unit = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(state))
    size = _norm(state, t)
    return unit**0.5 * jnp.where(size > 0, size, 1.0)


def _norm(tree: State, t: Array) -> Array:
    return jnp.sqrt(vdot(tree, tree)).astype(t.dtype)


def _normalised(tree: State, t: Array) -> State:
    """A tree of length 1, or of length 0 where it is zero."""
    size = _norm(tree, t)
    return jax.tree.map(lambda leaf: leaf.astype(_working(t)) / jnp.where(size > 0, size, 1.0), tree)


def _working(t: Array):
    return jnp.promote_types(t.dtype, jnp.float32)
