"""Stabilised Runge-Kutta methods: their polynomials, the choice of the stages, and what they cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import PROBLEMS
from numpy.polynomial import chebyshev, legendre
from test_counts import counted_run

import odeopt
from odeopt import State
from odeopt._objective import Tally
from odeopt._scheme.spectral_radius import Spectrum, estimate, first_guess

SCHEMES = [odeopt.RKC1, odeopt.RKC2, odeopt.RKL1, odeopt.RKL2]
# Lengths of the stable interval with s stages as published, the damping parameters being those of the sources.
INTERVALS = {
    odeopt.RKC1: lambda s: (2 - 4 / 3 * 0.05) * s**2,
    odeopt.RKC2: lambda s: 2 / 3 * (s**2 - 1) * (1 - 2 / 15 * 2 / 13),
    odeopt.RKL1: lambda s: s**2 + s,
    odeopt.RKL2: lambda s: (s**2 + s - 2) / 2,
}


def quadratic(y, curvatures):
    return 0.5 * jnp.sum(curvatures * y**2)


def amplification(scheme, s, z):
    """R(z) from the polynomials of NumPy."""
    e = np.eye(s + 1)[s]
    if scheme is odeopt.RKL1:
        return legendre.legval(1 + 2 * z / (s**2 + s), e)
    if scheme is odeopt.RKL2:
        b = (s**2 + s - 2) / (2 * s * (s + 1))
        return 1 - b + b * legendre.legval(1 + 4 * z / (s**2 + s - 2), e)
    T = lambda x, k=0: chebyshev.chebval(x, chebyshev.chebder(e, k))  # noqa: E731
    if scheme is odeopt.RKC1:
        w = 1 + 0.05 / s**2
        return T(w + T(w) / T(w, 1) * z) / T(w)
    w = 1 + 2 / 13 / s**2
    b = T(w, 2) / T(w, 1) ** 2
    return 1 - b * T(w) + b * T(w + T(w, 1) / T(w, 2) * z)


def one_trial(scheme, y, curvatures, h, learnt=None, flow=None):
    """A trial of gradient flow on a quadratic, and the books."""
    flow, dtype = flow or odeopt.GradientFlow(), y.dtype
    tally = Tally()
    oracle = odeopt.Oracle(odeopt.Objective(quadratic, curvatures), y, tally)
    oracle.gradient  # noqa: B018  known, as in a run
    tally.values = tally.gradients = 0
    return scheme.step(flow, jnp.asarray(0.0, dtype), jnp.asarray(h, dtype), State(y), oracle, learnt), tally


def known(radius, h, y):
    """A spectrum that needs no estimate."""
    number = partial(jnp.asarray, dtype=y.dtype)
    return Spectrum(State(jnp.ones_like(y)), number(radius), jnp.asarray(1, jnp.int32), number(h), number(-1.0))


@pytest.mark.parametrize("stages", [2, 3, 25])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_multiplies_each_direction_by_the_published_polynomial(scheme, stages):
    curvatures = jnp.linspace(0, INTERVALS[scheme](stages), 101)
    trial, tally = one_trial(scheme(stages=stages), jnp.ones(101), curvatures, 1.0)
    # Of the largest argument 1e-16 is lost, and the polynomial of degree s is up to s**2 times as steep as flat.
    expected = amplification(scheme, stages, -np.asarray(curvatures))
    np.testing.assert_allclose(trial.state.position, expected, atol=1e-13 * stages**3)
    assert int(tally.gradients) == stages - 1


@pytest.mark.parametrize(("scheme", "stages"), list(zip(SCHEMES, [3, 6, 4, 5], strict=True)))
def test_the_stable_interval_is_that_of_the_polynomial_and_not_shorter_than_published(scheme, stages):
    found = odeopt.stability(odeopt.GradientFlow(), scheme(stages=stages), curvatures=[1.0]).limits[0]
    assert found > 0.999 * INTERVALS[scheme](stages)
    reach = np.linspace(0, 1.5, 100_001) * INTERVALS[scheme](stages)
    unstable = np.abs(amplification(scheme, stages, -reach)) > 1 + 1e-10
    np.testing.assert_allclose(found, reach[np.argmax(unstable)], rtol=1e-4)


class Fading(odeopt.AbstractFlow):
    """Gradient flow on a clock that runs unevenly."""

    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        return State(jax.tree.map(lambda g: -(1 + jnp.sin(3 * t)) * g, oracle.gradient))

    def energy(self, t, state, oracle):
        return oracle.value


@pytest.mark.parametrize("scheme", [*(scheme(stages=5) for scheme in SCHEMES), odeopt.RKC2()])
def test_explicit_time_keeps_the_order(scheme):
    result = odeopt.convergence_order(Fading(), scheme)
    assert result.passed, str(result)
    assert abs(result.order - scheme.order) < 0.2, str(result)


def test_position_and_memory_are_stepped_together():
    result = odeopt.convergence_order(odeopt.HeavyBall(friction=5.0), odeopt.RKC2(stages=4))
    assert result.passed, str(result)
    assert abs(result.order - 2) < 0.2, str(result)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_number_of_stages_is_the_smallest_with_which_the_step_is_stable(scheme):
    radius, y = 3.0, jnp.ones(2)
    steps = np.geomspace(0.01, 200.0, 40)

    def stages(h):
        _, tally = one_trial(scheme(), y, jnp.ones(2), h, known(radius, h, y))
        return tally.gradients + 1

    chosen = np.asarray(jax.jit(jax.vmap(stages))(jnp.asarray(steps)))
    longest, reach = INTERVALS[scheme], 1.2 * radius * steps
    # Published for little damping and many stages: good to a part in a thousand.
    assert np.all(1.001 * longest(chosen) >= reach)
    fewest = {odeopt.RKC2: 2, odeopt.RKL2: 3}.get(scheme, 1)
    spacing = 2 if scheme is odeopt.RKL2 else 1
    fewer = chosen - spacing
    assert np.all((fewer < fewest) | (0.999 * longest(fewer) < reach))
    assert len(set(chosen)) > 10
    assert np.all((chosen - fewest) % spacing == 0)


def test_a_step_that_needs_too_many_stages_is_refused_before_any_of_them():
    y = jnp.ones(2)
    trial, tally = one_trial(odeopt.RKC1(max_stages=5), y, jnp.ones(2), 100.0, known(1.0, 100.0, y))
    assert np.all(np.isnan(trial.state.position))
    assert int(tally.gradients) == 0
    trial, _ = one_trial(odeopt.RKC1(max_stages=5), y, jnp.ones(2), 30.0, known(1.0, 30.0, y))
    assert np.all(np.isfinite(trial.state.position))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_error_estimate_is_that_of_the_step_or_up_to_twice_as_large(scheme):
    curvature, h = jnp.array([1.0]), 1e-2
    trial, _ = one_trial(scheme(stages=5), jnp.ones(1), curvature, h)
    error = np.abs(np.exp(-h) - float(trial.state.position[0]))
    assert 0.95 * error < abs(float(trial.error().position[0])) < 2.3 * error


SPECTRA = {
    "log-uniform": np.geomspace(1e-4, 1.0, 500),
    "uniform": np.linspace(1e-4, 1.0, 500),
    "random matrix": np.linalg.svd(np.random.default_rng(0).normal(size=(500, 500)))[1] ** 2,
    "outliers": np.concatenate([np.geomspace(1e-6, 1e-3, 490), np.linspace(0.1, 1.0, 10)]),
}


@jax.jit
def first_estimate(curvatures, y):
    """The estimate and the gradients that it takes, from nothing."""
    tally, t = Tally(), jnp.zeros((), y.dtype)
    oracle = odeopt.Oracle(odeopt.Objective(quadratic, curvatures), y, tally)
    flow, state = odeopt.GradientFlow(), State(y)
    spectrum = estimate(flow, t, t + 1, state, oracle, first_guess(flow, t, state, oracle))
    return spectrum.radius, tally.gradients - 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_spectral_radius_is_found_to_within_the_safety_factor(name, dtype):
    for seed in range(3):
        y = jax.random.normal(jax.random.key(seed), (500,), dtype)
        radius, gradients = first_estimate(jnp.asarray(SPECTRA[name], dtype), y)
        assert 1 / 1.2 < radius / SPECTRA[name].max() < 1 + 1e-3
        assert gradients <= 12


def test_the_spectral_radius_is_found_from_a_start_among_slow_directions_alone():
    """The gradient there has nothing of the largest curvature."""
    curvatures, y = jnp.array([0.01, 0.02, 50.0]), jnp.array([1.0, 2.0, 0.0])
    trial, _ = one_trial(odeopt.RKC1(), y, curvatures, 1.0)
    np.testing.assert_allclose(trial.learnt.radius, 50.0, rtol=0.02)


def test_an_estimate_is_repeated_when_it_is_old_or_the_step_much_longer_or_the_last_trial_rejected():
    curvatures = jnp.asarray(SPECTRA["outliers"])
    y = jnp.ones(500)
    flow = odeopt.GradientFlow()

    @jax.jit
    def again(spectrum, t, h):
        tally = Tally()
        oracle = odeopt.Oracle(odeopt.Objective(quadratic, curvatures), y, tally)
        oracle.gradient  # noqa: B018
        tally.gradients = 0
        spectrum = estimate(flow, t, h, State(y), oracle, spectrum)
        return spectrum, tally.gradients

    t, h = jnp.asarray(0.0), jnp.asarray(1.0)
    oracle = odeopt.Oracle(odeopt.Objective(quadratic, curvatures), y, Tally())
    spectrum, cold = again(first_guess(flow, t, State(y), oracle), t, h)
    assert 2 <= cold <= 12
    costs = []
    for trial in range(1, 51):
        spectrum, cost = again(spectrum, t + trial, h)
        costs.append(int(cost))
    refreshed = [trial + 1 for trial, cost in enumerate(costs) if cost]
    assert refreshed == [25, 50]
    assert max(costs) <= 2
    _, longer = again(spectrum, t + 51, 2.1 * h)
    _, as_long = again(spectrum, t + 51, 1.9 * h)
    _, rejected = again(spectrum, t + 50, 0.5 * h)
    assert int(longer) >= 1 <= int(rejected)
    assert int(as_long) == 0


def test_a_field_that_is_not_defined_beside_the_state_keeps_the_last_estimate():
    class Edge(odeopt.GradientFlow):
        def vector_field(self, t, state, oracle):
            defined = jnp.all(state.position == 1.0)
            return State(jnp.where(defined, -oracle.gradient, jnp.nan))

    spectrum = Spectrum(
        State(jnp.ones(2)), jnp.asarray(7.0), jnp.asarray(25, jnp.int32), jnp.asarray(1.0), jnp.asarray(-1.0)
    )
    oracle = odeopt.Oracle(odeopt.Objective(quadratic, jnp.ones(2)), jnp.ones(2), Tally())
    found = estimate(Edge(), jnp.asarray(0.0), jnp.asarray(1.0), State(jnp.ones(2)), oracle, spectrum)
    assert float(found.radius) == 7.0


def test_the_passes_in_the_statistics_are_those_that_ran():
    flow, scheme, controller = odeopt.GradientFlow(), odeopt.RKC1(), odeopt.LyapunovControl()
    stats, executed = counted_run(flow, scheme, controller, PROBLEMS["two"], "linearised", 60)
    assert stats["accepted"] > 5 < stats["rejected"]
    assert (stats["values"], stats["gradients"]) == (executed["values"], executed["gradients"])


def test_a_given_number_of_stages_costs_as_many_gradients():
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.RKC2(stages=4), odeopt.ConstantStep(0.01))
    problem = PROBLEMS["two"]
    stats = odeopt.minimise(problem.fn, solver, problem.y0(), max_steps=30, history=None, throw=False).stats
    assert int(stats["gradients"]) == 1 + 30 * 4


@pytest.fixture(scope="module")
def ill_conditioned():
    """The gradients that a scheme at a constant step takes to the part 1e-7 of the first loss; condition 1e4."""
    curvatures = jnp.geomspace(1e-4, 1.0, 1000)
    y0 = jax.random.normal(jax.random.key(1), (1000,))
    stop = odeopt.Stop(target_loss=1e-7 * quadratic(y0, curvatures))

    def gradients(scheme, h):
        solver = odeopt.Solver(odeopt.GradientFlow(), scheme, odeopt.ConstantStep(h))
        solution = odeopt.minimise(
            quadratic, solver, y0, curvatures, stop=stop, max_steps=20_000, history=None, throw=False
        )
        assert bool(solution.result == odeopt.RESULTS.target_reached)
        return int(solution.stats["gradients"])

    return gradients, gradients(odeopt.Euler(), 0.98 * 2)


@pytest.mark.parametrize("stages", [5, 10])
def test_on_an_ill_conditioned_quadratic_stages_save_as_many_gradients_as_predicted(ill_conditioned, stages):
    gradients, euler = ill_conditioned
    length = INTERVALS[odeopt.RKC1](stages)
    saved = euler / gradients(odeopt.RKC1(stages=stages), 0.98 * length)
    # An interval that is length / 2 times as long as Euler's, for s gradients.
    assert saved == pytest.approx(length / 2 / stages, rel=0.2)
    assert saved > 0.9 * stages


def test_the_chosen_stages_save_nearly_as_much(ill_conditioned):
    gradients, euler = ill_conditioned
    # The safety factor of 1.2 costs a tenth in stages, and the estimates a few gradients.
    saved = euler / gradients(odeopt.RKC1(), 0.98 * INTERVALS[odeopt.RKC1](10))
    assert saved > 0.75 * 10


def test_lanes_with_different_numbers_of_stages_step_as_each_alone():
    y, curvatures = jnp.array([1.0, -0.5, 0.3]), jnp.array([0.1, 1.0, 10.0])

    def step(h):
        trial, tally = one_trial(odeopt.RKC2(), y, curvatures, h)
        return trial.state.position, tally.gradients

    lengths = jnp.array([0.1, 1.0, 10.0])
    lanes, counts = jax.jit(jax.vmap(step))(lengths)
    for lane, h in enumerate(lengths):
        alone, count = jax.jit(step)(h)
        np.testing.assert_allclose(lanes[lane], alone, rtol=1e-11)
        assert int(counts[lane]) == int(count)
    assert len(set(np.asarray(counts))) == 3


@pytest.mark.parametrize("scheme", [odeopt.RKC1, odeopt.RKC2])
def test_in_single_precision_many_stages_lose_few_digits(scheme):
    """Near the minimum of a quadratic, where each step is short beside the state."""
    rng = np.random.default_rng(0)
    curvatures = np.linspace(0, 1, 400).astype(np.float32)
    centre = rng.normal(size=400).astype(np.float32)
    y = (centre + 1e-2 * rng.normal(size=400)).astype(np.float32)
    fn = lambda y, data: 0.5 * jnp.sum(data[0] * (y - data[1]) ** 2)  # noqa: E731

    def end(dtype):
        data = (jnp.asarray(curvatures, dtype), jnp.asarray(centre, dtype))
        oracle = odeopt.Oracle(odeopt.Objective(fn, data), jnp.asarray(y, dtype), Tally())
        h = jnp.asarray(0.9 * INTERVALS[scheme](200), dtype)
        trial = scheme(stages=200).step(
            odeopt.GradientFlow(), jnp.asarray(0.0, dtype), h, State(jnp.asarray(y, dtype)), oracle
        )
        return np.asarray(trial.state.position, np.float64)

    error = np.sqrt(np.mean((end(jnp.float32) - end(jnp.float64)) ** 2))
    # 16 units of rounding of the state.
    assert error < 16 * np.finfo(np.float32).eps


def test_a_run_in_single_precision_goes_to_the_minimum():
    problem = PROBLEMS["quadratic with residual"]
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.RKC1())
    stop = odeopt.Stop(gradient_norm=1e-5)
    solution = odeopt.minimise(problem.fn, solver, problem.y0(jnp.float32), stop=stop)
    assert solution.value.dtype == jnp.float32
    assert bool(solution.result == odeopt.RESULTS.converged)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("as_installed")
def test_arguments_out_of_range_are_refused(scheme):
    for arguments in ({"stages": 0}, {"max_stages": 0}, {"stages": 2.5}, {"safety": 0.9}):
        (name, value), *_ = arguments.items()
        with pytest.raises(ValueError, match=rf"{scheme.__name__}\({name}={value}\): expected"):
            scheme(**arguments)


@pytest.mark.parametrize("scheme", [odeopt.RKC1, odeopt.RKC2])
def test_negative_damping_is_refused(scheme):
    with pytest.raises(ValueError, match=r"damping=-1\.0\): expected a finite number >= 0"):
        scheme(damping=-1.0)
