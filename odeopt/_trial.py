"""One trial step: the scheme, the energy at the trial, the decision, and the books."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._controller.base import ACCEPT, UNDECIDED, Attempt
from ._flow.base import State, overrides
from ._objective import Oracle, Tally, directional_change, reads
from ._record import Record, write
from ._results import RESULTS, RUNNING, code
from ._run import Best, Problem, Run, cost, measure, rounding_unit
from ._scheme.base import Trial
from ._snapshot import EnergySplit, Snapshot, energy_change, split_energy
from ._stop import verdict, watch
from ._tree import select, subtract


class _Reads(NamedTuple):
    """Whether parts of a flow need the gradient, and so must wait until a trial has been accepted."""

    energy: bool
    dissipation: bool


def _reads(flow, t, state, value) -> _Reads:
    return _Reads(
        energy="gradient" in reads(flow.energy, t, state, value),
        dissipation=not overrides(flow, "dissipation") or "gradient" in reads(flow.dissipation, t, state, value),
    )


def attempt_step(problem: Problem, run: Run, record: Record | None) -> tuple[Run, Record | None]:
    """One trial step: the scheme, the energy there, the decision, and the books."""
    flow, scheme, controller = problem.solver.flow, problem.solver.scheme, problem.solver.controller
    before, dtype = run.snapshot, run.t.dtype
    tally = Tally()
    oracle = Oracle(problem.objective, before.state.position, tally, before.value, before.gradient)
    step_size = controller.step_size(run.controller)
    t = run.t + step_size
    step = scheme.step(flow, run.t, step_size, before.state, oracle)
    state = jax.tree.map(lambda new, old: new.astype(old.dtype), step.state, before.state)
    value = step.oracle.value.astype(dtype)

    split = split_energy(flow, t, state, step.oracle, dtype)
    needs_gradient = _reads(flow, t, state, step.oracle.value)
    jumps = overrides(flow, "jump")
    early = not needs_gradient.dissipation and not jumps
    dissipation = flow.dissipation(t, state, step.oracle).astype(dtype) if early else None
    kinetic = None if jumps else flow.kinetic_energy(t, state).astype(dtype)

    change = energy_change(before.split, split, before.value, value - before.value)
    attempt = Attempt(
        step_size=step_size,
        change=change,
        rate=_rate(problem, before, t, state, step, dissipation).astype(dtype),
        rounding=_rounding_level(problem, before, split, value, step),
        finite=jnp.isfinite(value) & jnp.isfinite(change),
    )
    decision = controller.judge(run.controller, attempt)
    best = _leave_best(run.best, before, value)

    def reject():
        return jnp.asarray(False), before, jnp.zeros(2, jnp.int32)

    def accept():
        inner = Tally()
        after = _arrive(problem, before, t, state, oracle, step.oracle.fork(inner), split, dissipation, kinetic)
        return jnp.asarray(True), after, jnp.asarray([inner.values, inner.gradients], jnp.int32)

    def ask_gradients():
        inner = Tally()
        there = step.oracle.fork(inner)
        displacement = subtract(state.position, before.state.position)
        value_change = directional_change(oracle, there, displacement).astype(dtype)
        exact = energy_change(before.split, split, before.value, value_change)
        passes = jnp.isfinite(exact) & (exact <= controller.bound(step_size, attempt.rate))
        after = _arrive(problem, before, t, state, oracle, there, split, dissipation, kinetic)
        return passes, select(passes, after, before), jnp.asarray([inner.values, inner.gradients], jnp.int32)

    if controller.rounding is None:
        accepted, snapshot, passes = jax.lax.cond(decision == ACCEPT, accept, reject)
        asked = jnp.asarray(False)
    else:
        asked = decision == UNDECIDED
        # One flat switch: a cond inside the accepting branch costs several times as much on small problems.
        branch = jnp.where(asked, 2, jnp.where(decision == ACCEPT, 1, 0))
        accepted, snapshot, passes = jax.lax.switch(branch, [reject, accept, ask_gradients])

    controller_state = controller.update(run.controller, attempt, decision, accepted)
    counts = run.counts + jnp.stack(
        [
            accepted.astype(jnp.int32),
            (~accepted).astype(jnp.int32),
            tally.values + passes[0],
            tally.gradients + passes[1],
            asked.astype(jnp.int32),
            (asked & ~accepted).astype(jnp.int32),
        ]
    )
    monitor = watch(
        problem.stop, run.monitor, accepted, snapshot.value, snapshot.stationarity, snapshot.kinetic, step_size
    )
    result = verdict(
        problem.stop, monitor, snapshot.value, snapshot.stationarity, snapshot.kinetic, cost(counts).astype(dtype)
    )
    exhausted = controller.exhausted(controller_state)
    result = _failure(result, accepted, snapshot, exhausted, value, asked)
    if record is not None:
        record = write(record, accepted, t, step_size, snapshot, run.rejections)
    run = Run(
        t=jnp.where(accepted, t, run.t),
        snapshot=snapshot,
        controller=controller_state,
        rejections=jnp.where(accepted, 0, run.rejections + 1).astype(jnp.int32),
        monitor=monitor,
        best=best,
        counts=counts,
        result=result,
    )
    return run, record


def _rate(problem: Problem, before: Snapshot, t: Array, state: State, step: Trial, dissipation: Array | None) -> Array:
    """The dissipation that the controller's test refers to."""
    kind = problem.solver.controller.rate
    if kind == "quadrature" and step.quadrature is not None:
        return step.quadrature()
    if kind == "trial":
        return problem.solver.flow.dissipation(t, state, step.oracle) if dissipation is None else dissipation
    return before.dissipation


