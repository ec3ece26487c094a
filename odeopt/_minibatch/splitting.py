r"""Gradient flow split into the flows of batches, rebalanced so that minima are fixed points: RAG and RAGL.

The mean loss over \(m\) batches, \(R = \sum_i R_i\), has the flow \(\theta' = -\sum_i \nabla R_i\). Followed one batch
after the other, \(\theta' = -\nabla R_i + c_i\) with \(\sum_i c_i = 0\), it keeps the minima of \(R\) if \(c_i\) is
what \(\nabla R_i\) is there. RAG takes it from a table of the gradients that each batch was last met with, RAGL
from one iterate of the past. Each explicit Euler step then goes along an aggregated gradient \(g\).

(Bensaid, Poëtte and Turpault: rebalanced splitting of finite sums, after their Lyapunov control of full batches, 2023.)
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._tree import add_scaled, vdot
from .steps import Stepper

# A search for the step size of a batch begins with twice the last one and halves it: 60 halvings reach the rounding of
# any step.
GROWTH, SHRINK, SEARCH = 2.0, 0.5, 60


class Splitting(eqx.Module):
    r"""What a run of RAG or RAGL remembers.

    **Attributes:** `table`: of RAG \(\nabla R_i\) where each batch was last met, with a leading axis of length m; of
    RAGL `None`; `anchor`: of RAGL the stored iterate; `gradient`: the aggregated gradient, at the anchor in RAGL;
    `step_sizes`: \(h_i\) of every batch, shape (m,); `values`: \(R_i\) where it was last met; `moved`: how far the run
    has gone since; `factor`: what stands for \(2m - 1\) or \(4m - 1\).
    """

    table: PyTree
    anchor: PyTree
    gradient: PyTree
    step_sizes: Array
    values: Array
    moved: Array
    factor: Array


class Rule(eqx.Module):
    r"""The constants of RAG and RAGL: \(\lambda\), the safety factor, and the largest factor."""

    decrease: Array
    safety: Array
    largest: Array


def value_and_gradient(stepper: Stepper, position: PyTree, batch: PyTree, parts: int) -> tuple[Array, PyTree]:
    r"""\(R_i\) and its gradient."""
    return jax.value_and_grad(_loss_of(stepper, batch, parts))(position)


def _loss_of(stepper: Stepper, batch: PyTree, parts: int) -> Callable[[PyTree], Array]:
    """One part of the sum as a function of the trained leaves."""
    objective = stepper.objective(batch, 0)
    return lambda y: objective.value(y) / parts


@eqx.filter_jit
def begun(
    stepper: Stepper, rule: Rule, position: PyTree, data: PyTree, batches: Array, keeps_table: bool
) -> tuple[Splitting, Array]:
    """All batches met at the start, and how many values their searches have evaluated."""
    parts = len(batches)
    length = jnp.sqrt(vdot(position, position))

    def met(total, indices):
        batch = jax.tree.map(lambda leaf: leaf[indices], data)
        value, gradient = value_and_gradient(stepper, position, batch, parts)
        size = jnp.sqrt(vdot(gradient, gradient))
        # A way as long as the parameters, or as one where they are zero; the search shortens it.
        first = jnp.where(length > 0, length, 1.0) / jnp.where(size > 0, size, 1.0)
        loss = _loss_of(stepper, batch, parts)
        own, tried = _armijo(loss, position, value, gradient, first.astype(value.dtype), rule.decrease)
        total = jax.tree.map(jnp.add, total, gradient)
        return total, (value, own, tried, gradient if keeps_table else None)

    nothing = jax.tree.map(jnp.zeros_like, position)
    gradient, (values, step_sizes, tried, table) = jax.lax.scan(met, nothing, batches)
    memory = Splitting(
        table=table,
        anchor=None if keeps_table else position,
        gradient=gradient,
        step_sizes=step_sizes,
        values=values,
        moved=jnp.zeros_like(values),
        factor=rule.largest.astype(values.dtype),
    )
    return memory, jnp.sum(tried)


@eqx.filter_jit
def epoch(
    stepper: Stepper, rule: Rule, position: PyTree, memory: Splitting, data: PyTree, batches: Array
) -> tuple[PyTree, Splitting, Array, Array]:
    """Every batch met once, in order.

    **Returns:** position and memory, how many values the searches have evaluated, and the last step size.
    """
    if memory.table is None:
        memory = eqx.tree_at(
            lambda memory: (memory.anchor, memory.gradient),
            memory,
            (position, _full_gradient(stepper, position, data, batches)),
        )
    before = jnp.sum(memory.values)

    def step(carry, index):
        position, memory, searched = carry
        batch = jax.tree.map(lambda leaf: leaf[batches[index]], data)
        position, memory, tried, step_size = _met(stepper, rule, position, memory, batch, index, len(batches))
        return (position, memory, searched + tried), step_size

    (position, memory, searched), sizes = jax.lax.scan(
        step, (position, memory, jnp.asarray(0, jnp.int32)), jnp.arange(len(batches))
    )
    # While the losses that the batches were met with fall, longer steps than the safe ones are taken.
    falls = jnp.sum(memory.values) < before
    factor = jnp.where(falls, jnp.maximum(0.5 * memory.factor, 1.0), rule.largest).astype(memory.factor.dtype)
    return position, eqx.tree_at(lambda memory: memory.factor, memory, factor), searched, sizes[-1]


def _met(
    stepper: Stepper, rule: Rule, position: PyTree, memory: Splitting, batch: PyTree, index: Array, parts: int
) -> tuple[PyTree, Splitting, Array, Array]:
    """One batch: its gradient anew, its step size by Armijo's rule, and a step along the aggregated gradient."""
    value, gradient = value_and_gradient(stepper, position, batch, parts)
    loss = _loss_of(stepper, batch, parts)
    own, tried = _armijo(loss, position, value, gradient, GROWTH * memory.step_sizes[index], rule.decrease)
    step_sizes = memory.step_sizes.at[index].set(own)
    if memory.table is None:
        at_anchor = jax.grad(loss)(memory.anchor)
        direction = jax.tree.map(lambda g, new, old: g + new - old, memory.gradient, gradient, at_anchor)
        table, aggregated = None, memory.gradient
    else:
        old = jax.tree.map(lambda leaf: leaf[index], memory.table)
        aggregated = jax.tree.map(lambda g, new, old: g + new - old, memory.gradient, gradient, old)
        table = jax.tree.map(lambda leaf, new: leaf.at[index].set(new), memory.table, gradient)
        direction = aggregated
    # L_i = 2 (1 - lambda) / h_i; a step of 2 (1 - lambda) / (factor * sum L_i) would gain nothing at worst.
    step_size = rule.safety / (memory.factor * jnp.sum(1 / step_sizes))
    position = add_scaled(position, -step_size, direction)
    gone = step_size * jnp.sqrt(vdot(direction, direction))
    moved = memory.moved.at[index].set(0.0) + gone
    values = memory.values.at[index].set(value)
    return (
        position,
        Splitting(table, memory.anchor, aggregated, step_sizes, values, moved, memory.factor),
        tried,
        step_size,
    )


