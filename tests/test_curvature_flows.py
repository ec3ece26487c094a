"""Flows along directions that second derivatives make, against linear algebra by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import odeopt
from odeopt._objective import Tally

EPS = np.finfo(np.float64).eps
ONE_STEP = odeopt.ConstantStep(1.0)


def affine(rows, columns, rank=None, seed=0):
    """A matrix of given rank and a vector."""
    random = np.random.default_rng(seed)
    rank = min(rows, columns) if rank is None else rank
    return random.normal(size=(rows, rank)) @ random.normal(size=(rank, columns)), random.normal(size=rows)


def oracle_of(fn, point):
    objective = fn if isinstance(fn, odeopt.AbstractObjective) else odeopt.Objective(fn)
    return odeopt.Oracle(objective, jnp.asarray(point), Tally())


def rosenbrock(y, _=None):
    return (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2


ROSENBROCK = odeopt.LeastSquares(lambda y, _: jnp.stack([1 - y[0], 10 * (y[1] - y[0] ** 2)]))


@pytest.mark.parametrize(
    ("rows", "columns", "rank"), [(7, 4, None), (3, 6, None), (6, 5, 3)], ids=["tall", "wide", "rank lost"]
)
def test_gauss_newton_makes_the_step_of_numpys_least_squares(rows, columns, rank):
    matrix, target = affine(rows, columns, rank)
    misfit = odeopt.LeastSquares(lambda y, _: matrix @ y - target)
    start = np.linspace(-1.0, 1.0, columns)
    expected = start + np.linalg.lstsq(matrix, target - matrix @ start, rcond=None)[0]
    flow = odeopt.GaussNewton()
    solution = odeopt.minimise(
        misfit, odeopt.Solver(flow, odeopt.Euler(), ONE_STEP), jnp.asarray(start), max_steps=1, throw=False
    )
    np.testing.assert_allclose(solution.value, expected, rtol=1e-10, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), damping=st.floats(1e-6, 1e3))
@settings(max_examples=20, deadline=None)
def test_damping_adds_to_the_normal_equations(seed, damping):
    matrix, target = affine(5, 3, seed=seed)
    misfit = odeopt.LeastSquares(lambda y, _: matrix @ y - target)
    expected = np.linalg.solve(matrix.T @ matrix + damping * np.eye(3), matrix.T @ target)
    found = odeopt.GaussNewton(regularisation=damping).direction(oracle_of(misfit, np.zeros(3)))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10 * np.linalg.norm(expected))


def test_residuals_decay_as_fast_as_each_other():
    """With as many parameters as residuals r' = -r, whatever the curvatures."""
    misfit = odeopt.LeastSquares(lambda y, _: jnp.stack([y[0] + 0.3 * y[1] ** 3, 50 * (y[1] + jnp.sin(y[0]))]))
    start = jnp.array([0.8, -0.5])
    solver = odeopt.Solver(odeopt.GaussNewton(), odeopt.Tsit5(), odeopt.ConstantStep(0.01))
    solution = odeopt.minimise(misfit, solver, start, max_steps=200, stop=odeopt.Stop(gradient_norm=0.0), throw=False)
    first, last = misfit.residuals(start), misfit.residuals(solution.value)
    np.testing.assert_allclose(last, np.exp(-2.0) * first, rtol=1e-8)


def test_newton_turns_around_at_negative_curvature():
    curvatures = np.array([3.0, -0.5, 20.0])
    turned, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    matrix = turned @ np.diag(curvatures) @ turned.T
    point = np.array([0.3, -1.0, 0.7])
    expected = -turned @ ((turned.T @ (matrix @ point)) / np.abs(curvatures))
    flow = odeopt.Newton(regularisation=0.0)
    found = flow.direction(oracle_of(lambda y, _: 0.5 * y @ matrix @ y, point))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_regularisation_adds_the_root_of_the_gradient():
    curvatures, point = np.array([1.0, 4.0]), np.array([2.0, 1.0])
    gradient = curvatures * point
    expected = -gradient / (curvatures + np.sqrt(0.7 * np.linalg.norm(gradient)))
    fn = lambda y, _: 0.5 * jnp.sum(curvatures * y**2)  # noqa: E731
    np.testing.assert_allclose(odeopt.Newton(regularisation=0.7).direction(oracle_of(fn, point)), expected, rtol=1e-12)


