r"""The nuclear norm of matrices of parameters, exact and smooth: the function of Muon.

\[ |M|_* = \sum_i \sigma_i, \qquad \partial |M|_* \ni U V^\top, \qquad M = U \Sigma V^\top. \]
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .convex_function import AbstractConvexFunction
from .matrices import as_matrix, times
from .norms import AbstractSmoothNorm, conjugate_of_smooth_norm, smooth_norm, total
from .polar import newton_schulz, smooth_polar


class NuclearNorm(AbstractConvexFunction):
    r"""The sum of the singular values of each matrix, whose gradient is the polar factor.

    \[ K = \sum |M|_*, \qquad \nabla K = U V^\top, \qquad
       K^* = 0 \text{ where no singular value is above one} \]

    Singular values that are rounding beside the largest count as zero. Every array of parameters is one matrix: arrays
    of more than two axes are folded to their first axis against all others; vectors are matrices of one column, with
    the Euclidean norm; scalars have the absolute value. Source: Chen, Li and Liu (2025), Muon optimizes under spectral
    norm constraints.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.LionK(odeopt.NuclearNorm()), controller=odeopt.ConstantStep(1e-3))  # Muon
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.eye(2), max_steps=500, throw=False)
        ```
    """

    def value(self, momentum: PyTree) -> Array:
        return total(_exact_norm, momentum)

    def gradient(self, momentum: PyTree) -> PyTree:
        return _by_matrix(_polar, momentum)

    def conjugate(self, velocity: PyTree) -> Array:
        largest = jnp.stack([jnp.max(_singular_values(leaf)) for leaf in jax.tree.leaves(velocity)])
        return jnp.where(jnp.max(largest) <= 1 + _rounding(velocity), 0.0, jnp.inf)

    def conjugate_gradient(self, velocity: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, velocity)

    def residual(self, gradient: PyTree, velocity: PyTree) -> PyTree:
        # (G' G)^(1/2) + U' G: its trace is the gap in the inequality of Fenchel and Young.
        def leaf(g, u):
            G = as_matrix(g)
            return times(_polar(G).T, G) + times(as_matrix(u).T, G)

        return jax.tree.map(leaf, gradient, velocity)


class SmoothNuclearNorm(AbstractSmoothNorm):
    r"""The sum of the singular values of each matrix, smooth at zero.

    \[ K = \sum \sqrt{\sigma^2 + d^2} - d, \quad \nabla K = M (M^\top M + d^2 I)^{-1/2}, \quad
       K^* = d \sum \big( 1 - \sqrt{1 - \sigma^2} \big), \quad \nabla K^* = d\,U (I - U^\top U)^{-1/2} \]

    Every array of parameters is one matrix: arrays of more than two axes are folded to their first axis against all
    others; vectors are matrices of one column; scalars have the smooth absolute value.

    **Arguments:**

    - `smoothing`: \(d > 0\), in units of the gradient. `None` (default): a thousandth of the root mean square of all
        singular values of the first gradient.
    - `newton_schulz`: how many iterations of the convergent cubic Newton-Schulz method stand for the singular values
        in \(K\) and \(\nabla K\): products of matrices, made for graphics cards. `None` (default): singular values. For
        \(k\) columns (or rows, if those are fewer) \(n\) iterations are exact to rounding if
        \(\sqrt{|M|_F^2 + k d^2} \le 2 d\,(11/8)^{n - 7}\): 30 up to 3000 \(d\), 45 up to \(3 \cdot 10^5 d\). Beyond
        that small singular values become less than one, and \(K\) and \(\nabla K\) no longer belong together.

    **Raises:** `ValueError` if an argument is out of range. Source: Jordan et al. (2024), Muon: an optimizer for hidden
    layers in neural networks; Chen, Li and Liu (2025), Muon optimizes under spectral norm constraints.

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.LionK(odeopt.SmoothNuclearNorm()))
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), solver, jnp.eye(2))
        ```
    """

    smoothing: Array | None = eqx.field(converter=hyperparameter, default=None)
    newton_schulz: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        iterations = self.newton_schulz
        if iterations is not None and (not isinstance(iterations, int) or iterations < 1):
            raise ValueError(f"SmoothNuclearNorm(newton_schulz={iterations!r}): expected a whole number >= 1, or None.")

    def parts(self, gradient: PyTree) -> int:
        return sum(min(as_matrix(leaf).shape) for leaf in jax.tree.leaves(gradient))

    def value(self, momentum: PyTree) -> Array:
        if self.newton_schulz is None:
            return total(lambda m: smooth_norm(_singular_values(m) ** 2, self.width), momentum)
        return total(self._value_by_products, momentum)

    def gradient(self, momentum: PyTree) -> PyTree:
        if self.newton_schulz is None:
            return _by_matrix(lambda M: smooth_polar(M, self.width), momentum)
        iterations = self.newton_schulz
        return _by_matrix(lambda M: newton_schulz(M, self.width, iterations)[0], momentum)

    def conjugate(self, velocity: PyTree) -> Array:
        return total(lambda u: conjugate_of_smooth_norm(_singular_values(u) ** 2, self.width), velocity)

    def conjugate_gradient(self, velocity: PyTree) -> PyTree:
        def leaf(matrix):
            U, s, Vt = jnp.linalg.svd(matrix, full_matrices=False)
            return times(U * (self.width * s / jnp.sqrt(1 - s**2)), Vt)

        return _by_matrix(leaf, velocity)

    def _value_by_products(self, leaf: Array) -> Array:
        r"""The trace of \(S - d I\) as that of \((S + d I)^{-1} M^\top M\), in which nothing cancels."""
        M = as_matrix(leaf)
        M = M if M.shape[0] >= M.shape[1] else M.T
        assert self.newton_schulz is not None
        _, root = newton_schulz(M, self.width, self.newton_schulz)
        shifted = root + self.width * jnp.eye(len(root), dtype=root.dtype)
        return jnp.trace(jnp.linalg.solve(shifted, times(M.T, M)))


def _by_matrix(function, tree: PyTree) -> PyTree:
    """A function of matrices, applied to every array as a matrix."""
    return jax.tree.map(lambda leaf: function(as_matrix(leaf)).reshape(leaf.shape), tree)


def _singular_values(leaf: Array) -> Array:
    return jnp.linalg.svd(as_matrix(leaf), compute_uv=False)


@jax.custom_jvp
def _exact_norm(leaf: Array) -> Array:
    return jnp.sum(_singular_values(leaf))


@_exact_norm.defjvp
def _exact_norm_jvp(primals, tangents):
    # With the same subgradient where singular values vanish as `gradient` has.
    (leaf,), (rate,) = primals, tangents
    return _exact_norm(leaf), jnp.sum(_polar(as_matrix(leaf)) * as_matrix(rate))


def _polar(matrix: Array) -> Array:
    U, s, Vt = jnp.linalg.svd(matrix, full_matrices=False)
    counts = s > max(matrix.shape) * jnp.finfo(s.dtype).eps * jnp.max(s)
    return times(U * counts, Vt)


def _rounding(tree: PyTree) -> float:
    """What singular values of matrices of size one may be wrong by."""
    return max(
        max(as_matrix(leaf).shape) * float(np.finfo(as_matrix(leaf).dtype).eps) for leaf in jax.tree.leaves(tree)
    )
