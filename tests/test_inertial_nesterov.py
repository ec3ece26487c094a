"""Nesterov's flow and its relatives beside closed forms, published rates and the discrete methods they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
from inertial_problems import ACCURATE, AGREEMENT, BOWL, CURVATURES, START, convex, decay_along, path, recursion

import odeopt
from odeopt._objective import Tally

# Nesterov


def bessel(r, t):
    """Nesterov's flow of x^2 / 2 from x = 1: x and x', by (z^-n J_n)' = -z^-n J_(n+1)."""
    n = (r - 1) / 2
    factor = scipy.special.gamma(n + 1) * (2 / t) ** n
    return factor * scipy.special.jv(n, t), -factor * scipy.special.jv(n + 1, t)


@pytest.mark.parametrize("start_time", [0.0, 0.5])
def test_nesterovs_flow_of_a_parabola_is_a_bessel_function(start_time):
    r, times = 3.0, np.array([0.5, 2.0, 5.0, 12.0])
    roots, state = np.sqrt(CURVATURES), None
    truth = np.array([START * bessel(r, roots * t)[0] for t in times])
    if start_time > 0:
        x, v = bessel(r, roots * start_time)
        state = odeopt.State(jnp.asarray(START * x), jnp.asarray(START * roots * v))
    reference = odeopt.reference_solution(odeopt.Nesterov(r), BOWL, times=times, start_time=start_time, state=state)
    np.testing.assert_allclose(reference.states.position, truth, atol=ACCURATE)


def test_nesterovs_flow_under_exponential_euler_is_sgd_with_growing_momentum():
    r, h = 3.0, 0.2

    def step(k, x, v):
        momentum = (k / (k + 1)) ** r
        v = momentum * v - h * (k + 1 - k * momentum) / (r + 1) * CURVATURES * x
        return x + h * v, v

    ours = path(odeopt.Nesterov(r), odeopt.ExponentialEuler(), h)
    np.testing.assert_allclose(ours, recursion(step, np.zeros(3)), rtol=0, atol=AGREEMENT)


@pytest.mark.parametrize("scheme", [odeopt.ExponentialEuler, odeopt.ConformalSymplecticEuler])
def test_nesterovs_flow_is_the_optimizer_that_it_states(scheme):
    result = odeopt.equivalence(odeopt.Nesterov(), scheme())
    assert result.passed, str(result)


def test_without_friction_nesterovs_flow_is_heavy_ball_from_its_first_step():
    ours = path(odeopt.Nesterov(power=0.0), odeopt.ExponentialEuler(), 0.2)
    truth = path(odeopt.HeavyBall(friction=0.0), odeopt.ExponentialEuler(), 0.2)
    np.testing.assert_allclose(ours, truth, rtol=0, atol=AGREEMENT)


@pytest.mark.parametrize("r", [3.0, 5.0])
def test_the_convex_energy_of_nesterovs_flow_falls_and_proves_its_rate(r):
    flow, times = odeopt.Nesterov(r), np.linspace(0.0, 20.0, 81)
    reference = odeopt.reference_solution(flow, (convex, jnp.asarray(START)), times=times)
    values = jax.vmap(lambda x: convex(x, None))(reference.states.position)
    energies = jax.vmap(lambda t, s, f: flow.convex_energy(t, s, f, jnp.zeros(3), jnp.asarray(3.0)))(
        jnp.asarray(times), reference.states, values
    )
    assert (np.diff(energies) <= ACCURATE).all()
    assert (times**2 * (values - 3.0) <= (r - 1) ** 2 * START @ START / 2 + ACCURATE).all()


@pytest.mark.parametrize("r", [2.0, 3.0, 5.0])
def test_the_energy_of_nesterovs_flow_of_a_parabola_falls_like_a_power_of_the_friction(r):
    decay = decay_along(odeopt.Nesterov(r), lambda x, _: jnp.sum(x**2) / 2, [1.0], 200.0, lojasiewicz_exponent=0.5)
    assert decay.law == "polynomial"
    assert abs(decay.value - r) < 0.05
    assert decay.predicted.order == pytest.approx(1 + 1 / r)
    assert decay.passed


def test_the_energy_of_nesterovs_flow_of_a_quartic_falls_like_t_to_the_minus_four():
    decay = decay_along(odeopt.Nesterov(5.0), lambda x, _: jnp.sum(x**4) / 4, [1.0], 2e3, lojasiewicz_exponent=0.75)
    assert decay.law == "polynomial"
    assert abs(decay.value - 4) < 0.05
    assert decay.predicted.order == pytest.approx(1.25)


# Bregman Lagrangian


