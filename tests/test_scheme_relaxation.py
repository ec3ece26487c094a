"""Relaxation Runge-Kutta: the energy falls by what the stages say, and the clock goes with it."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import PROBLEMS
from one_step import MOMENTUM, START, as_vector, bowl, one_step
from test_counts import counted_run

import odeopt
from odeopt import RelaxationRK, State

FRICTION = 0.5
EPS = np.finfo(float).eps


def rates(flow, tableau, t, state, h):
    """The mean of dV/dt over the stages of a tableau, and where it would end, written down without the library."""
    force = jax.grad(lambda y: bowl(y, None))
    x, v = (np.asarray(part) for part in (state.position, state.memory))
    slopes, falls = [], []
    for row in ([], *tableau.a_lower):
        X = x + h * sum(a * k[0] for a, k in zip(row, slopes, strict=False))
        V = v + h * sum(a * k[1] for a, k in zip(row, slopes, strict=False))
        slopes.append((V, -FRICTION * V - np.asarray(force(jnp.asarray(X)))))
        falls.append(-FRICTION * np.sum(V**2))
    rate = sum(b * fall for b, fall in zip(tableau.b_sol, falls, strict=True))
    return rate, [sum(b * k[part] for b, k in zip(tableau.b_sol, slopes, strict=True)) for part in (0, 1)]


@pytest.mark.parametrize(("scheme", "tableau"), [(odeopt.Heun(), diffrax.Heun.tableau), (odeopt.Bosh3(), None)])
def test_a_step_goes_along_the_weighted_slopes_to_where_the_energy_balances(scheme, tableau):
    tableau = tableau or diffrax.Bosh3.tableau
    h, flow, state = 0.1, odeopt.HeavyBall(FRICTION), State(jnp.asarray(START), jnp.asarray(MOMENTUM))
    trial, _, gradients = one_step(RelaxationRK(scheme), flow, state, h=h)
    rate, direction = rates(flow, tableau, 0.0, state, h)
    gamma = float(trial.elapsed) / h
    assert 0 < abs(gamma - 1) < 0.1
    np.testing.assert_allclose(trial.state.position, START + gamma * h * direction[0], rtol=1e-13)
    np.testing.assert_allclose(trial.state.memory, MOMENTUM + gamma * h * direction[1], rtol=1e-13)
    energy = lambda x, v: float(bowl(jnp.asarray(x), None)) + 0.5 * np.sum(np.asarray(v) ** 2)  # noqa: E731
    change = energy(trial.state.position, trial.state.memory) - energy(START, MOMENTUM)
    np.testing.assert_allclose(change, gamma * h * rate, atol=32 * EPS * energy(START, MOMENTUM))
    np.testing.assert_allclose(trial.quadrature(), rate, rtol=1e-13)
    # The stage of Bosh3 at the end of the step is not evaluated: it would be at another place.
    assert gradients == len([b for b in tableau.b_sol if b != 0]) - 1


def run_of(flow, scheme, h, steps, fn=bowl, y0=START):
    solver = odeopt.Solver(flow, scheme, odeopt.ConstantStep(h))
    return odeopt.minimise(fn, solver, jnp.asarray(y0), max_steps=steps, history="states", throw=False)


def balance(flow, scheme, solution):
    """The change of the energy and what the stages have promised for the time that has passed, for every step."""
    history = solution.history
    t = np.concatenate([[0.0], history.t])
    memory = solution.state.run.snapshot.state.memory
    first = flow.init(jnp.asarray(START)).memory
    positions = np.concatenate([START[None], history.position])
    memories = None if memory is None else np.concatenate([np.asarray(first)[None], history.memory])

    @jax.jit
    def promised(t, x, m):
        oracle = odeopt.Oracle(odeopt.Objective(bowl), x, odeopt._objective.Tally())
        state = State(x, m)
        trial = scheme.step(flow, t, jnp.asarray(history.step_size[0]), state, oracle)
        return flow.energy(t, state, oracle), trial.quadrature()

    energies, means = zip(
        *(promised(t[k], positions[k], None if memories is None else memories[k]) for k in range(len(t))), strict=True
    )
    return np.diff(energies), np.diff(t) * np.asarray(means[:-1]), np.abs(energies[0])


class Slowing(odeopt.AbstractFlow):
    """A clock that runs unevenly, and an energy that reads it."""

    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        return State(-(1 + jnp.sin(t)) * oracle.gradient)

    def energy(self, t, state, oracle):
        return (2 + jnp.cos(t)) * oracle.value


class Balance(odeopt.AbstractFlow):
    """A balance law: its energy may rise."""

    certificate = "balance_law"

    def init(self, params):
        return State(params, jnp.ones_like(params))

    def vector_field(self, t, state, oracle):
        return State(state.memory, jnp.cos(t) - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(state.memory**2)


@pytest.mark.parametrize("flow", [odeopt.HeavyBall(FRICTION), Slowing(), Balance()], ids=lambda f: type(f).__name__)
def test_over_a_hundred_steps_the_energy_changes_by_what_the_stages_say(flow):
    scheme = RelaxationRK(odeopt.SSPRK33())
    solution = run_of(flow, scheme, 0.05, 100)
    assert int(solution.stats["accepted"]) == 100
    change, promised, size = balance(flow, scheme, solution)
    np.testing.assert_allclose(change, promised, atol=64 * EPS * size)
    assert np.max(np.abs(change)) > 1e-4 * size


def test_the_clock_advances_by_the_relaxed_step():
    h = 0.1
    solution = run_of(odeopt.HeavyBall(FRICTION), RelaxationRK(odeopt.Heun()), h, 50)
    advances = np.diff(np.concatenate([[0.0], solution.history.t]))
    np.testing.assert_array_equal(solution.history.step_size, h)
    assert np.all(np.abs(advances / h - 1) < 0.3)
    assert np.max(np.abs(advances / h - 1)) > 0.01


@pytest.mark.parametrize("scheme", [odeopt.Heun(), odeopt.RK4()], ids=lambda s: type(s).__name__)
def test_the_order_is_kept(scheme):
    result = odeopt.convergence_order(odeopt.HeavyBall(FRICTION), RelaxationRK(scheme))
    assert result.passed, str(result)
    assert abs(result.order - scheme.order) < 0.2, str(result)


class ClockOfTheController(RelaxationRK):
    """The relaxed step, taken for one of length h."""

    def step(self, flow, t, step_size, state, oracle, learnt=None):
        trial = super().step(flow, t, step_size, state, oracle, learnt)
        return odeopt.Trial(trial.state, trial.oracle, trial.error, trial.quadrature)


def test_with_the_clock_of_the_controller_an_order_is_lost():
    result = odeopt.convergence_order(odeopt.HeavyBall(FRICTION), ClockOfTheController(odeopt.Heun()))
    assert abs(result.order - 1) < 0.2, str(result)


def test_the_audit_of_steps_passes():
    audit = odeopt.audit_steps(odeopt.HeavyBall(FRICTION), RelaxationRK(odeopt.Heun()), trials=60)
    assert audit.passed, str(audit)


@pytest.mark.parametrize(("scheme", "falls_enough"), [(odeopt.Bosh3(), True), (odeopt.Heun(), False)])
def test_one_sided_a_step_that_falls_enough_is_left_as_it_is(scheme, falls_enough):
    h, flow, state = 0.1, odeopt.HeavyBall(FRICTION), State(jnp.asarray(START), jnp.asarray(MOMENTUM))
    plain, *_ = one_step(scheme, flow, state, h=h)
    both, *_ = one_step(RelaxationRK(scheme), flow, state, h=h)
    one, *_ = one_step(RelaxationRK(scheme, one_sided=True), flow, state, h=h)
    energy = lambda s: bowl(s.position, None) + 0.5 * jnp.sum(s.memory**2)  # noqa: E731
    assert bool(energy(plain.state) - energy(state) <= h * plain.quadrature()) == falls_enough
    expected = plain if falls_enough else both
    np.testing.assert_allclose(as_vector(one.state), as_vector(expected.state), rtol=1e-14)
    np.testing.assert_allclose(one.elapsed, h if falls_enough else both.elapsed, rtol=1e-14)
    assert abs(float(both.elapsed) / h - 1) > 1e-3


def test_a_step_too_long_for_a_root_is_not_finite_and_the_run_shortens_it():
    flow, state = odeopt.GradientFlow(), State(jnp.asarray(START))
    trial, *_ = one_step(RelaxationRK(odeopt.Heun()), flow, state, h=0.8)
    assert np.all(np.isnan(trial.state.position))
    controller = odeopt.LyapunovControl(initial_step_size=0.8)
    solution = odeopt.minimise(
        bowl, odeopt.Solver(flow, RelaxationRK(odeopt.Heun()), controller), START, stop=odeopt.Stop(gradient_norm=1e-5)
    )
    assert int(solution.stats["rejected"]) > 0


def test_the_error_estimate_is_that_of_the_tableau():
    """But for the length of the step and the place of Bosh3's last stage, which change it by a higher order."""
    flow, state = odeopt.HeavyBall(FRICTION), State(jnp.asarray(START), jnp.asarray(MOMENTUM))
    for scheme in (odeopt.Heun(), odeopt.Bosh3()):
        relaxed, *_ = one_step(RelaxationRK(scheme), flow, state, h=1e-2)
        plain, *_ = one_step(scheme, flow, state, h=1e-2)
        ours, theirs = as_vector(relaxed.error()), as_vector(plain.error())
        assert np.linalg.norm(ours - theirs) < 0.1 * np.linalg.norm(theirs)


def test_the_passes_in_the_statistics_are_those_that_ran():
    flow, scheme = odeopt.GradientFlow(), RelaxationRK(odeopt.Bosh3())
    stats, executed = counted_run(flow, scheme, odeopt.LyapunovControl(), PROBLEMS["two"], "linearised", 40)
    assert stats["accepted"] > 5
    assert (stats["values"], stats["gradients"]) == (executed["values"], executed["gradients"])


def test_explicit_euler_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"RelaxationRK\(Euler\(\)\): the order is 1, expected >= 2.*length 0"):
        RelaxationRK(odeopt.Euler())


@pytest.mark.parametrize("scheme", [odeopt.Dopri5, odeopt.Tsit5])
def test_negative_weights_are_refused(scheme):
    with pytest.raises(ValueError, match=rf"{scheme.__name__}\(\)\): the weight -[0-9.]+ is negative"):
        RelaxationRK(scheme())


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("scheme", [odeopt.Leapfrog(), odeopt.Heun])
def test_what_has_no_tableau_is_refused(scheme):
    with pytest.raises(TypeError, match="expected a Runge-Kutta scheme with a tableau"):
        RelaxationRK(scheme)
