r"""How much of a value is rounding: measured, where it does not follow from a type.

Along a line \(f\) is sampled at equal distances \(t_i\). Differences of order \(k\) of what is smooth vanish like
\(\Delta t^k\); those of independent errors of standard deviation \(\epsilon\) have the variance
\(\epsilon^2 (2k)! / (k!)^2\).

(Moré and Wild, 2011, Estimating computational noise.)
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

# As Moré and Wild recommend: seven to nine points, of whose differences those of middle order are neither smooth any
# more nor made of a single number.
POINTS, ORDERS = 9, (4, 5, 6)


@eqx.filter_jit
def relative_noise(function: Callable[[PyTree], Array], parameters: PyTree, spacing: float) -> Array:
    """The noise of `function` near `parameters`, over the size of its values there.

    **Arguments:** `spacing`: how far neighbouring points are apart, in units of each parameter: a rounding of the type
    that is computed in, so that all of them are rounded otherwise.
    """
    trained, rest = eqx.partition(parameters, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(trained)
    # The direction has no meaning, and is the same in every run.
    keys = jax.random.split(jax.random.key(0), len(leaves))
    ways = [jax.random.rademacher(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]

    def at(index: Array) -> Array:
        moved = [leaf * (1 + index * spacing * way).astype(leaf.dtype) for leaf, way in zip(leaves, ways, strict=True)]
        return function(eqx.combine(jax.tree.unflatten(structure, moved), rest))

    values = jax.lax.map(at, jnp.arange(POINTS) - POINTS // 2)
    table, found = values, []
    for order in range(1, max(ORDERS) + 1):
        table = jnp.diff(table)
        if order in ORDERS:
            share = math.factorial(order) ** 2 / math.factorial(2 * order)
            found.append(jnp.sqrt(share * jnp.mean(table**2)))
    size = jnp.mean(jnp.abs(values))
    return jnp.median(jnp.stack(found)) / jnp.where(size > 0, size, 1.0)
