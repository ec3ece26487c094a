r"""Norms of the momentum, exact and smooth, with their conjugates.

The smooth form of a norm is \(\sqrt{r^2 + d^2} - d\) in the place of \(r\); the conjugate of that is
\(d\,(1 - \sqrt{1 - s^2})\) on \(|s| \le 1\), in the place of zero there.
"""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._tree import size, vdot
from .convex_function import AbstractConvexFunction
from .open_scale import root_mean_square
from .p_gradient import OPEN_SMOOTHING

_Self = TypeVar("_Self", bound="AbstractSmoothNorm")


class L1Norm(AbstractConvexFunction):
    r"""The sum of absolute values, whose gradient is the sign.

    \[ K = |m|_1, \qquad \nabla K = \operatorname{sign}(m), \qquad K^* = 0 \text{ on } |u|_\infty \le 1 \]

    Source: Chen, Liu, Liang and Liu (2024), Lion secretly solves constrained optimization: as Lyapunov predicts.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.LionK(odeopt.L1Norm()), controller=odeopt.ConstantStep(1e-3))  # Lion's sign
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2), max_steps=500, throw=False)
        ```
    """

    def value(self, momentum: PyTree) -> Array:
        return vdot(momentum, self.gradient(momentum))

    def gradient(self, momentum: PyTree) -> PyTree:
        return jax.tree.map(jnp.sign, momentum)

    def conjugate(self, velocity: PyTree) -> Array:
        leaves = jax.tree.leaves(velocity)
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]))
        # At the end of the domain, where the flow arrives, a product of two rounded numbers may be above one.
        return jnp.where(largest <= 1 + 4 * jnp.finfo(largest.dtype).eps, 0.0, jnp.inf)

    def conjugate_gradient(self, velocity: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, velocity)

    def residual(self, gradient: PyTree, velocity: PyTree) -> PyTree:
        # |g| + u g: zero where the gradient is, and where u stands at the end of [-1, 1] that -g points to.
        return jax.tree.map(lambda g, u: jnp.abs(g) + u * g, gradient, velocity)


class AbstractSmoothNorm(AbstractConvexFunction):
    """A norm made smooth at zero over a width that may be left open."""

    smoothing: eqx.AbstractVar[Array | None]

    @property
    def open_smoothing(self) -> float:
        """The smoothing where none is given, in units of what the norm of the first gradient is made of."""
        return OPEN_SMOOTHING

    def __check_init__(self):
        d = self.smoothing
        if concrete(d) and not 0 < float(d) < float("inf"):
            raise ValueError(
                f"{type(self).__name__}(smoothing={float(d)}): expected a finite number > 0, in units of the gradient."
            )

    def parts(self, gradient: PyTree) -> int:
        """How many numbers the norm is made of; their root mean square is what `smoothing` is measured by."""
        return size(gradient)

    def calibrate(self: _Self, gradient: PyTree) -> _Self:
        if self.smoothing is not None:
            return self
        smoothing = self.open_smoothing * root_mean_square(gradient, self.parts(gradient))
        return eqx.tree_at(lambda norm: norm.smoothing, self, smoothing, is_leaf=lambda leaf: leaf is None)

    @property
    def width(self) -> Array:
        """The smoothing of a calibrated function."""
        if self.smoothing is None:
            name = type(self).__name__
            raise ValueError(
                f"{name}(smoothing=None) has not been calibrated: minimise and train do it; elsewhere call "
                "flow.calibrate(state, oracle) first or give smoothing."
            )
        return self.smoothing


