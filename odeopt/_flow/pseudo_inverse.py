r"""The pseudo-inverse of a Jacobian, damped: from its singular values, so that its rank does not matter.

\[ J = U S V^\top, \qquad (J^\top J + \delta)^+ = V (S^2 + \delta)^+ V^\top, \]

where singular values that rounding alone may have made are zero.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array


class Decomposed(eqx.Module):
    r"""A Jacobian of shape (P, N) in parts.

    **Attributes:** `left`: \(U\), (P, R); `values`: (R,), zero where they are noise; `right`: \(V^\top\), (R, N), with
    \(R = \min(P, N)\).
    """

    left: Array
    values: Array
    right: Array

    def least_squares(self, residuals: Array, damping: Array) -> Array:
        r"""\((J^\top J + \delta)^+ J^\top r\), shape (N,); `residuals`: \(r\), shape (P,)."""
        return self.right.T @ (self.values * self._inverse_squares(damping) * (self.left.T @ residuals))

    def solve(self, covector: Array, damping: Array) -> Array:
        r"""\((J^\top J + \delta)^+ w\), shape (N,).

        A covector that is not of the form \(J^\top r\) is rounded in all directions alike: squares that are noise
        beside the largest one are zero too.
        """
        noise = max(self.right.shape) * jnp.finfo(self.values.dtype).eps * jnp.max(self.values) ** 2
        known = self.values**2 > noise
        reached = jnp.where(known, self.right @ covector, 0.0)
        beyond = covector - self.right.T @ reached
        return self.right.T @ (self._inverse_squares(damping) * reached) + _inverse(damping) * beyond

    def _inverse_squares(self, damping: Array) -> Array:
        return _inverse(self.values**2 + damping)


def _inverse(number: Array) -> Array:
    """One over a number, and zero for zero."""
    return jnp.where(number > 0, 1 / jnp.where(number > 0, number, 1.0), 0.0)


def decomposed(jacobian: Array) -> Decomposed:
    """The parts of a Jacobian of shape (P, N)."""
    left, values, right = jnp.linalg.svd(jacobian, full_matrices=False)
    # The backward error of the decomposition, as in the rank of NumPy and MATLAB.
    noise = max(jacobian.shape) * jnp.finfo(jacobian.dtype).eps * jnp.max(values)
    return Decomposed(left, jnp.where(values > noise, values, 0.0), right)
