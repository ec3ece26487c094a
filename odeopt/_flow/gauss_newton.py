r"""Gauss and Newton's flow of a sum of squares.

\[ x' = -J^+ r, \qquad V = f = \tfrac12 |r|^2, \qquad V' = -|J J^+ r|^2. \]
"""

from typing import ClassVar

import equinox as eqx
import jax.flatten_util
from jaxtyping import Array, PyTree

from .._hyperparameter import hyperparameter
from .._objective.oracle import Oracle
from .curvature import AbstractCurvatureFlow
from .open_scale import check_nonnegative
from .pseudo_inverse import decomposed


class GaussNewton(AbstractCurvatureFlow):
    r"""The flow along which the residuals decay as fast as each other: \(r' = -r\), wherever parameters can do it.

    \[ x' = -(J^\top J + \delta)^+ J^\top r, \qquad V = \tfrac12 |r|^2, \qquad
       V' = -r^\top J (J^\top J + \delta)^+ J^\top r \]

    With `Euler` at step 1 and \(\delta = 0\) it is Gauss and Newton's method. The pseudo-inverse comes from singular
    values: fewer residuals than parameters, or a Jacobian that has lost its rank, are no special cases. Far from a
    solution, and where the Jacobian is nearly singular, `LevenbergMarquardt` takes longer steps. The objective is an
    `odeopt.LeastSquares`; the whole Jacobian is made and decomposed once at every point.

    **Arguments:**

    - `regularisation`: \(\delta \ge 0\), in the unit of the square of a Jacobian; 0 by default.

    Unit of time: none. Memory: the Jacobian, some three times. **Raises:** `ValueError` for an argument out of range,
    `TypeError` for an objective without residuals. Source: Gauss (1809), Theoria motus; Airapetyan (2000), Continuous
    Newton method and its modification; Nocedal and Wright (2006), Numerical optimization, 10.3.

    !!! example "Rosenbrock's function as a sum of squares"

        ```python
        misfit = odeopt.LeastSquares(lambda y, _: jnp.stack([1 - y[0], 10 * (y[1] - y[0] ** 2)]))
        solution = odeopt.minimise(misfit, odeopt.Solver(odeopt.GaussNewton()), jnp.array([-1.2, 1.0]))
        ```
    """

    regularisation: Array = eqx.field(converter=hyperparameter, default=0.0)
    needs_residuals: ClassVar[bool] = True

    def __check_init__(self):
        check_nonnegative(self, "regularisation", "in the unit of the square of a Jacobian")

    def direction(self, oracle: Oracle) -> PyTree:
        residuals, jacobian = oracle.jacobian()
        _, unravel = jax.flatten_util.ravel_pytree(oracle.point)
        damping = self.regularisation.astype(jacobian.dtype)
        return unravel(-decomposed(jacobian).least_squares(residuals, damping))
