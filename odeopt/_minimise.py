"""Minimise a function: the loop compiled as a whole."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from ._check import check_declaration
from ._course import begin, begin_again, best_of, ending, go_on
from ._objective import PartialObjective, as_objective, check_scalar_value, first_nonfinite, reading_errors
from ._parameters import merge_parameters, split_parameters
from ._record import empty_record
from ._relay import Relay, RelayProblem
from ._results import EXPECTED, RESULTS, from_code
from ._run import COUNTS, Problem, Run
from ._sequence import Sequence
from ._solution import Solution, SolverState, history_of, starting_point
from ._solver import Solver
from ._stop import Stop

# Ends that data may be the reason of.
NONFINITE = ("nonfinite_start", "nonfinite_dissipation")
HISTORIES = ("scalars", "states", None)


def minimise(
    fn,
    solver: Solver | Sequence,
    y0: PyTree,
    args: PyTree = None,
    *,
    has_aux: bool = False,
    stop: Stop | None = None,
    max_steps: int = 10_000,
    state: SolverState | None = None,
    history: str | None = "scalars",
    progress=None,
    throw: bool = True,
) -> Solution:
    r"""Follow a flow downhill from `y0` until a stopping criterion is met.

    Works under `jit`, `vmap` (each lane has its own result; a failing lane harms no other) and for any pytree of
    floating-point parameters, Equinox models included. One iteration is one trial step; a rejected trial costs one
    forward pass.

    **Arguments:**

    - `fn`: `fn(y, args) -> scalar`, or an objective such as `odeopt.Objective`.
    - `solver`: an `odeopt.Solver`, or an `odeopt.Sequence` of them.
    - `y0`: the start.
    - `args`: handed to `fn`; data belong here.
    - `has_aux`: whether `fn` returns `(scalar, aux)`.
    - `stop`: an `odeopt.Stop`; default `Stop(gradient_norm=1e-6)`.
    - `max_steps`: the largest number of trials of this call.
    - `state`: the state of an earlier solution, to go on bit for bit; `y0` then gives only the structure, and the
        solver that of the state.
    - `history`: `"scalars"`, `"states"` (positions and memory too) or `None`; arrays are padded to `max_steps`.
    - `progress`: a progress meter of diffrax, or `None`.
    - `throw`: whether to raise where the run ends in another way than the stopping criteria say.

    **Returns:** a `Solution`; its value is the best point met.

    **Raises:** `TypeError` or `ValueError` for arguments that cannot work, before anything is compiled;
    `RuntimeError` with the reason if `throw` and the run failed.

    !!! example

        ```python
        import jax.numpy as jnp, odeopt

        rosenbrock = lambda y, _: (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2
        stop = odeopt.Stop(gradient_norm=1e-3)
        solution = odeopt.minimise(rosenbrock, odeopt.Solver(odeopt.HeavyBall()), jnp.array([-1.0, 1.0]), stop=stop)
        ```
    """
    check_settings(solver, stop, max_steps, history)
    problem, parameters = prepare(fn, args, has_aux, solver, y0, Stop(gradient_norm=1e-6) if stop is None else stop)
    if state is not None:
        problem = continued(problem, parameters, state)
    run = None if state is None else state.run
    with reading_errors(problem.objective) as streams:
        solution = _minimise(problem, parameters, run, max_steps, history, progress)
        if streams:
            jax.block_until_ready(solution)
    solution = explained(solution, problem.objective, "args")
    # Joined outside the compiled function, which would turn a model's NumPy arrays into trainable JAX arrays.
    solution = replace(solution, value=merge_parameters(solution.value, problem.objective.frozen))
    return _raise_on_failure(solution) if throw else solution


def check_settings(solver, stop, max_steps, history) -> None:
    """What `minimise` and `train` have in common, checked before anything is traced."""
    if not isinstance(solver, Solver | Sequence):
        given = f"the class {solver.__name__}" if isinstance(solver, type) else type(solver).__name__
        raise TypeError(f"solver must be an odeopt.Solver; got {given}. Write odeopt.Solver(odeopt.Adam()), say.")
    if isinstance(solver, Sequence) and history == "states":
        raise ValueError("history='states': the solvers of a Sequence have different states; keep 'scalars' or None.")
    check_run_settings(stop, max_steps, history)


def check_run_settings(stop, max_steps, history) -> None:
    """What does not depend on the solver."""
    if stop is not None and not isinstance(stop, Stop):
        raise TypeError(f"stop={stop!r}: expected an odeopt.Stop, such as odeopt.Stop(gradient_norm=1e-5).")
    if history not in HISTORIES:
        raise ValueError(f"history={history!r}: expected 'scalars', 'states' or None.")
    if not isinstance(max_steps, int) or max_steps < 0:
        raise ValueError(f"max_steps={max_steps!r}: expected a whole number >= 0.")


def prepare(
    fn, args, has_aux: bool, solver: Solver | Sequence, y0: PyTree, stop: Stop
) -> tuple[Problem | RelayProblem, PyTree]:
    """The problem and the trained leaves, checked abstractly."""
    objective = as_objective(fn, args, has_aux)
    parameters, frozen = split_parameters(y0)
    value = check_scalar_value(PartialObjective(objective, frozen), parameters)
    partial = PartialObjective(objective.fitted(merge_parameters(parameters, frozen)), frozen)
    for each in solver.solvers if isinstance(solver, Sequence) else (solver,):
        check_declaration(Problem(partial, each, stop), parameters, value)
    if isinstance(solver, Sequence):
        return RelayProblem(partial, solver, stop), parameters
    return Problem(partial, solver, stop), parameters


def continued(problem: Problem | RelayProblem, parameters: PyTree, state: SolverState) -> Problem | RelayProblem:
    """The problem with the solver of an earlier run.

    **Raises:** `ValueError` if the earlier run had another solver or other parameters.
    """
    if not isinstance(state, SolverState):
        raise TypeError(f"state must be the state of an earlier solution (solution.state); got {type(state).__name__}.")
    earlier, given = _parts(state.solver), _parts(problem.solver)
    for (part, old), (_, new) in zip(earlier, given, strict=False):
        if old != new:
            raise ValueError(
                f"state comes from a run with {part} {old}, but solver has {new}. Pass the same solver, or start anew "
                "with y0=solution.value and without state."
            )
    if len(earlier) != len(given):
        raise ValueError(
            f"state comes from a run of {len(earlier) // 3} solvers, but solver has {len(given) // 3}. Pass the same "
            "solver, or start anew with y0=solution.value and without state."
        )
    check_same_numbers(
        problem.solver,
        state.solver,
        "state",
        "(or state.solver), or start anew with y0=solution.value and without state",
    )
    earlier, given = (
        (jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)])
        for tree in (state.run.snapshot.state.position, parameters)
    )
    if earlier != given:
        raise ValueError("state comes from a run with other parameters than y0 (structure, shapes or dtypes differ).")
    return replace(problem, solver=state.solver)


def _parts(solver: Solver | Sequence) -> list[tuple[str, str]]:
    """What a solver is made of, of a sequence all of them: kind and name of each part."""
    solvers = solver.solvers if isinstance(solver, Sequence) else (solver,)
    return [(part, type(getattr(each, part)).__name__) for each in solvers for part in ("flow", "scheme", "controller")]


def check_same_numbers(given: Solver | Sequence, earlier: Solver | Sequence, source: str, way_out: str) -> None:
    """Hyper-parameters of a solver that are not those of the earlier run would be ignored without a word.

    **Arguments:** `source`: what brings the earlier run; `way_out`: what to do, beside passing the same solver.

    **Raises:** `ValueError`.
    """
    known = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(earlier)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        name, before = jax.tree_util.keystr(path), known.get(jax.tree_util.keystr(path))
        if before is None or not (eqx.is_array(leaf) and eqx.is_array(before)):
            continue
        if isinstance(leaf, Tracer) or isinstance(before, Tracer):
            continue
        # In the precision of the run, which the earlier solver has been cast to.
        if leaf.shape != before.shape or not bool(jnp.all(leaf.astype(before.dtype) == before)):
            raise ValueError(
                f"{source} comes from a run with solver{name} = {before}, but solver has {leaf}. Pass the same solver "
                f"{way_out}."
            )


@eqx.filter_jit
def _minimise(
    problem: Problem | RelayProblem, parameters: PyTree, run: Run | Relay | None, max_steps: int, history, progress
) -> Solution:
    if run is None:
        problem, run = begin(problem, parameters)
    else:
        run = begin_again(problem, run)
    first = starting_point(run)
    record = None if history is None else empty_record(run, max_steps, history == "states")
    if max_steps > 0:
        run, record = go_on(problem, run, record, max_steps, progress)
    return conclude(problem, run, None if record is None else history_of(record, first))


def conclude(problem: Problem | RelayProblem, run: Run | Relay, history) -> Solution:
    """The solution of a run that has ended, or that has used up its trials; its value holds the trained leaves only."""
    best = best_of(run)
    objective = problem.objective
    aux = objective.auxiliary(best.position)
    counts = {name: run.counts[index] for index, name in enumerate(COUNTS)}
    return Solution(
        value=best.position,
        loss=best.value,
        result=from_code(ending(problem, run)),
        stats=counts | {"cost": counts["values"] + 2 * counts["gradients"]},
        history=history,
        state=SolverState(run, problem.solver),
        aux=aux,
    )


def explained(solution: Solution, objective: PartialObjective, argument: str) -> Solution:
    """The solution, with what is not finite where a run could not begin; its value holds the trained leaves only."""
    result = solution.result._value
    if isinstance(result, Tracer) or not any(result == getattr(RESULTS, end)._value for end in NONFINITE):
        return solution
    start = merge_parameters(solution.state.run.snapshot.state.position, objective.frozen)
    return replace(solution, note=first_nonfinite(objective.full, start, argument))


def _raise_on_failure(solution: Solution) -> Solution:
    """The solution itself, or an error if the run ended in a way that the stopping criteria do not name."""
    codes = solution.result._value
    failed = ~jnp.isin(codes, jnp.asarray(EXPECTED))
    if isinstance(codes, Tracer):
        return solution.result.error_if(solution, failed)
    if bool(np.any(failed)):
        raise RuntimeError(f"{solution.describe()} Pass throw=False to get the best point instead of this error.")
    return solution
