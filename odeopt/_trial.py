"""One trial step: the scheme, the energy at the trial, the decision, and the books."""

from dataclasses import dataclass, replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._controller.base import Attempt, Verdict
from ._error import scaled_error
from ._flow.base import AbstractFlow, State
from ._objective import Oracle, Tally, directional_change, reads
from ._record import Record, write
from ._results import RESULTS, RUNNING, code
from ._run import COUNTS, Best, Problem, Run, cost, kinetic_part
from ._scheme.base import Trial
from ._snapshot import (
    EnergySplit,
    Snapshot,
    blur,
    energy_change,
    known_split,
    rounding_unit,
    split_energy,
    stationarity,
)
from ._stop import Monitor, verdict, watch
from ._tree import select, subtract, vdot


class Arrival(eqx.Module):
    """What is known after the decision; the branches of the decision return it.

    Only what costs a gradient or an array stands here: scalars that are known before the decision are chosen
    afterwards, because every output of a branch is a copy.
    """

    state: State
    gradient: PyTree
    stationarity: Array
    blur: Array | None  # None: nothing asks for it
    dissipation: Array | None  # None: known before the decision, or made after a jump behind it
    split: EnergySplit | None  # None: known before the decision
    kept: PyTree  # of the point, by the flow


@dataclass(frozen=True)
class _Candidate:
    """A trial before the decision; it lives in one trace."""

    t: Array
    state: State
    value: Array
    split: EnergySplit
    dissipation: Array | None  # None: needs the gradient, and is evaluated after the decision
    before: Oracle
    there: Oracle
    attempt: Attempt
    tally: Tally
    learnt: PyTree

    @property
    def late(self) -> bool:
        return self.dissipation is None


@dataclass(frozen=True)
class _Outcome:
    """The decision on a trial and what it led to.

    `passed`: whether it was decided by values that the step is kept, which a gradient that is no number may overrule;
    `asked`: whether gradients decided; `passes`: forward and backward, that carrying it out took, shape (2,).
    """

    arrival: Arrival
    accepted: Array
    passed: Array
    asked: Array
    passes: Array


def attempt_step(problem: Problem, run: Run, record: Record | None) -> tuple[Run, Record | None]:
    """One trial step: the scheme, the energy there, the decision, and the books."""
    controller, before = problem.solver.controller, run.snapshot
    trial = _make_trial(problem, run)
    decision = controller.judge(run.controller, trial.attempt)
    best, decision = _leave_best(run.best, before, trial.value, decision)
    outcome = _decide(problem, run, trial, decision)
    after = _after(problem, before, trial, outcome)
    controller_state = controller.update(run.controller, trial.attempt, decision, outcome.accepted)
    counts = run.counts + _counted(trial.tally, outcome)
    monitor, result = _judge_run(problem, run, trial, outcome, after, counts)
    result = _failure(
        result,
        trial.value,
        outcome,
        after,
        controller.exhausted(controller_state),
        trial.attempt.step_size,
        monitor.floor.fruitless >= problem.solver.scheme.floor_trials,
    )
    if record is not None:
        record = write(record, outcome.accepted, trial.t, trial.attempt.step_size, after)
    run = Run(
        t=jnp.where(outcome.accepted, trial.t, run.t),
        snapshot=after,
        controller=controller_state,
        monitor=monitor,
        best=best,
        counts=counts,
        result=result,
        learnt=trial.learnt,
    )
    return run, record


def _make_trial(problem: Problem, run: Run) -> _Candidate:
    """One step of the scheme, and what the controller wants to know of it."""
    flow, scheme, controller = problem.solver.flow, problem.solver.scheme, problem.solver.controller
    before, dtype = run.snapshot, run.t.dtype
    tally = Tally()
    oracle = Oracle(problem.objective, before.state.position, tally, before.value, before.gradient, before.kept)
    step_size = controller.step_size(run.controller)
    step = scheme.step(flow, run.t, step_size, before.state, oracle, run.learnt)
    t = run.t + (step_size if step.elapsed is None else step.elapsed)
    state = jax.tree.map(lambda new, old: new.astype(old.dtype), step.state, before.state)
    value, split = _evaluated(problem, run, t, state, step)
    late = _known_late(flow, t, state, step.oracle.value)
    dissipation = None if late else flow.dissipation(t, state, step.oracle).astype(dtype)
    attempt = replace(
        _attempt(problem, run, value, split, step),
        rate=_rate(problem, before, t, state, step, dissipation).astype(dtype),
        error=None if controller.tolerance is None else scaled_error(controller.tolerance, before.state, step, dtype),
    )
    if controller.needs_shadow:
        attempt = replace(attempt, shadow=attempt.change + _shadow(problem, run, t, step_size, oracle, step))
    return _Candidate(t, state, value, split, dissipation, oracle, step.oracle, attempt, tally, step.learnt)


