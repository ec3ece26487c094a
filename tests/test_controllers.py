"""Controllers beyond the plain Lyapunov test, against their own definitions recomputed from the saved states."""

import diffrax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import PROBLEMS

import odeopt

PROBLEM = PROBLEMS["Rosenbrock"]


def run(flow, scheme, controller, problem=PROBLEM, dtype=jnp.float64, **options):
    options = {"max_steps": 400, "throw": False, "history": "states"} | options
    return odeopt.minimise(problem.fn, odeopt.Solver(flow, scheme, controller), problem.y0(dtype), **options)


def energies(solution):
    return np.append(solution.history.start["energy"], solution.history.trimmed().energy)


def rates(solution):
    return np.append(solution.history.start["dissipation"], solution.history.trimmed().dissipation)


SEARCH = odeopt.LyapunovControl(decrease=0.25, rounding=None)
BALL = odeopt.HeavyBall(friction=0.5)


def test_the_average_test_is_that_of_zhang_and_hager():
    solution = run(BALL, odeopt.SemiImplicitEuler(), odeopt.AverageControl(weight=0.9, search=SEARCH))
    energy, rate, h = energies(solution), rates(solution), solution.history.trimmed().step_size
    reference, q = energy[0], 1.0
    for n in range(len(h)):
        assert energy[n + 1] <= reference + 0.25 * h[n] * rate[n] + 1e-12 * abs(reference)
        reference, q = (0.9 * q * reference + energy[n + 1]) / (0.9 * q + 1), 0.9 * q + 1
    assert np.any(np.diff(energy) > 0), "the energy never rose: the test was not used"


def test_the_maximum_test_is_that_of_grippo_lampariello_and_lucidi():
    solution = run(BALL, odeopt.SemiImplicitEuler(), odeopt.MaximumControl(window=4, search=SEARCH))
    energy, rate, h = energies(solution), rates(solution), solution.history.trimmed().step_size
    for n in range(len(h)):
        reference = energy[max(n - 3, 0) : n + 1].max()
        assert energy[n + 1] <= reference + 0.25 * h[n] * rate[n] + 1e-12 * abs(reference)
    assert np.any(np.diff(energy) > 0), "the energy never rose: the test was not used"


def test_the_balance_test_holds_the_energy_to_its_rate_where_that_is_positive_too():
    flow, problem = odeopt.AdamW(scaling_rate=1.0), PROBLEMS["two"]
    solution = run(
        odeopt.AdamW(scaling_rate=1.0),
        odeopt.ExponentialEuler(),
        odeopt.BalanceControl(search=SEARCH),
        problem,
        max_steps=2000,
    )
    energy, rate, h = energies(solution), rates(solution)[:-1], solution.history.trimmed().step_size
    # A quarter of a fall is asked for, and seven quarters of a rise are allowed.
    allowed = h * np.where(rate < 0, 0.25 * rate, 1.75 * rate)
    assert np.all(np.diff(energy) <= allowed + 1e-12 * abs(energy[0]))
    assert rate[0] > 0
    assert np.any(np.diff(energy) > 0)
    # Where the energy must fall no step is possible from the start.
    assert solution.result == odeopt.RESULTS.converged
    held = run(flow, odeopt.ExponentialEuler(), SEARCH, problem)
    assert held.result == odeopt.RESULTS.energy_rises


def test_the_integral_test_bounds_the_whole_fall():
    solution = run(BALL, odeopt.SemiImplicitEuler(), odeopt.IntegralControl(search=SEARCH))
    energy, rate, h = energies(solution), rates(solution), solution.history.trimmed().step_size
    required = np.cumsum(0.25 * h * rate[:-1])
    assert np.all(energy[1:] - energy[0] <= required + 1e-12 * energy[0])
    assert np.any(np.diff(energy) > 0), "the energy never rose: the test was not used"


