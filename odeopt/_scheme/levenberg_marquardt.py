r"""Levenberg and Marquardt's step: linearly implicit Euler on a sum of squares.

\[ (J^\top J + \tfrac1h D^2)\, d = -J^\top r, \qquad y^+ = y + d. \]
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._flow.gradient import GradientFlow
from .._objective.oracle import Oracle
from .._objective.rounds import Rounds
from .base import AbstractScheme, Trial

# Transtrum and Sethna: a correction that is longer than 3/8 of the step shows that the two terms of a series are not
# the beginning of one that converges.
LONGEST_CORRECTION = 0.375


class Linearisation(eqx.Module):
    r"""What the Jacobian at a point leaves behind, in units \(D\) of the parameters: \(\tilde J = J D^{-1}\).

    **Attributes:** `position`, `units`, `gradient` \(\tilde J^\top r\), each (N,); `matrix`:
    \(\tilde J^\top \tilde J\), or, where the residuals are fewer, \(\tilde J \tilde J^\top\) with `rows`:
    \((\tilde J, r)\), `None` otherwise.
    """

    position: Array
    units: Array
    gradient: Array
    matrix: Array
    rows: tuple[Array, Array] | None = None


class LevenbergMarquardt(AbstractScheme):
    r"""Levenberg-Marquardt: linearly implicit Euler for the gradient flow of a sum of squares.

    With \(J^\top J\) in place of the Hessian, one Newton step of implicit Euler on \(y' = -D^{-2} \nabla f\) is

    \[ (J^\top J + \mu D^2)\, d = -J^\top r, \qquad \mu = 1 / h, \]

    so that the step size is the inverse of the damping: short steps follow the gradient, long ones are those of Gauss
    and Newton, and step control is the choice of the damping. The dissipation that a trial is measured by
    (`rate="quadrature"`) is what the linear model of the residuals promises, \(\nabla f^\top d + |J d|^2 / 2\); so the
    dissipation ratio is the gain ratio of trust region methods.

    The objective is an `odeopt.LeastSquares`. A Jacobian is made once at every point; a rejected trial costs another
    solve and a forward pass. Systems are solved by Cholesky's method in the smaller one of the spaces of parameters and
    residuals. Memory: a square matrix of that space, and with fewer residuals than parameters the Jacobian.

    **Arguments:**

    - `scaling`: \(D\): `"columns"` (default): the largest norm that the column of \(J\) of each parameter has had, so
        that the units of the parameters do not matter (Moré, 1978); `"none"`: 1, gradient flow itself.
    - `geodesic`: whether to add the second order correction \(-\tfrac12 (J^\top J + \mu D^2)^{-1} J^\top r''(d, d)\)
        where it is short beside the step (Transtrum and Sethna). It costs a second derivative of the residuals along
        the step and another solve in every trial, and halves the time to fit a network (benchmarks/curvature.py).

    **Raises:** `ValueError` for another flow than `GradientFlow`, `TypeError` for an objective without residuals.
    Source: Levenberg (1944), A method for the solution of certain non-linear problems in least squares; Marquardt
    (1963), An algorithm for least-squares estimation of nonlinear parameters; Moré (1978), The Levenberg-Marquardt
    algorithm: implementation and theory; Transtrum and Sethna (2012), Improvements to the Levenberg-Marquardt algorithm
    for nonlinear least-squares minimization.

    !!! example "Rosenbrock's function as a sum of squares"

        ```python
        misfit = odeopt.LeastSquares(lambda y, _: jnp.stack([1 - y[0], 10 * (y[1] - y[0] ** 2)]))
        solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt())
        solution = odeopt.minimise(misfit, solver, jnp.array([-1.2, 1.0]))
        ```
    """

    scaling: str = eqx.field(static=True, default="columns")
    geodesic: bool = eqx.field(static=True, default=True)
    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1
    has_quadrature: ClassVar[bool] = True

    def __check_init__(self):
        if self.scaling not in ("columns", "none"):
            raise ValueError(f"LevenbergMarquardt(scaling={self.scaling!r}): expected 'columns' or 'none'.")

    def check(self, flow: AbstractFlow) -> None:
        if type(flow) is not GradientFlow:
            raise ValueError(
                f"LevenbergMarquardt steps gradient flow, and not {type(flow).__name__}: its matrix is that of the "
                "gradient of a sum of squares. Write Solver(GradientFlow(), LevenbergMarquardt())."
            )

    def check_controller(self, controller) -> None:
        if controller.monotone and controller.rate != "quadrature":
            raise ValueError(
                f"{type(controller).__name__}(rate={controller.rate!r}) asks for a part of the dissipation of gradient "
                "flow, which steps as long as those of LevenbergMarquardt cannot keep. Use TrustRegionControl(), or a "
                "controller with rate='quadrature'."
            )

    def recommended_controller(self):
        from .._controller.trust_region import TrustRegionControl

        return TrustRegionControl()

    def init(self, flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> Linearisation:
        flat, _ = jax.flatten_util.ravel_pytree(state.position)
        return self._linearised(flat, jnp.zeros_like(flat), oracle)

    def step(
        self, flow: AbstractFlow, t: Array, step_size: Array, state: State, oracle: Oracle, learnt: PyTree = None
    ) -> Trial:
        flat, unravel = jax.flatten_util.ravel_pytree(state.position)
        here = self.init(flow, t, state, oracle) if learnt is None else self._renewed(flat, oracle, learnt)
        solve = _Damped(here, 1 / step_size.astype(flat.dtype))
        scaled = solve.step()
        promised = 0.5 * (jnp.vdot(here.gradient, scaled) - solve.damping * jnp.vdot(scaled, scaled))
        if self.geodesic:
            scaled = self._corrected(scaled, here, solve, oracle, unravel)
        end = unravel(flat + scaled / here.units)
        return Trial(State(end), oracle.at(end), quadrature=lambda: promised / step_size, learnt=here)

    def _renewed(self, flat: Array, oracle: Oracle, known: Linearisation) -> Linearisation:
        """The linearisation at the current point: the known one where no step has been made since."""
        moved = jnp.any(flat != known.position)
        rounds = Rounds(oracle)
        here = jax.lax.cond(moved, lambda: self._linearised(flat, known.units, rounds.begin()), lambda: known)
        rounds.count(moved)
        return here

    def _linearised(self, flat: Array, units: Array, oracle: Oracle) -> Linearisation:
        """A new linearisation; `units`: of the one before, zero at the start."""
        if flat.size <= oracle.residual_count:
            matrix, gradient = oracle.normal_equations()
            units = self._units(jnp.sqrt(jnp.diagonal(matrix)), units)
            return Linearisation(flat, units, gradient / units, matrix / units / units[:, None])
        residuals, jacobian = oracle.jacobian()
        units = self._units(jnp.linalg.norm(jacobian, axis=0), units)
        jacobian = jacobian / units
        return Linearisation(flat, units, jacobian.T @ residuals, jacobian @ jacobian.T, (jacobian, residuals))

    def _units(self, columns: Array, before: Array) -> Array:
        if self.scaling == "none":
            return jnp.ones_like(columns)
        largest = jnp.maximum(columns, before)
        # A parameter that no residual depends on does not move in any unit.
        return jnp.where(largest > 0, largest, 1.0)

    def _corrected(self, scaled: Array, here: Linearisation, solve: "_Damped", oracle: Oracle, unravel) -> Array:
        """The step with the second order correction, where that is short."""
        direction = unravel(scaled / here.units)
        correction = solve.correction(oracle.second_jvp(direction), oracle, here.units)
        short = jnp.linalg.norm(correction) <= LONGEST_CORRECTION * jnp.linalg.norm(scaled)
        return scaled + jnp.where(short, correction, 0.0)


class _Damped:
    r"""The equations of one damping: \((\tilde J^\top \tilde J + \mu)\,z = -\tilde J^\top r\)."""

    def __init__(self, here: Linearisation, damping: Array):
        self._here = here
        # Below the rounding of the matrix, damping is no more than the rounding that makes it singular.
        least = jnp.finfo(damping.dtype).eps * jnp.trace(here.matrix)
        self.damping = damping + least
        identity = jnp.eye(len(here.matrix), dtype=here.matrix.dtype)
        self._factor = jsl.cho_factor(here.matrix + self.damping * identity)

    def step(self) -> Array:
        """In the units of the linearisation, shape (N,)."""
        here = self._here
        if here.rows is None:
            return -jsl.cho_solve(self._factor, here.gradient)
        jacobian, residuals = here.rows
        return -(jacobian.T @ jsl.cho_solve(self._factor, residuals))

    def correction(self, curvature: Array, oracle: Oracle, units: Array) -> Array:
        r"""The same for \(r''(d, d) / 2\) in place of \(r\); `curvature`: \(r''(d, d)\), shape (P,)."""
        here = self._here
        if here.rows is None:
            pulled, _ = jax.flatten_util.ravel_pytree(oracle.vjp(curvature))
            return -0.5 * jsl.cho_solve(self._factor, pulled / units)
        return -0.5 * (here.rows[0].T @ jsl.cho_solve(self._factor, curvature))
