"""At a constant step the solvers are optimizers and integrators that others have written down."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import FLOWS, PROBLEMS, SCHEMES, alternating

import odeopt
from odeopt._objective import Tally

STEPS = 60
# Two programs for one formula differ by some units of rounding (2.2e-16) a step. All runs here contract or nearly
# do, so that the differences add up and do not multiply: 60 steps of up to 50 units.
AGREEMENT = 1e-12

MATRIX = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
START = np.array([1.0, -2.0, 0.7])


def bowl(y, args):
    """Convex, not quadratic."""
    return 0.5 * y @ MATRIX @ y + 0.1 * jnp.sum(y**4)


def bowl_gradient(y):
    return MATRIX @ y + 0.4 * y**3


def path(solver, start=START, fn=bowl, steps=STEPS):
    """The positions after each step of the library's own loop."""
    solution = odeopt.minimise(
        fn, solver, jnp.asarray(start), stop=odeopt.Stop(), max_steps=steps, history="states", throw=False
    )
    assert int(solution.stats["accepted"]) == steps
    return np.asarray(solution.history.position)


@pytest.mark.parametrize("friction", [0.5, 2.0])
def test_heavy_ball_with_semi_implicit_euler_is_the_published_scheme(friction):
    """v+ = (1 - b h) v + h g, theta+ = theta - h v+."""
    h, theta, v, rows = 0.15, START.copy(), np.zeros(3), []
    for _ in range(STEPS):
        v = (1 - friction * h) * v + h * bowl_gradient(theta)
        theta = theta - h * v
        rows.append(theta)
    solver = odeopt.Solver(odeopt.HeavyBall(friction), odeopt.SemiImplicitEuler(), odeopt.ConstantStep(h))
    np.testing.assert_allclose(path(solver), rows, rtol=AGREEMENT, atol=AGREEMENT)


def test_adam_with_exponential_euler_is_adam_without_bias_correction():
    h, a, b, e = 0.02, 4.0, 1.5, 0.05
    beta1, beta2 = np.exp(-a * h), np.exp(-b * h)
    x, m, v, rows = START.copy(), np.zeros(3), np.zeros(3), []
    for _ in range(STEPS):
        g = bowl_gradient(x)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        x = x - h * m / np.sqrt(v + e**2)  # eps = 0, eps_root = e**2
        rows.append(x)
    flow = odeopt.Adam(momentum_rate=a, scaling_rate=b, epsilon=e)
    solver = odeopt.Solver(flow, odeopt.ExponentialEuler(), odeopt.ConstantStep(h))
    np.testing.assert_allclose(path(solver), rows, rtol=AGREEMENT, atol=AGREEMENT)


class Clocked(odeopt.AbstractFlow):
    """A field with explicit time, so that the nodes of a tableau matter, and with a memory of two blocks."""

    def init(self, params):
        return odeopt.State(params, (params * 0.3, params**2))

    def vector_field(self, t, state, oracle):
        u, w = state.memory
        return odeopt.State(u - oracle.gradient * jnp.cos(t), (-u - t * w, jnp.sin(t) * state.position - w))

    def energy(self, t, state, oracle):
        return oracle.value


def plain_field(t, y, args):
    """The same field for diffrax, without an oracle."""
    x, (u, w) = y
    return u - jax.grad(bowl)(x, None) * jnp.cos(t), (-u - t * w, jnp.sin(t) * x - w)


def one_step(scheme, t, h):
    flow = Clocked()
    state = flow.init(jnp.asarray(START))
    oracle = odeopt.Oracle(odeopt.Objective(bowl), state.position, Tally())
    oracle.gradient  # noqa: B018  the loop has it already when it takes a step
    trial = scheme.step(flow, jnp.asarray(t), jnp.asarray(h), state, oracle)
    return (state.position, state.memory), trial


def as_vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


DIFFRAX = {
    "Euler": diffrax.Euler,
    "Heun": diffrax.Heun,
    "Midpoint": diffrax.Midpoint,
    "Ralston": diffrax.Ralston,
    "Bosh3": diffrax.Bosh3,
    "Dopri5": diffrax.Dopri5,
    "Tsit5": diffrax.Tsit5,
}


