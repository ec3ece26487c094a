"""Steps of a flow on one batch after the other, compiled."""

from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow import AbstractFlow, State
from .._objective import Objective, Oracle, PartialObjective, Tally
from .._scheme import AbstractScheme


class Stepper(eqx.Module):
    """What stays the same along a run on mini-batches.

    **Attributes:** `loss`: `loss(model, batch)`, or with `keyed` `loss(model, batch, key)`; `frozen`: the part of the
    model that is not trained; `key`: from which the keys of the steps are folded.
    """

    flow: AbstractFlow
    scheme: AbstractScheme
    loss: Callable
    frozen: PyTree
    key: Array
    keyed: bool = eqx.field(static=True)

    def objective(self, batch: PyTree, step: Array | int) -> PartialObjective:
        """The loss of one batch as a function of the trained leaves."""
        key = jax.random.fold_in(self.key, step) if self.keyed else None
        return PartialObjective(Objective(KeyedLoss(self.loss, key), batch), self.frozen)

    def calibrated(self, state: State, batch: PyTree) -> "Stepper":
        """With the scales of the flow set, from the gradient of a batch at the start."""
        oracle = Oracle(self.objective(batch, 0), state.position, Tally())
        return replace(self, flow=self.flow.calibrate(state, oracle))


class KeyedLoss(eqx.Module):
    """A loss with its key given; of a loss without a key the loss itself."""

    loss: Callable
    key: Array | None

    def __call__(self, model: PyTree, batch: PyTree) -> Array:
        return self.loss(model, batch) if self.key is None else self.loss(model, batch, self.key)


class Point(eqx.Module):
    """Where a run on mini-batches stands: all that its next step depends on, beside the examples."""

    state: State
    t: Array


@eqx.filter_jit
def advance(
    stepper: Stepper, point: Point, step_size: Array, data: PyTree, indices: Array, first: Array, count: Array
) -> Point:
    """`count` steps of one size.

    **Arguments:** `data`: the examples, or those of these steps; `indices`: which of them each step sees, shape
    (at least `count`, batch); `first`: the number of the first step.
    """

    def step(k: Array, point: Point) -> Point:
        batch = jax.tree.map(lambda leaf: leaf[indices[k]], data)
        oracle = Oracle(stepper.objective(batch, first + k), point.state.position, Tally())
        trial = stepper.scheme.step(stepper.flow, point.t, step_size, point.state, oracle)
        return Point(trial.state, point.t + step_size)

    return jax.lax.fori_loop(0, count, step, point)


@eqx.filter_jit
def begin(stepper: Stepper, position: PyTree, batch: PyTree) -> tuple[Stepper, Point, Array]:
    """The calibrated stepper, the point before the first step, and the flow's unit of time there."""
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), stepper.flow.init(position))
    stepper = stepper.calibrated(state, batch)
    oracle = Oracle(stepper.objective(batch, 0), position, Tally())
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(position))
    unit = stepper.flow.unit_of_time(state, oracle).astype(dtype)
    return stepper, Point(state, jnp.zeros((), dtype)), unit


@eqx.filter_jit
def at_rest(stepper: Stepper, point: Point) -> Point:
    """The same point without its kinetic energy, where the flow has one."""
    memory = stepper.flow.rescaled_memory(point.t, point.state, jnp.zeros_like(point.t))
    return point if memory is None else Point(State(point.state.position, memory), point.t)
