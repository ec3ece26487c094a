"""Strang splitting with exponential half steps of the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import START, as_vector, bowl_gradient, one_step

import odeopt
from odeopt import State

SCHEME = odeopt.ExponentialStrang()
A, B, E = 4.0, 1.5, 0.05
MEMORY = (np.array([0.5, -0.4, 0.1]), np.array([0.3, 0.6, 0.2]))


def average(rate, h, m, new):
    return np.exp(-rate * h) * m - np.expm1(-rate * h) * new


def test_a_step_of_adam_is_the_one_by_hand():
    h, g = 0.1, bowl_gradient(START)
    m, v = average(A, h / 2, MEMORY[0], g), average(B, h / 2, MEMORY[1], g**2)
    x = START - h * m / np.sqrt(v + E**2)
    g = bowl_gradient(x)
    trial, _, gradients = one_step(SCHEME, odeopt.Adam(A, B, E), State(START, MEMORY), h=h)
    np.testing.assert_allclose(trial.state.position, x, rtol=1e-14)
    np.testing.assert_allclose(trial.state.memory[0], average(A, h / 2, m, g), rtol=1e-13)
    np.testing.assert_allclose(trial.state.memory[1], average(B, h / 2, v, g**2), rtol=1e-13)
    assert gradients == 1


def test_squares_stay_positive_however_long_the_step():
    trial, *_ = one_step(SCHEME, odeopt.Adam(A, B, E), State(START, MEMORY), h=1e3)
    assert np.all(np.asarray(trial.state.memory[1]) > 0)
    assert np.all(np.isfinite(as_vector(trial.state)))


def check_order(flow, **options):
    result = odeopt.convergence_order(flow, SCHEME, **options)
    assert result.passed, str(result)
    assert abs(result.order - 2) < 0.2, str(result)
    return result


class Averages(odeopt.AbstractFlow):
    """Adam's averages with whatever velocity a subclass makes of them; the energy is a number to be followed only."""

    def init(self, params):
        return State(params, (jnp.zeros_like(params), jnp.zeros_like(params)))

    def vector_field(self, t, state, oracle):
        (m, v), g = state.memory, oracle.gradient
        return State(self.velocity(t, state, g), (1.3 * (g - m), 2.1 * (self.squared(m, g) - v)))

    def squared(self, m, g):
        return g**2

    def velocity(self, t, state, g):
        m, v = state.memory
        return -m / jnp.sqrt(v + 0.04)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(state.memory[0] ** 2)

    def decay(self, t, state):
        return (jnp.asarray(1.3), jnp.asarray(2.1))


class Corrected(Averages):
    """Bias correction: factors that depend on time."""

    def velocity(self, t, state, g):
        m, v = state.memory
        return m / jnp.expm1(-1.3 * t) / jnp.sqrt(-v / jnp.expm1(-2.1 * t) + 0.04)


class Decayed(Averages):
    """Decoupled weight decay: the velocity depends on the position, and not on the gradient there."""

    def velocity(self, t, state, g):
        return super().velocity(t, state, g) - 0.5 * state.position


class Geometric(Averages):
    """A velocity that has the gradient itself in it, as of flows with Hessian damping."""

    def velocity(self, t, state, g):
        return super().velocity(t, state, g) - 0.2 * g


class Belief(Averages):
    """The squares of what the momentum did not foresee: one part of the memory drives the other."""

    def squared(self, m, g):
        return (g - m) ** 2


class Clocked(Averages):
    """Rates that depend on time, and a part of the memory without any."""

    def vector_field(self, t, state, oracle):
        m, g = state.memory[0], oracle.gradient
        return State(self.velocity(t, state, g), (3 / (t + 1) * (g - m), jnp.sin(t) * g**2))

    def decay(self, t, state):
        return (3 / (t + 1), None)


@pytest.mark.parametrize("flow", [Corrected, Decayed, Geometric, Belief, Clocked])
def test_the_order_is_two_whatever_the_flow_depends_on(flow):
    check_order(flow(), start_time=0.5)


@pytest.mark.parametrize(
    ("flow", "expected"), [(Averages, 1), (Corrected, 1), (Decayed, 1), (Belief, 1), (Geometric, 2)]
)
def test_a_gradient_at_the_midpoint_is_paid_only_where_the_velocity_reads_it(flow, expected):
    _, _, gradients = one_step(SCHEME, flow(), State(START, MEMORY), t=0.5)
    assert gradients == expected


@pytest.mark.parametrize("friction", [0.0, 0.7])
def test_the_momentum_of_a_mechanical_flow_feels_the_exact_friction(friction):
    """A constant force and no curvature: p' = -friction p - g is solved, and x to second order."""
    h, g, p = 0.5, np.array([1.0, -2.0, 0.5]), np.array([0.4, 0.1, -0.8])
    trial, *_ = one_step(SCHEME, odeopt.HeavyBall(friction), State(START, p), h=h, fn=lambda y, _: y @ g)
    weight = -np.expm1(-friction * h) / friction if friction else h
    np.testing.assert_allclose(trial.state.memory, np.exp(-friction * h) * p - weight * g, rtol=1e-14)
    weight = -np.expm1(-friction * h / 2) / friction if friction else h / 2
    middle = np.exp(-friction * h / 2) * p - weight * g
    np.testing.assert_allclose(trial.state.position, START + h * middle, rtol=1e-14)


class Nesterov(odeopt.AbstractFlow):
    """Friction 3 / t from t = 0 on, where exact damping is regular."""

    def init(self, params):
        return State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        started = t > 0
        friction = jnp.where(started, 3 / jnp.where(started, t, 1.0), 0.0)
        return State(state.memory, -friction * state.memory - jnp.where(started, 1.0, 0.25) * oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(state.memory**2)

    def damping(self, t, step_size):
        ratio = t / (t + step_size)
        return odeopt.Damping(ratio**3, (t + step_size - t * ratio**3) / 4)


def test_second_order_from_a_singular_friction_on():
    result = check_order(Nesterov())
    assert abs(result.natural.order - 2) < 0.1, str(result)


def test_a_velocity_that_is_no_simple_expression_is_taken_to_read_the_gradient():
    """What is hidden in a compiled function cannot be told apart: one gradient too many, and the same numbers."""

    class Hidden(Decayed):
        def vector_field(self, t, state, oracle):
            return jax.jit(lambda g: Decayed().vector_field(t, state, oracle.with_inputs(state.position, t, g)))(
                oracle.gradient
            )

    plain, _, _ = one_step(SCHEME, Decayed(), State(START, MEMORY))
    hidden, _, gradients = one_step(SCHEME, Hidden(), State(START, MEMORY))
    assert gradients == 2
    np.testing.assert_allclose(as_vector(hidden.state), as_vector(plain.state), rtol=1e-14)


def test_a_flow_without_declared_damping_is_refused():
    with pytest.raises(ValueError, match="GradientFlow declares none: define decay"):
        odeopt.Solver(odeopt.GradientFlow(), SCHEME)
