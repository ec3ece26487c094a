"""Inertial flows beside closed forms, published rates and the discrete optimizers that they are made from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.special
from inertial_problems import ACCURATE, AGREEMENT, BOWL, CURVATURES, START, bowl, convex, decay_along, path, recursion

import odeopt

# DIN


def test_din_in_the_step_of_its_damping_is_nesterovs_momentum_of_optax():
    """Semi-implicit Euler at h = b: learning rate h^2, momentum 1 - a h."""
    a, h = 0.7, 0.1
    sgd = optax.sgd(h**2, momentum=1 - a * h, nesterov=True)
    result = odeopt.equivalence(odeopt.DIN(a, h), odeopt.SemiImplicitEuler(), sgd, step_size=h)
    assert result.passed, str(result)


@pytest.mark.parametrize("scheme", [odeopt.SemiImplicitEuler, odeopt.ExponentialEuler])
def test_din_is_the_optimizer_that_it_states(scheme):
    result = odeopt.equivalence(odeopt.DIN(0.7, 0.3), scheme())
    assert result.passed, str(result)


def test_din_under_explicit_euler_is_inna():
    """In the variables of its authors, theta = x and psi with y = -(a - 1/b) theta - psi / b = 0 at the start."""
    a, b, h = 0.8, 0.4, 0.05

    def step(k, theta, psi):
        pull = -(a - 1 / b) * theta - psi / b
        return theta + h * (pull - b * CURVATURES * theta), psi + h * pull

    ours = path(odeopt.DIN(a, b), odeopt.Euler(), h)
    truth = recursion(step, -b * (a - 1 / b) * START)
    np.testing.assert_allclose(ours, truth, rtol=0, atol=AGREEMENT)


def smallest_rate(matrix, weights):
    """The largest k with matrix >= k diag(weights)."""
    return scipy.linalg.eigh(matrix, np.diag(weights), eigvals_only=True)[0]


def test_strict_energies_decay_at_least_at_the_rate_of_their_quadratic_forms():
    """For |g|^2 >= c^2 (f - f*), and the decay of a parabola is at least as fast."""
    mu = 0.3
    c = np.sqrt(2 * mu)
    a, b = 0.8, 0.3
    scale = 1 + a * b
    din = smallest_rate(np.array([[a * b**2 + b, -a * b], [-a * b, a]]) / scale, [1 / c**2, 1 / (2 * scale)])
    beta = 1.5
    hnag = smallest_rate([[beta, -beta * mu / 2], [-beta * mu / 2, 2 * mu]], [1 / c**2, mu / 2])
    k, alpha, weight = 1.2, 0.7, 0.4
    graph = smallest_rate([[alpha, -0.5], [-0.5, k * weight]], [1 / c**2, weight / 2])
    pairs = (
        (odeopt.DIN(a, b), din),
        (odeopt.HNAG(mu, 2.0, beta), hnag),
        (odeopt.GraphTracking(k, alpha, weight), graph),
    )
    for flow, rate in pairs:
        assert flow.predicted_decay(0.5, c) == (1.0, pytest.approx(rate, rel=1e-6))
        decay = decay_along(flow, bowl, START, 30.0, lojasiewicz_exponent=0.5, lojasiewicz_constant=c)
        assert decay.law == "exponential", str(decay)
        assert decay.passed, str(decay)


# HNAG


def test_the_gauss_seidel_scheme_is_that_of_the_authors():
    mu, gamma0, beta, h = 0.2, 1.0, 0.8, 0.15

    def step(k, x, memory):
        v, gamma = memory
        x = (x + h * (v - beta * CURVATURES * x)) / (1 + h)
        v = (v + h * (mu / gamma * x - CURVATURES * x / gamma)) / (1 + h * mu / gamma)
        return x, (v, (gamma + h * mu) / (1 + h))

    ours = path(odeopt.HNAG(mu, gamma0, beta), odeopt.GaussSeidelHNAG(), h)
    np.testing.assert_allclose(ours, recursion(step, (START, gamma0)), rtol=0, atol=AGREEMENT)


def test_the_gauss_seidel_scheme_keeps_the_accelerated_rate():
    """f - f* + gamma |v - x*|^2 / 2 falls by 1 + h at every step if L h^2 = gamma (1 + h) and beta = 1 / (L h)."""
    mu, lipschitz = CURVATURES[0], CURVATURES[-1]
    h = (mu + np.sqrt(mu**2 + 4 * lipschitz * mu)) / (2 * lipschitz)
    flow = odeopt.HNAG(mu, mu, 1 / (lipschitz * h))
    solver = odeopt.Solver(flow, odeopt.GaussSeidelHNAG(), odeopt.ConstantStep(h))
    solution = odeopt.minimise(
        bowl, solver, jnp.asarray(START), stop=odeopt.Stop(), max_steps=60, history="states", throw=False
    )
    x, v = solution.history.position, solution.history.memory[0]
    energies = 0.5 * np.sum(CURVATURES * x**2, axis=1) + 0.5 * mu * np.sum(v**2, axis=1)
    first = 0.5 * np.sum(CURVATURES * START**2) + 0.5 * mu * START @ START
    assert energies[0] <= first / (1 + h)
    assert (energies[1:] <= energies[:-1] / (1 + h) * (1 + AGREEMENT)).all()


def test_the_gauss_seidel_scheme_refuses_other_flows():
    with pytest.raises(ValueError, match="steps the flow HNAG only; got HeavyBall"):
        odeopt.Solver(odeopt.HeavyBall(), odeopt.GaussSeidelHNAG())


def test_the_gauss_seidel_scheme_converges_at_its_order():
    order = odeopt.convergence_order(odeopt.HNAG(0.5, 2.0, 1.5), odeopt.GaussSeidelHNAG())
    assert order.passed, str(order)


@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_on_convex_objectives_hnag_decays_like_e_to_the_minus_t(mu):
    times = np.linspace(0.0, 8.0, 33)
    reference = odeopt.reference_solution(odeopt.HNAG(mu, 2.0, 0.5), BOWL, times=times)
    x, (v, ratio) = reference.states.position, reference.states.memory
    energy = 0.5 * np.sum(CURVATURES * x**2, axis=1) + ratio * np.sum(v**2, axis=1)
    assert (energy <= np.exp(-times) * energy[0] * (1 + ACCURATE)).all()


# Kinetic energies and frictions


def test_hamiltonian_descent_with_the_classical_kinetic_energy_is_heavy_ball():
    beta, h = np.exp(-0.5 * 0.2), 0.2
    sgd = optax.sgd(h * (1 - beta) / 0.5, momentum=beta)
    flow = odeopt.HamiltonianDescent(lambda p: 0.5 * optax.tree.vdot(p, p), friction=0.5)
    assert odeopt.equivalence(flow, odeopt.ExponentialEuler(), sgd, step_size=h).passed


def test_a_matching_kinetic_energy_makes_the_decay_on_a_quartic_exponential():
    """f = x^4 / 4 is dual to k = 3/4 |p|^(4/3); the classical kinetic energy decays like a power."""
    flow = odeopt.HamiltonianDescent(lambda p: 0.75 * jnp.sum(jnp.abs(p) ** (4 / 3)), friction=1.0)
    laws = {}
    for name, made in (("matching", flow), ("classical", odeopt.HeavyBall(1.0))):
        solver = odeopt.Solver(made, odeopt.Leapfrog(), odeopt.ConstantStep(0.01))
        solution = odeopt.minimise(
            lambda x, _: jnp.sum(x**4) / 4, solver, jnp.ones(1), stop=odeopt.Stop(), max_steps=4000, throw=False
        )
        laws[name] = odeopt.decay_rate(solution.history, minimum=0.0).law
    assert laws == {"matching": "exponential", "classical": "polynomial"}


def test_a_relativistic_particle_on_a_slope_without_friction_moves_along_a_hyperbola():
    c, m, slope = 2.0, 1.5, np.array([3.0, -4.0])
    times = np.array([0.1, 1.0, 10.0])
    flow = odeopt.Relativistic(speed=c, mass=m, friction=0.0)
    problem = (lambda x, slope: jnp.sum(slope * x), jnp.ones(2), jnp.asarray(slope))
    reference = odeopt.reference_solution(flow, problem, times=times)
    way = c / 5 * (np.sqrt((5 * times) ** 2 + (m * c) ** 2) - m * c)
    np.testing.assert_allclose(reference.states.position, 1 - np.outer(way, slope / 5), rtol=ACCURATE)


def test_the_speed_of_a_relativistic_particle_stays_below_its_limit():
    x = path(odeopt.Relativistic(speed=0.5, friction=0.1), odeopt.ExponentialEuler(), 0.3, start=100 * START)
    assert np.linalg.norm(np.diff(x, axis=0), axis=1).max() <= 0.3 * 0.5


def test_without_losses_the_thermostat_conserves_its_energy():
    """a = alpha = 0: the friction only exchanges energy with the ball."""
    flow, times = odeopt.FrictionAdaptive(0.0, 0.0, 1.3), np.linspace(0.0, 20.0, 41)
    reference = odeopt.reference_solution(flow, BOWL, times=times)
    energy = jax.vmap(reference.system.energy)(jnp.asarray(times), reference.states)
    np.testing.assert_allclose(energy, bowl(jnp.asarray(START), None), rtol=ACCURATE)
    assert (reference.states.memory[1] >= 0).all()
    assert reference.states.memory[1].max() > 0.1


def test_energy_friction_under_semi_implicit_euler_is_the_published_method():
    h, e0 = 0.1, float(bowl(jnp.asarray(START), None))

    def step(k, x, v):
        energy = 0.5 * np.sum(CURVATURES * x**2) + 0.5 * v @ v
        v = (1 - h * np.sqrt(energy / e0)) * v - h * CURVATURES * x
        return x + h * v, v

    ours = path(odeopt.EnergyFriction(friction=1.0), odeopt.SemiImplicitEuler(), h)
    np.testing.assert_allclose(ours, recursion(step, np.zeros(3)), rtol=0, atol=AGREEMENT)


def test_energy_friction_falls_like_t_to_the_minus_two_and_never_faster():
    flow, fn = odeopt.EnergyFriction(friction=1.0), lambda x, _: jnp.sum(x**2) / 2
    decay = decay_along(flow, fn, [1.0], 2e3)
    assert decay.law == "polynomial"
    assert abs(decay.value - 2) < 0.05
    assert (decay.excess >= 0.5 / (1 + decay.t) ** 2 * (1 - ACCURATE)).all()


def test_the_velocity_of_graph_tracking_reaches_the_graph_exponentially_whatever_the_objective():
    k, alpha, times = 1.2, 0.7, np.array([0.5, 1.0, 3.0])
    flow = odeopt.GraphTracking(k, alpha, 0.4)
    reference = odeopt.reference_solution(flow, (convex, jnp.asarray(START)), times=times)
    gradient = jax.grad(lambda x: convex(x, None))
    apart = reference.states.memory + alpha * jax.vmap(gradient)(reference.states.position)
    truth = alpha * np.outer(np.exp(-k * times), gradient(jnp.asarray(START)))
    np.testing.assert_allclose(apart, truth, atol=ACCURATE)