def _armijo(
    loss: Callable[[PyTree], Array], position: PyTree, value: Array, gradient: PyTree, first: Array, decrease: Array
):
    """The first step size, halved until the loss of the batch falls far enough; and how often it was evaluated."""
    square = vdot(gradient, gradient)

    def too_long(carry):
        size, tried = carry
        change = loss(add_scaled(position, -size, gradient)) - value
        enough = jnp.isfinite(change) & (change <= -decrease * size * square)
        return ~enough & (tried < SEARCH)

    def shorten(carry):
        return SHRINK * carry[0], carry[1] + 1

    size, tried = jax.lax.while_loop(too_long, shorten, (first, jnp.asarray(1, jnp.int32)))
    return size, tried


def staleness(memory: Splitting, decrease: Array) -> Array:
    r"""\(\sum_i L_i\) times how far the run has gone since batch \(i\) was met: \(|\nabla R - g|\) at most."""
    return jnp.sum(2 * (1 - decrease) / memory.step_sizes * memory.moved)


def _full_gradient(stepper: Stepper, position: PyTree, data: PyTree, batches: Array) -> PyTree:
    def add(total, indices):
        batch = jax.tree.map(lambda leaf: leaf[indices], data)
        return jax.tree.map(jnp.add, total, value_and_gradient(stepper, position, batch, len(batches))[1]), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, position), batches)[0]