class SmoothL1Norm(AbstractSmoothNorm):
    r"""The sum of absolute values, smooth at zero.

    \[ K = \sum \sqrt{m^2 + d^2} - d, \qquad \nabla K = \frac{m}{\sqrt{m^2 + d^2}}, \qquad
       K^* = d \sum \big( 1 - \sqrt{1 - u^2} \big), \qquad \nabla K^* = \frac{d\,u}{\sqrt{1 - u^2}} \]

    **Arguments:** `smoothing`: \(d > 0\), in units of the gradient. `None` (default): 0.03 of the root mean square of
    the first gradient. **Raises:** `ValueError` if it is out of range. Source: Chen, Liu, Liang and Liu (2024), Lion
    secretly solves constrained optimization: as Lyapunov predicts.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.LionK(odeopt.SmoothL1Norm()))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    smoothing: Array | None = eqx.field(converter=hyperparameter, default=None)

    @property
    def open_smoothing(self) -> float:
        return OPEN_L1_SMOOTHING

    def value(self, momentum: PyTree) -> Array:
        return total(lambda m: smooth_norm(m**2, self.width), momentum)

    def gradient(self, momentum: PyTree) -> PyTree:
        return jax.tree.map(lambda m: m / jnp.sqrt(m**2 + self.width**2), momentum)

    def conjugate(self, velocity: PyTree) -> Array:
        return total(lambda u: conjugate_of_smooth_norm(u**2, self.width), velocity)

    def conjugate_gradient(self, velocity: PyTree) -> PyTree:
        return jax.tree.map(lambda u: self.width * u / jnp.sqrt(1 - u**2), velocity)


class SmoothL2Norm(AbstractSmoothNorm):
    r"""The Euclidean norm of all parameters together, smooth at zero: normalized momentum.

    \[ K = \sqrt{|m|^2 + d^2} - d, \qquad \nabla K = \frac{m}{\sqrt{|m|^2 + d^2}}, \qquad
       K^* = d \big( 1 - \sqrt{1 - |u|^2} \big), \qquad \nabla K^* = \frac{d\,u}{\sqrt{1 - |u|^2}} \]

    **Arguments:** `smoothing`: \(d > 0\), in units of the gradient. `None` (default): a thousandth of the norm of the
    first gradient. **Raises:** `ValueError` if it is out of range. Source: Cutkosky and Mehta (2020), Momentum improves
    normalized SGD; Chen, Liu, Liang and Liu (2024), Lion secretly solves constrained optimization: as Lyapunov
    predicts.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.LionK(odeopt.SmoothL2Norm()))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.ones(2))
        ```
    """

    smoothing: Array | None = eqx.field(converter=hyperparameter, default=None)

    def parts(self, gradient: PyTree) -> int:
        return 1

    def value(self, momentum: PyTree) -> Array:
        return smooth_norm(vdot(momentum, momentum), self.width)

    def gradient(self, momentum: PyTree) -> PyTree:
        root = jnp.sqrt(vdot(momentum, momentum) + self.width**2)
        return jax.tree.map(lambda m: m / root, momentum)

    def conjugate(self, velocity: PyTree) -> Array:
        return conjugate_of_smooth_norm(vdot(velocity, velocity), self.width)

    def conjugate_gradient(self, velocity: PyTree) -> PyTree:
        root = jnp.sqrt(1 - vdot(velocity, velocity))
        return jax.tree.map(lambda u: self.width * u / root, velocity)


# Larger than for norms that do not depend on the axes: along a narrow valley askew to them the entries of the momentum
# change their signs in turns, and each turn is to be no wider than a step. Measured: benchmarks/core.py, table
# "constants"; ten times less costs several times as much where there are such valleys.
OPEN_L1_SMOOTHING = 0.03


def smooth_norm(square: Array, width: Array) -> Array:
    r"""\(\sqrt{r^2 + d^2} - d\) of \(r^2\), without cancellation where \(r\) is small."""
    return square / (jnp.sqrt(square + width**2) + width)


def conjugate_of_smooth_norm(square: Array, width: Array) -> Array:
    r"""\(d\,(1 - \sqrt{1 - s^2})\) of \(s^2\), without cancellation, and infinite for \(s^2 > 1\)."""
    inside = square <= 1
    root = jnp.sqrt(jnp.where(inside, 1 - square, 1.0))
    return jnp.where(inside, width * square / (1 + root), jnp.inf)


def total(function: Callable[[Array], Array], tree: PyTree) -> Array:
    """The sum of a function of arrays over all their entries, in at least float32."""

    def leaf(x):
        return jnp.sum(function(x.astype(jnp.promote_types(x.dtype, jnp.float32))))

    return jnp.asarray(optax.tree.sum(jax.tree.map(leaf, tree)))