@pytest.mark.parametrize(
    "controller", [odeopt.AverageControl(weight=0.0, search=SEARCH), odeopt.MaximumControl(window=1, search=SEARCH)]
)
def test_without_slack_the_test_is_the_monotone_one(controller):
    ours, plain = (run(BALL, odeopt.SemiImplicitEuler(), c, max_steps=100) for c in (controller, SEARCH))
    np.testing.assert_array_equal(energies(ours), energies(plain))


def test_the_shadow_energy_falls_where_the_energy_does_not():
    slow, problem = odeopt.HeavyBall(friction=0.05), PROBLEMS["quadratic with residual"]
    search = odeopt.LyapunovControl(decrease=0.25, maximum_step_size=0.3)
    solution = run(slow, odeopt.SemiImplicitEuler(), odeopt.ShadowControl(search), problem, max_steps=200)
    history = solution.history.trimmed()
    x = np.concatenate([problem.y0()[None], history.position])
    v = np.concatenate([np.zeros((1, 3)), history.memory])
    g = np.array([problem.gradient(point) for point in x])
    energy, inner, rate, h = energies(solution), np.sum(v * g, axis=1), rates(solution), history.step_size
    shadow = np.diff(energy) - 0.5 * h * np.diff(inner)
    assert np.all(np.minimum(shadow, np.diff(energy)) <= 0.25 * h * rate[:-1] + 1e-12)
    assert np.any(np.diff(energy) > 1e-9), "the energy never rose: the shadow made no difference"
    average = energy[0]
    for after in energy[1:]:
        assert after <= average + 1e-12
        average = 0.8 * average + 0.2 * after


def steep_and_flat(x, _):
    return 0.5 * jnp.sum(jnp.array([1.0, 10.0, 100.0]) * x**2)


def quartic(x, _):
    return jnp.sum(x**4)


@pytest.mark.parametrize("fn", [steep_and_flat, quartic])
@pytest.mark.parametrize("controller", [odeopt.ShadowControl(), odeopt.AdaptiveControl()])
def test_a_flow_that_starts_at_rest_arrives(controller, fn):
    """At rest the rate is zero, and after it grows by more than the step: neither may hold the step size down."""
    solver = odeopt.Solver(odeopt.HeavyBall(friction=0.5), odeopt.SemiImplicitEuler(), controller)
    solution = odeopt.minimise(fn, solver, jnp.ones(3), stop=odeopt.Stop(gradient_norm=1e-4), throw=False)
    assert solution.result == odeopt.RESULTS.converged, str(solution)


def test_the_defect_model_chooses_the_published_step():
    solution = run(odeopt.GradientFlow(), odeopt.Euler(), odeopt.DefectControl(decrease=0.5, rounding=None))
    history = solution.history.trimmed()
    energy, rate, h = energies(solution), rates(solution), history.step_size
    checked = 0
    for n in range(len(h) - 1):
        assert energy[n + 1] - energy[n] <= 0.5 * h[n] * rate[n]
        if history.rejections[n + 1] == 0:
            dissipation = -rate[n]
            defect = (energy[n + 1] - energy[n]) / h[n] + dissipation
            wanted = 0.9 * h[n] * 0.5 * dissipation / max(defect, 0.01 * 0.5 * dissipation)
            # The difference of two energies is known to rounding of the energies.
            rounding = 4e-16 * energy[n] / (h[n] * dissipation)
            np.testing.assert_allclose(h[n + 1], wanted, rtol=max(1e-10, 20 * rounding))
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("coefficients", [(1.0, 0.0, 0.0), (0.4, 0.2, 0.0), (0.3, 0.3, 0.1)])
def test_the_pid_factors_are_those_of_diffrax(coefficients):
    """Six accepted steps with given errors; diffrax never shortens the step after one that it keeps."""
    integral, proportional, derivative = coefficients
    errors, order = [0.3, 0.9, 0.05, 0.4, 0.7, 0.2], 3
    pid = odeopt.PID(integral=integral, proportional=proportional, derivative=derivative)
    theirs = diffrax.PIDController(
        rtol=0.0, atol=1.0, icoeff=integral, pcoeff=proportional, dcoeff=derivative, factormin=0.2, factormax=5.0
    )
    y, one = jnp.ones(1), jnp.asarray(1.0)
    term = diffrax.ODETerm(lambda t, y, args: y)
    t1, state = theirs.init(term, 0.0, 1e9, y, 1.0, None, lambda *a: y, order)
    history, t0 = odeopt._controller.pid.Errors.none(one), 0.0
    for error in errors:
        keep, new_t0, new_t1, _, state, _ = theirs.adapt_step_size(
            t0, t1, y, y, None, jnp.asarray([error]), order, state
        )
        assert bool(keep)
        factor = pid.factor(jnp.asarray(error), history, order)
        history = history.after(jnp.asarray(error), jnp.asarray(True))
        np.testing.assert_allclose(max(float(factor), 1.0), float((new_t1 - new_t0) / (t1 - t0)), rtol=1e-10)
        t0, t1 = new_t0, new_t1