def test_a_curvature_below_the_floor_is_the_floor():
    curvatures = np.array([1e-12, 1.0])
    found = odeopt.Newton(regularisation=0.0, floor=0.01).direction(
        oracle_of(lambda y, _: 0.5 * jnp.sum(curvatures * y**2), np.ones(2))
    )
    np.testing.assert_allclose(found, [-1e-10, -1.0], rtol=1e-12)


def test_on_a_plane_newton_goes_along_the_gradient():
    slope = np.array([1.0, -2.0])
    for flow in (odeopt.Newton(regularisation=0.0), odeopt.NewtonCG(slope=1.0)):
        found = flow.direction(oracle_of(lambda y, _: jnp.vdot(slope, y), np.zeros(2)))
        np.testing.assert_allclose(found, -slope)


def test_newton_is_newtons_method_where_the_objective_is_convex():
    fn = lambda y, _: jnp.sum(jnp.cosh(jnp.array([1.0, 2.0, 0.5]) * y)) + 0.1 * jnp.sum(y) ** 2  # noqa: E731
    flow = odeopt.Newton(regularisation=0.0)
    y = jnp.array([0.5, -0.2, 0.9])
    solution = odeopt.minimise(fn, odeopt.Solver(flow, odeopt.Euler(), ONE_STEP), y, max_steps=3, throw=False)
    for _ in range(3):
        y = y - jnp.linalg.solve(jax.hessian(fn)(y, None), jax.grad(fn)(y, None))
    np.testing.assert_allclose(solution.state.run.snapshot.state.position, y, rtol=1e-10, atol=1e-14)


def conjugate_gradients(matrix, gradient, fraction, products):
    """The direction of truncated Newton and how many products it took, by the textbook."""
    solution, residual, search = np.zeros_like(gradient), gradient.copy(), -gradient
    for made in range(1, products + 1):
        image = matrix @ search
        curvature = search @ image
        length = residual @ residual / abs(curvature)
        solution = solution + length * search
        after = residual + length * image
        if curvature <= 0 or np.linalg.norm(after) <= fraction * np.linalg.norm(gradient):
            return solution, made
        search = -after + (after @ after) / (residual @ residual) * search
        residual = after
    return solution, products


@given(seed=st.integers(0, 2**32 - 1), indefinite=st.booleans())
@settings(max_examples=25, deadline=None)
def test_newton_cg_is_truncated_newton_and_counts_its_products(seed, indefinite):
    random = np.random.default_rng(seed)
    curvatures = random.uniform(0.5, 20, 8)
    if indefinite:
        curvatures[:3] *= -1
    turned, _ = np.linalg.qr(random.normal(size=(8, 8)))
    matrix, point = turned @ np.diag(curvatures) @ turned.T, random.normal(size=8)
    gradient = matrix @ point
    size = np.linalg.norm(gradient)
    oracle = oracle_of(lambda y, _: 0.5 * y @ matrix @ y, point)
    # A tolerance of 1e-2: the root of the gradient over the slope.
    found = odeopt.NewtonCG(slope=1e4 * size).direction(oracle)
    expected, made = conjugate_gradients(matrix, gradient, 1e-2, 200)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * np.linalg.norm(expected))
    assert found @ gradient < 0
    # The gradient itself was one value and one gradient, and each product two of both.
    assert (int(oracle._tally.values), int(oracle._tally.gradients)) == (1 + 2 * made, 1 + 2 * made)


