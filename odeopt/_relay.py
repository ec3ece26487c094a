"""The run of a sequence of solvers: who runs, who is tried, and who takes over."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._flow.base import State
from ._loop import repeated
from ._objective import PartialObjective
from ._record import Record
from ._results import RESULTS, RUNNING, code
from ._run import Best, Problem, Run, best_point, cost, final_result, resume, start
from ._sequence import Sequence
from ._solver import Solver
from ._stop import Stop
from ._tree import select
from ._trial import attempt_step

# Units of cost before the first try: some thirty steps of a flow with one gradient a step, in which its memory fills.
FIRST_STRETCH = 100
# Trials that a solver gets at least, whatever they cost: of fewer nothing can be seen.
FEWEST_TRIALS = 10
# Ends that no other solver could do better about.
FINAL = tuple(code(getattr(RESULTS, name)) for name in ("converged", "target_reached", "max_evaluations_reached"))


class RelayProblem(eqx.Module):
    """What stays the same along a relay, in place of a `Problem`."""

    objective: PartialObjective
    solver: Sequence
    stop: Stop

    def of(self, solver: Solver) -> Problem:
        """The problem of one of the solvers."""
        return Problem(self.objective, solver, self.stop)

    @property
    def per_pause(self) -> Array:
        """What a try may cost, over what the active solver spends between two tries."""
        return self.solver.share / (1 - self.solver.share)


class Leg(eqx.Module):
    """One solver with its scales set, and its run; numbers without a meaning until it has begun."""

    solver: Solver
    run: Run


class Stretch(eqx.Module):
    """What is judged as a whole: cost, trials and best loss where it began, and the cost until it is judged."""

    cost: Array
    trials: Array
    loss: Array
    length: Array


class Here(eqx.Module):
    """What all solvers of a relay know of the point where they stand."""

    state: State
    value: Array
    energy: Array
    dissipation: Array
    stationarity: Array


class Relay(eqx.Module):
    """The run of a sequence, in place of a `Run`.

    **Attributes:** `active`: the solver that has taken over last; `trying`: whether the next one is being tried;
    `rate`: what the active one has lowered the loss by in its last stretch, per unit of cost; `pause`: how long it will
    go on before the next try; `failed`: which solvers could go no further.
    """

    legs: tuple[Leg, ...]
    active: Array
    trying: Array
    failed: Array
    stretch: Stretch
    pause: Array
    rate: Array
    best: Best
    initial_stationarity: Array
    counts: Array
    result: Array

    @property
    def running(self) -> Array:
        """The index of the solver whose turn it is."""
        return self.active + self.trying.astype(jnp.int32)

    @property
    def t(self) -> Array:
        """The time of the solver whose turn it is."""
        return self.of_running(lambda leg: leg.run.t)

    @property
    def snapshot(self) -> "Here":
        """Where that solver stands."""

        def here(leg: Leg) -> Here:
            at = leg.run.snapshot
            return Here(State(at.state.position), at.value, at.energy, at.dissipation, at.stationarity)

        return self.of_running(here)

    @property
    def step_size(self) -> Array:
        """What that solver will try next."""
        return self.of_running(lambda leg: leg.solver.controller.step_size(leg.run.controller))

    def of_running(self, pick: Callable[[Leg], Any]) -> Any:
        """Something that every leg has, of the one whose turn it is."""
        return jax.lax.switch(self.running, [partial(pick, leg) for leg in self.legs])


def start_relay(problem: RelayProblem, position: PyTree) -> tuple[RelayProblem, Relay]:
    """The relay before its first trial."""
    sequence = problem.solver
    legs = [_begun(problem, sequence.solvers[0], position)]
    legs += [_blank(problem, solver, position) for solver in sequence.solvers[1:]]
    first = legs[0].run
    zero = jnp.asarray(0, jnp.int32)
    length = jnp.asarray(FIRST_STRETCH, first.t.dtype)
    return problem, Relay(
        legs=tuple(legs),
        active=zero,
        trying=jnp.asarray(False),
        failed=jnp.zeros(len(legs), bool),
        stretch=Stretch(cost(first.counts), zero, first.snapshot.value, length),
        pause=length,
        rate=jnp.zeros_like(length),
        best=Best(first.snapshot.value, position),
        initial_stationarity=first.snapshot.stationarity,
        counts=first.counts,
        result=first.result,
    )


def resume_relay(problem: RelayProblem, relay: Relay) -> Relay:
    """A relay that had stopped, judged anew by the stopping criteria of `problem`."""

    def resumed(leg: Leg, is_running: Array) -> Leg:
        run = resume(problem.of(leg.solver), replace(leg.run, counts=relay.counts))
        return Leg(leg.solver, select(is_running, run, leg.run))

    legs = tuple(resumed(leg, relay.running == index) for index, leg in enumerate(relay.legs))
    relay = replace(relay, legs=legs)
    return replace(relay, result=relay.of_running(lambda leg: leg.run.result))


def advance_relay(
    problem: RelayProblem, relay: Relay, record: Record | None, max_trials: Array | int, meter=None
) -> tuple[Relay, Record | None]:
    """At most `max_trials` further trials, of all solvers together; fewer if the run ends."""

    def stretch(relay: Relay, record: Record | None, last: Array) -> tuple[Relay, Record | None]:
        branches = [lambda index=index: _run_on(problem, relay, record, index, last) for index in range(_size(relay))]
        relay, record, ended = jax.lax.switch(relay.running, branches)
        return _judged(problem, relay, ended), record

    return repeated(stretch, relay, record, max_trials, meter)


def _size(relay: Relay) -> int:
    return len(relay.legs)


def _trials(counts: Array) -> Array:
    return counts[0] + counts[1]


def _due(stretch: Stretch, counts: Array) -> Array:
    """Whether a stretch is long enough to be judged."""
    spent, trials = cost(counts) - stretch.cost, _trials(counts) - stretch.trials
    return (spent >= stretch.length) & (trials >= FEWEST_TRIALS)


def _begun(problem: RelayProblem, solver: Solver, position: PyTree) -> Leg:
    begun, run = start(problem.of(solver), position)
    return Leg(begun.solver, run)


def _blank(problem: RelayProblem, solver: Solver, position: PyTree) -> Leg:
    """A leg of the right structure."""
    shape = eqx.filter_eval_shape(_begun, problem, solver, position)
    return jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, shape
    )


def _with_leg(relay: Relay, index: int, leg: Leg) -> Relay:
    return replace(relay, legs=(*relay.legs[:index], leg, *relay.legs[index + 1 :]))


def _run_on(
    problem: RelayProblem, relay: Relay, record: Record | None, index: int, last: Array
) -> tuple[Relay, Record | None, Array]:
    """One solver runs until its stretch is over; with the code of how it ended, or `RUNNING`."""
    leg = relay.legs[index]
    own = problem.of(leg.solver)

    def going_on(carry):
        run, _ = carry
        return (run.result == RUNNING) & (_trials(run.counts) < last) & ~_due(relay.stretch, run.counts)

    if record is not None:
        record = replace(record, solver=jnp.asarray(index, record.solver.dtype))
    # The counts are of all solvers, so that budgets are.
    run = replace(leg.run, counts=relay.counts)
    run, record = jax.lax.while_loop(going_on, lambda carry: attempt_step(own, *carry), (run, record))
    ended = jnp.where(run.result == RUNNING, RUNNING, final_result(leg.solver.flow, run)).astype(jnp.int32)
    value, position = best_point(run)
    lower = value < relay.best.value
    best = select(lower, Best(value, position), relay.best)
    relay = replace(_with_leg(relay, index, Leg(leg.solver, run)), best=best, counts=run.counts)
    return relay, record, ended


def _judged(problem: RelayProblem, relay: Relay, ended: Array) -> Relay:
    """What follows from a stretch: whose turn is next."""
    spent = cost(relay.counts) - relay.stretch.cost
    is_final = jnp.isin(ended, jnp.asarray(FINAL))
    failed = (ended != RUNNING) & ~is_final
    over = _due(relay.stretch, relay.counts) | failed
    rate = (relay.stretch.loss - relay.best.value) / jnp.maximum(spent, 1)
    takes_over = relay.trying & ~failed & (rate > relay.rate)
    gives_up = ~relay.trying & failed
    failures = jnp.where(gives_up, relay.failed.at[relay.active].set(True), relay.failed)
    successor, exists = _successor(relay.active, failures)
    active = jnp.where(takes_over, relay.active + 1, jnp.where(gives_up, successor, relay.active))
    # After a stretch of the active one the next is tried; after a try somebody goes on.
    tries = ~relay.trying & ~failed & (active < _size(relay) - 1)
    begins = (over & tries) | (gives_up & (successor > relay.active))
    pause = jnp.where(
        takes_over | gives_up,
        FIRST_STRETCH,
        # As long as the try was dear, so that tries stay within their share.
        jnp.where(relay.trying, jnp.maximum(2 * relay.pause, spent / problem.per_pause), relay.pause),
    ).astype(relay.pause.dtype)
    following = replace(
        relay,
        active=active.astype(jnp.int32),
        trying=tries,
        failed=failures,
        stretch=Stretch(
            cost(relay.counts),
            _trials(relay.counts),
            relay.best.value,
            jnp.where(tries, problem.per_pause * pause, pause).astype(pause.dtype),
        ),
        pause=pause,
        rate=jnp.where(relay.trying, relay.rate, rate).astype(relay.rate.dtype),
    )
    following = _with_next(problem, following, begins)
    relay = select(over & ~is_final, following, relay)
    result = jnp.where(is_final | (gives_up & ~exists), ended, RUNNING)
    return replace(relay, result=result.astype(jnp.int32))


def _successor(active: Array, failed: Array) -> tuple[Array, Array]:
    """Who goes on when the active solver cannot, the next one or the last before it that can; and whether one does."""
    index = jnp.arange(len(failed))
    earlier = jnp.max(jnp.where(~failed & (index < active), index, -1))
    successor = jnp.where(active + 1 < len(failed), active + 1, earlier)
    return jnp.maximum(successor, 0).astype(jnp.int32), successor >= 0


def _with_next(problem: RelayProblem, relay: Relay, begins: Array) -> Relay:
    """The solver whose turn it is begun at the best point, where `begins`."""
    sequence = problem.solver

    def begin(index: int) -> Relay:
        leg = _begun(problem, sequence.solvers[index], relay.best.position)
        counts = relay.counts + leg.run.counts
        # Tolerances relative to the start are relative to that of the first solver.
        monitor = replace(leg.run.monitor, initial_stationarity=relay.initial_stationarity)
        return replace(_with_leg(relay, index, Leg(leg.solver, replace(leg.run, monitor=monitor))), counts=counts)

    branches = [lambda: relay, *(lambda index=index: begin(index) for index in range(1, _size(relay)))]
    return jax.lax.switch(jnp.where(begins, relay.running, 0), branches)