def test_the_free_error_estimate_of_euler_sees_the_curvature():
    """On a parabola of curvature L the estimate is h L / 2 of the step: tolerance 1/2 settles at the step 1 / L."""
    curvature = 8.0
    controller = odeopt.AdaptiveControl(step=0.5, defect=None, decrease=None, pid=odeopt.PID(1.0, 0.0, safety=1.0))
    solution = odeopt.minimise(
        lambda y, _: 0.5 * curvature * jnp.sum(y**2),
        odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), controller),
        jnp.asarray([1.0]),
        stop=odeopt.Stop(gradient_norm=1e-12),
        max_steps=40,
        throw=False,
    )
    # Each step halves the distance of ln h to -ln L, until the minimum is reached.
    assert float(solution.history.trimmed().step_size[-1]) == pytest.approx(1 / curvature, rel=0.01)
    assert bool(solution.result == odeopt.RESULTS.converged)


@pytest.mark.parametrize("scheme", [odeopt.Heun(), odeopt.Bosh3(), odeopt.Tsit5()], ids=lambda s: type(s).__name__)
def test_an_error_tolerance_bounds_the_distance_to_the_flow(scheme):
    """Tolerances ten times smaller: the end of the run comes closer to the solution of the flow."""
    problem, distances = PROBLEMS["two"], []
    for tolerance in (1e-3, 1e-5):
        control = odeopt.AdaptiveControl(relative=tolerance, absolute=tolerance, defect=None, decrease=None)
        solution = run(BALL, scheme, control, problem, max_steps=30)
        history = solution.history.trimmed()
        exact = odeopt.reference_solution(BALL, (problem.fn, problem.y0()), times=[float(history.t[-1])])
        distances.append(np.max(np.abs(history.position[-1] - exact.states.position[-1])))
    assert distances[0] < 1e-2
    assert distances[1] < 0.1 * distances[0]


def test_the_dissipation_ratio_settles_at_the_wanted_defect():
    """On a parabola explicit Euler keeps 1 - h L / 2 of the dissipation: a defect of 0.3 is the step 0.6 / L."""
    curvature = 3.0
    controller = odeopt.AdaptiveControl(defect=0.3, pid=odeopt.PID(1.0, 0.0, safety=1.0), rounding=None)
    solution = odeopt.minimise(
        lambda y, _: 0.5 * curvature * jnp.sum(y**2),
        odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), controller),
        jnp.asarray([1.0]),
        max_steps=15,
        throw=False,
    )
    assert float(solution.history.trimmed().step_size[-1]) == pytest.approx(0.6 / curvature, rel=1e-6)


def test_both_controls_together_never_raise_the_energy():
    control = odeopt.AdaptiveControl(relative=0.1, absolute=1e-3, defect=0.3, rate="quadrature", rounding=None)
    solution = run(BALL, odeopt.Bosh3(), control)
    assert len(solution.history.trimmed().t) > 50
    assert np.all(np.diff(energies(solution)) <= 0)


