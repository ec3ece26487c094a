r"""Potentials of mirror flow: strictly convex functions \(\phi\) whose gradient maps parameters to dual variables.

\[ z = \nabla\phi(x), \qquad x = \nabla\phi^*(z), \qquad \nabla^2\phi^*(z) = \big(\nabla^2\phi(x)\big)^{-1}, \]

with the conjugate function \(\phi^*(z) = \sup_x \langle z, x \rangle - \phi(x)\).
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter


class AbstractPotential(eqx.Module):
    r"""A potential of `MirrorFlow`: a subclass writes \(\nabla\phi\) and its inverse \(\nabla\phi^*\).

    !!! example "The potential of gradient flow, with a scale for each parameter"

        ```python
        from typing import Any


        class Weighted(odeopt.AbstractPotential):
            weights: Any

            def gradient(self, position):
                return jax.tree.map(jnp.multiply, self.weights, position)

            def conjugate_gradient(self, dual):
                return jax.tree.map(jnp.divide, dual, self.weights)
        ```
    """

    @abc.abstractmethod
    def gradient(self, position: PyTree) -> PyTree:
        r"""The dual variables \(\nabla\phi(x)\), in the structure of the parameters."""

    @abc.abstractmethod
    def conjugate_gradient(self, dual: PyTree) -> PyTree:
        r"""The parameters \(\nabla\phi^*(z)\) of given dual variables: the inverse of `gradient`."""

    def inverse_hessian_product(self, position: PyTree, covector: PyTree) -> PyTree:
        r"""\((\nabla^2\phi(x))^{-1} w\), here as the derivative of \(\nabla\phi^*\) along \(w\)."""
        return jax.jvp(self.conjugate_gradient, (self.gradient(position),), (covector,))[1]

    def mirror_step(self, position: PyTree, change: PyTree) -> PyTree:
        r"""\(\nabla\phi^*(\nabla\phi(x) + w)\): the parameters after a change \(w\) of their dual variables."""
        return self.conjugate_gradient(jax.tree.map(jnp.add, self.gradient(position), change))

    def contains(self, position: PyTree) -> Array:
        """Whether the parameters are in the domain of the potential (or on its boundary), a scalar truth value."""
        return jnp.asarray(True)


class Entropy(AbstractPotential):
    r"""The entropy of positive parameters: \(x' = -x\,g\), the flow of exponentiated gradients.

    \[ \phi(x) = \sum x \ln x - x, \qquad \nabla\phi(x) = \ln x, \qquad \nabla\phi^*(z) = e^z \]

    All parameters stay positive. Source: Kivinen and Warmuth (1997), Exponentiated gradient versus gradient descent for
    linear predictors.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.Entropy()))  # for positive parameters
        solution = odeopt.minimise(lambda x, _: jnp.sum((x - 0.5) ** 2), solver, jnp.ones(2))
        ```
    """

    def gradient(self, position: PyTree) -> PyTree:
        return jax.tree.map(jnp.log, position)

    def conjugate_gradient(self, dual: PyTree) -> PyTree:
        return jax.tree.map(jnp.exp, dual)

    def inverse_hessian_product(self, position: PyTree, covector: PyTree) -> PyTree:
        return jax.tree.map(lambda x, w: _positive_part(x) * w, position, covector)

    def mirror_step(self, position: PyTree, change: PyTree) -> PyTree:
        return jax.tree.map(lambda x, w: _not_zero(x * jnp.exp(w), x.dtype), position, change)

    def contains(self, position: PyTree) -> Array:
        return _none_negative(position)


class SimplexEntropy(AbstractPotential):
    r"""The entropy of probabilities: the replicator equation \(x' = -x\,(g - \langle x, g \rangle)\).

    \[ \phi(x) = \sum x \ln x, \qquad \nabla\phi(x) = \ln x, \qquad \nabla\phi^*(z) = \frac{e^z}{\sum e^z} \]

    The last axis of every array of parameters is one distribution: its entries stay positive, and their sum what it is
    at the start. Source: Kivinen and Warmuth (1997); Hofbauer and Sigmund (1998), Evolutionary games and
    population dynamics.

    !!! example

        ```python
        cost = jnp.array([1.0, 2.0, 3.0])
        solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.SimplexEntropy()))  # for probabilities
        start = jnp.full(3, 1 / 3)
        solution = odeopt.minimise(lambda p, _: cost @ p + jnp.sum(p**2), solver, start, throw=False)
        ```
    """

    def gradient(self, position: PyTree) -> PyTree:
        return jax.tree.map(jnp.log, position)

    def conjugate_gradient(self, dual: PyTree) -> PyTree:
        return jax.tree.map(lambda z: jax.nn.softmax(z, axis=-1), dual)

    def inverse_hessian_product(self, position: PyTree, covector: PyTree) -> PyTree:
        def leaf(x, w):
            x = _positive_part(x)
            # Relative to the entry of the likeliest, from which the mean is hardly different at a vertex.
            w = w - jnp.take_along_axis(w, jnp.argmax(x, axis=-1, keepdims=True), axis=-1)
            mean = jnp.sum(x * w, axis=-1, keepdims=True) / jnp.sum(x, axis=-1, keepdims=True)
            return x * (w - mean)

        return jax.tree.map(leaf, position, covector)

    def mirror_step(self, position: PyTree, change: PyTree) -> PyTree:
        def leaf(x, w):
            total = jnp.sum(x, axis=-1, keepdims=True)
            return _not_zero(total * jax.nn.softmax(jnp.log(x) + w, axis=-1), x.dtype)

        return jax.tree.map(leaf, position, change)

    def contains(self, position: PyTree) -> Array:
        return _none_negative(position)


class HyperbolicEntropy(AbstractPotential):
    r"""Between gradient flow and exponentiated gradients, for parameters of either sign: \(x' = -\sqrt{x^2 + b^2}\,g\).

    \[ \phi(x) = \sum x \operatorname{arsinh}(x/b) - \sqrt{x^2 + b^2}, \qquad
       \nabla\phi(x) = \operatorname{arsinh}(x/b), \qquad \nabla\phi^*(z) = b \sinh z \]

    Parameters far below \(b\) follow gradient flow at the speed \(b\); those far above it change by factors.

    **Arguments:** `scale`: \(b > 0\), in units of the parameters. **Raises:** `ValueError` if it is out of range.
    Source: Ghai, Hazan and Singer (2020), Exponentiated gradient meets gradient descent.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.HyperbolicEntropy(scale=0.1)))
        solution = odeopt.minimise(lambda x, _: jnp.sum((x - 0.5) ** 2), solver, jnp.ones(2))
        ```
    """

    scale: Array = eqx.field(converter=hyperparameter)

    def __check_init__(self):
        if concrete(self.scale) and not 0 < float(self.scale) < float("inf"):
            raise ValueError(
                f"HyperbolicEntropy(scale={float(self.scale)}): expected a finite number > 0, in units of the "
                "parameters."
            )

    def gradient(self, position: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.arcsinh(x / self.scale), position)

    def conjugate_gradient(self, dual: PyTree) -> PyTree:
        return jax.tree.map(lambda z: self.scale * jnp.sinh(z), dual)

    def inverse_hessian_product(self, position: PyTree, covector: PyTree) -> PyTree:
        return jax.tree.map(lambda x, w: jnp.sqrt(x**2 + self.scale**2) * w, position, covector)


class PNorm(AbstractPotential):
    r"""Half the square of the p-norm of all parameters together; powers close to one favour sparse parameters.

    \[ \phi(x) = \tfrac12 |x|_p^2, \qquad \nabla\phi(x) = \operatorname{sign}(x)\,|x|^{p-1}\,|x|_p^{2-p}, \qquad
       \phi^*(z) = \tfrac12 |z|_q^2, \qquad \tfrac1p + \tfrac1q = 1 \]

    Where a parameter is zero its velocity vanishes though its dual variable moves on: `MirrorEuler`, which steps in
    the dual variables, passes through, and other schemes must not start there.

    **Arguments:** `power`: \(1 < p \le 2\); gradient flow for 2. **Raises:** `ValueError` if it is out of range.
    Source: Grove, Littlestone and Schuurmans (2001), General convergence results for linear discriminant updates;
    Gentile (2003), The robustness of the p-norm algorithms.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.PNorm(power=1.5)))
        solution = odeopt.minimise(lambda x, _: jnp.sum((x - 0.5) ** 2), solver, jnp.ones(2))
        ```
    """

    power: Array = eqx.field(converter=hyperparameter)

    def __check_init__(self):
        if concrete(self.power) and not 1 < float(self.power) <= 2:
            raise ValueError(f"PNorm(power={float(self.power)}): expected 1 < power <= 2.")

    def gradient(self, position: PyTree) -> PyTree:
        return _gradient_of_half_square(position, self.power)

    def conjugate_gradient(self, dual: PyTree) -> PyTree:
        return _gradient_of_half_square(dual, self.power / (self.power - 1))

    def inverse_hessian_product(self, position: PyTree, covector: PyTree) -> PyTree:
        # At x = 0, where phi* has no second derivative, x(t) = grad phi*(-t g) goes off in the direction of
        # -grad phi*(g).
        at_zero = _largest(position) == 0
        start = jax.tree.map(lambda x: jnp.where(at_zero, 1, x), position)
        product = super().inverse_hessian_product(start, covector)
        return jax.tree.map(lambda a, b: jnp.where(at_zero, a, b), self.conjugate_gradient(covector), product)


def _positive_part(x: Array) -> Array:
    """What is left of parameters that rounding has put beyond zero, where the metric would have the wrong sign."""
    return jnp.maximum(x, 0)


def _not_zero(x: Array, dtype) -> Array:
    """At least the smallest positive number of a dtype: a parameter that rounding has made zero stays so for ever."""
    return jnp.maximum(x, jnp.finfo(dtype).tiny)


def _none_negative(position: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(leaf >= 0) for leaf in jax.tree.leaves(position)]))


def _largest(tree: PyTree) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(tree)]))


def _gradient_of_half_square(x: PyTree, power: Array) -> PyTree:
    """The gradient of half the square of a norm: sign(x) |x|^(p-1) |x|_p^(2-p)."""
    # In units of the largest entry, so that large powers neither overflow nor vanish; a constant as to the derivative,
    # because the result is proportional to x.
    unit = jax.lax.stop_gradient(_largest(x))
    unit = jnp.where(unit > 0, unit, 1.0)
    scaled = jax.tree.map(lambda leaf: leaf / unit, x)
    total = sum(jnp.sum(jnp.abs(leaf) ** power) for leaf in jax.tree.leaves(scaled))
    total = jnp.where(total > 0, total, 1.0)
    factor = unit * total ** ((2 - power) / power)
    return jax.tree.map(lambda leaf: factor * jnp.sign(leaf) * jnp.abs(leaf) ** (power - 1), scaled)
