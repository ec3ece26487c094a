# pyright: reportCallIssue=false, reportArgumentType=false
# The stubs of SciPy do not know the constructor of a LinearOperator.
"""The largest eigenvalues of a Hessian, from products with it: Lanczos' method, as ARPACK has it."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, PyTree

from .._objective import Oracle, PartialObjective, Tally

# Relative, of an eigenvalue: far below what a stability limit is wanted to.
TOLERANCE = 1e-9
# Below so many parameters the whole Hessian is built: Lanczos' method needs a space larger than its basis.
DENSE = 64


def top_eigenvalues(
    objective: PartialObjective, position: PyTree, count: int, metric: PyTree | None = None
) -> np.ndarray:
    r"""The largest eigenvalues of \(S^{-1/2} H S^{-1/2}\), the largest first; in double precision.

    **Arguments:** `position`: where; `count`: how many; `metric`: the diagonal \(S > 0\) in the structure of the
    parameters, `None` for the identity.
    """
    flat = jax.flatten_util.ravel_pytree(position)[0]
    root = jnp.ones_like(flat) if metric is None else jnp.sqrt(jax.flatten_util.ravel_pytree(metric)[0])
    count = min(count, flat.size)
    if flat.size <= DENSE:
        hessian = np.asarray(_products(objective, position, root, jnp.eye(flat.size)))
        return np.linalg.eigvalsh(0.5 * (hessian + hessian.T))[::-1][:count]

    def product(vector: np.ndarray) -> np.ndarray:
        return np.asarray(_product(objective, position, root, jnp.asarray(vector).reshape(-1)))

    operator = scipy.sparse.linalg.LinearOperator((flat.size, flat.size), matvec=product, dtype=np.float64)
    # A start of its own, so that two calls agree to the last digit.
    start = np.random.default_rng(0).standard_normal(flat.size)
    found = scipy.sparse.linalg.eigsh(operator, k=count, which="LA", v0=start, tol=TOLERANCE, return_eigenvectors=False)
    return np.sort(found)[::-1]


@eqx.filter_jit
def _product(objective: PartialObjective, position: PyTree, root: Array, vector: Array) -> Array:
    unravel = jax.flatten_util.ravel_pytree(position)[1]
    product = Oracle(objective, position, Tally()).hvp(unravel(vector / root))
    return jax.flatten_util.ravel_pytree(product)[0] / root


@eqx.filter_jit
def _products(objective: PartialObjective, position: PyTree, root: Array, vectors: Array) -> Array:
    return jax.vmap(lambda vector: _product(objective, position, root, vector))(vectors)