@pytest.mark.parametrize("power", [1.5, 2.0, 5.0])
def test_the_bregman_flows_run_along_the_curve_of_nesterovs(power):
    c, taus = 0.7, np.array([0.5, 1.5, 4.0])
    nesterov = odeopt.reference_solution(odeopt.Nesterov(3.0), (convex, jnp.asarray(START)), times=taus)
    times = (taus / (2 * np.sqrt(c))) ** (2 / power)
    flow = odeopt.BregmanLagrangian(power, c)
    ours = odeopt.reference_solution(flow, (convex, jnp.asarray(START)), times=times, tolerance=1e-11)
    np.testing.assert_allclose(ours.states.position, nesterov.states.position, atol=ACCURATE)


@pytest.mark.parametrize("flow", [odeopt.Nesterov(4.0), odeopt.BregmanLagrangian(2.0), odeopt.BregmanLagrangian(3.0)])
def test_the_force_at_the_start_is_the_limit_along_the_solution(flow):
    early = odeopt.reference_solution(flow, (convex, jnp.asarray(START)), times=[1e-3])
    limit, shortly_after = (
        early.system.vector_field(jnp.asarray(t), jax.tree.map(jnp.asarray, state)).memory
        for t, state in ((0.0, early.system.start), (1e-3, jax.tree.map(lambda leaf: leaf[0], early.states)))
    )
    # The next terms are t^2 of it.
    np.testing.assert_allclose(limit, shortly_after, rtol=1e-5)


# Equations of second order


def second_order(flow, t, state, fn):
    """x'' along a flow: the derivative of its velocity along its field."""

    def velocity(t, state):
        oracle = odeopt.Oracle(odeopt.Objective(fn), state.position, Tally())
        return flow.vector_field(t, state, oracle).position

    oracle = odeopt.Oracle(odeopt.Objective(fn), state.position, Tally())
    field = flow.vector_field(t, state, oracle)
    return jax.jvp(velocity, (t, state), (jnp.ones_like(t), field))


# Friction, Hessian damping and weight of the force of x'' + a x' + b H x' + w g = 0, at the time t.
EQUATIONS = {
    "Nesterov": (odeopt.Nesterov(4.0), lambda t: (4 / t, 0.0, 1.0)),
    "Bregman": (odeopt.BregmanLagrangian(3.0, 0.7), lambda t: (4 / t, 0.0, 0.7 * 9 * t)),
    "DIN": (odeopt.DIN(0.8, 0.3), lambda t: (0.8, 0.3, 1.0)),
    "high resolution": (
        odeopt.HighResolutionNesterov(0.04),
        lambda t: (3 / (t + 0.3), 0.2, 1 + 0.6 / (2 * (t + 0.3))),
    ),
    "high resolution, strongly convex": (
        odeopt.HighResolutionNesterov(0.04, 0.25),
        lambda t: (2 * 0.5, 0.2, 1 + 0.5 * 0.2),
    ),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_position_obeys_the_equation_of_second_order_of_the_paper(name):
    flow, coefficients = EQUATIONS[name]
    random = np.random.default_rng(0)
    for _ in range(5):
        t, x, m = random.uniform(0.1, 3.0), jnp.asarray(random.normal(size=3)), jnp.asarray(random.normal(size=3))
        velocity, acceleration = second_order(flow, jnp.asarray(t), odeopt.State(x, m), convex)
        a, b, w = coefficients(t)
        gradient, turn = jax.jvp(jax.grad(lambda x: convex(x, None)), (x,), (velocity,))
        truth = -(a * velocity + b * turn + w * gradient)
        np.testing.assert_allclose(acceleration, truth, rtol=1e-11)


# High resolution


def accelerated(s, count):
    """Nesterov's method with momentum k / (k + 3) from START: where it would evaluate its next gradient."""
    grad = jax.jit(jax.grad(lambda x: convex(x, None)))
    x = y = START
    for k in range(count):
        y_next = np.asarray(x - s * grad(x))
        x = y_next + k / (k + 3) * (y_next - y)
        y = y_next
    return x


def test_the_flow_of_high_resolution_follows_nesterovs_method_to_one_order_more():
    """At the time k sqrt(s) of the flow: an error like s, where that of the flow of low resolution is like sqrt(s)."""
    end, errors = 3.0, []
    for s in (0.01**2, 0.005**2):
        iterate = accelerated(s, round(end / np.sqrt(s)))
        problem = (convex, jnp.asarray(START))
        high = odeopt.reference_solution(odeopt.HighResolutionNesterov(s), problem, times=[end])
        low = odeopt.reference_solution(odeopt.Nesterov(3.0), problem, times=[end])
        errors.append([np.linalg.norm(flow.states.position[0] - iterate) for flow in (high, low)])
    orders = np.log2(np.divide(*errors))
    # In the step sqrt(s), which is halved.
    np.testing.assert_allclose(orders, [2.0, 1.0], atol=0.1)
