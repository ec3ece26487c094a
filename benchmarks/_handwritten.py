"""Heavy ball under Lyapunov control, written by hand for one method: what the library's loop is timed against."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Carry(NamedTuple):
    x: object
    v: object
    gradient: object
    loss: jax.Array
    kinetic: jax.Array
    norm: jax.Array
    step_size: jax.Array
    held: jax.Array
    trials: jax.Array


def dot(a, b):
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def heavy_ball(loss, x, friction, step_size, max_trials, tolerance, gradient_test, decrease=0.1):
    """Semi-implicit Euler, growth 2 held after a rejection, shrink 2; at most `max_trials` trials."""
    unit = jnp.finfo(step_size.dtype).eps

    def going_on(c):
        return (c.trials < max_trials) & (c.norm > tolerance)

    def body(c):
        h = c.step_size
        v = jax.tree.map(lambda v, g: v + h * (-friction * v - g), c.v, c.gradient)
        x = jax.tree.map(lambda x, v: x + h * v, c.x, v)
        value, pullback = jax.vjp(loss, x)
        kinetic = 0.5 * dot(v, v)
        bound = -decrease * h * friction * 2 * c.kinetic
        excess = (value - c.loss) + (kinetic - c.kinetic) - bound
        finite = jnp.isfinite(value) & jnp.isfinite(kinetic)

        def arrive(gradient):
            return x, v, gradient, value, kinetic, jnp.sqrt(dot(gradient, gradient))

        here = (c.x, c.v, c.gradient, c.loss, c.kinetic, c.norm)

        def reject():
            return jnp.asarray(False), here

        def accept():
            return jnp.asarray(True), arrive(pullback(jnp.ones_like(value))[0])

        def ask_gradients():
            (gradient,) = pullback(jnp.ones_like(value))
            half = jax.tree.map(lambda a, b: 0.5 * (a + b), c.gradient, gradient)
            change = dot(half, jax.tree.map(jnp.subtract, x, c.x)) + (kinetic - c.kinetic)
            unseen = 0.5 * unit * dot(jax.tree.map(jnp.abs, half), jax.tree.map(jnp.abs, c.x))
            ok = change - bound <= unseen
            there = arrive(gradient)
            return ok, jax.tree.map(lambda a, b: jnp.where(ok, a, b), there, here)

        if gradient_test:
            near = jnp.abs(excess) <= 10 * unit * (jnp.abs(c.loss) + jnp.abs(value))
            branch = jnp.where(finite, jnp.where(near, 2, jnp.where(excess <= 0, 1, 0)), 0)
            ok, new = jax.lax.switch(branch, [reject, accept, ask_gradients])
        else:
            ok, new = jax.lax.cond(finite & (excess <= 0), accept, reject)
        factor = jnp.where(ok, jnp.where(c.held, 1.0, 2.0), 0.5).astype(h.dtype)
        return Carry(*new, h * factor, ~ok, c.trials + 1)

    value, gradient = jax.value_and_grad(loss)(x)
    v = jax.tree.map(jnp.zeros_like, x)
    norm = jnp.sqrt(dot(gradient, gradient))
    zero = jnp.zeros_like(value)
    start = Carry(x, v, gradient, value, zero, norm, step_size, jnp.asarray(False), jnp.asarray(0))
    return jax.lax.while_loop(going_on, body, start)
