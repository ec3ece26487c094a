r"""Spectral flow: steepest descent in the spectral norm of each matrix of parameters.

\[ X' = -G\,(G^\top G + d^2 I)^{-1/2}, \qquad V = f(X), \qquad
   V' = -\sum_i \frac{\sigma_i^2}{\sqrt{\sigma_i^2 + d^2}}, \qquad G = \nabla f(X) = \sum_i \sigma_i u_i v_i^\top, \]

for any \(f\). For \(d \to 0\) the velocity is the polar factor \(-\sum u_i v_i^\top\), all of whose singular values
are one, and \(V'\) is minus the nuclear norm of the gradient. (Carlson, Cevher, Carin, 2015, Stochastic spectral
descent for restricted Boltzmann machines; Bernstein and Newhouse, 2024, Old optimizer, new norm: an anthology.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .base import DecayBound, State
from .matrices import as_matrix, times
from .metric import AbstractMetricFlow
from .open_scale import calibrated, check_positive, root_mean_square, with_open
from .p_gradient import OPEN_SMOOTHING


class Spectral(AbstractMetricFlow):
    r"""Gradient flow with the polar factor of the gradient, matrix by matrix.

    \[ X' = -G\,(G^\top G + d^2 I)^{-1/2}, \qquad V = f, \qquad
       V' = -\sum_i \frac{\sigma_i^2}{\sqrt{\sigma_i^2 + d^2}} \]

    Every array of parameters is one matrix: arrays of more than two axes, such as kernels of convolutions, are folded
    to their first axis against all others; vectors are matrices of one column, for which the flow is normalized
    gradient flow; for a scalar it is the smooth sign. A step costs the eigenvectors of one Gram matrix for each matrix,
    of its shorter side.

    **Arguments:**

    - `smoothing`: \(d > 0\), in units of the gradient: singular values far below it are scaled, those far above it
        become one. `None` (default): a thousandth of the root mean square of all singular values of the first gradient.

    Time has the unit of the parameters. **Raises:** `ValueError` if `smoothing` is out of range. Source: Carlson,
    Cevher and Carin (2015), Bernstein and Newhouse (2024).

    !!! example

        ```python
        solver = odeopt.Solver(odeopt.Spectral())
        solution = odeopt.minimise(lambda X, _: jnp.sum((X @ X.T - jnp.eye(2)) ** 2), solver, 2 * jnp.eye(2, 3))
        ```
    """

    smoothing: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_positive(self, "smoothing", "in units of the gradient")

    def calibrate(self, state: State, oracle: Oracle) -> "Spectral":
        values = sum(min(as_matrix(leaf).shape) for leaf in jax.tree.leaves(state.position))
        return with_open(self, "smoothing", OPEN_SMOOTHING * root_mean_square(oracle.gradient, values))

    def inverse_metric(self, t: Array, state: State, oracle: Oracle, covector: PyTree) -> PyTree:
        d = calibrated(self, "smoothing")

        def leaf(g, w):
            G, W = as_matrix(g), as_matrix(w)
            # Both sides give the same product with G itself: (G G' + d^2)^(-1/2) G = G (G' G + d^2)^(-1/2).
            if G.shape[0] < G.shape[1]:
                product = times(inverse_root(times(G, G.T), d), W)
            else:
                product = times(W, inverse_root(times(G.T, G), d))
            return product.reshape(w.shape)

        return jax.tree.map(leaf, oracle.gradient, covector)

    def predicted_decay(self, lojasiewicz_exponent: float, constant: float) -> DecayBound:
        # The nuclear norms of all matrices together are at least |g|.
        return DecayBound(lojasiewicz_exponent, constant)


@jax.custom_jvp
def inverse_root(gram: Array, smoothing: Array) -> Array:
    r"""\((S + d^2 I)^{-1/2}\) of a symmetric positive semidefinite matrix, differentiable for equal eigenvalues too."""
    return _inverse_root(gram, smoothing)[0]


@inverse_root.defjvp
def _inverse_root_jvp(primals, tangents):
    # Daleckii and Krein: in the eigenbasis every entry of the tangent is multiplied with a divided difference of
    # s -> s^(-1/2), which is -1 / (a b (a + b)) for roots a and b, and finite where they are equal.
    (_, smoothing), (gram_rate, smoothing_rate) = primals, tangents
    value, root, basis = _inverse_root(*primals)
    rate = gram_rate + 2 * smoothing * smoothing_rate * jnp.eye(len(root), dtype=gram_rate.dtype)
    a, b = root[:, None], root[None, :]
    inner = -times(basis.T, rate, basis) / (a * b * (a + b))
    return value, times(basis, inner, basis.T)


def _inverse_root(gram: Array, smoothing: Array) -> tuple[Array, Array, Array]:
    """The inverse root, the roots of the shifted eigenvalues, and the eigenbasis."""
    eigenvalues, basis = jnp.linalg.eigh(gram)
    # Rounding may leave eigenvalues slightly below zero.
    root = jnp.sqrt(jnp.maximum(eigenvalues, 0) + smoothing**2)
    return times(basis / root, basis.T), root, basis
