"""What `minimise` and `train` ask of a run, whether one solver makes it or a sequence of them."""

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._loop import advance
from ._record import Record
from ._relay import Relay, RelayProblem, advance_relay, resume_relay, start_relay
from ._results import RESULTS, RUNNING, code
from ._run import Best, Problem, Run, best_point, final_result, resume, start


def begin(problem: Problem | RelayProblem, position: PyTree) -> tuple[Problem | RelayProblem, Run | Relay]:
    """The problem with its scales set, and the run before its first trial."""
    if isinstance(problem, RelayProblem):
        problem, run = start_relay(problem, position)
    else:
        problem, run = start(problem, position)
    return problem, problem.objective.placed(run)


def begin_again(problem: Problem | RelayProblem, run: Run | Relay) -> Run | Relay:
    """A run that had stopped, judged anew by the stopping criteria of `problem`."""
    if isinstance(problem, RelayProblem):
        assert isinstance(run, Relay)
        return resume_relay(problem, run)
    assert isinstance(run, Run)
    return resume(problem, run)


def go_on(
    problem: Problem | RelayProblem, run: Run | Relay, record: Record | None, max_trials: Array | int, meter=None
) -> tuple[Run | Relay, Record | None]:
    """At most `max_trials` further trials; fewer if the run ends."""
    if isinstance(problem, RelayProblem):
        assert isinstance(run, Relay)
        run, record = advance_relay(problem, run, record, max_trials, meter)
    else:
        assert isinstance(run, Run)
        run, record = advance(problem, run, record, max_trials, meter)
    return problem.objective.placed(run), record


def best_of(run: Run | Relay) -> Best:
    """The best point of a run."""
    return run.best if isinstance(run, Relay) else Best(*best_point(run))


def ending(problem: Problem | RelayProblem, run: Run | Relay) -> Array:
    """The code of the result of a run that has ended, or that has used up its trials."""
    if isinstance(problem, RelayProblem):
        return jnp.where(run.result == RUNNING, code(RESULTS.max_steps_reached), run.result)
    assert isinstance(run, Run)
    return final_result(problem.solver.flow, run)
