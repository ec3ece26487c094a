"""Linearly implicit Euler against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import MATRIX, MOMENTUM, START, as_vector, bowl_gradient, one_step

import odeopt
from odeopt import LinearlyImplicitEuler, State
from odeopt._objective import Tally

FRICTION = 0.7
TIGHT = LinearlyImplicitEuler(tolerance=1e-12)


def bowl_hessian(y):
    return MATRIX + 1.2 * np.diag(y**2)


@pytest.mark.parametrize("h", [0.01, 1.0, 100.0])
def test_a_step_of_gradient_flow_is_that_of_a_dense_solve(h):
    trial, *_ = one_step(TIGHT, odeopt.GradientFlow(), State(START), h=h)
    matrix = np.eye(3) + h * bowl_hessian(START)
    expected = START - np.linalg.solve(matrix, h * bowl_gradient(START))
    np.testing.assert_allclose(trial.state.position, expected, rtol=1e-9)


@pytest.mark.parametrize("h", [0.01, 1.0, 100.0])
def test_a_step_with_a_memory_is_that_of_a_dense_solve(h):
    trial, *_ = one_step(TIGHT, odeopt.HeavyBall(FRICTION), State(START, MOMENTUM), h=h)
    zero, one = np.zeros((3, 3)), np.eye(3)
    derivative = np.block([[zero, one], [-bowl_hessian(START), -FRICTION * one]])
    field = np.concatenate([MOMENTUM, -FRICTION * MOMENTUM - bowl_gradient(START)])
    expected = np.concatenate([START, MOMENTUM]) + np.linalg.solve(np.eye(6) - h * derivative, h * field)
    np.testing.assert_allclose(as_vector(trial.state), expected, rtol=1e-8, atol=1e-9)


def test_a_very_long_step_of_gradient_flow_is_newtons():
    trial, *_ = one_step(TIGHT, odeopt.GradientFlow(), State(START), h=1e9)
    newton = START - np.linalg.solve(bowl_hessian(START), bowl_gradient(START))
    np.testing.assert_allclose(trial.state.position, newton, rtol=1e-6)


class Fading(odeopt.AbstractFlow):
    """Gradient flow on a clock that runs unevenly."""

    def init(self, params):
        return State(params)

    def vector_field(self, t, state, oracle):
        return State(-(1 + jnp.sin(3 * t)) * oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value


@pytest.mark.parametrize("flow", [odeopt.GradientFlow(), Fading()], ids=lambda flow: type(flow).__name__)
def test_the_order_is_one(flow):
    result = odeopt.convergence_order(flow, LinearlyImplicitEuler(tolerance=1e-8))
    assert result.passed, str(result)
    assert abs(result.order - 1) < 0.2, str(result)


def stiff(y, curvatures):
    return 0.5 * jnp.sum(curvatures * y**2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_steps_far_beyond_the_limit_of_explicit_schemes_damp_every_direction(dtype):
    """The longest stable step of explicit Euler is a five thousandth of this one."""
    curvatures, h = jnp.geomspace(1.0, 1e6, 50, dtype=dtype), 1e-2
    solver = odeopt.Solver(odeopt.GradientFlow(), LinearlyImplicitEuler(), odeopt.ConstantStep(h))
    solution = odeopt.minimise(stiff, solver, jnp.ones(50, dtype), curvatures, max_steps=5, throw=False)
    losses = np.asarray(solution.history.loss)
    assert losses.dtype == dtype
    L = np.asarray(curvatures, np.float64)
    exact = [0.5 * np.sum(L / (1 + h * L) ** (2 * k)) for k in range(1, 6)]
    # Within the tolerance of the solve the first steps leave some of the fast directions, which the next ones take.
    assert np.all(np.diff(losses) < 0)
    assert losses[-1] < 1.5 * exact[-1]


def iterations_of_conjugate_gradients(matrix, right, tolerance):
    """Hestenes and Stiefel's method in NumPy; it ends when the residual and the last change are small."""
    x, r = np.zeros_like(right), right.copy()
    p, count, change = r.copy(), 0, np.inf
    while np.linalg.norm(r) > tolerance or change > tolerance:
        a = r @ r / (p @ matrix @ p)
        x, change = x + a * p, abs(a) * np.linalg.norm(p)
        count += 1
        # Every tenth residual is computed anew.
        new = right - matrix @ x if count % 10 == 0 else r - a * matrix @ p
        p, r = new + (new @ new) / (r @ r) * p, new
    return count