def test_products_inside_a_decision_are_counted():
    """How many products a direction takes is known at run time only, in a branch of the loop."""
    flow = odeopt.NewtonCG(slope=10.0)
    solution = odeopt.minimise(rosenbrock, odeopt.Solver(flow), jnp.array([-1.2, 1.0]), history="states")
    history = solution.history.trimmed()
    products = 0
    for point in [np.array([-1.2, 1.0]), *np.asarray(history.position)]:
        gradient = jax.grad(rosenbrock)(jnp.asarray(point))
        fraction = min(0.5, np.sqrt(np.linalg.norm(gradient) / 10.0))
        products += conjugate_gradients(
            np.asarray(jax.hessian(rosenbrock)(point)), np.asarray(gradient), fraction, 200
        )[1]
    accepted, rejected = int(solution.stats["accepted"]), int(solution.stats["rejected"])
    assert int(solution.stats["gradients"]) == accepted + 1 + 2 * products
    assert int(solution.stats["values"]) == accepted + 1 + rejected + 2 * products


@pytest.mark.parametrize(
    "flow", [odeopt.GaussNewton(), odeopt.NaturalGradient(ROSENBROCK)], ids=lambda f: type(f).__name__
)
def test_what_a_direction_takes_is_paid_once_at_every_point(flow):
    solution = odeopt.minimise(ROSENBROCK, odeopt.Solver(flow), jnp.array([-1.2, 1.0]))
    accepted, rejected = int(solution.stats["accepted"]), int(solution.stats["rejected"])
    assert rejected > 0
    # Two columns and the residuals for a Jacobian, beside the value of every trial.
    assert int(solution.stats["values"]) == accepted + 1 + rejected + 3 * (accepted + 1)
    assert int(solution.stats["gradients"]) == accepted + 1


def test_a_metric_of_residuals_is_the_metric_of_their_jacobian():
    matrix, _ = affine(6, 3)
    metric = odeopt.LeastSquares(lambda y, _: matrix @ jnp.sinh(y))
    point, covector = jnp.array([0.2, -0.4, 0.6]), jnp.array([1.0, 2.0, -0.5])
    jacobian = matrix * np.cosh(np.asarray(point))
    oracle = oracle_of(lambda y, _: jnp.sum(y**2), point)
    for damping in (0.0, 0.3):
        expected = np.linalg.solve(jacobian.T @ jacobian + damping * np.eye(3), covector)
        flow = odeopt.NaturalGradient(metric, regularisation=damping)
        found = flow.inverse_metric(jnp.zeros(()), flow.init(point), oracle, covector)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_damped_metric_is_inverted_beyond_its_range_too():
    metric = odeopt.LeastSquares(lambda y, _: 2 * y[:1])
    flow = odeopt.NaturalGradient(metric, regularisation=0.5)
    oracle = oracle_of(lambda y, _: jnp.sum(y**2), jnp.zeros(3))
    found = flow.inverse_metric(jnp.zeros(()), flow.init(jnp.zeros(3)), oracle, jnp.array([1.0, 1.0, -2.0]))
    np.testing.assert_allclose(found, [1 / 4.5, 2.0, -4.0], rtol=1e-12)


class SineSeries(eqx.Module):
    """A function that vanishes at 0 and 1; the numbers of its waves are not trained."""

    amplitudes: jax.Array
    waves: np.ndarray = eqx.field(converter=np.asarray)

    def __call__(self, x):
        return jnp.sum(self.amplitudes * jnp.sin(jnp.pi * self.waves * x))


def test_the_energy_natural_gradient_solves_a_linear_variational_problem_in_one_step():
    """-u'' = 1 with u(0) = u(1) = 0 from its energy, in the metric of the derivative; exact: x (1 - x) / 2."""
    x = (jnp.arange(200) + 0.5) / 200

    def slope(u, x):
        return jax.grad(u)(x)

    def energy(u, x):
        return jnp.mean(0.5 * jax.vmap(jax.grad(u))(x) ** 2 - jax.vmap(u)(x))

    metric = odeopt.LeastSquares(slope, x, per_sample=True, reduction="mean", weight=0.5)
    start = SineSeries(jnp.ones(20), np.arange(1, 21))
    solution = odeopt.minimise(energy, odeopt.Solver(odeopt.NaturalGradient(metric)), start, x)
    assert int(solution.stats["accepted"]) == 1
    # The amplitudes of the exact solution are those of its Fourier series; the midpoint rule sees them to its error.
    waves = np.arange(1, 21)
    exact = 2 * (1 - (-1.0) ** waves) / (np.pi * waves) ** 3
    np.testing.assert_allclose(solution.value.amplitudes, exact, atol=1e-4)