def _rounding_level(problem: Problem, before: Snapshot, split: EnergySplit, value: Array, step: Trial) -> Array:
    """What the change of the energy may be wrong by because the two losses are rounded."""
    rounding = problem.solver.controller.rounding
    if rounding is None:
        return jnp.zeros_like(value)
    unit = rounding_unit(step.oracle.value.dtype, step.state.position)
    return rounding * unit * jnp.abs(split.slope) * (jnp.abs(before.value) + jnp.abs(value))


def _leave_best(best: Best | None, before: Snapshot, value: Array) -> Best | None:
    """Keep the point that is about to be left if the loss rises and nothing better is known.

    So the parameters are copied once for every ascent of the loss, and not at every step that lowers it.
    """
    if best is None:
        return None
    leaving = (value > before.value) & (before.value < best.value)
    return jax.lax.cond(leaving, lambda: Best(before.value, before.state.position), lambda: best)


def _arrive(
    problem: Problem,
    before: Snapshot,
    t: Array,
    state: State,
    oracle_before: Oracle,
    oracle: Oracle,
    split: EnergySplit,
    dissipation: Array | None,
    kinetic: Array | None,
) -> Snapshot:
    """The snapshot at an accepted trial, after the flow's jump if it has one."""
    flow = problem.solver.flow
    if overrides(flow, "jump"):
        memory = flow.jump(t, before.state, state, oracle_before, oracle)
        jumped = State(state.position, jax.tree.map(lambda new, old: new.astype(old.dtype), memory, state.memory))
        split_jumped = split_energy(flow, t, jumped, oracle, t.dtype)
        value = oracle.value.astype(t.dtype)
        lowers = energy_change(split, split_jumped, value, jnp.zeros_like(value)) <= 0
        state, split = select(lowers, jumped, state), select(lowers, split_jumped, split)
    return measure(problem, t, state, oracle, split, dissipation, kinetic)


def _failure(
    result: Array, accepted: Array, after: Snapshot, exhausted: Array, value: Array, asked: Array
) -> Array:
    """The result of a trial, where something has gone wrong with it."""
    smooth = jnp.isfinite(after.dissipation) & jnp.isfinite(after.stationarity)
    # Squares of such a number overflow: no loss of use has a minimum down there.
    bottomless = after.value < -(float(jnp.finfo(value.dtype).max) ** 0.5)
    cause = jnp.where(asked, code(RESULTS.rounding_floor_reached), code(RESULTS.step_underflow))
    cause = jnp.where(value == -jnp.inf, code(RESULTS.unbounded_below), cause)
    result = jnp.where((result == RUNNING) & ~accepted & exhausted, cause, result)
    result = jnp.where(accepted & ~smooth, code(RESULTS.nonfinite_dissipation), result)
    return jnp.where(bottomless, code(RESULTS.unbounded_below), result).astype(jnp.int32)
