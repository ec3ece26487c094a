"""Reference solutions against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import odeopt
from odeopt import State

CURVATURES = np.array([0.4, 1.0, 3.0])
START = np.array([1.0, -2.0, 0.5])
TIMES = np.array([0.0, 0.3, 1.7, 4.0])
BOWL = (lambda y, _: 0.5 * jnp.sum(CURVATURES * y**2), jnp.asarray(START))


def test_gradient_flow_of_a_quadratic():
    reference = odeopt.reference_solution(odeopt.GradientFlow(), BOWL, times=TIMES)
    truth = START * np.exp(-np.outer(TIMES, CURVATURES))
    # A tolerance of 1e-12 in each of some hundred steps.
    np.testing.assert_allclose(reference.states.position, truth, atol=1e-11)


# Frequency 1: below, at and above critical damping.
@pytest.mark.parametrize("friction", [0.3, 2.0, 5.0])
def test_heavy_ball_in_all_regimes_of_damping(friction):
    problem = (lambda y, _: 0.5 * jnp.sum(y**2), jnp.asarray([1.5]))
    reference = odeopt.reference_solution(odeopt.HeavyBall(friction), problem, times=TIMES)
    matrix = np.array([[0.0, 1.0], [-1.0, -friction]])
    truth = np.stack([scipy.linalg.expm(t * matrix) @ [1.5, 0.0] for t in TIMES])
    np.testing.assert_allclose(reference.states.position[:, 0], truth[:, 0], atol=1e-11)
    np.testing.assert_allclose(reference.states.memory[:, 0], truth[:, 1], atol=1e-11)


class Linear(odeopt.AbstractFlow):
    """Position and memory coupled by a matrix; the memory is a dict, as of users' own flows."""

    def init(self, params):
        return State(params, {"p": 0.5 * params, "q": -params})

    def vector_field(self, t, state, oracle):
        x, p, q = state.position, state.memory["p"], state.memory["q"]
        return State(p - x, {"p": q - 2 * x, "q": -0.3 * q + p})

    def energy(self, t, state, oracle):
        return oracle.value


def test_a_linear_flow_is_the_exponential_of_its_matrix():
    reference = odeopt.reference_solution(Linear(), BOWL, times=TIMES)
    matrix = np.array([[-1.0, 1.0, 0.0], [-2.0, 0.0, 1.0], [0.0, 1.0, -0.3]])
    for index, t in enumerate(TIMES):
        x, p, q = scipy.linalg.expm(t * matrix) @ np.stack([START, 0.5 * START, -START])
        np.testing.assert_allclose(reference.states.position[index], x, atol=1e-10)
        np.testing.assert_allclose(reference.states.memory["p"][index], p, atol=1e-10)
        np.testing.assert_allclose(reference.states.memory["q"][index], q, atol=1e-10)


class Cooling(odeopt.AbstractFlow):
    """x' = -c g / t: on a quadratic of curvature 1 the solution is a power of time; singular at t = 0."""

    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        return State(jax.tree.map(lambda g: -1.5 * g / t, oracle.gradient))

    def energy(self, t, state, oracle):
        return oracle.value


UNIT_BOWL = (lambda y, _: 0.5 * jnp.sum(y**2), jnp.asarray([2.0, -1.0]))


def test_a_flow_with_explicit_time():
    times = np.array([1.0, 2.0, 5.0])
    reference = odeopt.reference_solution(Cooling(), UNIT_BOWL, times=times, start_time=1.0)
    truth = np.outer(times**-1.5, [2.0, -1.0])
    np.testing.assert_allclose(reference.states.position, truth, atol=1e-11)


def test_a_singular_start_is_refused_with_the_way_out():
    with pytest.raises(RuntimeError, match=r"start_time"):
        odeopt.reference_solution(Cooling(), UNIT_BOWL, times=[1.0])


def test_the_estimated_error_bounds_the_true_one_and_is_not_far_above_it():
    reference = odeopt.reference_solution(odeopt.HeavyBall(0.3), UNIT_BOWL, times=[10.0], tolerance=1e-8)
    matrix = np.array([[0.0, 1.0], [-1.0, -0.3]])
    truth = scipy.linalg.expm(10.0 * matrix) @ [2.0, 0.0]
    true_error = np.max(np.abs(reference.states.position[-1, 0] - truth[0]) / 2.0)
    assert true_error <= reference.error <= 1e-5


STIFF = (lambda y, _: 0.5 * jnp.sum(jnp.asarray([1.0, 1e7]) * y**2), jnp.asarray([1.0, 1.0]))


def test_a_stiff_flow_is_solved_implicitly():
    reference = odeopt.reference_solution(odeopt.GradientFlow(), STIFF, times=[1.0], stiff=True, tolerance=1e-9)
    np.testing.assert_allclose(reference.states.position[-1], [np.exp(-1.0), 0.0], atol=1e-7)


def test_a_stiff_flow_has_no_explicit_reference():
    with pytest.raises(RuntimeError, match="stiff"):
        odeopt.reference_solution(odeopt.GradientFlow(), STIFF, times=[1e3])


def test_double_precision_is_not_left_switched_on():
    with jax.enable_x64(False):
        odeopt.reference_solution(odeopt.GradientFlow(), BOWL, times=[0.1])
        assert jnp.zeros(1).dtype == jnp.float32
