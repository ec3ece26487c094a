"""Discrete optimizers in optax's form, of which optax has none or none of just this form."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .matrices import as_matrix, times


def preconditioned_momentum(
    learning_rate: Array,
    b1: Array,
    squares: Callable[[Array, Array], Array],
    denominator: Callable[[Array], Array],
    *,
    gradient_weight: Array | float = 0.0,
    penalty: Array | None = None,
) -> optax.GradientTransformation:
    r"""Adam's kind: \(x^+ = x - h\,(m^+ + c g) / D(v^+)\) with \(m^+ = \beta_1 m + (1 - \beta_1)(g + \lambda x)\).

    `squares(v, g)` is \(v^+\), `gradient_weight` is \(c\) and `penalty` \(\lambda\).
    """

    def init(params):
        return optax.tree.zeros_like(params), optax.tree.zeros_like(params)

    def update(updates, state, params=None):
        pulled = updates if penalty is None else optax.tree.add_scale(updates, penalty, params)
        m = optax.tree.update_moment(pulled, state[0], b1, 1)
        v = jax.tree.map(squares, state[1], updates)

        def step(m, v, g):
            return -learning_rate * (m + gradient_weight * g) / denominator(v)

        return jax.tree.map(step, m, v, updates), (m, v)

    return optax.GradientTransformation(init, update)


def exponential_average(b2: Array) -> Callable[[Array, Array], Array]:
    r"""\(v^+ = \beta_2 v + (1 - \beta_2)\,g^2\)."""
    return lambda v, g: b2 * v + (1 - b2) * g**2


def largest_average(b2: Array) -> Callable[[Array, Array], Array]:
    r"""\(v^+ = \max(v, \beta_2 v + (1 - \beta_2)\,g^2)\)."""
    return lambda v, g: jnp.maximum(v, b2 * v + (1 - b2) * g**2)


def momentum_through(
    function: Callable[[PyTree], PyTree],
    learning_rate: Array,
    kept: Array,
    gradient_weight: Array,
    weight_decay: Array | None,
    *,
    new_momentum: bool,
) -> optax.GradientTransformation:
    r"""Lion-K: \(x^+ = x - h\,(\nabla K((1 - \beta)\,m + \beta g) + \lambda x)\) and \(m^+ = \mu m + (1 - \mu)\,g\).

    `function` is \(\nabla K\), `kept` is \(\mu\); with `new_momentum` the step is made with \(m^+\) in place of \(m\).
    """

    def update(updates, state, params=None):
        m = optax.tree.update_moment(updates, state, kept, 1)
        ahead = optax.tree.update_moment(updates, m if new_momentum else state, 1 - gradient_weight, 1)
        return function(ahead), m

    steps = [optax.GradientTransformation(lambda params: optax.tree.zeros_like(params), update)]
    if weight_decay is not None:
        steps.append(optax.add_decayed_weights(weight_decay))
    return optax.chain(*steps, optax.scale(-learning_rate))


def averaged_shampoo(
    learning_rate: Array, b1: Array, b2: Array, shift: Callable[[Array], Array]
) -> optax.GradientTransformation:
    r"""\(X^+ = X - h\,S(L^+)^{-1/4} M^+ S(R^+)^{-1/4}\), averages in place of the sums; `shift(L)` is \(S(L) - L\)."""

    def squares(matrix):
        return times(matrix, matrix.T), times(matrix.T, matrix)

    def root(matrix):
        eigenvalues, basis = jnp.linalg.eigh(matrix + shift(matrix) * jnp.eye(len(matrix), dtype=matrix.dtype))
        return times(basis * eigenvalues**-0.25, basis.T)

    def init(params):
        zeros = [squares(jnp.zeros_like(as_matrix(leaf))) for leaf in jax.tree.leaves(params)]
        return optax.tree.zeros_like(params), zeros

    def update(updates, state, params=None):
        m = optax.tree.update_moment(updates, state[0], b1, 1)
        new = [squares(as_matrix(leaf)) for leaf in jax.tree.leaves(updates)]
        sides = jax.tree.map(lambda old, new: b2 * old + (1 - b2) * new, state[1], new)
        leaves, structure = jax.tree.flatten(m)
        steps = [
            -learning_rate * times(root(left), as_matrix(leaf), root(right)).reshape(leaf.shape)
            for leaf, (left, right) in zip(leaves, sides, strict=True)
        ]
        return jax.tree.unflatten(structure, steps), (m, sides)

    return optax.GradientTransformation(init, update)
