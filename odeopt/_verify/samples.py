"""Random states that a flow can be in.

A memory drawn at random may be one that no run ever has: Adam's second moment is never negative, and what binds the
memory of a flow that somebody else invents is unknown. So every state is reached: the flow is started by its own
`init` and driven by a stream of gradients, each constant for a random time and of a size that varies by orders of
magnitude. A claim about any objective is one about any such past, and any objective may then be put under the state:
one moved such that the state stands at a random point of it, or close to a critical one.
"""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._tree import vdot
from .integrate import integrate
from .points import Points, at
from .terrain import AbstractTerrain, calibrated, ravelled, system_on

# States that are kept of each stream, one at the end of each slope, and objectives that are put under each of them.
PIECES, PLACES = 8, 4
# Sizes of the slopes over that of the gradient at the start, and lengths over the unit of time; decimal exponents.
SLOPES, DURATIONS = (-3.0, 3.0), (-2.0, 0.5)
# How often a slope is exactly zero: the memory then forgets.
FLAT = 0.15
# Parameters beyond it are left out, and memories beyond its square, which moments of gradients are: the objective under
# them could no longer be placed to 1e-6.
LARGEST = 1e8
# A state need only be one that the flow can be in, to well within what the judgement resolves (1e-8).
TOLERANCE = 1e-8
# A plane is solved in a few dozen steps.
MAX_STEPS = 256


class Samples(eqx.Module):
    """Random states on random objectives; `reached`: whether the flow got there and stayed moderate."""

    points: Points
    reached: np.ndarray


def draw_samples(
    terrain: AbstractTerrain, flow: AbstractFlow, parameters: PyTree, random: np.random.Generator, count: int
) -> Samples:
    """Random states of a flow, with objectives of the terrain under them.

    **Arguments:** `parameters`: of the structure and about the size that the flow is meant for; `count`: how many
    states at least.
    """
    streams = -(-count // (PIECES * PLACES))
    start = nearby(random, parameters, streams)
    entries = start.shape[-1]
    index = random.integers(len(terrain.names), size=streams)
    shift = start - terrain.draw(random, index, entries)
    durations, slopes = _gradient_streams(random, streams, entries)
    # Random numbers are drawn on the host: compiled, they would cost more time than all the rest.
    driven, t, states, reached = _drive(terrain, flow, parameters, start, index, shift, durations, slopes)
    return _placed(terrain, random, driven, np.asarray(t), states, np.asarray(reached))


def nearby(random: np.random.Generator, parameters: PyTree, count: int) -> np.ndarray:
    """The parameters and others of the same signs, as vectors: a flow may be one of positive parameters only."""
    vector = ravelled(parameters, ())
    factor = 10 ** random.uniform(-1.0, 1.0, (count, 1)) * random.uniform(0.7, 1.3, (count, vector.size))
    factor[0] = 1.0
    return factor * vector


def _gradient_streams(random: np.random.Generator, streams: int, entries: int) -> tuple[np.ndarray, np.ndarray]:
    """How long and how steep the pieces are, in the units of the flow and of the gradient at the start."""
    durations = 10 ** random.uniform(*DURATIONS, (streams, PIECES))
    amplitude = 10 ** random.uniform(*SLOPES, (streams, PIECES, 1))
    amplitude *= random.random((streams, PIECES, 1)) >= FLAT
    return durations, amplitude * random.normal(size=(streams, PIECES, entries))


@eqx.filter_jit
def _drive(terrain, flow, like, start, index, shift, durations, slopes):
    """Calibrated flows of all streams, and their states at the ends of all pieces."""
    unravel = jax.flatten_util.ravel_pytree(like)[1]

    def stream(start, index, shift, durations, slopes):
        system = calibrated(flow, terrain.moved(index, shift), unravel(start))
        unit, gradient = system.unit_of_time(), system.oracle(system.start.position).gradient
        steepness = jnp.sqrt(vdot(gradient, gradient) / start.size)

        def to_next(carry, piece):
            t, state, alive = carry
            duration, slope = piece
            plane = system_on(system.flow, terrain.stream(unravel(steepness * slope)), state)
            t1 = t + unit * duration
            state, alive = integrate(plane.vector_field, t, t1, state, alive, TOLERANCE, MAX_STEPS)
            return (t1, state, alive), (t1, state, alive & _moderate(state))

        carry = (jnp.zeros(()), system.start, jnp.asarray(True))
        return system.flow, *jax.lax.scan(to_next, carry, (durations, slopes))[1]

    return eqx.filter_vmap(stream)(*map(jnp.asarray, (start, index, shift, durations, slopes)))


def _moderate(state: State) -> Array:
    bounds = State(
        jax.tree.map(lambda leaf: jnp.all(jnp.abs(leaf) < LARGEST), state.position),
        jax.tree.map(lambda leaf: jnp.all(jnp.abs(leaf) < LARGEST**2), state.memory),
    )
    return jnp.all(jnp.stack(jax.tree.leaves(bounds)))


def _placed(terrain, random, driven, t, states, reached) -> Samples:
    """Several objectives under every state, along one axis of points."""
    streams = len(t)
    repeat = lambda leaf: np.repeat(np.asarray(leaf).reshape(streams * PIECES, *leaf.shape[2:]), PLACES, axis=0)  # noqa: E731
    flows = jax.tree.map(lambda leaf: np.repeat(leaf, PIECES * PLACES, axis=0) if eqx.is_array(leaf) else leaf, driven)
    states = jax.tree.map(repeat, states)
    return Samples(_moved(terrain, random, flows, repeat(t), states), repeat(reached))


def placed_on(terrain: AbstractTerrain, samples: Samples, random: np.random.Generator, count: int) -> Samples:
    """The same states, `count` of them at most, on objectives of another terrain."""
    chosen = random.permutation(len(samples.reached))[:count]
    points = at(samples.points, chosen)
    return Samples(_moved(terrain, random, points.flow, points.t, points.state), samples.reached[chosen])


def _moved(terrain: AbstractTerrain, random: np.random.Generator, flow, t, state: State) -> Points:
    """Random objectives under states, each moved such that the state is at a random point of it."""
    index = random.integers(len(terrain.names), size=len(t))
    position = ravelled(state.position, (len(index),))
    shift = position - terrain.draw(random, index, position.shape[-1])
    return Points(flow, t, state, index, shift)
