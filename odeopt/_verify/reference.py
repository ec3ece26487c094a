r"""Reference solutions: a flow solved by diffrax as an ordinary differential equation, with an estimate of the error.

Two solves, at the tolerance asked for and at one ten times as large, differ by about the error of the second. That
bounds the error of the first as soon as the smaller tolerance at least halves the error, and exceeds it about tenfold:
a factor of a hundred would spoil two digits, a factor of two would rely on rounding.

Every requested time ends a step. Reading between the steps would cost accuracy: at tolerance 1e-12 the dense output
of Dopri8 is good to 2e-10 where its steps are good to 9e-14 (heavy ball of a quadratic). Dopri8 is taken because it
needs a tenth of the steps of Tsit5 there, 75 against 686, at a quarter of its error and the same compile time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, ArrayLike, PyTree

from .._flow.base import AbstractFlow, State
from .._tree import cast_floating, subtract
from .case import system_of
from .system import System, in_double_precision

# The coarser of the two solves, in tolerances; see above.
COARSER = 10.0
# An estimate above so many tolerances is no reference: the estimate is tenfold the error, and a few hundred steps
# that each add a tolerance make up the rest. A flow that amplifies errors further has no solution to compare with.
REFUSED_ABOVE = 1e3
# Between two requested times. Dopri8 takes under a hundred steps for a few units of time of a smooth flow; a flow
# that needs a thousand times as many is stiff or singular.
MAX_STEPS = 100_000


class InaccurateReferenceError(RuntimeError):
    """A flow could not be solved accurately enough to compare anything with; the message says where and why."""


@dataclass(frozen=True)
class Reference:
    """The solution of a flow at given times, and how far it can be trusted.

    **Attributes:**

    - `times`: shape `(n,)`, in the flow's unit of time.
    - `states`: a `State` of NumPy arrays with leading axis `n`.
    - `error`: estimated error of the states relative to their size: the largest entry of the difference of two
        solves over the largest entry of the solution, the worst block (array of position or memory) of all.
    - `steps`: how many steps the finer solve took.
    - `system`: what was solved; `system.flow` is the calibrated flow.
    """

    times: np.ndarray
    states: State
    error: float
    steps: int
    system: System


@in_double_precision
def reference_solution(
    flow: AbstractFlow,
    problem: tuple | None = None,
    *,
    times: ArrayLike | Sequence[float],
    start_time: float | int = 0.0,
    state: State | None = None,
    tolerance: float = 1e-12,
    stiff: bool = False,
) -> Reference:
    r"""The exact solution of a flow, for all practical purposes: \(y' = F(t, y)\) solved by diffrax in float64.

    **Arguments:**

    - `flow`: any flow; scales that it leaves open are calibrated at the start of the problem.
    - `problem`: `(fn, y0)` or `(fn, y0, args)`, as for `minimise`; `None`: a built-in smooth non-convex function of
        four parameters.
    - `times`: shape `(n,)`, never falling, none before `start_time`, in the flow's unit of time. The solver steps to
        each of them exactly.
    - `start_time`: where the flow is singular at \(t = 0\) (a friction \(r/t\), say), a time > 0.
    - `state`: the state at `start_time`; `None`: what `flow.init` returns for the parameters of the problem.
    - `tolerance`: relative, and absolute in units of the size of each block of the state.
    - `stiff`: solve with the implicit Kvaerno5 in place of the explicit Dopri8: for flows whose fastest rate is many
        times the inverse of the time that they are followed for.

    **Returns:** a `Reference`: `times`, `states`, `error`, `steps`, `system`; arrays are NumPy float64.

    **Raises:** `InaccurateReferenceError` if the vector field is not finite at the start, the solve fails, or the
    estimated error exceeds a thousand tolerances; `ValueError` for times or a tolerance out of range; `TypeError` or
    `ValueError` for a flow or a problem that cannot be evaluated. Source: Prince and Dormand (1981), High order
    embedded Runge-Kutta formulae; Kvaernø (2004), Singly diagonally implicit Runge-Kutta methods with an explicit
    first stage.

    !!! example

        ```python
        reference = odeopt.reference_solution(odeopt.HeavyBall(friction=0.5), times=[0.5, 1.0])
        reference.states.position  # shape (2, 4)
        ```
    """
    return reference(
        system_of(flow, problem),
        times=times,
        start_time=start_time,
        state=state,
        tolerance=tolerance,
        stiff=stiff,
    )


def reference(
    system: System,
    *,
    times: ArrayLike | Sequence[float],
    start_time: float | int = 0.0,
    state: State | None = None,
    tolerance: float = 1e-12,
    stiff: bool = False,
    allowed: float | None = None,
) -> Reference:
    """`reference_solution` of a system; to be called in double precision.

    **Arguments:** `allowed`: the largest estimated error; `None`: a thousand tolerances.
    """
    at = _checked_times(times, start_time)
    if not tolerance >= SMALLEST_TOLERANCE:
        raise ValueError(f"tolerance={tolerance}: expected at least {SMALLEST_TOLERANCE}, the rounding of float64.")
    start = system.start if state is None else _checked_state(state, system.start)
    solved = _solve(system, jnp.asarray(start_time, jnp.float64), start, at, jnp.asarray(tolerance), stiff)
    solved = jax.tree.map(np.asarray, solved)
    allowed = REFUSED_ABOVE * tolerance if allowed is None else allowed
    _refuse(solved, at, start_time, tolerance, allowed, stiff, type(system.flow).__name__)
    return Reference(np.asarray(at), solved.states, float(solved.error), int(solved.steps), system)


# Steps cannot be controlled to less than a few units of rounding (2e-16): the controller would only reject.
SMALLEST_TOLERANCE = 1e-14


class Solved(eqx.Module):
    """What `solve` returns.

    **Attributes:** `states`: at the times asked for, along a leading axis; `error`: relative, estimated; `steps`: of
    the finer solve; `regular`: whether the vector field is finite at the start; `reached`: for each time, whether the
    solve got there. Errors of a solve that did not are not numbers.
    """

    states: State
    error: Array
    steps: Array
    regular: Array
    reached: Array


def solve(
    system: System,
    start_time: Array,
    start: State,
    times: Array,
    tolerance: Array,
    stiff: bool = False,
) -> Solved:
    """The states of a system at `times`, in order; pure, for use under `jit` and `vmap`; never raises."""
    slope = system.vector_field(start_time, start)
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((start, slope))]
    regular = jnp.all(jnp.stack(finite))
    scales = _scales(start, slope, system.unit_of_time())
    solver = diffrax.Kvaerno5() if stiff else diffrax.Dopri8()

    def at_tolerance(tolerance):
        return _through(system, solver, start_time, start, times, scales, tolerance, regular)

    # One after the other, not side by side: the two solves choose their own steps, and compile once.
    states, steps, reached = jax.lax.map(at_tolerance, jnp.stack([tolerance, COARSER * tolerance]))
    fine, coarse = (jax.tree.map(lambda leaf, index=index: leaf[index], states) for index in (0, 1))
    return Solved(fine, _relative_difference(fine, coarse, scales), steps[0], regular, reached[0] & reached[1])


_solve = eqx.filter_jit(solve)


def _through(system, solver, start_time, start, times, scales, tolerance, regular):
    """States, number of steps, and whether each time was reached, at one tolerance."""
    # The largest entry and not the mean: a block of few entries beside a large one is to be as accurate.
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance, norm=optx.max_norm)

    def field(t, scaled, _):
        state = jax.tree.map(jnp.multiply, scaled, scales)
        return jax.tree.map(jnp.divide, system.vector_field(t, state), scales)

    def to_next(carry, t1):
        t0, scaled, alive = carry
        # A solve that has failed goes nowhere: it would spend all its steps on every later time.
        t1 = jnp.where(alive, t1, t0)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            solver,
            t0,
            t1,
            None,
            scaled,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(t1=True),
            adjoint=diffrax.ForwardMode(),
            max_steps=MAX_STEPS,
            throw=False,
        )
        assert solution.ys is not None
        end = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(end)]))
        alive = alive & finite & (solution.result == diffrax.RESULTS.successful)
        return (t1, end, alive), (end, solution.stats["num_steps"], alive)

    scaled = jax.tree.map(jnp.divide, start, scales)
    _, (ends, steps, reached) = jax.lax.scan(to_next, (start_time, scaled, regular), times)
    return jax.tree.map(jnp.multiply, ends, scales), jnp.sum(steps), reached


def _scales(start: State, slope: State, unit_of_time: Array) -> PyTree:
    """A number for each block: how large its entries are, or become within a unit of time.

    A power of two, so that scaling rounds nothing. A second moment of gradients of size 1e-3 is as accurate as
    parameters of size one.
    """

    def scale(leaf, slope):
        size = jnp.maximum(_largest(leaf), unit_of_time * _largest(slope))
        usable = jnp.isfinite(size) & (size > 0)
        return jnp.where(usable, jnp.exp2(jnp.round(jnp.log2(jnp.where(usable, size, 1.0)))), 1.0)

    return jax.tree.map(scale, start, slope)


def _relative_difference(fine: State, coarse: State, scales: PyTree) -> Array:
    """The difference over the size of each block, the worst block of all."""

    def relative(difference, fine, scale):
        return _largest(difference) / jnp.maximum(_largest(fine), scale)

    return jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(relative, subtract(fine, coarse), fine, scales))))


def _largest(leaf: Array) -> Array:
    return jnp.max(jnp.abs(leaf), initial=0.0)


def _checked_times(times: Any, start_time: float) -> Array:
    at = np.asarray(times, np.float64)
    if at.ndim != 1 or at.size == 0 or not np.all(np.isfinite(at)) or np.any(np.diff(at) < 0):
        raise ValueError(f"times={times}: expected at least one finite time, in order, as an array of shape (n,).")
    if at[0] < start_time:
        raise ValueError(
            f"times begin at {at[0]:g}, before start_time={start_time:g}; a flow is only followed forwards."
        )
    return jnp.asarray(at)


def _checked_state(state: State, start: State) -> State:
    shapes, expected = (jax.tree.map(jnp.shape, tree) for tree in (state, start))
    if not isinstance(state, State) or shapes != expected:
        raise ValueError(f"state has the shapes {shapes}; expected those of the flow's own start, {expected}.")
    return cast_floating(jax.tree.map(jnp.asarray, state), jnp.float64)


def _refuse(
    solved: Solved, times: Array, start_time: float, tolerance: float, allowed: float, stiff: bool, name: str
) -> None:
    """An error for a solution that cannot serve as a reference: what is wrong with it, where, and the way out."""
    implicit = "" if stiff else " stiff=True (an implicit solver),"
    if not solved.regular:
        later = "" if start_time > 0 else " If it is singular at t = 0 (a friction r/t, say), give a start_time > 0."
        raise InaccurateReferenceError(
            f"{name}: the state or the vector field at the start, t = {start_time:g}, holds an infinite number or "
            f"NaN.{later}"
        )
    if not np.all(solved.reached):
        failed = int(np.argmin(solved.reached))
        before = start_time if failed == 0 else float(times[failed - 1])
        raise InaccurateReferenceError(
            f"{name}: the solve stopped between t = {before:g} and t = {float(times[failed]):g}, at an infinite number "
            f"or NaN or after {MAX_STEPS} steps. The solution may not exist for so long, or be stiff. Try{implicit} or "
            "earlier times."
        )
    if not solved.error <= allowed:
        raise InaccurateReferenceError(
            f"{name}: until t = {float(times[-1]):g} the solves at tolerances {tolerance:g} and "
            f"{COARSER * tolerance:g} come to differ by {float(solved.error):.1e} of the state; those of a reference "
            f"may by {allowed:.0e}. The flow amplifies errors, is not smooth, or is stiff. Try{implicit} "
            "earlier times, or a larger tolerance."
        )
