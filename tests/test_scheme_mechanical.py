"""Schemes for mechanical flows: leapfrogs and conformal symplectic Euler."""

from functools import partial

import diffrax
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_step import MOMENTUM, START, bowl, bowl_gradient, one_step
from scipy.optimize import brentq

import odeopt
from odeopt import State
from odeopt._flow.damping import inverse_time_damping

SCHEMES = [odeopt.Leapfrog, odeopt.PositionVerlet, odeopt.ConformalSymplecticEuler]
FRICTION = 0.7
POWER = 3.0


class FadingFriction(odeopt.AbstractFlow):
    """Friction 3 / t, solved exactly over a step."""

    def init(self, params):
        return State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        return State(state.memory, -POWER / t * state.memory - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(state.memory**2)

    def damping(self, t, step_size):
        return inverse_time_damping(jnp.asarray(POWER), t, step_size)


class Relativistic(odeopt.AbstractFlow):
    """Kinetic energy sqrt(1 + |p|**2): the velocity is not the momentum."""

    def init(self, params):
        return State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        p = state.memory
        return State(p / jnp.sqrt(1 + jnp.sum(p**2)), -FRICTION * p - oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value + jnp.sqrt(1 + jnp.sum(state.memory**2))

    def damping(self, t, step_size):
        factor = jnp.exp(-FRICTION * step_size)
        return odeopt.Damping(factor, (1 - factor) / FRICTION)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_friction_that_depends_on_time_keeps_the_order(scheme):
    result = odeopt.convergence_order(FadingFriction(), scheme(), start_time=1.0)
    assert result.passed, str(result)
    assert abs(result.order - scheme.order) < 0.2, str(result)


class RateAtTheStart(FadingFriction):
    """Takes the friction over a step to be the one where it begins: what exact integrals are needed for."""

    def damping(self, t, step_size):
        factor = jnp.exp(-POWER / t * step_size)
        return odeopt.Damping(factor, step_size * factor)


def test_the_friction_at_the_start_of_each_half_step_is_only_first_order():
    result = odeopt.convergence_order(RateAtTheStart(), odeopt.Leapfrog(), start_time=1.0)
    assert abs(result.order - 1) < 0.2, str(result)


def test_the_leapfrog_steps_any_kinetic_energy_at_second_order():
    result = odeopt.convergence_order(Relativistic(), odeopt.Leapfrog())
    assert result.passed, str(result)
    assert abs(result.order - 2) < 0.2, str(result)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("flow", "contraction"),
    [
        (odeopt.HeavyBall(FRICTION), lambda t, end: np.exp(-FRICTION * (end - t))),
        (Relativistic(), lambda t, end: np.exp(-FRICTION * (end - t))),
        (FadingFriction(), lambda t, end: (t / end) ** POWER),
    ],
    ids=["heavy ball", "relativistic", "friction 3/t"],
)
def test_the_volume_of_phase_space_contracts_as_along_the_flow(scheme, flow, contraction):
    h, start, steps = 0.3, 0.8, 4
    flat, unravel = jax.flatten_util.ravel_pytree(State(jnp.asarray(START), jnp.asarray(MOMENTUM)))

    def march(y):
        for k in range(steps):
            trial, *_ = one_step(scheme(), flow, unravel(y), start + k * h, h)
            y = jax.flatten_util.ravel_pytree(trial.state)[0]
        return y

    determinant = np.linalg.det(jax.jit(jax.jacfwd(march))(flat))
    np.testing.assert_allclose(determinant, contraction(start, start + steps * h) ** len(START), rtol=1e-13)


def test_without_friction_the_leapfrog_is_velocity_verlet():
    """x+ = x + h v + h**2/2 a(x), v+ = v + h/2 (a(x) + a(x+))."""
    h = 0.2
    trial, *_ = one_step(odeopt.Leapfrog(), odeopt.HeavyBall(0.0), State(START, MOMENTUM), h=h)
    x = START + h * MOMENTUM - 0.5 * h**2 * bowl_gradient(START)
    v = MOMENTUM - 0.5 * h * (bowl_gradient(START) + bowl_gradient(x))
    np.testing.assert_allclose(trial.state.position, x, rtol=1e-14)
    np.testing.assert_allclose(trial.state.memory, v, rtol=1e-14)


def test_the_drifting_variant_kicks_at_the_midpoint():
    h, half = 0.2, np.exp(-0.1 * FRICTION)
    trial, *_ = one_step(odeopt.PositionVerlet(), odeopt.HeavyBall(FRICTION), State(START, MOMENTUM), h=h)
    middle = START + 0.5 * h * half * MOMENTUM
    p = half * MOMENTUM - h * bowl_gradient(middle)
    np.testing.assert_allclose(trial.state.position, middle + 0.5 * h * p, rtol=1e-14)
    np.testing.assert_allclose(trial.state.memory, half * p, rtol=1e-14)


@pytest.mark.parametrize("scheme", [odeopt.Leapfrog, odeopt.PositionVerlet])
def test_without_friction_a_step_back_undoes_a_step(scheme):
    there, *_ = one_step(scheme(), odeopt.HeavyBall(0.0), State(START, MOMENTUM), h=0.3)
    back, *_ = one_step(scheme(), odeopt.HeavyBall(0.0), there.state, h=-0.3)
    np.testing.assert_allclose(back.state.position, START, rtol=1e-14)
    np.testing.assert_allclose(back.state.memory, MOMENTUM, rtol=1e-14)


@pytest.mark.parametrize(("learning_rate", "momentum"), [(0.01, 0.9), (0.04, 0.5)])
def test_conformal_symplectic_euler_is_sgd_with_momentum(learning_rate, momentum):
    h = np.sqrt(learning_rate)
    flow = odeopt.HeavyBall(-np.log(momentum) / h)
    sgd = optax.sgd(learning_rate, momentum=momentum)
    problem = (bowl, jnp.asarray(START))
    result = odeopt.equivalence(flow, odeopt.ConformalSymplecticEuler(), sgd, problem, step_size=h, steps=60)
    assert result.passed, str(result)
    assert result.largest < 1e-12


def test_the_heavy_ball_states_that_equivalence_itself():
    problem = (bowl, jnp.asarray(START))
    result = odeopt.equivalence(odeopt.HeavyBall(FRICTION), odeopt.ConformalSymplecticEuler(), problem=problem)
    assert result.passed, str(result)


CURVATURES = np.array([0.1, 1.0, 10.0, 100.0])


@pytest.mark.parametrize(
    ("scheme", "friction", "limit"),
    [
        (odeopt.Leapfrog, 0.0, lambda L: 2 / np.sqrt(L)),
        (odeopt.Leapfrog, FRICTION, lambda L: 2 / np.sqrt(L)),
        (odeopt.PositionVerlet, 0.0, lambda L: 2 / np.sqrt(L)),
        (
            odeopt.ConformalSymplecticEuler,
            FRICTION,
            lambda L: brentq(lambda h: h**2 * L - 2 * (1 + np.exp(-FRICTION * h)), 1e-6, 1e3, xtol=1e-15),
        ),
    ],
)
def test_the_largest_stable_step_is_that_of_the_closed_form(scheme, friction, limit):
    found = odeopt.stability(odeopt.HeavyBall(friction), scheme(), curvatures=CURVATURES)
    np.testing.assert_allclose(found.limits, [limit(L) for L in CURVATURES], rtol=1e-8)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("flow", [odeopt.GradientFlow, odeopt.Adam])
def test_flows_that_are_not_mechanical_are_refused(scheme, flow):
    with pytest.raises(ValueError, match=rf"{scheme.__name__} needs a mechanical flow.*{flow.__name__} does not say"):
        odeopt.Solver(flow(), scheme())


def test_a_flow_that_takes_its_word_back_is_refused_in_the_step():
    class Undecided(odeopt.HeavyBall):
        def damping(self, t, step_size):
            return None

    with pytest.raises(ValueError, match="Undecided does not say"):
        one_step(odeopt.Leapfrog(), Undecided(FRICTION), State(START, MOMENTUM))


def test_the_leapfrog_follows_a_reference_of_diffrax():
    """A damped pendulum to t = 10 in 400 steps; the error is that of order 2."""
    problem = (lambda y, args: -jnp.cos(y).sum(), jnp.array([2.0]))
    flow = odeopt.HeavyBall(0.2)
    solver = odeopt.Solver(flow, odeopt.Leapfrog(), odeopt.ConstantStep(0.025))
    ours = odeopt.minimise(problem[0], solver, problem[1], stop=odeopt.Stop(), max_steps=400, throw=False)
    field = lambda t, y, args: (y[1], -0.2 * y[1] - jnp.sin(y[0]))  # noqa: E731
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        0.0,
        10.0,
        0.01,
        (problem[1], jnp.zeros(1)),
        stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-12),
    )
    end = ours.state.run.snapshot.state
    x, v = (leaf[0] for leaf in solution.ys)
    # h**2 = 6e-4 times a constant of size one.
    np.testing.assert_allclose(end.position, x, atol=6e-4)
    np.testing.assert_allclose(end.memory, v, atol=6e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_parameters_of_any_structure_move_as_one_array(scheme):
    parts = partial(jax.tree.map, jnp.asarray)
    flow, fn = odeopt.HeavyBall(FRICTION), lambda y, args: bowl(jnp.concatenate([y["a"], y["b"]]), args)
    split = lambda y: {"a": y[:1], "b": y[1:]}  # noqa: E731
    whole, *_ = one_step(scheme(), flow, State(START, MOMENTUM))
    apart, *_ = one_step(scheme(), flow, State(parts(split(START)), parts(split(MOMENTUM))), fn=fn)
    np.testing.assert_allclose(np.concatenate(list(apart.state.position.values())), whole.state.position, rtol=1e-15)
    np.testing.assert_allclose(np.concatenate(list(apart.state.memory.values())), whole.state.memory, rtol=1e-15)
