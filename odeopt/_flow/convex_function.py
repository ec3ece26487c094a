r"""Convex functions of the momentum, with their conjugates: what tells the flows of the Lion-K family apart.

\[ K^*(u) = \sup_m \langle u, m \rangle - K(m), \qquad
   K(m) + K^*(u) \ge \langle u, m \rangle, \quad\text{equal iff}\quad u \in \partial K(m). \]
"""

import abc

import equinox as eqx
import jax
from jaxtyping import Array, PyTree


class AbstractConvexFunction(eqx.Module):
    r"""A convex function \(K\) with its minimum \(K(0) = 0\), for `LionK`.

    A subclass writes `value` and `gradient`. With weight decay the flow also needs the conjugate function
    \(K^*(u) = \sup_m \langle u, m \rangle - K(m)\), `conjugate` and `conjugate_gradient`.

    !!! example "A scale for each parameter"

        ```python
        from typing import Any


        class Weighted(odeopt.AbstractConvexFunction):
            weights: Any

            def value(self, momentum):
                return sum(0.5 * jnp.sum(w * m**2) for w, m in zip(*map(jax.tree.leaves, (self.weights, momentum))))

            def gradient(self, momentum):
                return jax.tree.map(jnp.multiply, self.weights, momentum)

        solver = odeopt.Solver(odeopt.LionK(Weighted(jnp.array([1.0, 0.1]))))
        solution = odeopt.minimise(lambda x, _: jnp.sum(jnp.array([1.0, 10.0]) * x**2), solver, jnp.ones(2))
        ```
    """

    @abc.abstractmethod
    def value(self, momentum: PyTree) -> Array:
        r"""\(K(m)\), a scalar."""

    @abc.abstractmethod
    def gradient(self, momentum: PyTree) -> PyTree:
        r"""\(\nabla K(m)\), or a subgradient, in the structure of the parameters."""

    def conjugate(self, velocity: PyTree) -> Array:
        r"""\(K^*(u)\), infinite outside of its domain."""
        raise NotImplementedError(
            f"LionK({type(self).__name__}(), weight_decay=...): weight decay needs {type(self).__name__}.conjugate and "
            ".conjugate_gradient. Define them, or leave weight_decay out."
        )

    def conjugate_gradient(self, velocity: PyTree) -> PyTree:
        r"""\(\nabla K^*(u)\), or a subgradient: a momentum with \(\nabla K(m) = u\)."""
        raise NotImplementedError(
            f"LionK({type(self).__name__}(), weight_decay=...): weight decay needs "
            f"{type(self).__name__}.conjugate_gradient. Define it, or leave weight_decay out."
        )

    def calibrate(self, gradient: PyTree) -> "AbstractConvexFunction":
        """The function with the scales set that its constructor left open, from the first gradient."""
        return self

    def residual(self, gradient: PyTree, velocity: PyTree) -> PyTree:
        r"""What vanishes iff \(-g \in \partial K^*(u)\); where \(K^*\) is smooth, \(g + \nabla K^*(u)\)."""
        return jax.tree.map(lambda g, z: g + z, gradient, self.conjugate_gradient(velocity))
