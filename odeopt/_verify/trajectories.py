"""A flow followed from its own start on each objective, with an account of its energy."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._flow.base import AbstractFlow
from .integrate import integrate
from .points import Points
from .samples import nearby
from .terrain import AbstractLandscapes, AbstractTerrain, calibrated, ravelled, system_on

# In the flow's unit of time; the nodes lie closer at the start, where memories fill and singular flows bend.
HORIZON, NODES = 30.0, 48
# Relative, of a step; the account is judged to what very many such steps can add up to.
TOLERANCE = 1e-10
# Between two nodes. A flow of moderate speed takes less than that for all of them; a stiff one is followed as far as it
# goes (measured: heavy ball on curvatures of 1e4, for 13 of 30 units of time in 5200 steps).
MAX_STEPS = 256


class Trajectories(eqx.Module):
    """Solutions from the start of a flow.

    **Attributes:** `points`: those of one solution after those of another; the others have the shape
    `(lanes, nodes)`: `t`; `dissipated`: the integral of the declared dissipation so far; `moved`: the largest change
    of a parameter since the start; `reached`.
    """

    points: Points
    t: np.ndarray
    dissipated: np.ndarray
    moved: np.ndarray
    reached: np.ndarray

    def along(self, values: np.ndarray) -> np.ndarray:
        """What was found at the points, with the axes `(lanes, nodes)`."""
        return values.reshape(*self.t.shape, *values.shape[1:])


class Starts(NamedTuple):
    """Where solutions start, each on an objective of the terrain: one entry for each.

    **Attributes:** `index`: of the objective; `near`: the probability that it starts near a critical point, 1e-6 to
    1e-1 away; `at_rest`: whether it starts exactly at one.
    """

    index: np.ndarray
    near: np.ndarray
    at_rest: np.ndarray


def follow(
    terrain: AbstractTerrain,
    flow: AbstractFlow,
    parameters: PyTree,
    random: np.random.Generator,
    starts: Starts,
    nodes: int = NODES,
) -> Trajectories:
    """The solutions of a flow from its own start, calibrated far from critical points, where there are scales to see.

    **Arguments:** `parameters`: of the structure and about the size that the flow is meant for; `nodes`: how many
    states are kept of each solution.
    """
    index, lanes = starts.index, len(starts.index)
    # In so few digits that a critical point can be put under it exactly.
    start = nearby(random, parameters, lanes).astype(np.float32).astype(float)
    entries = start.shape[-1]
    beside = start - terrain.draw(random, index, entries, near=0.0)
    shift = np.where((starts.near > 0)[:, None], start - terrain.draw(random, index, entries, starts.near), beside)
    # Of a user's objective no point of rest is known, and none is asked for.
    if isinstance(terrain, AbstractLandscapes) and np.any(starts.at_rest):
        shift = np.where(starts.at_rest[:, None], start - terrain.critical(index)[:, None], shift)
    found = _follow(terrain, flow, parameters, start, index, beside, shift, nodes)
    flows, t, states, dissipated, reached = jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, found)
    states = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states)
    repeat = lambda leaf: np.repeat(leaf, nodes, axis=0) if eqx.is_array(leaf) else leaf  # noqa: E731
    points = Points(jax.tree.map(repeat, flows), t.reshape(-1), states, repeat(index), repeat(shift))
    moved = np.max(np.abs(ravelled(states.position, (t.size,)) - repeat(start)), axis=-1)
    return Trajectories(points, t, dissipated, np.maximum.accumulate(moved.reshape(t.shape), axis=1), reached)


@eqx.filter_jit
def _follow(terrain, flow, like, start, index, beside, shift, nodes):
    """Calibrated flows of all solutions; times, states, dissipated energy and success at their nodes."""
    unravel = jax.flatten_util.ravel_pytree(like)[1]

    def lane(start, index, beside, shift):
        system = calibrated(flow, terrain.moved(index, beside), unravel(start))
        times = system.unit_of_time() * HORIZON * jnp.linspace(0, 1, nodes) ** 2
        system = system_on(system.flow, terrain.moved(index, shift), system.start)

        def field(t, y):
            state, oracle = y[0], system.oracle(y[0].position)
            return system.flow.vector_field(t, state, oracle), system.flow.dissipation(t, state, oracle)

        def to_next(carry, t1):
            t0, y, alive = carry
            y, alive = integrate(field, t0, t1, y, alive, TOLERANCE, MAX_STEPS)
            return (t1, y, alive), (t1, *y, alive)

        # The first node is the start: nothing is integrated until there.
        carry = (jnp.zeros(()), (system.start, jnp.zeros(())), jnp.asarray(True))
        return system.flow, *jax.lax.scan(to_next, carry, times)[1]

    return eqx.filter_vmap(lane)(*map(jnp.asarray, (start, index, beside, shift)))
