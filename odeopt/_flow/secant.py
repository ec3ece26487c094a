r"""Updates of an inverse Hessian from the secant equation \(H y = s\).

\(s\) is the change of the parameters over a step and \(y\) that of the gradient. With \(B = H^{-1}\),
\(b = s^\top B s / s^\top y\), \(k = y^\top H y / s^\top y\), every member of Broyden's family, scaled by \(\tau\), is

\[ H^+ = \frac1\tau \Big( H - \frac{H y\, y^\top H}{y^\top H y} + \phi\, v v^\top \Big) + \frac{s s^\top}{s^\top y},
   \qquad v = \sqrt{y^\top H y}\, \Big( \frac{s}{s^\top y} - \frac{H y}{y^\top H y} \Big), \]

where \(\phi = 1\) is BFGS. (Oren and Luenberger, 1974, Self-scaling variable metric (SSVM) algorithms; Al-Baali, 1998,
Numerical experience with a class of self-scaling quasi-Newton algorithms.)
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

UPDATES = ("self_scaled_bfgs", "self_scaled_broyden", "bfgs")


class Secant(NamedTuple):
    r"""What a step says of the Hessian.

    **Attributes:** `step` \(s\) and `change` \(y\), both (N,); `image`: \(B s\), known without \(B\) because a step of
    length \(h\) along \(-H g\) is \(B s = -h g\), (N,).
    """

    step: Array
    change: Array
    image: Array


def updated(inverse: Array, secant: Secant, update: str) -> Array:
    """The inverse Hessian after an update, shape (N, N); `update`: one of `UPDATES`. Needs a positive curvature."""
    step, change, image = secant
    product = inverse @ change
    curvature = jnp.vdot(step, change)
    b = jnp.vdot(step, image) / curvature
    k = jnp.vdot(change, product) / curvature
    scale, phi = _factors(b, k, len(step), update)
    # phi v v' - H y y' H / y' H y, with the terms of each product of vectors collected.
    outer = jnp.outer(step, product)
    correction = phi * k / curvature * jnp.outer(step, step) - phi / curvature * (outer + outer.T)
    correction = correction + (phi - 1) / (k * curvature) * jnp.outer(product, product)
    return (inverse + correction) / scale + jnp.outer(step, step) / curvature


def _factors(b: Array, k: Array, size: int, update: str) -> tuple[Array, Array]:
    r"""\(\tau\) and \(\phi\)."""
    one = jnp.ones_like(b)
    if update == "bfgs":
        return one, one
    scale = jnp.minimum(1.0, 1 / b)
    if update == "self_scaled_bfgs":
        return scale, one
    # Al-Baali's choice between the bounds that keep the condition of the matrix; a >= 0 by Cauchy and Schwarz.
    a = jnp.maximum(k * b - 1, jnp.finfo(b.dtype).eps)
    least = jnp.minimum(1.0, k * (1 - jnp.sqrt(a / (1 + a))))
    theta = jnp.clip((1 - b) / b, (least - 1) / a, 1 / least)
    sigma = 1 + a * theta
    root = sigma ** (-1 / max(size - 1, 1))
    scale = jnp.where(theta > 0, scale * jnp.minimum(root, 1 / theta), jnp.minimum(scale * root, sigma))
    return scale, (1 - theta) / sigma