def _evaluated(problem: Problem, run: Run, t: Array, state: State, step: Trial) -> tuple[Array, EnergySplit]:
    """The objective at a trial and the parts of the energy; less of it where a part is enough to reject the trial."""
    flow, controller, dtype = problem.solver.flow, problem.solver.controller, run.t.dtype
    if controller.rejects_early and step.oracle.may_stop:
        split = known_split(flow, t, state, step.oracle, dtype)
        if split is not None:

            def hopeless(bound: Array) -> Array:
                attempt = _attempt(problem, run, bound.astype(dtype), split, step)
                rising = True if split.slope is None else split.slope > 0
                return rising & (controller.judge(run.controller, attempt) == Verdict.REJECT)

            return step.oracle.value_until(hopeless).astype(dtype), split
    value = step.oracle.value.astype(dtype)
    return value, split_energy(flow, t, state, step.oracle, dtype)


def _attempt(problem: Problem, run: Run, value: Array, split: EnergySplit, step: Trial) -> Attempt:
    """What the energy at a trial says, with the dissipation at the start of the step."""
    before = run.snapshot
    change = energy_change(before.split, split, before.value, value - before.value)
    return Attempt(
        step_size=problem.solver.controller.step_size(run.controller),
        change=change,
        rate=before.dissipation,
        rounding=_rounding_level(problem, before, split, value, step),
        finite=jnp.isfinite(value) & jnp.isfinite(change),
        order=problem.solver.scheme.order,
        error_order=problem.solver.scheme.error_order,
    )


def _decide(problem: Problem, run: Run, trial: _Candidate, decision: Array) -> _Outcome:
    """Carry out a verdict; where it is open, gradients decide."""
    controller, before = problem.solver.controller, run.snapshot
    jumps = problem.solver.flow.declares("jump")
    stay = _stay(problem.solver.flow, before, trial.late)
    arrive = partial(_arrive, problem, before, trial)

    def unless_broken(arrival, passes):
        # What a jump learns from a gradient that is no number would stay in the memory for ever.
        if not jumps:
            return arrival, passes
        sound = jnp.isfinite(arrival.stationarity)
        if arrival.dissipation is not None:
            sound &= jnp.isfinite(arrival.dissipation)
        return select(sound, arrival, stay), passes & sound

    def reject():
        return stay, jnp.asarray(False), jnp.zeros(2, jnp.int32)

    def accept():
        tally = Tally()
        arrival = arrive(trial.before.fork(tally), trial.there.fork(tally))
        return *unless_broken(arrival, jnp.asarray(True)), _passes(tally)

    def ask_gradients():
        tally = Tally()
        here, there = trial.before.fork(tally), trial.there.fork(tally)
        passes = _passes_by_gradients(problem, run, trial, here, there)
        arrival, sound = unless_broken(arrive(here, there), passes)
        return select(passes, arrival, stay), sound, _passes(tally)

    if controller.rounding is None:
        asked = jnp.asarray(False)
        arrival, accepted, passes = jax.lax.cond(decision == Verdict.ACCEPT, accept, reject)
    else:
        asked = decision == Verdict.UNDECIDED
        # One flat switch: a cond inside the accepting branch costs several times as much on small problems.
        branch = jnp.where(asked, 2, jnp.where(decision == Verdict.ACCEPT, 1, 0))
        arrival, accepted, passes = jax.lax.switch(branch, [reject, accept, ask_gradients])
    return _Outcome(arrival, accepted, decision == Verdict.ACCEPT, asked, passes)


def _passes(tally: Tally) -> Array:
    return jnp.stack([jnp.asarray(count, jnp.int32) for count in (tally.values, tally.gradients)])


def _passes_by_gradients(problem: Problem, run: Run, trial: _Candidate, here: Oracle, there: Oracle) -> Array:
    """The acceptance test with the change of the loss taken from the gradients at both ends."""
    before, dtype, attempt = run.snapshot, run.t.dtype, trial.attempt
    displacement = subtract(trial.state.position, before.state.position)
    value_change = directional_change(here, there, displacement).astype(dtype)
    change = energy_change(before.split, trial.split, before.value, value_change)
    excess = change - problem.solver.controller.bound(run.controller, attempt.step_size, attempt.rate)
    return jnp.isfinite(change) & (excess <= _benefit_of_doubt(problem, run, trial, here))


