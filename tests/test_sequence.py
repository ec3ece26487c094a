"""Solvers that hand over to each other: when, what stays as it was, and what is never lost."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt._relay import FEWEST_TRIALS, FIRST_STRETCH

ADAM, QUASI = odeopt.Solver(odeopt.Adam()), odeopt.Solver(odeopt.QuasiNewton())
# Goes nowhere, without ever failing.
IDLE = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(1e-12))
# Fails at once: every step is too long.
FAILING = odeopt.Solver(
    odeopt.GradientFlow(), odeopt.Euler(), odeopt.LyapunovControl(initial_step_size=1e10, minimum_step_size=1e9)
)
LEVENBERG = odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt())
START = jnp.tile(jnp.array([-1.2, 1.0]), 5)


def rosenbrock(y, _=None):
    return jnp.sum((1 - y[:-1]) ** 2 + 100 * (y[1:] - y[:-1] ** 2) ** 2)


def residuals(y, _=None):
    return 2**0.5 * jnp.concatenate([1 - y[:-1], 10 * (y[1:] - y[:-1] ** 2)])


def run(*solvers, fn=rosenbrock, start=START, share=0.2, **options):
    sequence = odeopt.Sequence(solvers, share=share)
    return odeopt.minimise(fn, sequence, start, **({"throw": False, "max_steps": 3000} | options))


def steps(solution):
    history = solution.history.trimmed()
    return np.asarray(history.solver, int), history


def test_the_faster_solver_takes_over_and_finishes():
    solution = run(IDLE, QUASI)
    solver, _ = steps(solution)
    assert solution.result == odeopt.RESULTS.converged
    assert solver[0] == 0
    assert solver[-1] == 1
    # Handed over once and for good: it lowers the loss and the other does not.
    assert np.count_nonzero(np.diff(solver)) == 1
    np.testing.assert_allclose(solution.value, np.ones(10), atol=1e-5)
    alone = odeopt.minimise(rosenbrock, QUASI, START)
    assert int(solution.stats["cost"]) <= int(alone.stats["cost"]) + 2 * FIRST_STRETCH


@pytest.mark.exact
def test_a_slower_solver_is_tried_and_sent_back():
    """The trajectory of the first is the one that it has alone, to the last bit, and tries stay within their share."""
    solution = run(QUASI, IDLE)
    solver, history = steps(solution)
    alone = odeopt.minimise(rosenbrock, QUASI, START)
    loss_alone = alone.history.trimmed().loss
    np.testing.assert_array_equal(history.loss[solver == 0], loss_alone)
    np.testing.assert_array_equal(solution.value, alone.value)
    assert np.count_nonzero(solver == 1) >= FEWEST_TRIALS
    extra = int(solution.stats["cost"]) - int(alone.stats["cost"])
    # A share of the whole, and the trials that a solver gets at least: three units each and a start.
    assert 0 < extra <= 0.25 * int(solution.stats["cost"]) + 3 * (FEWEST_TRIALS + 1)


def test_tries_become_rarer_the_longer_they_lead_nowhere():
    solution = run(ADAM, IDLE)
    solver, _ = steps(solution)
    tries = np.count_nonzero(np.diff(solver) == 1)
    # The pauses double: 100, 200, 400, ... units between them.
    assert 2 <= tries <= np.log2(int(solution.stats["cost"]) / FIRST_STRETCH) + 1


@pytest.mark.parametrize("solvers", [(ADAM, QUASI), (QUASI, ADAM), (IDLE, ADAM, QUASI), (FAILING, ADAM, IDLE)])
def test_the_answer_is_the_best_point_that_any_solver_has_met(solvers):
    solution = run(*solvers, max_steps=150, stop=odeopt.Stop(gradient_norm=0.0))
    _, history = steps(solution)
    assert float(solution.loss) == min(np.min(history.loss), float(rosenbrock(START)))
    assert float(rosenbrock(solution.value)) == float(solution.loss)


def test_a_solver_that_fails_hands_over_at_once():
    solution = run(FAILING, QUASI)
    solver, _ = steps(solution)
    assert solution.result == odeopt.RESULTS.converged
    assert np.all(solver == 1)


def test_where_the_last_fails_the_one_before_goes_on():
    solution = run(ADAM, FAILING, max_steps=20_000)
    solver, _ = steps(solution)
    assert solution.result == odeopt.RESULTS.converged
    assert np.all(solver == 0)


def test_where_all_fail_the_run_ends_with_the_reason():
    solution = run(FAILING, FAILING)
    assert solution.result == odeopt.RESULTS.step_underflow
    np.testing.assert_array_equal(solution.value, START)
    with pytest.raises(RuntimeError, match="No step size"):
        run(FAILING, FAILING, throw=True)


def test_three_solvers_of_different_kinds_and_a_sum_of_squares():
    solution = run(ADAM, QUASI, LEVENBERG, fn=odeopt.LeastSquares(residuals))
    assert solution.result == odeopt.RESULTS.converged
    np.testing.assert_allclose(solution.value, np.ones(10), atol=1e-5)


def test_budget_and_tolerances_are_of_all_solvers_together():
    solution = run(IDLE, IDLE, IDLE, stop=odeopt.Stop(gradient_norm=0.0, max_evaluations=900))
    assert solution.result == odeopt.RESULTS.max_evaluations_reached
    assert 900 <= int(solution.stats["cost"]) <= 910
    # Relative to the gradient where the first began, whoever gets there.
    slope = jnp.linalg.norm(jax.grad(rosenbrock)(START))
    solution = run(ADAM, QUASI, stop=odeopt.Stop(relative_gradient_norm=1e-6, gradient_norm=None))
    assert solution.result == odeopt.RESULTS.converged
    gradient = jnp.linalg.norm(jax.grad(rosenbrock)(solution.value))
    assert 1e-9 * slope < gradient <= 1e-6 * slope


@pytest.mark.exact
def test_a_sequence_that_has_ended_goes_on_with_other_criteria():
    options = {"max_steps": 3000, "throw": False}
    whole = run(ADAM, QUASI)
    for stop, end in (
        (odeopt.Stop(max_evaluations=150), odeopt.RESULTS.max_evaluations_reached),
        (odeopt.Stop(gradient_norm=1.0), odeopt.RESULTS.converged),
        (odeopt.Stop(gradient_norm=None, target_loss=1.0), odeopt.RESULTS.target_reached),
    ):
        first = run(ADAM, QUASI, stop=stop)
        assert first.result == end
        assert int(first.stats["cost"]) < int(whole.stats["cost"])
        solution = odeopt.minimise(rosenbrock, odeopt.Sequence((ADAM, QUASI)), START, state=first.state, **options)
        assert solution.result == odeopt.RESULTS.converged
        np.testing.assert_array_equal(solution.value, whole.value)


@pytest.mark.exact
def test_a_sequence_goes_on_bit_for_bit_where_it_was_stopped():
    whole = run(ADAM, QUASI, max_steps=120, stop=odeopt.Stop(gradient_norm=0.0))
    first = run(ADAM, QUASI, max_steps=50, stop=odeopt.Stop(gradient_norm=0.0))
    sequence = odeopt.Sequence((ADAM, QUASI))
    options = {"max_steps": 70, "stop": odeopt.Stop(gradient_norm=0.0), "throw": False}
    second = odeopt.minimise(rosenbrock, sequence, START, state=first.state, **options)
    np.testing.assert_array_equal(second.value, whole.value)
    joined = np.concatenate([steps(first)[1].loss, steps(second)[1].loss])
    np.testing.assert_array_equal(joined, steps(whole)[1].loss)
    assert {k: int(v) for k, v in second.stats.items()} == {k: int(v) for k, v in whole.stats.items()}
    with pytest.raises(ValueError, match="state comes from a run with flow Adam, but solver has QuasiNewton"):
        odeopt.minimise(rosenbrock, odeopt.Sequence((QUASI, ADAM)), START, state=first.state, **options)
    with pytest.raises(ValueError, match="a run of 2 solvers, but solver has 1"):
        odeopt.minimise(rosenbrock, ADAM, START, state=first.state, **options)


def test_lanes_of_a_batch_hand_over_each_for_itself():
    starts = jnp.stack([START, 1 + 0.1 * START, jnp.ones(10)])
    batch = eqx.filter_jit(jax.vmap(lambda y: run(ADAM, QUASI, start=y, history=None)))(starts)
    for lane, start in enumerate(starts):
        alone = run(ADAM, QUASI, start=start)
        np.testing.assert_allclose(batch.loss[lane], alone.loss, atol=1e-12)
        assert bool(alone.result == odeopt.RESULTS.converged)
    assert "3 converged" in str(batch)


def test_models_are_trained_by_sequences_too():
    x = jnp.linspace(-1, 1, 50)[:, None]
    model = eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=jax.random.key(0))
    loss = lambda model, batch: jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)  # noqa: E731
    seen = []
    trained, solution = odeopt.train(
        model, loss, (x, jnp.sin(3 * x)), odeopt.Sequence([ADAM, QUASI]), max_steps=300, callbacks=[seen.append]
    )
    assert set(np.unique(solution.history.solver)) == {0.0, 1.0}
    assert float(loss(trained, (x, jnp.sin(3 * x)))) == pytest.approx(float(solution.loss), rel=1e-9)
    assert seen[-1].step_size > 0
    assert "gradient norm" in str(solution)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: odeopt.Sequence([ADAM]), ValueError, "at least two"),
        (lambda: odeopt.Sequence(ADAM), TypeError, "expected a list of odeopt.Solver"),
        (lambda: odeopt.Sequence([ADAM, odeopt.Adam()]), TypeError, "number 1 is of type Adam"),
        (lambda: odeopt.Sequence([ADAM, QUASI], share=1.0), ValueError, r"share=1.0"),
        (
            lambda: odeopt.Sequence([ADAM, odeopt.Solver(odeopt.L2Regularised(odeopt.Adam(), 0.1))]),
            ValueError,
            "L2Regularised minimises something else",
        ),
        (lambda: run(ADAM, QUASI, history="states"), ValueError, "different states"),
    ],
)
def test_what_cannot_follow_each_other_is_refused(make, error, message, as_installed):
    with pytest.raises(error, match=message):
        make()