@pytest.mark.parametrize("flow", [odeopt.GaussNewton, odeopt.Newton, odeopt.NewtonCG], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_directions_keep_the_dtype_and_end_with_a_reason(flow, dtype):
    stop = odeopt.Stop(gradient_norm=0.0)
    solution = odeopt.minimise(
        ROSENBROCK, odeopt.Solver(flow()), jnp.array([-1.2, 1.0], dtype), stop=stop, max_steps=200, throw=False
    )
    assert solution.value.dtype == dtype
    assert solution.loss <= 100 * float(jnp.finfo(dtype).eps) ** 2
    assert solution.result != odeopt.RESULTS.max_steps_reached


@pytest.mark.parametrize("flow", [odeopt.GaussNewton, odeopt.Newton, odeopt.NewtonCG], ids=lambda f: f.__name__)
def test_at_a_minimum_nothing_moves(flow):
    solution = odeopt.minimise(ROSENBROCK, odeopt.Solver(flow()), jnp.ones(2))
    assert int(solution.stats["accepted"]) == 0
    np.testing.assert_array_equal(solution.value, jnp.ones(2))


def test_residuals_are_asked_for_before_anything_runs():
    with pytest.raises(TypeError, match=r"the residuals are needed here, and the objective \(Objective\) has none"):
        odeopt.minimise(rosenbrock, odeopt.Solver(odeopt.GaussNewton()), jnp.ones(2))
    flow = odeopt.L2Regularised(odeopt.GaussNewton(), 0.1)
    with pytest.raises(TypeError, match="Add the penalty as residuals"):
        odeopt.minimise(ROSENBROCK, odeopt.Solver(flow), jnp.ones(2))


@pytest.mark.parametrize(
    "flow",
    [odeopt.Newton(regularisation=0.0), odeopt.NewtonCG(slope=1e20), odeopt.GaussNewton()],
    ids=lambda f: type(f).__name__,
)
def test_a_group_of_parameters_may_have_curvature_of_its_own(flow):
    """Both groups on the block of the second derivative that belongs to them."""
    fn = odeopt.LeastSquares(lambda y, _: (jnp.array([1.0, 30.0]) * y["a"] - 1, jnp.array([5.0, 0.2]) * y["b"] + 1))
    solver = odeopt.Solver(odeopt.PerGroup([("a", flow), ("b", odeopt.GradientFlow())]), odeopt.Euler(), ONE_STEP)
    start = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    solution = odeopt.minimise(fn, solver, start, max_steps=1, throw=False)
    after = solution.state.run.snapshot.state.position
    np.testing.assert_allclose(after["a"], [1.0, 1 / 30], rtol=1e-9)
    np.testing.assert_allclose(after["b"], [-5.0, -0.2], rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: odeopt.GaussNewton(regularisation=-1.0),
            r"GaussNewton\(regularisation=-1.0\): expected a finite number >= 0",
        ),
        (lambda: odeopt.Newton(regularisation=-1.0), r"Newton\(regularisation=-1.0\)"),
        (lambda: odeopt.Newton(floor=1.0), r"Newton\(floor=1.0\): expected a number below 1 and >= 0"),
        (lambda: odeopt.NewtonCG(slope=0.0), r"NewtonCG\(slope=0.0\)"),
        (lambda: odeopt.NewtonCG(max_products=0), r"NewtonCG\(max_products=0\)"),
        (lambda: odeopt.NaturalGradient(ROSENBROCK, regularisation=-1.0), r"NaturalGradient\(regularisation=-1.0\)"),
    ],
)
def test_constants_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_solver_that_is_none_of_lineax_is_refused(as_installed):
    with pytest.raises(TypeError, match=r"NaturalGradient\(linear_solver='cg'\): expected a solver of lineax"):
        odeopt.NaturalGradient(ROSENBROCK, linear_solver="cg")
