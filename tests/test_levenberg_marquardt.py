"""Levenberg and Marquardt's step and the control of its damping, against linear algebra and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

import odeopt
from odeopt._objective import Tally

RANDOM = np.random.default_rng(0)
MATRIX, RIGHT, START = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=5), RANDOM.normal(size=3)
TIMES = np.linspace(0.0, 4.0, 30)
OBSERVED = 2.0 * np.exp(-1.3 * TIMES) + 0.5 * np.exp(-0.2 * TIMES) + 0.01 * np.cos(9 * TIMES)


def affine(matrix, right):
    """The residuals A y - b."""
    return odeopt.LeastSquares(lambda y, data: data[0] @ y - data[1], (jnp.asarray(matrix), jnp.asarray(right)))


def decays(y, sample):
    return y[0] * jnp.exp(-y[1] * sample[0]) + y[2] * jnp.exp(-y[3] * sample[0]) - sample[1]


DECAYS = odeopt.LeastSquares(decays, (jnp.asarray(TIMES), jnp.asarray(OBSERVED)), per_sample=True)


def solver(control=None, **options):
    return odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt(**options), control)


def fixed(step_size):
    return odeopt.ConstantStep(step_size)


def run(objective, made, start, **options):
    return odeopt.minimise(objective, made, jnp.asarray(start), **({"throw": False} | options))


def steps(objective, made, start, count):
    return np.asarray(run(objective, made, start, max_steps=count, history="states").history.trimmed().position)


# More residuals than parameters, as many, and fewer: the last is solved in the space of residuals.
@pytest.mark.parametrize("rows", [5, 3, 2])
@pytest.mark.parametrize("linear_solver", ["cholesky", "qr"])
def test_a_step_on_affine_residuals_is_implicit_eulers(rows, linear_solver):
    matrix, right, h = MATRIX[:rows], RIGHT[:rows], 0.7
    end = np.linalg.solve(np.eye(3) + h * matrix.T @ matrix, START + h * matrix.T @ right)
    made = solver(fixed(h), scaling="none", linear_solver=linear_solver)
    np.testing.assert_allclose(steps(affine(matrix, right), made, START, 1)[0], end, rtol=1e-12)


def test_in_units_of_the_columns_the_damping_is_marquardts():
    h, columns = 0.7, np.linalg.norm(MATRIX, axis=0)
    damped = MATRIX.T @ MATRIX + np.diag(columns**2) / h
    end = START - np.linalg.solve(damped, MATRIX.T @ (MATRIX @ START - RIGHT))
    np.testing.assert_allclose(steps(affine(MATRIX, RIGHT), solver(fixed(h)), START, 1)[0], end, rtol=1e-12)


def test_a_parameter_keeps_the_largest_unit_that_it_has_had():
    h, y, unit = 2.0, 1.0, 0.0
    path = steps(odeopt.LeastSquares(lambda y, _: y**2), solver(fixed(h), geodesic=False), [y], 3)[:, 0]
    for taken in path:
        # The column of the Jacobian is 2 y, and becomes smaller.
        unit = max(unit, 2 * y)
        y = y - 2 * y**3 / (4 * y**2 + unit**2 / h)
        np.testing.assert_allclose(taken, y, rtol=1e-12)


def test_it_is_of_first_order_on_gradient_flow():
    start, time = np.array([1.0, 1.0, 1.0, 0.1]), 0.064

    def field(t, y):
        first, second = np.exp(-y[1] * TIMES), np.exp(-y[3] * TIMES)
        residuals = y[0] * first + y[2] * second - OBSERVED
        return -np.stack([first, -y[0] * TIMES * first, second, -y[2] * TIMES * second]) @ residuals

    exact = scipy.integrate.solve_ivp(field, (0, time), start, rtol=1e-12, atol=1e-13).y[:, -1]
    counts = np.array([16, 32, 64])
    ends = [steps(DECAYS, solver(fixed(time / n), scaling="none"), start, int(n))[-1] for n in counts]
    errors = [np.linalg.norm(end - exact) for end in ends]
    orders = np.log2(errors[:-1]) - np.log2(errors[1:])
    assert abs(orders[-1] - 1) < 0.1, orders


def test_the_second_order_correction_is_that_of_the_expansion():
    h, y = 0.3, np.array([0.8, -0.6])
    misfit = odeopt.LeastSquares(lambda y, _: jnp.stack([y[0] ** 2 + y[1], y[0] * y[1] - 1, y[1] ** 2]))
    r = np.array([y[0] ** 2 + y[1], y[0] * y[1] - 1, y[1] ** 2])
    jacobian = np.array([[2 * y[0], 1.0], [y[1], y[0]], [0.0, 2 * y[1]]])
    damped = jacobian.T @ jacobian + np.eye(2) / h
    d = -np.linalg.solve(damped, jacobian.T @ r)
    second = np.array([2 * d[0] ** 2, 2 * d[0] * d[1], 2 * d[1] ** 2])
    correction = -0.5 * np.linalg.solve(damped, jacobian.T @ second)
    assert np.linalg.norm(correction) < 0.375 * np.linalg.norm(d)
    taken = steps(misfit, solver(fixed(h), scaling="none", geodesic=True), y, 1)
    np.testing.assert_allclose(taken[0], y + d + correction, rtol=1e-10)


@pytest.mark.parametrize("geodesic", [False, True])
def test_it_finds_the_fit_that_scipy_finds(geodesic):
    def residuals(y):
        return y[0] * np.exp(-y[1] * TIMES) + y[2] * np.exp(-y[3] * TIMES) - OBSERVED

    start = [1.0, 3.0, 1.0, 0.01]
    peer = scipy.optimize.least_squares(residuals, start, method="lm", ftol=1e-14, xtol=1e-14, gtol=1e-14)
    solution = run(DECAYS, solver(geodesic=geodesic), start, stop=odeopt.Stop(gradient_norm=1e-9))
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    np.testing.assert_allclose(solution.value, peer.x, rtol=1e-6)
    loss = np.asarray(solution.history.trimmed().loss)
    assert np.all(np.diff(loss) <= 1e-15)


def test_the_units_of_the_parameters_do_not_matter():
    # Powers of two change no rounding.
    units = jnp.array([2.0**10, 2.0**-7, 2.0**3, 2.0**-20])
    scaled = odeopt.LeastSquares(lambda y, sample: decays(y * units, sample), DECAYS.args, per_sample=True)
    start = np.array([1.0, 3.0, 1.0, 0.01])
    plain = steps(DECAYS, solver(), start, 10)
    np.testing.assert_allclose(steps(scaled, solver(), start / np.asarray(units), 10) * units, plain, rtol=1e-12)


@pytest.mark.parametrize("rows", [5, 2])
def test_without_a_matrix_a_step_is_the_same_to_two_digits(rows):
    matrix, right, h = MATRIX[:rows], RIGHT[:rows], 3.0
    exact = np.linalg.solve(np.eye(3) + h * matrix.T @ matrix, START + h * matrix.T @ right) - START
    made = solver(fixed(h), scaling="none", linear_solver="cg", geodesic=False)
    taken = steps(affine(matrix, right), made, START, 1)[0] - START
    system = np.eye(3) + h * matrix.T @ matrix
    # What conjugate gradients promise is the residual, and not the error.
    left, whole = system @ (taken - exact), system @ exact
    assert 0 <= np.linalg.norm(left) <= 1e-2 * np.linalg.norm(whole)


@pytest.mark.parametrize("geodesic", [True, False])
@pytest.mark.parametrize("scaling", ["columns", "none"])
def test_without_a_matrix_it_finds_the_same_fit(geodesic, scaling):
    start = [1.0, 3.0, 1.0, 0.01]
    stop = odeopt.Stop(gradient_norm=1e-9)
    made = solver(scaling=scaling, geodesic=geodesic, linear_solver="cg")
    solution = run(DECAYS, made, start, stop=stop, max_steps=3000)
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    np.testing.assert_allclose(solution.value, run(DECAYS, solver(), start, stop=stop).value, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_single_precision_keeps_the_digits_that_a_square_would_lose(shape):
    """The square of a singular value of 1e-4 is beneath the rounding unit of float32."""
    random = np.random.default_rng(1)
    left, right = (np.linalg.qr(random.normal(size=(size, 3)))[0] for size in shape)
    matrix = left @ np.diag([1.0, 0.3, 1e-4]) @ right.T
    data = jnp.asarray(matrix, jnp.float32), jnp.asarray(matrix @ (right @ np.ones(3)), jnp.float32)
    misfit = odeopt.LeastSquares(lambda y, data: data[0] @ y - data[1], data)
    found = {}
    for linear_solver in ("auto", "cholesky"):
        # Nothing is damped that counts.
        made = solver(fixed(1e12), scaling="none", geodesic=False, linear_solver=linear_solver)
        found[linear_solver] = run(misfit, made, jnp.zeros(shape[1], jnp.float32), max_steps=1).value
    assert found["auto"].dtype == jnp.float32
    # Of the smallest one three digits are known.
    np.testing.assert_allclose(right.T @ found["auto"], np.ones(3), rtol=1e-2)
    assert abs(right[:, 2] @ found["cholesky"] - 1) > 0.1


@pytest.mark.parametrize("geodesic", [True, False])
@pytest.mark.parametrize("linear_solver", ["cholesky", "qr"])
def test_both_ways_to_solve_find_the_same_fit_by_the_same_steps(geodesic, linear_solver):
    start = np.array([1.0, 3.0, 1.0, 0.01])
    made = solver(geodesic=geodesic, linear_solver=linear_solver)
    plain = steps(DECAYS, solver(geodesic=geodesic), start, 10)
    np.testing.assert_allclose(steps(DECAYS, made, start, 10), plain, rtol=1e-6)


def test_many_parameters_and_residuals_are_solved_without_a_matrix():
    """A blurred signal of 4000 points: the Jacobian alone would have 16 million entries."""
    size = 4000
    points = jnp.linspace(0.0, 1.0, size)
    signal = jnp.sin(7 * points) + (points > 0.5)

    def blurred(y):
        return 0.5 * y + 0.25 * (jnp.roll(y, 1) + jnp.roll(y, -1))

    misfit = odeopt.LeastSquares(lambda y, data: blurred(jnp.tanh(y) * 2) - blurred(data), signal)

    def largest(linear_solver):
        scheme = odeopt.LevenbergMarquardt(linear_solver=linear_solver)

        def kept(y):
            oracle = odeopt.Oracle(misfit, y, Tally())
            return scheme.init(odeopt.GradientFlow(), jnp.zeros(()), odeopt.State(y), oracle)

        return max(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(kept, points)))

    assert largest("auto") == size
    assert largest("cholesky") == size**2
    solution = run(misfit, solver(), jnp.zeros(size), max_steps=60)
    assert solution.loss < 1e-6 * misfit.value(jnp.zeros(size))


def test_products_without_a_matrix_are_counted():
    """On residuals whose curvature is one, conjugate gradients need one product."""
    misfit = odeopt.LeastSquares(lambda y, _: y - jnp.arange(4.0))
    solution = run(misfit, solver(fixed(1.0), linear_solver="cg", geodesic=False), jnp.ones(4), max_steps=1)
    # At the start a value and a gradient, and a product for the unit (two passes); then the linearisation, one product
    # for the first residual, one for the round, one for the promise, and the trial with its gradient.
    assert int(solution.stats["values"]) == (1 + 2) + (1 + 3) + 1
    assert int(solution.stats["gradients"]) == 1 + 3 + 1


def test_a_rejected_trial_makes_no_new_jacobian():
    # From here the first step of Gauss and Newton overshoots.
    misfit = odeopt.LeastSquares(lambda y, _: jnp.arctan(y))
    solution = run(misfit, solver(odeopt.TrustRegionControl(initial_step_size=1e6), geodesic=False), [3.0])
    accepted, rejected = int(solution.stats["accepted"]), int(solution.stats["rejected"])
    assert solution.result == odeopt.RESULTS.converged
    assert rejected > 0
    # One column: a Jacobian is two values, at the start and behind every step but the last; a trial is one value.
    assert int(solution.stats["values"]) == 1 + 2 * accepted + accepted + rejected
    assert int(solution.stats["gradients"]) == 1 + accepted


RANK_DEFICIENT = {
    "a parameter that nothing depends on": lambda y, _: (
        jnp.stack([y[0] - 1, y[1] ** 2 - 4, y[0] * y[1] - 2]) + 0 * y[2]
    ),
    "two parameters that are one": lambda y, _: jnp.stack([y[0] + y[1] - 3, (y[0] + y[1]) ** 2 - 9, y[2] - 1]),
    "more parameters than residuals": lambda y, _: jnp.stack([y[0] * y[1] - 2, y[1] + y[2] - 3]),
}


@pytest.mark.parametrize("name", RANK_DEFICIENT)
@pytest.mark.parametrize("scaling", ["columns", "none"])
def test_jacobians_without_full_rank_are_no_obstacle(name, scaling):
    made = solver(odeopt.TrustRegionControl(initial_step_size=1.0), scaling=scaling)
    solution = run(odeopt.LeastSquares(RANK_DEFICIENT[name]), made, [1.0, 1.0, 1.0])
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    assert solution.loss < 1e-12


def test_a_start_without_misfit_is_an_end():
    solution = run(affine(MATRIX, MATRIX @ START), solver(), START)
    assert solution.result == odeopt.RESULTS.converged
    np.testing.assert_array_equal(solution.value, START)


def test_a_trial_with_one_residual_that_is_no_number_is_rejected():
    # The full step from 1 would lead to -1, where the logarithm is none.
    misfit = odeopt.LeastSquares(lambda y, _: jnp.concatenate([jnp.log(y) + 2, 1e-3 * y]))
    solution = run(misfit, solver(), [1.0])
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    assert int(solution.stats["rejected"]) > 0
    np.testing.assert_allclose(solution.value, np.exp(-2.0), rtol=1e-6)


def test_a_start_with_one_residual_that_is_no_number_is_told():
    solution = run(odeopt.LeastSquares(lambda y, _: jnp.log(y)), solver(), [1.0, -1.0])
    assert solution.result == odeopt.RESULTS.nonfinite_start


def test_single_precision_ends_at_its_rounding():
    data = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), DECAYS.args)
    misfit = odeopt.LeastSquares(decays, data, per_sample=True)
    start = np.array([1.0, 3.0, 1.0, 0.01], np.float32)
    solution = run(misfit, solver(), start, stop=odeopt.Stop(gradient_norm=1e-12), max_steps=400)
    exact = run(DECAYS, solver(), start.astype(float))
    assert solution.value.dtype == jnp.float32
    assert solution.result == odeopt.RESULTS.rounding_floor_reached, str(solution)
    # Data that are rounded by 6e-8 move the minimum by as much; in double precision, because one loss in single
    # precision is wrong by 30 times 6e-8 times a residual of 1e-2.
    assert abs(float(DECAYS.value(solution.value.astype(float))) - float(exact.loss)) < 1e-9


@pytest.mark.parametrize("linear_solver", ["cholesky", "qr", "cg"])
def test_residuals_of_a_wider_type_than_the_parameters_are_solved(linear_solver):
    start = np.array([1.0, 3.0, 1.0, 0.01], np.float32)
    solution = run(DECAYS, solver(linear_solver=linear_solver), start, stop=odeopt.Stop(gradient_norm=1e-5))
    assert solution.value.dtype == jnp.float32
    exact = run(DECAYS, solver(), start.astype(float))
    assert abs(float(DECAYS.value(solution.value.astype(float))) - float(exact.loss)) < 1e-8


def test_lanes_of_a_batch_are_solved_as_if_alone():
    starts = jnp.array([[1.0, 3.0, 1.0, 0.01], [2.0, 1.0, 0.3, 0.1]])
    alone = [run(DECAYS, solver(), start, history=None).value for start in starts]
    batch = jax.vmap(lambda y0: odeopt.minimise(DECAYS, solver(), y0, history=None, throw=False).value)(starts)
    np.testing.assert_allclose(batch, np.stack(alone), rtol=1e-6)


def test_other_flows_and_tests_that_ask_for_its_dissipation_are_refused():
    with pytest.raises(ValueError, match="LevenbergMarquardt steps gradient flow, and not HeavyBall"):
        odeopt.Solver(odeopt.HeavyBall(), odeopt.LevenbergMarquardt())
    with pytest.raises(ValueError, match="Use TrustRegionControl"):
        solver(odeopt.LyapunovControl())
    with pytest.raises(ValueError, match="Leave model='scheme'"):
        solver(odeopt.TrustRegionControl(model="newton"))
    with pytest.raises(ValueError, match="expected 'columns' or 'none'"):
        odeopt.LevenbergMarquardt(scaling="rows")


def test_units_that_were_large_once_do_not_keep_a_run_from_ending():
    """The columns of the start are e^20 and e, and those of the solution 1 and less."""
    misfit = odeopt.LeastSquares(lambda y, _: jnp.expm1(y) * jnp.array([1.0, 1e-3]))
    stop = odeopt.Stop(gradient_norm=1e-12)
    solution = run(misfit, solver(), [20.0, 1.0], stop=stop, max_steps=500)
    assert solution.result == odeopt.RESULTS.converged, str(solution)
