r"""The primal-dual flow for linear equality constraints.

To minimise \(f(x)\) subject to \(A x = b\), with the residual \(r = A x - b\) and the multipliers \(l\),

\[ x' = -\nabla f - A^\top l - \rho A^\top r, \qquad l' = r, \qquad
   V = \tfrac12 |x'|^2 + \tfrac12 |l'|^2, \qquad V' = -\langle x', H x' \rangle - \rho |A x'|^2, \]

at most zero for convex \(f\), with \(H\) its Hessian. (Arrow, Hurwicz and Uzawa, 1958, Studies in linear and non-linear
programming.)
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._hyperparameter import concrete, hyperparameter
from .._objective.oracle import Oracle
from .base import AbstractFlow, State


class PrimalDual(AbstractFlow):
    r"""Minimise subject to \(A x = b\): the parameters go downhill, the multipliers uphill.

    \[ x' = -\nabla f - A^\top (l + \rho r), \qquad l' = r = A x - b, \qquad
       V = \tfrac12 |x'|^2 + \tfrac12 |l'|^2 \]

    The energy measures how far the conditions of Karush, Kuhn and Tucker are from being met; the objective itself may
    rise on the way. It falls for convex objectives. `stationarity` is \(\sqrt{2 V}\).

    **Arguments:**

    - `matrix`: \(A\), shape `(m, n)`, for the \(n\) parameters in the order of `jax.flatten_util.ravel_pytree`.
    - `target`: \(b\), shape `(m,)`.
    - `augmentation`: \(\rho \ge 0\): the larger, the more the constraints are damped.

    The memory is \(l\), shape `(m,)`, zero at the start. Unit of time: \([x]^2 / [f]\).
    **Raises:** `ValueError` for shapes that do not fit or a negative augmentation. Source: Arrow, Hurwicz and Uzawa
    (1958).

    !!! example

        ```python
        flow = odeopt.PrimalDual(matrix=jnp.ones((1, 2)), target=jnp.ones(1), augmentation=1.0)
        solution = odeopt.minimise(lambda x, _: jnp.sum(x**2), odeopt.Solver(flow), jnp.zeros(2))
        solution.value  # [0.5, 0.5]
        ```
    """

    matrix: Array = eqx.field(converter=hyperparameter)
    target: Array = eqx.field(converter=hyperparameter)
    augmentation: Array = eqx.field(converter=hyperparameter, default=1.0)
    certificate: ClassVar[str] = "convex_only"
    judged_by: ClassVar[str] = "energy"
    weighs_objective: ClassVar[bool] = False

    def __check_init__(self):
        if eqx.is_array(self.matrix) and (self.matrix.ndim != 2 or self.target.shape != self.matrix.shape[:1]):
            raise ValueError(
                f"PrimalDual: matrix has shape {self.matrix.shape} and target {self.target.shape}; expected (m, n) and "
                "(m,)."
            )
        if concrete(self.augmentation) and not 0 <= float(self.augmentation) < float("inf"):
            raise ValueError(f"PrimalDual(augmentation={float(self.augmentation)}): expected a finite number >= 0.")

    def init(self, params: PyTree) -> State:
        flat, _ = ravel_pytree(params)
        if flat.size != self.matrix.shape[1]:
            raise ValueError(
                f"PrimalDual: matrix has shape {self.matrix.shape}, but there are {flat.size} parameters; expected one "
                "column for each."
            )
        return State(params, jnp.zeros(self.matrix.shape[0], flat.dtype))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        x, unravel = ravel_pytree(state.position)
        gradient, _ = ravel_pytree(oracle.gradient)
        matrix = self.matrix.astype(x.dtype)
        residual = matrix @ x - self.target.astype(x.dtype)
        pull = matrix.T @ (state.memory + self.augmentation.astype(x.dtype) * residual)
        return State(unravel((-gradient - pull).astype(x.dtype)), residual)

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        slope, _ = ravel_pytree(self.vector_field(t, state, oracle))
        return 0.5 * jnp.sum(slope * slope)

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        return norm(self.vector_field(t, state, oracle))

    def recommended(self):
        from .._controller.lyapunov import LyapunovControl
        from .._scheme.tableaus import Bosh3

        # The multipliers oscillate about the constraint: the scheme must be stable along the imaginary axis.
        return Bosh3(), LyapunovControl()
