"""The heavy ball whose energy falls by exactly what friction takes."""

import jax.numpy as jnp
import numpy as np
import pytest
from one_step import START, bowl, bowl_value, one_step

import odeopt
from odeopt import State
from odeopt._flow.damping import inverse_time_damping

SCHEME = odeopt.ExactDissipationEuler()
FRICTION = 0.7


class Thrown(odeopt.HeavyBall):
    """Starts with a velocity."""

    def init(self, params):
        return State(params, jnp.full_like(params, 0.5))


class Fading(odeopt.HeavyBall):
    """Friction 3 / t."""

    def vector_field(self, t, state, oracle):
        return State(state.memory, -3 / t * state.memory - oracle.gradient)

    def damping(self, t, step_size):
        return inverse_time_damping(jnp.asarray(3.0), t, step_size)


def energy(state):
    return bowl_value(np.asarray(state.position)) + 0.5 * np.sum(np.asarray(state.memory) ** 2)


@pytest.mark.parametrize(
    ("flow", "lost"),
    [
        (odeopt.HeavyBall(FRICTION), lambda t, h: FRICTION * h),
        (odeopt.HeavyBall(0.0), lambda t, h: 0.0),
        (Fading(0.0), lambda t, h: 3 * np.log((t + h) / t)),
    ],
    ids=["friction", "no friction", "friction 3/t"],
)
@pytest.mark.parametrize("h", [1e-3, 0.1, 1.0])
def test_the_energy_falls_by_what_friction_takes_at_every_step_size(flow, lost, h):
    generator, real = np.random.default_rng(1), 0
    for _ in range(20):
        before = State(*generator.standard_normal((2, 3)))
        after = one_step(SCHEME, flow, before, t=2.0, h=h)[0].state
        np.testing.assert_allclose(after.position, before.position + h * before.memory, rtol=1e-15)
        if not np.all(np.isfinite(after.memory)):
            continue
        real += 1
        middle = 0.5 * (before.memory + np.asarray(after.memory))
        change = -lost(2.0, h) * np.sum(middle**2)
        # The root multiplies rounding by the size of the terms that it is the difference of.
        scale = energy(before) + energy(after) + np.sum(np.asarray(after.memory) ** 2)
        assert abs(energy(after) - energy(before) - change) <= 64 * np.finfo(float).eps * scale
    assert real > 3


def test_where_no_real_root_exists_the_trial_is_not_finite_and_otherwise_it_is():
    """Uphill and nearly at rest: h < v g / (2 g**2) to leading order, here 0.05."""
    before = State(np.array([1.0]), np.array([0.1]))
    fn = lambda y, _: jnp.sum(y)  # noqa: E731
    velocity = {h: one_step(SCHEME, odeopt.HeavyBall(0.0), before, h=h, fn=fn)[0].state.memory for h in (0.049, 0.051)}
    assert np.all(np.isfinite(velocity[0.049]))
    assert np.all(np.isnan(velocity[0.051]))


def test_the_multiple_of_the_force_tends_to_the_step_size():
    """v+ = v - h (b v + g) + O(h**2)."""
    before = State(START, np.array([0.9, -0.3, 0.4]))
    g = np.asarray(one_step(SCHEME, odeopt.HeavyBall(FRICTION), before)[0].oracle.at(jnp.asarray(START)).gradient)
    errors = []
    for h in (1e-3, 5e-4):
        velocity = one_step(SCHEME, odeopt.HeavyBall(FRICTION), before, h=h)[0].state.memory
        errors.append(np.linalg.norm(velocity - (before.memory - h * (FRICTION * before.memory + g))))
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.1


def test_from_rest_the_run_ends_with_a_clear_result():
    solver = odeopt.Solver(odeopt.HeavyBall(FRICTION), SCHEME)
    solution = odeopt.minimise(bowl, solver, jnp.asarray(START), throw=False)
    assert solution.result == odeopt.RESULTS.step_underflow
    assert "at rest under a scheme that cannot leave it" in str(solution.result)
    assert int(solution.stats["accepted"]) == 0
    np.testing.assert_array_equal(solution.value, START)


def test_the_audit_calls_it_a_dead_lock():
    audit = odeopt.audit_steps(odeopt.HeavyBall(FRICTION), SCHEME, trials=30)
    assert "starts from rest" in {check.name for check in audit.checks if check.passed is False}
    assert np.all(audit.rest.locked)


def test_with_a_first_push_every_accepted_step_fulfils_the_balance():
    solver = odeopt.Solver(Thrown(FRICTION), SCHEME)
    solution = odeopt.minimise(bowl, solver, jnp.asarray(START), max_steps=200, history="states", throw=False)
    history = solution.history.trimmed()
    assert len(history.t) > 20
    v = np.concatenate([np.full((1, 3), 0.5), history.memory])
    middle = 0.5 * (v[1:] + v[:-1])
    lost = FRICTION * history.step_size * np.sum(middle**2, axis=1)
    first = bowl_value(START) + 0.5 * np.sum(v[0] ** 2)
    np.testing.assert_allclose(np.diff(np.concatenate([[first], history.energy])), -lost, atol=1e-13)
    assert solution.loss < bowl_value(START)


def test_a_ball_that_rolls_uphill_never_turns():
    """Thrown up a slope: the steps shrink with the speed, and what is left of it points uphill for ever."""
    fn = lambda y, _: jnp.sum(y)  # noqa: E731
    solver = odeopt.Solver(Thrown(0.0), SCHEME)
    solution = odeopt.minimise(fn, solver, jnp.zeros(1), max_steps=300, history="states", throw=False)
    history = solution.history.trimmed()
    assert np.all(history.memory > 0)
    assert history.memory[-1] < 1e-6
    # Free flight without friction: the highest point is v**2 / 2.
    np.testing.assert_allclose(history.position[-1], 0.5**2 / 2, rtol=1e-6)


@pytest.mark.parametrize("flow", [odeopt.GradientFlow, odeopt.Adam])
def test_flows_that_are_not_mechanical_are_refused(flow):
    with pytest.raises(ValueError, match="ExactDissipationEuler needs a mechanical flow"):
        odeopt.Solver(flow(), SCHEME)


class Relativistic(odeopt.HeavyBall):
    """Another kinetic energy."""

    def vector_field(self, t, state, oracle):
        p = state.memory
        return State(p / jnp.sqrt(1 + p**2), -p - oracle.gradient)


def test_another_kinetic_energy_is_refused():
    with pytest.raises(ValueError, match="x' = p, and the vector_field of Relativistic returns another velocity"):
        odeopt.Solver(Relativistic(1.0), SCHEME)


def test_a_friction_that_is_still_open_is_no_reason_to_refuse():
    assert odeopt.Solver(odeopt.HeavyBall(), SCHEME).scheme is SCHEME
