"""The counts of a run are what was really executed."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import CONTROLLERS, FLOWS, PROBLEMS, SCHEMES

import odeopt

EXECUTED = Counter()


def _note(name):
    EXECUTED[name] += 1


@jax.custom_vjp
def noted(x):
    """The identity; every forward and every backward pass through it is noted while the program runs."""
    jax.debug.callback(lambda: _note("values"))
    return x


def _forward(x):
    jax.debug.callback(lambda: _note("values"))
    return x, None


def _backward(_, cotangent):
    jax.debug.callback(lambda: _note("gradients"))
    return (cotangent,)


noted.defvjp(_forward, _backward)


def counted_run(flow, scheme, controller, problem, evaluation, max_steps):
    """The counts of a run, by its books and as executed.

    For flows that ask for no curvature at the start: a tangent of a noted pass is not defined.
    """
    objective = odeopt.Objective(lambda y, args: problem.value(noted(y)), evaluation=evaluation)
    EXECUTED.clear()
    solver = odeopt.Solver(flow, scheme, controller)
    solution = odeopt.minimise(objective, solver, problem.y0(), history=None, max_steps=max_steps, throw=False)
    jax.block_until_ready(solution.loss)
    jax.effects_barrier()
    return {name: int(solution.stats[name]) for name in solution.stats}, dict(EXECUTED)


@pytest.mark.parametrize("evaluation", ["linearised", "lazy"])
@pytest.mark.parametrize(
    ("flow", "scheme", "controller"),
    [
        ("gradient flow", "Euler", "default"),
        ("gradient flow", "Bosh3", "loss test alone"),
        ("gradient flow", "Euler", "constant"),
        ("Adam", "ExponentialEuler", "dichotomy"),
        ("Adam", "Heun", "default"),
    ],
)
def test_the_passes_in_the_statistics_are_those_that_ran(flow, scheme, controller, evaluation):
    flow, scheme, controller = FLOWS[flow].make(), SCHEMES[scheme](), CONTROLLERS[controller]()
    stats, executed = counted_run(flow, scheme, controller, PROBLEMS["two"], evaluation, 40)
    assert (stats["values"], stats["gradients"]) == (executed["values"], executed["gradients"])


@pytest.mark.parametrize(("evaluation", "accepted_cost"), [("linearised", (1, 1)), ("lazy", (2, 1))])
def test_a_rejected_trial_costs_one_forward_pass_and_an_accepted_one_what_its_mode_says(evaluation, accepted_cost):
    controller = odeopt.LyapunovControl(initial_step_size=100.0, rounding=None)
    stats, _ = counted_run(odeopt.GradientFlow(), odeopt.Euler(), controller, PROBLEMS["two"], evaluation, 30)
    assert stats["rejected"] > 5 < stats["accepted"]
    # The start costs what an accepted trial costs.
    paid = stats["accepted"] + 1
    assert stats["values"] == stats["rejected"] + accepted_cost[0] * paid
    assert stats["gradients"] == accepted_cost[1] * paid


def test_the_cost_is_one_for_each_forward_and_two_for_each_backward_pass():
    problem = PROBLEMS["Rosenbrock"]
    stats = odeopt.minimise(problem.fn, odeopt.Solver(odeopt.HeavyBall()), problem.y0()).stats
    assert int(stats["cost"]) == int(stats["values"]) + 2 * int(stats["gradients"])


def test_a_curvature_product_at_the_start_is_counted():
    def counts_of_the_start(flow):
        solver = odeopt.Solver(flow, controller=odeopt.ConstantStep(0.1))
        fn, y0 = PROBLEMS["two"].fn, PROBLEMS["two"].y0()
        return odeopt.minimise(fn, solver, y0, max_steps=0, history=None, throw=False).stats

    open_scale, given = counts_of_the_start(odeopt.HeavyBall()), counts_of_the_start(odeopt.HeavyBall(0.5))
    # Forward over reverse: both passes and the tangent of each.
    assert int(open_scale["values"]) - int(given["values"]) == 2
    assert int(open_scale["gradients"]) - int(given["gradients"]) == 2


def test_decisions_taken_from_gradients_are_counted():
    """Near the bottom of a bowl over a residual, in float32, the loss says nothing any more."""
    problem = PROBLEMS["quadratic with residual"]
    start = problem.y0(jnp.float32) * 1e-4
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.LyapunovControl(initial_step_size=0.05))
    stop = odeopt.Stop(gradient_norm=1e-6)
    stats = odeopt.minimise(problem.fn, solver, start, stop=stop, max_steps=500).stats
    # f = 1 to the last bit all along: every decision needs the gradients.
    assert np.float32(problem.value(np.asarray(start))) == 1.0
    assert int(stats["gradient_tests"]) == int(stats["accepted"]) + int(stats["rejected"])


def test_without_the_gradient_test_none_is_counted():
    problem = PROBLEMS["two"]
    controller = odeopt.LyapunovControl(rounding=None)
    stats = odeopt.minimise(
        problem.fn, odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), controller), problem.y0()
    ).stats
    assert int(stats["gradient_tests"]) == int(stats["gradient_test_rejections"]) == 0


def test_schedule_free_averaging_takes_one_gradient_a_step():
    averaging = odeopt.ScheduleFree(delay=0.1)
    parts = odeopt.SemiImplicitEuler(), odeopt.ConstantStep(0.01), PROBLEMS["two"]
    counts, executed = counted_run(averaging, *parts, "lazy", max_steps=10)
    assert counts["gradients"] == executed["gradients"] == 11


def test_a_field_with_hessian_products_runs_under_a_scheme_that_counts_at_run_time():
    """Gradients decide there on some trials, in a branch that must not write into the books of the whole trial."""
    solver = odeopt.Solver(odeopt.GraphTracking(), odeopt.RKL1(), odeopt.LyapunovControl())
    problem = PROBLEMS["two"]
    solution = odeopt.minimise(problem.fn, solver, problem.y0(), history=None, max_steps=20, throw=False)
    assert solution.loss < problem.value(problem.y0())
