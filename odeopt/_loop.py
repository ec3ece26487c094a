"""The one loop: flat, one round per iteration, shared by `minimise` and `train`."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from ._record import Record
from ._results import RUNNING
from ._run import Problem, Run
from ._trial import attempt_step


def advance(
    problem: Problem, run: Run, record: Record | None, max_trials: Array | int, meter=None
) -> tuple[Run, Record | None]:
    """At most `max_trials` further trials; fewer if the run ends."""
    return repeated(lambda run, record, last: attempt_step(problem, run, record), run, record, max_trials, meter)


def repeated(
    round_of: Callable[[Any, Record | None, Array], tuple[Any, Record | None]],
    run,
    record: Record | None,
    max_trials: Array | int,
    meter=None,
):
    """Rounds until the run ends or has made `max_trials` further trials; a run has `counts` and a `result`.

    **Arguments:** `round_of`: `round_of(run, record, last)`, `last` the number of trials with which the run is to stop.
    """
    last = run.counts[0] + run.counts[1] + max_trials

    def going_on(carry):
        run, _, _ = carry
        return (run.result == RUNNING) & (run.counts[0] + run.counts[1] < last)

    def body(carry):
        run, record, meter_state = carry
        run, record = round_of(run, record, last)
        if meter is not None:
            left = last - run.counts[0] - run.counts[1]
            meter_state = meter.step(meter_state, 1 - left / max_trials)
        return run, record, meter_state

    meter_state = None if meter is None else meter.init()
    run, record, meter_state = jax.lax.while_loop(going_on, body, (run, record, meter_state))
    if meter is not None:
        meter.close(meter_state)
    return run, record
