"""The things that go wrong in Lyapunov control, and that each of them is remedied here.

Every test fails once its remedy is taken out of the library (tried by hand for each).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import FLOWS, PROBLEMS

import odeopt
from odeopt import RESULTS, Stop


def barrier(y, args):
    """Not a number for y <= 0; minimum at 2."""
    return jnp.sum(y - 2 * jnp.log(y))


def abyss(y, args):
    """Minus infinity for y < -1: a defect of the loss, not a minimum."""
    return jnp.sum(jnp.where(y < -1, -jnp.inf, (y - 1) ** 2))


@pytest.mark.parametrize(("fn", "minimum"), [(barrier, 2.0), (abyss, 1.0)])
def test_a_trial_that_is_not_finite_is_rejected(fn, minimum):
    # The first step reaches far beyond the border, where the loss is NaN or minus infinity.
    controller = odeopt.LyapunovControl(initial_step_size=100.0)
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), controller)
    solution = odeopt.minimise(fn, solver, jnp.asarray([5.0]))
    assert int(solution.stats["rejected"]) > 0
    # |g| <= 1e-6 and a curvature of at least 1/2 put the minimum within 2e-6.
    np.testing.assert_allclose(solution.value, minimum, atol=2e-6)


# 1. a residual that the required decrease drowns in, 2. curvatures that float32 represents exactly.
RESIDUAL = 1.0
CURVATURES = np.array([0.25, 1.0, 4.0], np.float32)


def residual_bowl(y, args):
    return RESIDUAL + 0.5 * jnp.sum(CURVATURES * y**2)


@pytest.mark.parametrize("name", FLOWS)
def test_single_precision_reaches_a_small_gradient_over_a_residual(name):
    """The loss test alone dies at |g| ~ sqrt(2 L u f) = 7e-4 here."""
    solver = odeopt.Solver(FLOWS[name].make())
    start = jnp.asarray([1.0, -0.7, 0.4], jnp.float32)
    # 1e-6 stands well above the rounding of the gradient (2e-7 times the distance of 1e-6) and far below 7e-4.
    solution = odeopt.minimise(residual_bowl, solver, start, stop=Stop(gradient_norm=1e-6), throw=False)
    assert solution.result == RESULTS.converged, solution.describe()


def rough(y, args):
    """A residual and a gradient with rounding of its own: its rounded value never gets to exactly zero."""
    return 1 + jnp.sum((jnp.cos(3 * y) - 0.3) ** 2) + (y[0] - 0.7 * y[1]) ** 2


def test_an_unattainable_tolerance_ends_with_the_rounding_floor():
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler())
    start = jnp.asarray([0.9, -0.2], jnp.float32)
    solution = odeopt.minimise(rough, solver, start, stop=Stop(gradient_norm=1e-12), throw=False)
    assert solution.result == RESULTS.rounding_floor_reached, solution.describe()


def test_the_rounding_floor_is_met_at_the_accuracy_of_the_gradient():
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler())
    start = jnp.asarray([0.9, -0.2], jnp.float32)
    solution = odeopt.minimise(rough, solver, start, stop=Stop(gradient_norm=1e-12), throw=False)
    # Terms of size 6 in the gradient, each with some units of rounding (1.2e-7), against 1e-3 for the loss test.
    assert float(jnp.linalg.norm(jax.grad(rough)(solution.value, None))) < 50 * 1.2e-7


def plateau(y, args):
    return jnp.sum(1 / (1 + y))


def test_steps_on_a_plateau_stay_below_the_bound():
    """Each step may be 1e4 times the last, and every one of them passes."""
    controller = odeopt.LyapunovControl(grow=1e4, hold_growth=False, maximum_step_size=1e6)
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), controller)
    solution = odeopt.minimise(plateau, solver, jnp.asarray([1.0]), stop=Stop(), max_steps=200, throw=False)
    history = solution.history.trimmed()
    assert len(history.t) > 50
    assert history.step_size.max() <= 1e6


def test_steps_on_a_plateau_stay_finite_in_single_precision():
    controller = odeopt.LyapunovControl(grow=1e4, hold_growth=False)
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), controller)
    # Slopes far below 1: steps of 1e30 and more would pass, and their successors overflow.
    fn = lambda y, args: 1e-20 * plateau(y, args)  # noqa: E731
    start = jnp.asarray([1.0], jnp.float32)
    solution = odeopt.minimise(fn, solver, start, stop=Stop(), max_steps=200, throw=False)
    next_step = solution.state.solver.controller.step_size(solution.state.run.controller)
    assert np.isfinite(float(next_step))


@pytest.mark.parametrize("name", [name for name, case in FLOWS.items() if case.inertial])
def test_a_dead_lock_at_rest_is_reported(name):
    """Explicit Euler raises the energy of a flow at rest at every step size."""
    solver = odeopt.Solver(FLOWS[name].make(), odeopt.Euler())
    solution = odeopt.minimise(PROBLEMS["two"].fn, solver, PROBLEMS["two"].y0(), throw=False)
    assert solution.result == RESULTS.step_underflow, solution.describe()


@pytest.mark.parametrize("name", [name for name, case in FLOWS.items() if case.inertial])
def test_the_recommended_scheme_leaves_rest(name):
    solution = odeopt.minimise(
        PROBLEMS["two"].fn, odeopt.Solver(FLOWS[name].make()), PROBLEMS["two"].y0(), max_steps=20, throw=False
    )
    assert int(solution.stats["accepted"]) > 0


@pytest.mark.parametrize("controller", ["memory", "dichotomy"])
def test_the_whole_state_is_restored_after_a_rejection(controller):
    """Every accepted state is one step of its recorded length from the state accepted before it, time included."""
    settings = {"memory": {}, "dichotomy": {"shrink": 30.0, "bisections": 3}}[controller]
    control = odeopt.LyapunovControl(grow=50.0, hold_growth=False, **settings)
    solver = odeopt.Solver(odeopt.HeavyBall(0.5), odeopt.SemiImplicitEuler(), control)
    problem = PROBLEMS["two"]
    solution = odeopt.minimise(problem.fn, solver, problem.y0(), max_steps=300, history="states", throw=False)
    history = solution.history.trimmed()
    assert (history.rejections > 0).sum() > 5
    x, v, t = np.asarray(problem.y0()), np.zeros(2), 0.0
    for i, h in enumerate(history.step_size):
        v = v + h * (-0.5 * v - problem.gradient(x))
        x, t = x + h * v, t + h
        # One step from the saved state before: a few units of rounding of numbers of size 1.
        np.testing.assert_allclose(history.position[i], x, atol=1e-14)
        np.testing.assert_allclose(history.memory[i], v, atol=1e-14)
        np.testing.assert_allclose(history.t[i], t, rtol=1e-15)
        x, v, t = history.position[i], history.memory[i], history.t[i]


@pytest.mark.parametrize(("rate", "accepted"), [("start", 1), ("trial", 0)])
def test_the_rate_of_the_start_and_of_the_trial_judge_one_step_differently(rate, accepted):
    """From rest in f = y^2/2 at h^2 = q = 0.9 the energy changes by q (q - 1)/2 = -0.045.

    The rate at rest is zero, so that any fall passes. At the trial it is -b q, so that lambda h b q = 0.21 is asked.
    """
    controller = odeopt.LyapunovControl(decrease=0.125, rate=rate, initial_step_size=np.sqrt(0.9))
    solver = odeopt.Solver(odeopt.HeavyBall(2.0), odeopt.SemiImplicitEuler(), controller)
    solution = odeopt.minimise(lambda y, args: 0.5 * y**2, solver, jnp.asarray(1.0), max_steps=1, throw=False)
    assert int(solution.stats["accepted"]) == accepted


@pytest.mark.parametrize("scheme", [odeopt.ExponentialEuler, odeopt.SemiImplicitEuler])
def test_friction_is_per_unit_of_time_whatever_the_step(scheme):
    """Two step sizes give one motion, the exact one, with an error proportional to the step."""
    a, end_time = 1.2, 3.0
    w = np.sqrt(1 - a**2 / 4)
    for h in (0.02, 0.005):
        solver = odeopt.Solver(odeopt.HeavyBall(a), scheme(), odeopt.ConstantStep(h))
        solution = odeopt.minimise(
            lambda y, args: 0.5 * y**2,
            solver,
            jnp.asarray(1.0),
            stop=Stop(),
            max_steps=round(end_time / h),
            history="states",
            throw=False,
        )
        t = np.asarray(solution.history.t)
        truth = np.exp(-a * t / 2) * (np.cos(w * t) + a / (2 * w) * np.sin(w * t))
        # First order: at most h/2 times the integral of |x''| <= 1, whose mean over the motion is below a half.
        assert np.abs(np.asarray(solution.history.position) - truth).max() < 0.25 * h * end_time


def inflection(y, args):
    """Flat at 0 half-way down; the minimum is at 2."""
    return y**4 / 4 - 2 * y**3 / 3


@pytest.mark.parametrize(("kinetic", "end"), [(True, 2.0), (False, 0.0)])
def test_a_fast_crossing_of_a_flat_place_is_no_solution(kinetic, end):
    solver = odeopt.Solver(odeopt.HeavyBall(0.5), controller=odeopt.ConstantStep(0.05))
    stop = Stop(gradient_norm=0.02, kinetic=kinetic)
    solution = odeopt.minimise(inflection, solver, jnp.asarray(-1.0), stop=stop)
    # |g| = y^2 |y - 2| <= 0.02 holds within 0.11 of 0 and within 0.006 of 2.
    assert abs(float(solution.value) - end) < 0.11


def bottomless(y, args):
    return -jnp.sum(jnp.cosh(y))


def unsmooth(y, args):
    """Finite everywhere; its derivative at 0 is not a number."""
    return jnp.sqrt(jnp.sum(y**2))


FAILURES = {
    "not a number at the start": (lambda y, args: jnp.log(-jnp.sum(y**2)), [1.0], {}, RESULTS.nonfinite_start),
    "no derivative at the start": (unsmooth, [0.0], {}, RESULTS.nonfinite_dissipation),
    "no minimum": (bottomless, [1.0], {}, RESULTS.unbounded_below),
    "trials used up": (PROBLEMS["two"].fn, [1.7, 0.4], {"max_steps": 3}, RESULTS.max_steps_reached),
    "budget used up": (
        PROBLEMS["two"].fn,
        [1.7, 0.4],
        {"stop": Stop(max_evaluations=7)},
        RESULTS.max_evaluations_reached,
    ),
    "target reached": (PROBLEMS["two"].fn, [1.7, 0.4], {"stop": Stop(target_loss=0.1)}, RESULTS.target_reached),
    "loss settled": (PROBLEMS["two"].fn, [1.7, 0.4], {"stop": Stop(loss_change=1e-9)}, RESULTS.converged),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("flow", ["gradient flow", "heavy ball", "Adam, open epsilon"])
def test_a_run_says_how_it_ended(name, flow):
    fn, start, settings, expected = FAILURES[name]
    solution = odeopt.minimise(fn, odeopt.Solver(FLOWS[flow].make()), jnp.asarray(start), throw=False, **settings)
    assert solution.result == expected, solution.describe()


@pytest.mark.parametrize("flow", FLOWS)
def test_the_quartic_minimum_is_reached(flow):
    """Its curvature falls to zero at the minimum, so that steps must grow without end."""
    solution = odeopt.minimise(PROBLEMS["quartic"].fn, odeopt.Solver(FLOWS[flow].make()), PROBLEMS["quartic"].y0())
    # |g| = |4 y^3| <= 1e-6
    assert np.abs(solution.value).max() <= (1e-6 / 4) ** (1 / 3)


class Relativistic(odeopt.AbstractFlow):
    """x' = v / sqrt(1 + v^2), v' = -v - grad f: a bounded speed, and a plain declaration that leaves all to the
    library."""

    def init(self, params):
        return odeopt.State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        return odeopt.State(state.memory / jnp.sqrt(1 + state.memory**2), -state.memory - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + jnp.sum(state.memory**2 / (1 + jnp.sqrt(1 + state.memory**2)))


@pytest.mark.exact
@pytest.mark.parametrize("make", [odeopt.Adam, odeopt.HeavyBall, Relativistic], ids=lambda make: make.__name__)
def test_steps_that_the_rounded_position_cannot_follow_do_not_stall_a_run(make):
    """In the valley of Rosenbrock's function a step of float32 moves few units of rounding, across the valley one."""

    def one(y0):
        solution = odeopt.minimise(
            PROBLEMS["Rosenbrock"].fn,
            odeopt.Solver(make()),
            y0,
            stop=odeopt.Stop(gradient_norm=1e-3),
            throw=False,
            history=None,
        )
        return solution.result == RESULTS.converged

    starts = jnp.asarray([[-1.0 + 0.1 * i, 1.0 - 0.07 * j] for i in range(5) for j in range(5)], jnp.float32)
    assert np.all(jax.jit(jax.vmap(one))(starts))
