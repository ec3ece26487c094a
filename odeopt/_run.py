"""A run: everything that the next trial depends on, from its first moment to its best point."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._flow.base import AbstractFlow, State
from ._objective import Oracle, PartialObjective, Tally, reads
from ._objective.dependence import depends_on_arguments
from ._results import RESULTS, RUNNING, code
from ._snapshot import Snapshot, blur, run_dtype, split_energy, stationarity
from ._solver import Solver
from ._stop import Monitor, Stop, start_monitor, verdict
from ._tree import cast_floating, select

# What is counted along a run, in the order in which it is kept.
COUNTS = ("accepted", "rejected", "values", "gradients", "gradient_tests", "gradient_test_rejections")


class Best(eqx.Module):
    """The best point that the run has left behind."""

    value: Array
    position: PyTree


class Run(eqx.Module):
    """Everything that the next trial depends on: carried by the loop, and enough to go on another day."""

    t: Array
    snapshot: Snapshot
    controller: Any
    monitor: Monitor
    best: Best | None  # None where the point that the run stands at is always the best
    counts: Array
    result: Array
    learnt: PyTree = None  # by the scheme; None for most


class Problem(eqx.Module):
    """What stays the same along a run."""

    objective: PartialObjective
    solver: Solver
    stop: Stop


def start(problem: Problem, position: PyTree) -> tuple[Problem, Run]:
    """The calibrated problem and the run before its first trial.

    **Arguments:** `problem`: with an uncalibrated solver; `position`: the trained leaves.
    """
    tally = Tally()
    oracle = Oracle(problem.objective, position, tally)
    dtype = run_dtype(oracle.value.dtype, position)
    solver = cast_floating(problem.solver, dtype)
    stop = cast_floating(problem.stop, dtype)
    state = solver.flow.init(position)
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)
    flow = cast_floating(solver.flow.calibrate(state, oracle), dtype)
    controller = solver.controller
    step_size = controller.initial_step_size
    if step_size is None:
        # A hundredth: short enough that the first trial is rarely far off, and the growth until the first rejection
        # makes up for the rest in a few trials (benchmarks/core.py, table "initial_step").
        step_size = 0.01 * flow.unit_of_time(state, oracle)
    solver = Solver(flow, solver.scheme, controller)
    problem = Problem(problem.objective, solver, stop)
    t = jnp.zeros((), dtype)
    snapshot = measure(problem, t, state, oracle)
    controller_state = controller.init(jnp.asarray(step_size, dtype))
    kinetic = kinetic_part(flow, t, state)
    first = controller.step_size(controller_state)
    monitor = start_monitor(stop, snapshot.value, snapshot.stationarity, kinetic, first)
    # Where the run stands is the best point if the energy decides, or is the loss and never rises.
    is_loss = reads(flow.energy, t, state, oracle.value) == {"value"} and not _memory_counts(flow, t, state, oracle)
    keeps_best = flow.judged_by == "loss" and not (controller.monotone and is_loss)
    learnt = solver.scheme.init(flow, t, state, oracle)
    counts = jnp.stack([jnp.asarray(n, jnp.int32) for n in (0, 0, tally.values, tally.gradients, 0, 0)])
    finite = jnp.isfinite(snapshot.value) & jnp.isfinite(snapshot.energy)
    smooth = jnp.isfinite(snapshot.dissipation) & jnp.isfinite(snapshot.stationarity)
    result = verdict(stop, monitor, snapshot.value, snapshot.stationarity, kinetic, cost(counts).astype(dtype))
    result = jnp.where(smooth, result, code(RESULTS.nonfinite_dissipation))
    result = jnp.where(finite, result, code(RESULTS.nonfinite_start))
    run = Run(
        t=t,
        snapshot=snapshot,
        controller=controller_state,
        monitor=monitor,
        best=Best(jnp.full_like(snapshot.value, jnp.inf), position) if keeps_best else None,
        counts=counts,
        result=result.astype(jnp.int32),
        learnt=learnt,
    )
    return problem, run


def _memory_counts(flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> bool:
    """Whether the energy depends on the memory."""
    jaxpr = jax.make_jaxpr(lambda memory: flow.energy(t, State(state.position, memory), oracle))(state.memory).jaxpr
    return depends_on_arguments(jaxpr)


def resume(problem: Problem, run: Run) -> Run:
    """A run that had stopped, judged anew by the stopping criteria of `problem`."""
    here = run.snapshot
    kinetic = kinetic_part(problem.solver.flow, run.t, here.state)
    spent = cost(run.counts).astype(run.t.dtype)
    result = verdict(problem.stop, run.monitor, here.value, here.stationarity, kinetic, spent)
    return eqx.tree_at(lambda r: r.result, run, result)


def best_point(run: Run) -> tuple[Array, PyTree]:
    """The lowest loss of the run and where it was found."""
    value, position = run.snapshot.value, run.snapshot.state.position
    if run.best is None:
        return value, position
    # Not (value > best): the value at the start may be NaN, and then nothing better is known.
    here = ~(value > run.best.value)
    return jnp.where(here, value, run.best.value), select(here, position, run.best.position)


def final_result(flow: AbstractFlow, run: Run) -> Array:
    """The code of the result of a run that has ended: what the loop saw, and what the last point adds to it."""
    result, here = run.result, run.snapshot
    rejected, by_gradients = (run.counts[COUNTS.index(name)] for name in ("rejected", "gradient_test_rejections"))
    at_floor = result == code(RESULTS.rounding_floor_reached)
    stuck = at_floor | (result == code(RESULTS.step_underflow))
    # Near a solution a rate is zero but for its own rounding, and may have either sign: less than half the digits of
    # the first gradient are left to compute it from.
    resolved = here.stationarity > float(jnp.finfo(run.t.dtype).eps) ** 0.5 * run.monitor.initial_stationarity
    # Steps that shrink without end may also use up the trials, or leave the loss as it is for long enough to stop.
    settled = (result == code(RESULTS.converged)) & run.monitor.window.settled
    suspect = stuck | settled | (result == RUNNING) if flow.certificate == "lyapunov" else stuck
    result = jnp.where(suspect & resolved & (here.dissipation > 0), code(RESULTS.energy_rises), result)
    # A flow at rest has no decrease that rounding could hide, unless already the first trial was below it.
    at_rest = at_floor & (here.dissipation == 0) & (rejected > by_gradients)
    result = jnp.where(at_rest, code(RESULTS.step_underflow), result)
    return jnp.where(result == RUNNING, code(RESULTS.max_steps_reached), result)


def cost(counts: Array) -> Array:
    """Forward pass 1, backward pass 2."""
    return counts[COUNTS.index("values")] + 2 * counts[COUNTS.index("gradients")]


def measure(problem: Problem, t: Array, state: State, oracle: Oracle) -> Snapshot:
    """Everything at a point, from scratch."""
    flow, dtype = problem.solver.flow, t.dtype
    dissipation = flow.dissipation(t, state, oracle).astype(dtype)
    return Snapshot(
        state=state,
        value=oracle.value.astype(dtype),
        gradient=oracle.gradient,
        split=split_energy(flow, t, state, oracle, dtype),
        dissipation=dissipation,
        stationarity=stationarity(flow, problem.stop, t, state, oracle, dtype),
        blur=None if problem.solver.controller.rounding is None else blur(oracle, state.position),
        kept=oracle.what_is_kept,
    )


def kinetic_part(flow: AbstractFlow, t: Array, state: State) -> Array | None:
    """The kinetic energy, or `None` where the flow declares none."""
    return flow.kinetic_energy(t, state).astype(t.dtype) if flow.declares("kinetic_energy") else None
