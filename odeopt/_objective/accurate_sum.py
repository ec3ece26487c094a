r"""Sums whose rounding does not grow with the number of terms.

What an addition \(s = a + b\) loses, \(e = (a - (s - b')) + (b - b')\) with \(b' = s - a\), is a number of the same
precision, and is carried beside the sum. (Knuth, 1969, The art of computer programming, 2; Ogita, Rump, Oishi, 2005,
Accurate sum and dot product.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class Sum(NamedTuple):
    """A sum of trees so far, and what its roundings have lost."""

    total: PyTree
    lost: PyTree

    def add(self, term: PyTree) -> "Sum":
        """The sum with one more term."""
        leaves, structure = jax.tree.flatten(self.total)
        exact = [_exactly(a, b) for a, b in zip(leaves, jax.tree.leaves(term), strict=True)]
        total = jax.tree.unflatten(structure, [a for a, _ in exact])
        lost = jax.tree.unflatten(structure, [e for _, e in exact])
        return Sum(total, jax.tree.map(jnp.add, self.lost, lost))

    def rounded(self) -> PyTree:
        """The sum as a tree."""
        return jax.tree.map(jnp.add, self.total, self.lost)


def nothing_yet(like: PyTree) -> Sum:
    """The empty sum of trees like this one: arrays, or their shapes."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    return Sum(zeros, zeros)


@jax.custom_jvp
def accurate_sum(terms: Array) -> Array:
    """The sum of a vector, shape (n,), as if it were made in twice the precision and rounded once."""
    total, lost = terms, jnp.zeros_like(terms)
    while total.size > 1:
        half = (total.size + 1) // 2
        pad = 2 * half - total.size
        total, lost = jnp.pad(total, (0, pad)), jnp.pad(lost, (0, pad))
        total, rounding = _exactly(total[:half], total[half:])
        lost = lost[:half] + lost[half:] + rounding
    return (total + lost)[0]


@accurate_sum.defjvp
def _tangent(primals, tangents):
    return accurate_sum(*primals), jnp.sum(*tangents)


def _exactly(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    taken = total - a
    return total, (a - (total - taken)) + (b - taken)
