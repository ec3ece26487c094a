r"""Levenberg and Marquardt's step: linearly implicit Euler on a sum of squares.

\[ (J^\top J + \tfrac1h D^2)\, d = -J^\top r, \qquad y^+ = y + d. \]
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow.base import AbstractFlow, State
from .._flow.gradient import GradientFlow
from .._objective.oracle import Oracle
from .._objective.rounds import Rounds
from .base import AbstractScheme, Trial
from .damped_system import Factored, Iterated, Linearisation, Orthogonal

# Transtrum and Sethna: a correction that is longer than 3/8 of the step shows that the two terms of a series are not
# the beginning of one that converges.
LONGEST_CORRECTION = 0.375
LINEAR_SOLVERS = ("auto", "cholesky", "qr", "cg")
# Factored in half a second on a core: about as long as a hundred products with a network that has as many parameters.
LARGEST_MATRIX = 3000
# Entries of a Jacobian that is kept as a whole: 800 MB in double precision.
LARGEST_JACOBIAN = 10**8
# A tenth of what other schemes get: each step goes for the minimum itself, without oscillations, and costs a matrix.
FLOOR_TRIALS = 100


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
    residuals, and in single precision by an orthogonal factor of the Jacobian itself, whose square would lose half of
    the digits there; that takes some five times as long.
    Memory: a square matrix of that space, and with fewer residuals than parameters, or in
    single precision, the Jacobian. Beyond 3000 parameters and residuals nothing of the kind is made: conjugate
    gradients solve the systems to two digits, with some vectors of the size of the parameters, and what the residuals
    need for their derivatives.

    **Arguments:**

    - `scaling`: \(D\): `"columns"` (default): the largest norm that the column of \(J\) of each parameter has had, so
        that the units of the parameters do not matter (Moré, 1978); without matrices, the largest length of \(J\) along
        the gradient, for all parameters; `"none"`: 1, gradient flow itself.
    - `geodesic`: whether to add the second order correction \(-\tfrac12 (J^\top J + \mu D^2)^{-1} J^\top r''(d, d)\)
        where it is short beside the step (Transtrum and Sethna). It costs a second derivative of the residuals along
        the step and another solve in every trial, and halves the time to fit a network (benchmarks/curvature.py).
    - `linear_solver`: `"cholesky"`, `"qr"`, `"cg"` (conjugate gradients), or `"auto"` (default), as said above.

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
    linear_solver: str = eqx.field(static=True, default="auto")
    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1
    has_quadrature: ClassVar[bool] = True
    floor_trials: ClassVar[int] = FLOOR_TRIALS

    def __check_init__(self):
        if self.scaling not in ("columns", "none"):
            raise ValueError(f"LevenbergMarquardt(scaling={self.scaling!r}): expected 'columns' or 'none'.")
        if self.linear_solver not in LINEAR_SOLVERS:
            raise ValueError(
                f"LevenbergMarquardt(linear_solver={self.linear_solver!r}): expected one of {LINEAR_SOLVERS}."
            )

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
        model = getattr(controller, "model", "scheme")
        if model != "scheme":
            raise ValueError(
                f"{type(controller).__name__}(model={model!r}): LevenbergMarquardt has a model of its "
                "own, and its steps have no unit of length. Leave model='scheme'."
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
        damping = 1 / step_size.astype(flat.dtype)
        solve = self._system(here, damping, oracle)
        scaled, promised = solve.step()
        if self.geodesic:
            scaled = self._corrected(scaled, here, solve, oracle, unravel)
        end = unravel((flat + scaled / here.units).astype(flat.dtype))
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
        chosen = self._chosen(flat, oracle.residual_count)
        if chosen == "cg":
            gradient, _ = jax.flatten_util.ravel_pytree(oracle.gradient)
            units = jnp.full_like(flat, self._units(_steepness(gradient, oracle), units[0]))
            return Linearisation(flat, units, gradient / units)
        if chosen == "cholesky" and flat.size <= oracle.residual_count:
            matrix, gradient = oracle.normal_equations()
            units = self._units(jnp.sqrt(jnp.diagonal(matrix)), units)
            return Linearisation(flat, units, gradient / units, matrix / units / units[:, None])
        residuals, jacobian = oracle.jacobian()
        units = self._units(jnp.linalg.norm(jacobian, axis=0), units)
        jacobian = jacobian / units
        matrix = jacobian @ jacobian.T if chosen == "cholesky" else None
        return Linearisation(flat, units, jacobian.T @ residuals, matrix, (jacobian, residuals))

    def _system(self, here: Linearisation, damping: Array, oracle: Oracle) -> Factored | Orthogonal | Iterated:
        if here.matrix is not None:
            return Factored(here, damping)
        return Iterated(here, damping, oracle) if here.rows is None else Orthogonal(here, damping)

    def _chosen(self, parameters: Array, residuals: int) -> str:
        """The linear solver, by the size of the problem and its precision."""
        if self.linear_solver != "auto":
            return self.linear_solver
        fits = parameters.size * residuals <= LARGEST_JACOBIAN
        if min(parameters.size, residuals) > LARGEST_MATRIX or not (fits or parameters.size <= residuals):
            return "cg"
        # The square of a Jacobian keeps singular values down to the root of the rounding unit: three digits of float32.
        return "qr" if fits and float(jnp.finfo(parameters.dtype).eps) > 1e-10 else "cholesky"

    def _units(self, columns: Array, before: Array) -> Array:
        if self.scaling == "none":
            return jnp.ones_like(columns)
        largest = jnp.maximum(columns, before)
        # A parameter that no residual depends on does not move in any unit.
        return jnp.where(largest > 0, largest, 1.0)

    def _corrected(
        self, scaled: Array, here: Linearisation, solve: Factored | Orthogonal | Iterated, oracle: Oracle, unravel
    ) -> Array:
        """The step with the second order correction, where that is short."""
        # Residuals may be of a wider type than the parameters.
        direction = unravel((scaled / here.units).astype(here.position.dtype))
        correction = solve.correction(oracle.second_jvp(direction), oracle)
        short = jnp.linalg.norm(correction) <= LONGEST_CORRECTION * jnp.linalg.norm(scaled)
        return scaled + jnp.where(short, correction, 0.0)


def _steepness(gradient: Array, oracle: Oracle) -> Array:
    """By how much the residuals change along the gradient, per unit of length."""
    _, unravel = jax.flatten_util.ravel_pytree(oracle.point)
    size = jnp.linalg.norm(gradient)
    return jnp.linalg.norm(oracle.jvp(unravel(gradient / jnp.where(size > 0, size, 1.0))))
