r"""Newton's flow, with the curvature taken by its size.

\[ x' = -|H|^{-1} g, \qquad V = f(x), \qquad V' = -\langle g, |H|^{-1} g \rangle, \qquad H = \nabla^2 f(x). \]
"""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .._tree import vdot
from .base import State
from .curvature import AbstractCurvatureFlow
from .open_scale import calibrated, check_nonnegative, with_open

# Of the largest curvature, at the start: enough that no step is a hundred times as long as along the stiffest direction
# where a curvature vanishes, and little enough that it is gone, as the root of the gradient, when steps are Newton's.
ADDED = 1e-2


class Newton(AbstractCurvatureFlow):
    r"""Newton's flow that saddles repel: along directions of negative curvature it goes down, as fast as elsewhere.

    \[ x' = -\big(|H| + \sqrt{\rho\, |g|}\, I\big)^{-1} g, \qquad V = f, \qquad V' = \langle g, x' \rangle < 0 \]

    \(|H|\) has the eigenvectors of the Hessian and the absolute values of its eigenvalues, at least `floor` times the
    largest. Where \(H\) is positive definite and \(\rho = 0\), `Euler` at step 1 is Newton's method. All eigenvalues
    are computed at every point: for up to some thousand parameters; `NewtonCG` makes no matrix.

    **Arguments:**

    - `regularisation`: \(\rho \ge 0\), in the unit of a third derivative of the objective. At the Lipschitz constant
        of the Hessian, whole steps lower a convex objective like \(1/k^2\) (Mishchenko). `None` (default): so that a
        hundredth of the largest curvature is added at the start. With 0 the field grows without bound where an
        eigenvalue changes its sign, and solutions end there.
    - `floor`: of the curvature over the largest one, between 0 and 1. `None` (default): the root of the rounding unit:
        a smaller eigenvalue has few digits, and Newton's step along it would be longer than the model is good for.

    Unit of time: none. Memory: two matrices of (N, N). **Raises:** `ValueError` for an argument out of range. Source:
    Dauphin, Pascanu, Gulcehre, Cho, Ganguli, Bengio (2014), Identifying and attacking the saddle point problem in
    high-dimensional non-convex optimization; Mishchenko (2023), Regularized Newton method with global \(O(1/k^2)\)
    convergence.

    !!! example

        ```python
        rosenbrock = lambda x, _: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        solution = odeopt.minimise(rosenbrock, odeopt.Solver(odeopt.Newton()), jnp.array([-1.2, 1.0]))
        ```
    """

    regularisation: Array | None = eqx.field(converter=hyperparameter, default=None)
    floor: Array | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_nonnegative(self, "regularisation", "in the unit of a third derivative of the objective")
        check_nonnegative(self, "floor", "a fraction of the largest curvature", below=1.0)

    def calibrate(self, state: State, oracle: Oracle) -> "Newton":
        if self.regularisation is not None:
            return self
        slope = jnp.sqrt(vdot(oracle.gradient, oracle.gradient))
        largest = jnp.max(jnp.abs(jnp.linalg.eigvalsh(oracle.hessian())))
        return with_open(self, "regularisation", (ADDED * largest) ** 2 / jnp.where(slope > 0, slope, 1.0))

    def direction(self, oracle: Oracle) -> PyTree:
        gradient, unravel = jax.flatten_util.ravel_pytree(oracle.gradient)
        matrix = oracle.hessian()
        curvatures, vectors = jnp.linalg.eigh(matrix)
        return unravel(-(vectors @ ((vectors.T @ gradient) / self._safe(jnp.abs(curvatures), gradient))))

    def _safe(self, curvatures: Array, gradient: Array) -> Array:
        """Curvatures to divide by."""
        floor = float(jnp.finfo(curvatures.dtype).eps) ** 0.5 if self.floor is None else self.floor
        largest = jnp.max(curvatures)
        # A plane has no curvature to measure steps by; its gradient is one.
        least = jnp.where(largest > 0, floor * largest, 1.0)
        added = jnp.sqrt(calibrated(self, "regularisation") * jnp.linalg.norm(gradient))
        return (jnp.maximum(curvatures, least) + added).astype(curvatures.dtype)