def _benefit_of_doubt(problem: Problem, run: Run, trial: _Candidate, here: Oracle) -> Array:
    """By how much a step may miss the test because the rounded position cannot follow it.

    The gradients do not see what such a step would have done; shorter ones, which say even less, would be tried for
    ever. Not more than the rounding of the position does to the loss, nor than twice what the velocity at the start
    would have done to it: at rest nothing is hidden, and a scheme that cannot leave rest is told from rounding. Only a
    first step size, of which nothing is known until a trial has been rejected, may be so short that even the velocity
    that it leads to is hidden.
    """
    before, flow = run.snapshot, problem.solver.flow
    assert before.blur is not None
    velocity = flow.vector_field(run.t, before.state, here).position
    hidden = 2 * jnp.abs(trial.attempt.step_size * vdot(here.gradient, velocity)).astype(run.t.dtype)
    hidden = jnp.where(run.counts[COUNTS.index("rejected")] == 0, before.blur, jnp.minimum(hidden, before.blur))
    return jnp.abs(trial.split.scaled(hidden))


def _after(problem: Problem, before: Snapshot, trial: _Candidate, outcome: _Outcome) -> Snapshot:
    """Where the run stands after the decision."""
    arrival = outcome.arrival

    def chosen(there, here):
        return jax.tree.map(lambda a, b: jnp.where(outcome.accepted, a, b), there, here)

    known = before.dissipation if trial.dissipation is None else chosen(trial.dissipation, before.dissipation)
    after = Snapshot(
        state=arrival.state,
        value=chosen(trial.value, before.value),
        gradient=arrival.gradient,
        split=chosen(trial.split, before.split) if arrival.split is None else arrival.split,
        dissipation=known if arrival.dissipation is None else arrival.dissipation,
        stationarity=arrival.stationarity,
        blur=arrival.blur,
        kept=arrival.kept,
    )
    return _jumped_in_place(problem, before, trial.t, after) if problem.solver.flow.jumps_in_place else after


def _jumped_in_place(problem: Problem, before: Snapshot, t: Array, after: Snapshot) -> Snapshot:
    """The jump behind the decision, at every trial: a branch that changes the memory would copy it."""
    flow = problem.solver.flow
    here, there = (
        Oracle(problem.objective, at.state.position, Tally(), at.value, at.gradient, at.kept) for at in (before, after)
    )
    memory = flow.jump(t, before.state, State(after.state.position, before.state.memory), here, there)
    state = State(after.state.position, memory)
    dissipation = flow.dissipation(t, state, there).astype(t.dtype)
    return replace(after, state=state, dissipation=dissipation, kept=there.what_is_kept)


def _judge_run(
    problem: Problem, run: Run, trial: _Candidate, outcome: _Outcome, after: Snapshot, counts: Array
) -> tuple[Monitor, Array]:
    """The stopping criteria after a trial."""
    flow, stop, accepted = problem.solver.flow, problem.stop, outcome.accepted
    # At a rejected trial this is not the kinetic energy of the point where the run stands, which saves a branch.
    kinetic = kinetic_part(flow, trial.t, outcome.arrival.state if flow.declares("jump") else trial.state)
    monitor = watch(
        stop,
        run.monitor,
        accepted,
        outcome.asked,
        after.value,
        after.stationarity,
        kinetic,
        trial.attempt.step_size,
    )
    spent = None if stop.max_evaluations is None else cost(counts).astype(run.t.dtype)
    result = verdict(stop, monitor, after.value, after.stationarity, kinetic, spent)
    # So a rejected trial may not end the run as converged; its point has been judged when it was reached.
    return monitor, jnp.where(accepted | (result != code(RESULTS.converged)), result, RUNNING)


def _known_late(flow: AbstractFlow, t: Array, state: State, value: Array) -> bool:
    """Whether the dissipation at a trial needs the gradient there, and so waits until the trial has been accepted."""
    if flow.declares("jump") or not flow.declares("dissipation"):
        return True
    return "gradient" in reads(flow.dissipation, t, state, value)


def _counted(tally: Tally, outcome: _Outcome) -> Array:
    """What a trial adds to the counts, in the order of `COUNTS`."""
    accepted, by_gradient = outcome.accepted, outcome.asked.astype(jnp.int32)
    values, gradients = outcome.passes
    return jnp.stack(
        [
            accepted.astype(jnp.int32),
            (~accepted).astype(jnp.int32),
            tally.values + values,
            tally.gradients + gradients,
            by_gradient,
            (outcome.asked & ~accepted).astype(jnp.int32),
        ]
    )


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
    unit = problem.objective.rounding
    if unit is None:
        unit = rounding_unit(step.oracle.value_dtype, step.state.position)
    assert before.blur is not None
    return jnp.abs(split.scaled(rounding * unit * (jnp.abs(before.value) + jnp.abs(value)) + before.blur))