def test_a_schedule_gives_the_steps_of_optax():
    schedule = optax.piecewise_constant_schedule(1e-3, {10: 0.5, 25: 0.25})
    solution = run(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ScheduledStep(schedule), max_steps=50)
    y, optimizer = PROBLEM.y0(), optax.sgd(schedule)
    state = optimizer.init(y)
    for position in solution.history.trimmed().position:
        updates, state = optimizer.update(jnp.asarray(PROBLEM.gradient(np.asarray(y))), state)
        y = optax.apply_updates(y, updates)
        np.testing.assert_allclose(position, y, rtol=1e-12)


def test_interpolation_shortens_to_the_minimum_of_the_parabola():
    """On a parabola the interpolated step is the exact minimum, wherever the rejected one ended."""
    controller = odeopt.LyapunovControl(decrease=0.5, interpolate=True, initial_step_size=0.9, rounding=None)
    solution = odeopt.minimise(
        lambda y, _: 1.5 * jnp.sum(y**2),
        odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), controller),
        jnp.asarray([1.0]),
        stop=odeopt.Stop(gradient_norm=1e-10),
        throw=False,
    )
    # 0.9 is rejected: 1 / L = 1/3 lies between a tenth and a half of it.
    assert int(solution.stats["rejected"]) == 1
    assert int(solution.stats["accepted"]) == 1
    assert float(solution.history.trimmed().step_size[0]) == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: odeopt.AverageControl(weight=1.5), "weight"),
        (lambda: odeopt.MaximumControl(window=0), "window"),
        (lambda: odeopt.DefectControl(decrease=1.0), "decrease"),
        (lambda: odeopt.DefectControl(rate="end"), "rate"),
        (lambda: odeopt.AdaptiveControl(defect=None), "nothing chooses the step size"),
        (lambda: odeopt.ShadowControl(weight=1.0), r"ShadowControl\(weight=1.0\): expected 0 <= weight < 1"),
        (lambda: odeopt.AdaptiveControl(step=0.0), "all 0"),
        (lambda: odeopt.AdaptiveControl(defect=2.0), "defect"),
        (lambda: odeopt.PID(integral=-1.0), "integral"),
        (lambda: odeopt.ScheduledStep(lambda n: -1.0), "first step size"),
        (
            lambda: odeopt.Solver(odeopt.GradientFlow(), odeopt.RK4(), odeopt.AdaptiveControl(step=0.5)),
            "needs a scheme with an error estimate",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_number_is_no_schedule(as_installed):
    with pytest.raises(TypeError, match="use ConstantStep"):
        odeopt.ScheduledStep(0.1)  # pyright: ignore[reportArgumentType]


def test_a_run_that_ends_with_its_schedule_has_not_failed():
    solver = odeopt.Solver(
        odeopt.GradientFlow(), odeopt.Euler(), odeopt.ScheduledStep(optax.cosine_decay_schedule(0.1, decay_steps=20))
    )
    solution = odeopt.minimise(lambda x, _: jnp.sum(x**4), solver, jnp.ones(2))
    assert solution.result == odeopt.RESULTS.schedule_ended


def test_a_schedule_that_is_not_a_number_has_failed():
    controller = odeopt.ScheduledStep(lambda n: jnp.where(n < 5, 1e-3, jnp.nan))
    assert run(odeopt.GradientFlow(), odeopt.Euler(), controller).result == odeopt.RESULTS.step_underflow


def test_adaptive_control_promises_a_falling_energy_where_it_demands_one():
    assert odeopt.AdaptiveControl().monotone
    assert not odeopt.AdaptiveControl(step=0.1, decrease=None).monotone


def test_a_schedule_that_comes_to_zero_ends_the_run():
    controller = odeopt.ScheduledStep(optax.linear_schedule(1e-4, 0.0, 20))
    solution = run(odeopt.GradientFlow(), odeopt.Euler(), controller, max_steps=100)
    assert solution.result == odeopt.RESULTS.schedule_ended
    assert int(solution.stats["accepted"]) == 20