@pytest.mark.exact
@pytest.mark.parametrize("h", [0.01, 1.0, 30.0])
def test_every_product_with_the_derivative_is_counted(h):
    curvatures = jnp.geomspace(1.0, 1e3, 60)
    fn = lambda y, args: stiff(y, curvatures)  # noqa: E731
    scheme = LinearlyImplicitEuler(tolerance=1e-4)
    _, tally, gradients = one_step(scheme, odeopt.GradientFlow(), State(np.ones(60)), h=h, fn=fn)
    right = np.asarray(curvatures) / np.linalg.norm(curvatures)
    count = iterations_of_conjugate_gradients(np.diag(1 + h * np.asarray(curvatures)), right, 1e-4)
    # The linearisation, the first residual, and every tenth residual anew.
    assert int(gradients) == 1 + 1 + count + count // 10
    assert int(tally.values) - 1 == int(gradients)
    assert count > 2


def test_products_of_gmres_are_counted_in_whole_cycles():
    _, _, gradients = one_step(LinearlyImplicitEuler(), odeopt.HeavyBall(FRICTION), State(START, MOMENTUM), h=1.0)
    # A cycle for six numbers: six products and a residual.
    assert (int(gradients) - 2) % 7 == 0
    assert int(gradients) > 2


def test_a_solve_that_does_not_converge_is_not_finite_and_the_run_shortens_its_steps():
    scheme = LinearlyImplicitEuler(max_iterations=4)
    curvatures = jnp.geomspace(1.0, 1e4, 30)
    trial, *_ = one_step(
        scheme, odeopt.GradientFlow(), State(np.ones(30)), h=10.0, fn=lambda y, args: stiff(y, curvatures)
    )
    assert np.all(np.isnan(trial.state.position))
    solver = odeopt.Solver(odeopt.GradientFlow(), scheme, odeopt.LyapunovControl(initial_step_size=10.0))
    solution = odeopt.minimise(stiff, solver, jnp.ones(30), curvatures, max_steps=60, throw=False)
    assert int(solution.stats["rejected"]) > 0 < int(solution.stats["accepted"])


@pytest.mark.parametrize("flow", [odeopt.GradientFlow(), odeopt.HeavyBall(FRICTION)], ids=lambda f: type(f).__name__)
def test_at_an_equilibrium_nothing_moves(flow):
    state = flow.init(jnp.zeros(3))
    trial, *_ = one_step(LinearlyImplicitEuler(), flow, state, h=1.0)
    np.testing.assert_array_equal(as_vector(trial.state), 0.0)


def test_lanes_step_as_each_alone():
    def step(h):
        oracle = odeopt.Oracle(odeopt.Objective(stiff, jnp.array([1.0, 10.0, 1e3])), jnp.ones(3), Tally())
        return TIGHT.step(odeopt.GradientFlow(), jnp.asarray(0.0), h, State(jnp.ones(3)), oracle).state.position

    lengths = jnp.array([1e-3, 1.0, 1e3])
    lanes = jax.jit(jax.vmap(step))(lengths)
    expected = 1 / (1 + lengths[:, None] * jnp.array([1.0, 10.0, 1e3]))
    np.testing.assert_allclose(lanes, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("as_installed")
def test_arguments_out_of_range_are_refused():
    for tolerance in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="expected 0 < tolerance < 1"):
            LinearlyImplicitEuler(tolerance=tolerance)
    for name in ("max_iterations", "restart"):
        for value in (0, 2.5):
            with pytest.raises(ValueError, match=rf"{name}={value}\): expected a whole number >= 1"):
                LinearlyImplicitEuler(**{name: value})