def _shadow(problem: Problem, run: Run, t: Array, step_size: Array, oracle: Oracle, step: Trial) -> Array:
    """What the change of the shadow energy has beyond that of the energy."""
    flow, here = problem.solver.flow, run.snapshot.state
    before = vdot(oracle.gradient, flow.vector_field(run.t, here, oracle).position)
    after = vdot(step.oracle.gradient, flow.vector_field(t, step.state, step.oracle).position)
    return (-0.5 * step_size * (after - before)).astype(run.t.dtype)


def _leave_best(best: Best | None, before: Snapshot, value: Array, decision: Array) -> tuple[Best | None, Array]:
    """Keep the point that is about to be left if the loss rises and nothing better is known.

    So the parameters are copied once for every ascent of the loss, and not at every step that lowers it. A loop of at
    most one round is a conditional whose other branch copies nothing; the decision is handed through it so that it
    runs before the position is overwritten (otherwise XLA keeps a copy of the position at every trial).
    """
    if best is None:
        return None, decision
    there = Best(before.value, before.state.position)
    leaving = (value > before.value) & (before.value < best.value)
    leaving, best = jax.lax.while_loop(lambda c: c[0], lambda _: (jnp.asarray(False), there), (leaving, best))
    return best, decision + leaving.astype(jnp.int32)


def _stay(flow: AbstractFlow, before: Snapshot, late: bool) -> Arrival:
    """The arrival of a rejected trial: where the run stood."""
    in_place = flow.jumps_in_place
    return Arrival(
        state=State(before.state.position) if in_place else before.state,
        gradient=before.gradient,
        stationarity=before.stationarity,
        blur=before.blur,
        dissipation=before.dissipation if late and not in_place else None,
        split=before.split if flow.declares("jump") and not in_place else None,
        kept=None if in_place else before.kept,
    )


def _arrive(problem: Problem, before: Snapshot, trial: _Candidate, here: Oracle, oracle: Oracle) -> Arrival:
    """The arrival at an accepted trial, after the flow's jump if it has one that is not made in place."""
    flow, dtype = problem.solver.flow, trial.t.dtype
    t, state, split = trial.t, trial.state, trial.split
    in_place = flow.jumps_in_place
    jumps = flow.declares("jump") and not in_place
    if jumps:
        memory = flow.jump(t, before.state, state, here, oracle)
        jumped = State(state.position, jax.tree.map(lambda new, old: new.astype(old.dtype), memory, state.memory))
        split_jumped = split_energy(flow, t, jumped, oracle, dtype)
        lowers = energy_change(split, split_jumped, trial.value, jnp.zeros_like(trial.value)) <= 0
        state, split = select(lowers, jumped, state), select(lowers, split_jumped, split)
    dissipation = flow.dissipation(t, state, oracle).astype(dtype) if trial.late and not in_place else None
    return Arrival(
        state=State(state.position) if in_place else state,
        gradient=oracle.gradient,
        stationarity=stationarity(flow, problem.stop, t, state, oracle, dtype),
        blur=None if before.blur is None else blur(oracle, state.position),
        dissipation=dissipation,
        split=split if jumps else None,
        kept=None if in_place else oracle.what_is_kept,
    )


def _failure(
    result: Array,
    value: Array,
    outcome: _Outcome,
    after: Snapshot,
    exhausted: Array,
    step_size: Array,
    lost: Array,
) -> Array:
    """The result of a trial, where something has gone wrong with it."""
    smooth = jnp.isfinite(after.dissipation) & jnp.isfinite(after.stationarity)
    # Squares of such a number overflow: no loss of use has a minimum down there.
    bottomless = after.value < -(float(jnp.finfo(value.dtype).max) ** 0.5)
    # Whether it is rounding that fails, or the declaration, is asked after the loop (`final_result`).
    accepted = outcome.accepted
    cause = jnp.where(outcome.asked, code(RESULTS.rounding_floor_reached), code(RESULTS.step_underflow))
    cause = jnp.where(outcome.passed, code(RESULTS.nonfinite_dissipation), cause)
    cause = jnp.where(step_size <= 0, code(RESULTS.schedule_ended), cause)
    cause = jnp.where(value == -jnp.inf, code(RESULTS.unbounded_below), cause)
    running = result == RUNNING
    result = jnp.where(running & ~accepted & exhausted, cause, result)
    result = jnp.where(running & lost, code(RESULTS.rounding_floor_reached), result)
    result = jnp.where(accepted & ~smooth, code(RESULTS.nonfinite_dissipation), result)
    return jnp.where(bottomless, code(RESULTS.unbounded_below), result).astype(jnp.int32)
