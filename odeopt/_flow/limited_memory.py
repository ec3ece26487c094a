r"""L-BFGS: an inverse Hessian that is kept as the last pairs \((s, y)\) of steps and changes of the gradient.

(Nocedal, 1980, Updating quasi-Newton matrices with limited storage; Liu and Nocedal, 1989, On the limited memory BFGS
method for large scale optimization.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array


class Pairs(eqx.Module):
    r"""A ring of pairs.

    **Attributes:** `steps`, `changes`: \(s\) and \(y\), each (m, N); `curvatures`: \(s^\top y\), (m,), 0 where there is
    no pair yet; `newest`: the row of the last pair, and `scale` \(\gamma\) of the matrix \(\gamma I\) that the pairs
    update, 0 before the first; scalars of floating point.
    """

    steps: Array
    changes: Array
    curvatures: Array
    newest: Array
    scale: Array


def empty(parameters: Array, pairs: int) -> Pairs:
    """A ring for `pairs` pairs of parameters of shape (N,)."""
    rows = jnp.zeros((pairs, parameters.size), parameters.dtype)
    zero = jnp.zeros((), parameters.dtype)
    return Pairs(rows, rows, jnp.zeros(pairs, parameters.dtype), zero, zero)


def with_pair(memory: Pairs, step: Array, change: Array, known: Array) -> Pairs:
    """The ring with a pair in the place of the oldest, where it is `known`."""
    curvature = jnp.vdot(step, change)
    row = (memory.newest.astype(jnp.int32) + 1) % len(memory.curvatures)

    def put(carry: tuple[Array, Pairs]) -> tuple[Array, Pairs]:
        _, pairs = carry
        written = Pairs(
            steps=pairs.steps.at[row].set(step),
            changes=pairs.changes.at[row].set(change),
            curvatures=pairs.curvatures.at[row].set(curvature),
            newest=row.astype(pairs.newest.dtype),
            scale=curvature / jnp.vdot(change, change),
        )
        return jnp.asarray(False), written

    # A loop of at most one round is a conditional that writes its row in place; one of two branches would copy all.
    _, memory = jax.lax.while_loop(lambda carry: carry[0], put, (known, memory))
    return memory


def product(memory: Pairs, covector: Array) -> Array:
    """The inverse Hessian times a covector, shape (N,), by the recursion of two loops."""
    count = len(memory.curvatures)
    newest = memory.newest.astype(jnp.int32)
    inverse = jnp.where(memory.curvatures > 0, 1 / jnp.where(memory.curvatures > 0, memory.curvatures, 1.0), 0.0)

    def backward(index, carry):
        rest, weights = carry
        row = (newest - index) % count
        weight = inverse[row] * jnp.vdot(memory.steps[row], rest)
        return rest - weight * memory.changes[row], weights.at[row].set(weight)

    rest, weights = jax.lax.fori_loop(0, count, backward, (covector, jnp.zeros_like(inverse)))

    def forward(index, total):
        # The oldest is the row behind the newest.
        row = (newest + 1 + index) % count
        return total + (weights[row] - inverse[row] * jnp.vdot(memory.changes[row], total)) * memory.steps[row]

    return jax.lax.fori_loop(0, count, forward, memory.scale * rest)