def diffrax_step(name, t, h, start):
    solver, term = DIFFRAX[name](), diffrax.ODETerm(plain_field)
    state = solver.init(term, t, t + h, start, None)
    return solver.step(term, jnp.asarray(t), jnp.asarray(t + h), start, None, state, made_jump=False)[:2]


@pytest.mark.parametrize("name", DIFFRAX)
def test_a_step_is_that_of_diffrax(name):
    start, trial = one_step(SCHEMES[name](), 0.4, 0.1)
    truth, _ = diffrax_step(name, 0.4, 0.1, start)
    ours = as_vector((trial.state.position, trial.state.memory))
    np.testing.assert_allclose(ours, as_vector(truth), rtol=AGREEMENT)


@pytest.mark.parametrize("name", [name for name in DIFFRAX if name != "Euler"])
def test_the_error_estimate_is_that_of_diffrax(name):
    start, trial = one_step(SCHEMES[name](), 0.4, 0.1)
    _, truth = diffrax_step(name, 0.4, 0.1, start)
    estimate = trial.error()
    # The estimate is a difference of slopes of size 3, times h: rounding is relative to those and not to it.
    np.testing.assert_allclose(as_vector((estimate.position, estimate.memory)), as_vector(truth), atol=1e-15)


def test_a_scheme_without_an_embedded_method_has_no_error_estimate():
    assert [one_step(SCHEMES[name](), 0.0, 0.1)[1].error for name in ("RK4", "SemiImplicitEuler")] == [None, None]


def test_rk4_is_the_classical_method():
    start, trial = one_step(odeopt.RK4(), 0.4, 0.1)
    shifted = lambda k, c: jax.tree.map(lambda y, k: y + c * 0.1 * k, start, k)  # noqa: E731
    k1 = plain_field(0.4, start, None)
    k2 = plain_field(0.45, shifted(k1, 0.5), None)
    k3 = plain_field(0.45, shifted(k2, 0.5), None)
    k4 = plain_field(0.5, shifted(k3, 1.0), None)
    truth = jax.tree.map(lambda y, a, b, c, d: y + 0.1 / 6 * (a + 2 * b + 2 * c + d), start, k1, k2, k3, k4)
    ours = as_vector((trial.state.position, trial.state.memory))
    np.testing.assert_allclose(ours, as_vector(truth), rtol=AGREEMENT)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_step_costs_the_gradients_that_its_scheme_declares(name):
    flow, problem, tally = FLOWS["gradient flow"].make(), PROBLEMS["two"], Tally()
    state, scheme = flow.init(problem.y0()), SCHEMES[name]()
    oracle = odeopt.Oracle(odeopt.Objective(problem.fn), state.position, tally)
    trial = scheme.step(flow, jnp.asarray(0.0), jnp.asarray(0.1), state, oracle)
    assert tally.gradients == scheme.gradients_per_step + int(getattr(scheme, "last_stage_is_end", False))
    trial.oracle.gradient  # noqa: B018  the next step's first stage, free where the last stage stands there
    assert tally.gradients == scheme.gradients_per_step + 1


@pytest.mark.parametrize("name", alternating(SCHEMES))
def test_the_error_of_a_scheme_falls_with_the_order_it_declares(name):
    """Measured on a heavy ball in a parabola, whose motion is known in closed form."""
    a, end_time = 0.6, 2.0
    w = np.sqrt(1 - a**2 / 4)
    fall, cosine, sine = np.exp(-a * end_time / 2), np.cos(w * end_time), np.sin(w * end_time)
    truth = np.array([fall * (cosine + a / (2 * w) * sine), -fall * sine / w])
    errors = []
    for h in (0.05, 0.025):
        solver = odeopt.Solver(odeopt.HeavyBall(a), SCHEMES[name](), odeopt.ConstantStep(h))
        solution = odeopt.minimise(
            lambda y, args: 0.5 * jnp.sum(y**2),
            solver,
            jnp.ones(1),
            stop=odeopt.Stop(),
            max_steps=round(end_time / h),
            history=None,
            throw=False,
        )
        state = solution.state.run.snapshot.state
        # Position and velocity: the error of either alone passes through zero somewhere along the oscillation.
        errors.append(np.linalg.norm(as_vector((state.position, state.memory)) - truth))
    # The next term of the error changes the measured order by about h = 0.05; orders differ by 1.
    assert abs(np.log2(errors[0] / errors[1]) - SCHEMES[name]().order) < 0.3
