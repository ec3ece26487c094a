r"""The smooth polar factor of a matrix, \(M (M^\top M + d^2 I)^{-1/2}\): singular values well above \(d\) become one.

By singular values, and by a Newton-Schulz iteration that needs products of matrices only. (Higham, 2008, Functions of
matrices, chapter 8.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .matrices import times


@jax.custom_jvp
def smooth_polar(matrix: Array, width: Array) -> Array:
    r"""\(U \operatorname{diag}(\sigma / \sqrt{\sigma^2 + d^2})\, V^\top\); equal and zero \(\sigma\) are differentiable
    too.

    **Arguments:** `matrix`: shape `(m, n)`; `width`: \(d > 0\), a scalar. **Returns:** shape `(m, n)`.
    """
    return _smooth_polar(matrix, width)[0]


@smooth_polar.defjvp
def _smooth_polar_jvp(primals, tangents):
    # Noferini, 2017, A formula for the Frechet derivative of a generalized matrix function: the symmetric part of
    # U' M' V is multiplied with divided differences of f(s) = s / q, q = sqrt(s^2 + d^2), the skew part with those of
    # s and -s, and what lies outside of the singular vectors with f(s) / s = 1 / q. All is written without differences.
    (_, d), (rate, d_rate) = primals, tangents
    value, (U, s, Vt) = _smooth_polar(*primals)
    q = jnp.sqrt(s**2 + d**2)
    inner = times(U.T, rate, Vt.T)
    (s_i, s_j), (q_i, q_j) = (s[:, None], s[None, :]), (q[:, None], q[None, :])
    both, crossed = s_i + s_j, s_i * q_j + s_j * q_i
    # crossed / both, which tends to d where both vanish.
    mean = jnp.where(both > 0, crossed / jnp.where(both > 0, both, 1.0), d)
    symmetric, skew = 0.5 * (inner + inner.T), 0.5 * (inner - inner.T)
    core = (d**2 / mean * symmetric + mean * skew) / (q_i * q_j)
    core = core - jnp.diag(s * d * d_rate / q**3)
    outside = times((rate - times(U, U.T, rate)), Vt.T / q, Vt) + times(U / q, U.T, rate - times(rate, Vt.T, Vt))
    return value, times(U, core, Vt) + outside


def _smooth_polar(matrix: Array, width: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    U, s, Vt = jnp.linalg.svd(matrix, full_matrices=False)
    return times(U * (s / jnp.sqrt(s**2 + width**2)), Vt), (U, s, Vt)


def newton_schulz(matrix: Array, width: Array, iterations: int) -> tuple[Array, Array]:
    r"""The smooth polar factor and the root \(S = (M^\top M + d^2 I)^{1/2}\), by the cubic Newton-Schulz iteration.

    The matrix \(A\) with the rows of \(M\) and of \(d I\) has \(A^\top A = M^\top M + d^2 I\); the upper rows of its
    polar factor are the smooth polar factor of \(M\), and no singular value of it is below \(d\). From
    \(X_0 = A / |A|_F\), \(X \leftarrow \tfrac32 X - \tfrac12 X X^\top X\) takes every singular value to one,
    monotonically and in the end quadratically: by \(\tfrac32 - \tfrac12 \sigma^2 \ge 11/8\) each time up to \(1/2\),
    and from there to \(1 - 2 \cdot 10^{-12}\) in six iterations, to rounding in seven. So
    \(7 + \ln(|A|_F / (2 d)) / \ln(11/8)\) iterations are enough.

    **Arguments:** `matrix`: shape `(m, n)`; `width`: \(d > 0\), a scalar; `iterations`: how many. **Returns:** two
    arrays of the shapes `(m, n)` and `(k, k)` with \(k = \min(m, n)\); for \(m < n\) the root is \((M M^\top + d^2
    I)^{1/2}\).
    """
    if matrix.shape[0] < matrix.shape[1]:
        factor, root = newton_schulz(matrix.T, width, iterations)
        return factor.T, root
    rows, columns = matrix.shape
    A = jnp.concatenate([matrix, width * jnp.eye(columns, dtype=matrix.dtype)])

    def improve(_, X):
        return 1.5 * X - 0.5 * times(X, times(X.T, X))

    X = jax.lax.fori_loop(0, iterations, improve, A / jnp.sqrt(jnp.sum(A**2)))
    return X[:rows], times(A.T, X)
