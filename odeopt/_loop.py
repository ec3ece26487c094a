"""The one loop: flat, one trial per iteration, shared by `minimise` and `train`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._record import Record
from ._results import RUNNING
from ._run import Problem, Run
from ._trial import attempt_step


def advance(
    problem: Problem, run: Run, record: Record | None, max_trials: Array | int, meter=None
) -> tuple[Run, Record | None]:
    """At most `max_trials` further trials; fewer if the run ends."""

    def going_on(carry):
        run, _, trials, _ = carry
        return (run.result == RUNNING) & (trials < max_trials)

    def body(carry):
        run, record, trials, meter_state = carry
        run, record = attempt_step(problem, run, record)
        if meter is not None:
            meter_state = meter.step(meter_state, (trials + 1) / max_trials)
        return run, record, trials + 1, meter_state

    meter_state = None if meter is None else meter.init()
    carry = (run, record, jnp.asarray(0, jnp.int32), meter_state)
    run, record, _, meter_state = jax.lax.while_loop(going_on, body, carry)
    if meter is not None:
        meter.close(meter_state)
    return run, record
