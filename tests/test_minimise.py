"""What `minimise` promises beside lower losses."""

import inspect
import re
import textwrap
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import CONTROLLERS, FLOWS, PROBLEMS

import odeopt
from odeopt import RESULTS, Stop

DTYPES = {"float32": jnp.float32, "float64": jnp.float64}
DESCENT = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler())


def solver_of(flow, controller=None):
    # Compiles in half the time of what gradient flow recommends.
    scheme = odeopt.Euler() if flow == "gradient flow" else None
    return odeopt.Solver(FLOWS[flow].make(), scheme, controller and CONTROLLERS[controller]())


def assert_identical(ours, theirs):
    """The same bits in every leaf, NaN included."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), f"{jax.tree_util.keystr(path)}: {a} is not {b}"


@pytest.mark.exact
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("flow", "controller"),
    [
        ("gradient flow", "default"),
        ("heavy ball, open friction", "default"),
        ("Adam, open epsilon", "default"),
        ("heavy ball", "dichotomy"),
    ],
)
def test_a_run_in_pieces_is_bit_for_bit_the_run_in_one(flow, controller, dtype):
    problem, solver = PROBLEMS["Rosenbrock"], solver_of(flow, controller)

    def run(max_steps, state=None):
        y0 = problem.y0(DTYPES[dtype])
        return odeopt.minimise(problem.fn, solver, y0, state=state, max_steps=max_steps, history=None, throw=False)

    whole = run(45)
    pieces = None
    for length in (15, 15, 15):
        pieces = run(length, pieces and pieces.state)
    assert int(whole.stats["accepted"]) > 5
    assert_identical(pieces.state, whole.state)
    assert_identical((pieces.value, pieces.loss, pieces.stats), (whole.value, whole.loss, whole.stats))


def test_going_on_uses_the_calibration_of_the_first_start():
    problem = PROBLEMS["two"]
    first = odeopt.minimise(problem.fn, odeopt.Solver(odeopt.Adam()), problem.y0(), max_steps=5, throw=False)
    again = odeopt.minimise(problem.fn, odeopt.Solver(odeopt.Adam()), problem.y0() * 0, state=first.state)
    assert float(again.state.solver.flow.epsilon) == float(first.state.solver.flow.epsilon)


def test_going_on_from_a_converged_run_takes_no_further_step():
    problem, solver = PROBLEMS["two"], solver_of("gradient flow")
    first = odeopt.minimise(problem.fn, solver, problem.y0())
    again = odeopt.minimise(problem.fn, solver, problem.y0(), state=first.state)
    assert int(again.stats["accepted"]) == int(first.stats["accepted"])


def test_going_on_with_a_smaller_tolerance_goes_on():
    problem, solver = PROBLEMS["two"], solver_of("gradient flow")
    first = odeopt.minimise(problem.fn, solver, problem.y0(), stop=Stop(gradient_norm=1e-2))
    again = odeopt.minimise(problem.fn, solver, problem.y0(), state=first.state, stop=Stop(gradient_norm=1e-5))
    assert float(jnp.linalg.norm(jax.grad(problem.value)(again.value))) <= 1e-5


LANES = np.array([[1.7, 0.4], [np.nan, 0.0], [0.3, -2.0], [1.0, 30.0]])


@pytest.mark.parametrize("flow", ["gradient flow", "heavy ball", "Adam, open epsilon"])
def test_every_lane_of_a_vmap_has_the_result_that_it_has_alone(flow):
    problem, solver = PROBLEMS["two"], solver_of(flow)

    def run(y0):
        solution = odeopt.minimise(problem.fn, solver, y0, history=None, throw=False, max_steps=2000)
        return solution.value, solution.loss, solution.result._value

    together = jax.vmap(run)(jnp.asarray(LANES))
    assert int(together[2][1]) == RESULTS.nonfinite_start._value
    for lane in (0, 2, 3):
        alone = run(jnp.asarray(LANES[lane]))
        assert int(together[2][lane]) == int(alone[2]) == RESULTS.converged._value
        # Each ends with a gradient of 1e-6 at curvatures above 0.3, wherever in that ball rounding has led it.
        np.testing.assert_allclose(together[0][lane], alone[0], atol=2e-6 / 0.3)


def test_a_failing_lane_changes_nothing_in_its_neighbours():
    problem, solver = PROBLEMS["two"], solver_of("heavy ball")

    def run(y0):
        return odeopt.minimise(problem.fn, solver, y0, history=None, throw=False, max_steps=2000).value

    sound = np.where(np.isnan(LANES), 1.0, LANES)
    with_failure, without = jax.vmap(run)(jnp.asarray(LANES)), jax.vmap(run)(jnp.asarray(sound))
    assert_identical(with_failure[np.array([0, 2, 3])], without[np.array([0, 2, 3])])


def test_under_jit_the_result_is_the_same():
    problem, solver = PROBLEMS["Rosenbrock"], solver_of("Adam, open epsilon")
    run = lambda y0: odeopt.minimise(problem.fn, solver, y0, history=None)  # noqa: E731
    inside, outside = eqx.filter_jit(run)(problem.y0()), run(problem.y0())
    assert inside.result == outside.result == RESULTS.converged
    # Two compilations of one program may round differently; both end with |g| <= 1e-6 at curvatures above 0.3.
    np.testing.assert_allclose(inside.value, outside.value, atol=2e-6 / 0.3)


def test_without_throw_a_failed_run_hands_back_its_best_point():
    problem = PROBLEMS["Rosenbrock"]
    solution = odeopt.minimise(problem.fn, solver_of("gradient flow"), problem.y0(), max_steps=20, throw=False)
    assert solution.result == RESULTS.max_steps_reached
    assert float(solution.loss) == float(problem.value(solution.value)) < float(problem.value(problem.y0()))


def test_a_result_is_a_sentence():
    solution = odeopt.minimise(PROBLEMS["two"].fn, solver_of("gradient flow"), PROBLEMS["two"].y0())
    assert str(solution.result) == "The stopping tolerance has been met."


def test_the_results_are_listed_where_python_looks_for_them():
    names = [name for name in dir(RESULTS) if isinstance(getattr(RESULTS, name), type(RESULTS.converged))]
    assert {"converged", "step_underflow", "time_limit_reached"} <= set(names)
    assert len(names) == len(RESULTS)
    for name in names:
        assert f"- `{name}`: {getattr(RESULTS, name)}" in inspect.getdoc(RESULTS)


def test_a_result_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(AttributeError, match=r"'convergd'.*converged, target_reached, .*time_limit_reached"):
        _ = RESULTS.convergd


def batch(y0=LANES):
    problem, solver = PROBLEMS["two"], solver_of("heavy ball")
    run = lambda y: odeopt.minimise(problem.fn, solver, y, throw=False, max_steps=150)  # noqa: E731
    return jax.vmap(run)(jnp.asarray(y0))


def test_printing_a_solution_describes_it():
    solution = odeopt.minimise(PROBLEMS["two"].fn, solver_of("gradient flow"), PROBLEMS["two"].y0())
    assert str(solution) == solution.describe()
    assert "\n" not in str(solution)
    assert f"the loss {float(solution.loss):.6g}" in str(solution)


def test_it_is_told_where_the_gradient_is_not_that_of_the_best_point():
    # Swings through the minimum and up again.
    swinging = odeopt.Solver(odeopt.HeavyBall(friction=0.01), controller=odeopt.ConstantStep(0.1))
    solution = odeopt.minimise(lambda y, _: 0.5 * y**2, swinging, jnp.asarray(1.0), max_steps=30, throw=False)
    assert solution.state.run.snapshot.value > 100 * solution.loss
    assert "at the last point, the loss" in str(solution)
    assert "at the best, the step size" in str(solution)


def test_printing_a_batch_says_how_many_runs_ended_in_which_way():
    solution = batch()
    ends = [RESULTS.converged._value, RESULTS.max_steps_reached._value, RESULTS.nonfinite_start._value]
    converged, used_up, nonfinite = (int(np.sum(np.asarray(solution.result._value) == end)) for end in ends)
    assert min(converged, used_up, nonfinite) > 0
    expected = f"4 runs: {converged} converged, {used_up} max_steps_reached, {nonfinite} nonfinite_start."
    assert str(solution) == expected


def test_a_batch_is_described_run_by_run():
    solution = batch()
    with pytest.raises(ValueError, match=r"one run; this solution holds 4.*jax\.tree\.map\(lambda leaf: leaf\[i\]"):
        solution.describe()
    first = jax.tree.map(lambda leaf: leaf[0], solution)
    assert f"{float(solution.loss[0]):.6g}" in first.describe()


def test_a_solution_inside_jit_can_be_printed():
    printed = []

    @jax.jit
    def run(y0):
        solution = odeopt.minimise(PROBLEMS["two"].fn, solver_of("gradient flow"), y0)
        printed.append(str(solution))
        return solution.value

    run(PROBLEMS["two"].y0())
    assert printed[0].startswith("Solution(")


def test_the_documented_controller_of_ones_own_lowers_the_energy_at_every_step():
    example = re.search(r"```python\n(.*?)```", inspect.getdoc(odeopt.AbstractController), re.DOTALL)[1]
    names = {}
    exec(textwrap.dedent(example), names)
    solution = names["solution"]
    assert solution.result == RESULTS.converged
    energy = solution.history.trimmed().energy
    assert np.all(np.diff(np.concatenate([[solution.history.start["energy"]], energy])) <= 0)


def test_the_verdicts_are_those_that_the_loop_acts_upon():
    """A controller that rejects every third trial, leaves every fifth to the gradients and keeps the others."""

    class Moody(odeopt.ConstantStep):
        rounding: ClassVar[float] = 1.0

        def init(self, step_size):
            return jnp.asarray(0)

        def step_size(self, state):
            return self.initial_step_size

        def bound(self, state, step_size, rate):
            return jnp.zeros_like(step_size)

        def judge(self, state, attempt):
            kept = jnp.where(state % 5 == 0, odeopt.Verdict.UNDECIDED, odeopt.Verdict.ACCEPT)
            return jnp.where(state % 3 == 0, odeopt.Verdict.REJECT, kept)

        def update(self, state, attempt, verdict, accepted):
            return state + 1

        def exhausted(self, state):
            return jnp.asarray(False)

    fn = lambda y, args: jnp.sum(y**2)  # noqa: E731
    solution = odeopt.minimise(
        fn, odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), Moody(1e-3)), jnp.ones(2), max_steps=15, throw=False
    )
    # Of the trials 0 to 14 five are multiples of three, and 5 and 10 are the other multiples of five.
    assert {name: int(solution.stats[name]) for name in ("accepted", "rejected", "gradient_tests")} == {
        "accepted": 10,
        "rejected": 5,
        "gradient_tests": 2,
    }


def test_what_the_function_returns_beside_its_value_comes_back_for_the_best_point():
    def fn(y, args):
        return jnp.sum((y - args) ** 2), {"shifted": y + 10}

    solution = odeopt.minimise(fn, solver_of("heavy ball"), jnp.zeros(2), jnp.asarray([1.0, 2.0]), has_aux=True)
    np.testing.assert_array_equal(solution.aux["shifted"], solution.value + 10)


def test_an_objective_stands_where_a_function_does():
    objective = odeopt.Objective(lambda y, target: jnp.sum((y - target) ** 2), jnp.asarray([3.0]))
    solution = odeopt.minimise(objective, solver_of("gradient flow"), jnp.zeros(1))
    np.testing.assert_allclose(solution.value, 3.0, atol=1e-6 / 2)  # |g| = 2 |y - 3| <= 1e-6


def rows_of(history):
    """The arrays that have one row for each accepted step."""
    return jax.tree.leaves([getattr(history, field) for field in history.__dataclass_fields__ if field != "start"])


def test_the_history_is_padded_with_nan_behind_the_last_accepted_step():
    problem = PROBLEMS["two"]
    solution = odeopt.minimise(
        problem.fn, solver_of("heavy ball"), problem.y0(), max_steps=60, throw=False, history="states"
    )
    accepted = int(solution.stats["accepted"])
    assert 0 < accepted < 60
    for leaf in rows_of(solution.history):
        assert leaf.shape[0] == 60
        assert np.isfinite(leaf[:accepted]).all()
        assert np.isnan(leaf[accepted:]).all()


def test_a_trimmed_history_has_one_row_for_each_accepted_step():
    problem = PROBLEMS["two"]
    solution = odeopt.minimise(problem.fn, solver_of("gradient flow"), problem.y0(), max_steps=300)
    rows = rows_of(solution.history.trimmed())
    assert {len(row) for row in rows} == {int(solution.stats["accepted"])}


def test_the_history_says_where_the_call_began():
    problem = PROBLEMS["Rosenbrock"]
    solution = odeopt.minimise(problem.fn, solver_of("gradient flow"), problem.y0(), max_steps=5, throw=False)
    start = np.asarray(problem.start)
    # The two formulas agree to rounding: some units of 2.2e-16.
    np.testing.assert_allclose(solution.history.start["loss"], problem.value(start), rtol=1e-14)
    np.testing.assert_allclose(
        solution.history.start["gradient_norm"], np.linalg.norm(problem.gradient(start)), rtol=1e-14
    )


def test_the_rejections_in_the_history_add_up():
    problem = PROBLEMS["two"]
    solution = odeopt.minimise(problem.fn, solver_of("gradient flow", "memory"), problem.y0())
    # A converged run ends with an accepted step, so that every rejected trial stands in a row.
    assert 0 < solution.history.trimmed().rejections.sum() == int(solution.stats["rejected"])


def test_no_history_is_kept_where_none_is_wanted():
    problem = PROBLEMS["two"]
    assert odeopt.minimise(problem.fn, solver_of("gradient flow"), problem.y0(), history=None).history is None


@pytest.mark.parametrize("max_steps", [0, 1, 7])
def test_max_steps_counts_the_trials_of_the_call(max_steps):
    problem = PROBLEMS["Rosenbrock"]
    solution = odeopt.minimise(problem.fn, solver_of("Adam"), problem.y0(), max_steps=max_steps, throw=False)
    assert int(solution.stats["accepted"]) + int(solution.stats["rejected"]) == max_steps


@pytest.mark.parametrize(
    "controller",
    [odeopt.ConstantStep(0.3), odeopt.LyapunovControl(initial_step_size=0.3, grow=1.0, scouting_growth=1.0)],
)
def test_the_best_point_is_returned_where_the_loss_rises_again(controller):
    """A heavy ball of little friction swings through the minimum; the run is cut off on the far side."""
    fn = lambda y, args: 0.5 * jnp.sum(y**2)  # noqa: E731
    solver = odeopt.Solver(odeopt.HeavyBall(0.1), odeopt.RK4(), controller)
    solution = odeopt.minimise(fn, solver, jnp.ones(1), max_steps=9, history="states", throw=False)
    path = np.concatenate([[1.0], solution.history.trimmed().position[:, 0]])
    lowest = np.abs(path).argmin()
    assert 0 < lowest < len(path) - 1
    assert float(solution.value[0]) == path[lowest]
    assert float(solution.loss) == 0.5 * path[lowest] ** 2


def test_the_best_point_of_a_diverging_run_is_its_start():
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(3.0))
    solution = odeopt.minimise(lambda y, args: jnp.sum(y**2), solver, jnp.ones(2), max_steps=50, throw=False)
    np.testing.assert_array_equal(solution.value, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("power", [20, -20])
def test_scaling_the_loss_changes_nothing_for_adam(power, dtype):
    """A power of two scales exactly, so that every decision of the run is the same one."""
    problem = PROBLEMS["Rosenbrock"]
    stop = Stop(relative_gradient_norm=1e-3)

    def run(scale):
        fn = lambda y, args: args * problem.value(y)  # noqa: E731
        y0 = problem.y0(DTYPES[dtype])
        return odeopt.minimise(fn, odeopt.Solver(odeopt.Adam()), y0, jnp.asarray(scale, DTYPES[dtype]), stop=stop)

    plain, scaled = run(1.0), run(2.0**power)
    assert {k: int(v) for k, v in plain.stats.items()} == {k: int(v) for k, v in scaled.stats.items()}
    assert_identical(plain.value, scaled.value)


@pytest.mark.parametrize("power", [20, -20])
def test_scaling_the_loss_changes_nothing_for_gradient_flow_and_heavy_ball(power):
    problem = PROBLEMS["Rosenbrock"]
    fn = lambda y, args: args * problem.value(y)  # noqa: E731
    for flow in (odeopt.GradientFlow(), odeopt.HeavyBall()):
        accepted = {
            float(s): odeopt.minimise(
                fn, odeopt.Solver(flow), problem.y0(), s, stop=Stop(), max_steps=200, throw=False
            ).stats["accepted"]
            for s in (jnp.asarray(1.0), jnp.asarray(2.0**power))
        }
        assert len({int(count) for count in accepted.values()}) == 1, f"{flow}: {accepted}"


def _start_gradient():
    return PROBLEMS["two"].gradient(np.array(PROBLEMS["two"].start))


@pytest.mark.parametrize(
    ("settings", "holds"),
    [
        ({"target_loss": 0.01}, lambda s, g: float(s.loss) <= 0.01),
        (
            {"relative_gradient_norm": 1e-3},
            lambda s, g: g <= 1e-3 * np.linalg.norm(PROBLEMS["two"].gradient(np.array([1.7, 0.4]))),
        ),
        ({"gradient_norm": 1e-4}, lambda s, g: g <= 1e-4),
    ],
)
def test_a_stopping_criterion_holds_where_the_run_stops(settings, holds):
    problem = PROBLEMS["two"]
    solution = odeopt.minimise(problem.fn, solver_of("gradient flow"), problem.y0(), stop=Stop(**settings))
    # The gradient by hand may differ from the library's by its rounding.
    assert holds(solution, np.linalg.norm(problem.gradient(np.asarray(solution.value))) - 1e-15)


def test_a_budget_of_evaluations_is_overdrawn_by_at_most_one_trial():
    problem = PROBLEMS["Rosenbrock"]
    solution = odeopt.minimise(problem.fn, DESCENT, problem.y0(), stop=Stop(max_evaluations=50))
    # The last trial may cost a forward and a backward pass, 1 + 2.
    assert 50 <= int(solution.stats["cost"]) < 50 + 3
