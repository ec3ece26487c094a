r"""Lyapunov stability of a minimum, tried: starts on small spheres around it, and where the runs from there go.

A minimum is stable if for every ball around it there is a smaller one such that no run from the smaller leaves the
larger, and asymptotically stable if these runs also converge to it. (Lyapunov, 1892; Absil and Kurdyka, 2006, On the
stable equilibrium points of gradient systems; Bensaid, Poëtte and Turpault, 2024, An abstract Lyapunov control
optimizer.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, PyTree

from .._flow.gradient import GradientFlow
from .._minimise import minimise
from .._objective import PartialObjective
from .._results import EXPECTED, RESULTS, code
from .._solver import Solver
from .._stop import Stop
from .stability import positive
from .system import System, in_double_precision, system

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A run has converged if it ends so many times nearer to the minimum than it began.
NEARER = 100.0
# The run goes on until its gradient norm has fallen by so much: on a bowl whose curvatures differ by up to 1e4 that
# brings it a hundred times nearer.
FALL = 1e-6
# How large the gradient at the minimum may be, relative to that on the smallest sphere: the true minimum is then
# nearer than a hundredth of the radius.
STATIONARY = 1e-2


@dataclass(frozen=True)
class StabilityOfMinimum:
    """Shares of the runs that stay near a minimum, and that converge to it.

    **Attributes:**

    - `solvers`: their names, `n` of them; `radii`: of the spheres, shape `(m,)`; `ball`: the radius of the ball that
      a run must not leave, shape `(m,)`; `samples`: starts on each sphere.
    - `stays`: share that never left the ball and did not break off, shape `(n, m)`.
    - `converges`: share that ended a hundred times nearer to the minimum than it began, without leaving; `(n, m)`.
    - `farthest`: the largest distance that any run was from the minimum, shape `(n, m)`.
    """

    solvers: tuple[str, ...]
    radii: np.ndarray
    ball: np.ndarray
    samples: int
    stays: np.ndarray
    converges: np.ndarray
    farthest: np.ndarray

    def interval(self, share: float) -> tuple[float, float]:
        """The 95% confidence interval of a share (Wilson, 1927)."""
        result = scipy.stats.binomtest(round(share * self.samples), self.samples)
        low, high = result.proportion_ci(confidence_level=0.95, method="wilson")
        return float(low), float(high)

    def __str__(self) -> str:
        width = max(6, *(len(name) for name in self.solvers)) + 2
        lines = [
            f"Stability of the minimum, {self.samples} starts on each sphere",
            f"{'solver':<{width}}{'radius':>10}{'ball':>10}{'stays':>9}{'(95%)':>14}{'converges':>11}{'farthest':>12}",
        ]
        for row, name in enumerate(self.solvers):
            for column, radius in enumerate(self.radii):
                low, high = self.interval(self.stays[row, column])
                lines.append(
                    f"{name:<{width}}{radius:>10.4g}{self.ball[column]:>10.4g}{self.stays[row, column]:>9.3f}"
                    f"{f'{low:.3f}-{high:.3f}':>14}{self.converges[row, column]:>11.3f}"
                    f"{self.farthest[row, column]:>12.4g}"
                )
        return "\n".join(lines)

    def plot(self, axes: "Axes | None" = None) -> "Figure":
        """The shares over the radius."""
        from ..plot import stability_of_minimum as picture

        return picture(self, axes=axes)


@in_double_precision
def stability_of_minimum(
    solvers: Solver | Mapping[str, Solver],
    fn: Any,
    minimum: PyTree,
    args: PyTree = None,
    *,
    radii: Sequence[float] | np.ndarray,
    samples: int = 64,
    ball: float | None = None,
    max_steps: int = 1000,
    stop: Stop | None = None,
    seed: int = 0,
) -> StabilityOfMinimum:
    r"""Start on small spheres around a minimum, and count the runs that stay and those that converge.

    A run **stays** if none of its accepted steps leaves the ball around the minimum and it does not break off (a
    constant step to where the loss is not finite, say). It **converges** if it stays and ends a hundred times nearer
    to the minimum than it began. Distances are Euclidean, over all parameters; memory starts as `flow.init` makes it.
    All runs are made in double precision and side by side; every one keeps its states, so that this is for small
    problems.

    **Arguments:**

    - `solvers`: one, or a dict of names and solvers; a classical optimizer is a solver with `ConstantStep`.
    - `fn`, `args`: as for `minimise`; `minimum`: the parameters there.
    - `radii`: of the spheres, in the unit of the parameters, shape `(m,)`.
    - `samples`: starts on each, uniform on the sphere.
    - `ball`: radius of the ball; `None`: three times that of each sphere. A flow with inertia may leave such a ball
        rightly, by the root of the condition number of the Hessian: give a larger one.
    - `max_steps`: trials of each run.
    - `stop`: default: where the gradient norm has fallen by 1e6.
    - `seed`: of the starts.

    **Returns:** a `StabilityOfMinimum`; it prints a table and plots itself.

    **Raises:** `ValueError` if `minimum` is not stationary on the scale of the smallest radius, or an argument is out
    of range. Source: Absil and Kurdyka (2006); Bensaid, Poëtte and Turpault (2024).

    !!! example

        ```python
        fn = lambda y, _: 0.25 * jnp.sum((y**2 - 1) ** 2)
        solvers = {"controlled": odeopt.Solver(odeopt.GradientFlow()),
                   "h = 1.2": odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(1.2))}
        print(odeopt.stability_of_minimum(solvers, fn, jnp.ones(2), radii=[0.01, 0.1]))
        ```
    """
    radii = positive("radii", radii)
    if ball is not None and not np.max(radii) < ball < np.inf:
        raise ValueError(f"ball={ball}: expected a finite radius larger than all of radii={radii.tolist()}.")
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples={samples!r}: expected a whole number >= 1.")
    if isinstance(solvers, Solver):
        solvers = {type(solvers.flow).__name__: solvers}
    balls = 3 * radii if ball is None else np.full_like(radii, ball)
    problem = system(GradientFlow(), fn, minimum, args)
    starts = _starts(problem.start.position, radii, samples, seed)
    _check_stationary(problem, starts)
    stop = Stop(relative_gradient_norm=FALL) if stop is None else stop
    shares = []
    for solver in solvers.values():
        # Every solver declares itself on this problem, so that a wrong one is named before anything runs.
        system(solver.flow, fn, minimum, args)
        farthest, last, broke = (
            np.asarray(part).reshape(len(radii), samples)
            for part in _run_all(problem.objective, solver, stop, problem.start.position, starts, max_steps, samples)
        )
        near = last <= radii[:, None] / NEARER
        stays = (farthest <= balls[:, None]) & (~broke | near)
        shares.append((stays.mean(axis=1), (stays & near).mean(axis=1), farthest.max(axis=1)))
    stays, converges, farthest = (np.array(part) for part in zip(*shares, strict=True))
    return StabilityOfMinimum(tuple(solvers), radii, balls, samples, stays, converges, farthest)


def _starts(minimum: PyTree, radii: np.ndarray, samples: int, seed: int) -> PyTree:
    """Uniform on the spheres, one radius after the other; leading axis `(len(radii) * samples,)`."""
    flat, unravel = jax.flatten_util.ravel_pytree(minimum)
    directions = np.random.default_rng(seed).standard_normal((len(radii), samples, flat.size))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    moved = np.asarray(flat) + radii[:, None, None] * directions
    return jax.vmap(unravel)(jnp.asarray(moved.reshape(-1, flat.size)))


def _check_stationary(problem: System, starts: PyTree) -> None:
    def norm(position: PyTree) -> Array:
        return jnp.linalg.norm(jax.flatten_util.ravel_pytree(problem.oracle(position).gradient)[0])

    here = float(norm(problem.start.position))
    nearby = float(jnp.median(jax.vmap(norm)(starts)))
    if not here <= STATIONARY * nearby:
        raise ValueError(
            f"minimum is no stationary point: the gradient norm is {here:.3g} there and {nearby:.3g} on the spheres "
            "around it. Minimise further first, or take larger radii."
        )


@eqx.filter_jit
def _run_all(
    objective: PartialObjective,
    solver: Solver,
    stop: Stop,
    minimum: PyTree,
    starts: PyTree,
    max_steps: int,
    batch: int,
) -> tuple[Array, Array, Array]:
    """Of every run: the largest distance from the minimum, the last one, and whether it broke off."""

    def distance(position: PyTree) -> Array:
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), position, minimum)
        return jnp.sqrt(sum(jax.tree.leaves(squares)))

    def one(start: PyTree) -> tuple[Array, Array, Array]:
        solution = minimise(objective, solver, start, stop=stop, max_steps=max_steps, history="states", throw=False)
        assert solution.history is not None
        along = jax.vmap(distance)(solution.history.position)
        # Rows behind the last accepted step are NaN.
        farthest = jnp.nanmax(jnp.append(along, distance(start)))
        last = distance(solution.state.run.snapshot.state.position)
        ended = solution.result._value
        normal = jnp.isin(ended, jnp.asarray((*EXPECTED, code(RESULTS.max_steps_reached))))
        return farthest, last, ~normal

    # One sphere at a time: the histories of all runs together would not fit for larger problems, and runs that are
    # done stop costing.
    return jax.lax.map(one, starts, batch_size=batch)
