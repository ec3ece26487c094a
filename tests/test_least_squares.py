"""Sums of squares: value, residuals and Jacobian in all the forms that one can be given in."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt._objective import PartialObjective, Tally
from odeopt._parameters import split_parameters

TIMES = np.linspace(0.1, 2.0, 7)
OBSERVED = 1.5 * np.exp(-0.7 * TIMES) + 0.1
Y = np.array([1.2, -0.4])
# Residuals of y0 exp(y1 t) - observed, and their Jacobian, by hand.
RESIDUALS = Y[0] * np.exp(Y[1] * TIMES) - OBSERVED
JACOBIAN = np.stack([np.exp(Y[1] * TIMES), Y[0] * TIMES * np.exp(Y[1] * TIMES)], axis=1)


def of_sample(y, sample):
    return y[0] * jnp.exp(y[1] * sample[0]) - sample[1]


def of_all(y, samples):
    return {"misfit": of_sample(y, samples)}


DATA = (jnp.asarray(TIMES), jnp.asarray(OBSERVED))
FORMS = {
    "whole": lambda **options: odeopt.LeastSquares(of_all, DATA, **options),
    "per sample": lambda **options: odeopt.LeastSquares(of_sample, DATA, per_sample=True, **options),
    # The last chunk holds one sample; and one chunk for all.
    "chunks": lambda **options: odeopt.LeastSquares(of_sample, DATA, per_sample=True, chunk_size=3, **options),
    "one chunk": lambda **options: odeopt.LeastSquares(of_sample, DATA, per_sample=True, chunk_size=10, **options),
    "sum": lambda **options: (
        odeopt.LeastSquares(of_all, jax.tree.map(lambda leaf: leaf[:3], DATA), **options)
        + odeopt.LeastSquares(of_sample, jax.tree.map(lambda leaf: leaf[3:], DATA), per_sample=True, **options)
    ),
}


def close(given, expected):
    np.testing.assert_allclose(np.asarray(given), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_value_gradient_residuals_and_jacobian_are_those_of_the_model(form):
    misfit, y = FORMS[form](), jnp.asarray(Y)
    close(misfit.value(y), 0.5 * np.sum(RESIDUALS**2))
    close(jax.jit(jax.grad(misfit.value))(y), JACOBIAN.T @ RESIDUALS)
    close(misfit.residuals(y), RESIDUALS)
    residuals, jacobian = misfit.jacobian(y)
    close(residuals, RESIDUALS)
    close(jacobian, JACOBIAN)
    matrix, vector = misfit.normal_equations(y)
    close(matrix, JACOBIAN.T @ JACOBIAN)
    close(vector, JACOBIAN.T @ RESIDUALS)
    direction = np.array([0.3, -2.0])
    close(misfit.gauss_newton(y)(jnp.asarray(direction)), JACOBIAN.T @ (JACOBIAN @ direction))


@pytest.mark.parametrize("form", ["whole", "per sample", "chunks"])
def test_the_mean_form_is_the_mean_square_times_the_weight(form):
    misfit, y = FORMS[form](reduction="mean", weight=3.0), jnp.asarray(Y)
    close(misfit.value(y), 3 * np.mean(RESIDUALS**2))
    close(0.5 * jnp.sum(misfit.residuals(y) ** 2), 3 * np.mean(RESIDUALS**2))
    close(misfit.jacobian(y)[1], np.sqrt(6 / len(TIMES)) * JACOBIAN)


def test_products_of_the_oracle_are_those_with_the_jacobian_and_are_counted():
    tally = Tally()
    oracle = odeopt.Oracle(FORMS["per sample"](), jnp.asarray(Y), tally)
    direction, weights = np.array([0.3, -2.0]), np.linspace(-1, 1, len(TIMES))
    close(oracle.jvp(jnp.asarray(direction)), JACOBIAN @ direction)
    assert (tally.values, tally.gradients) == (2, 0)
    close(oracle.vjp(jnp.asarray(weights)), JACOBIAN.T @ weights)
    assert (tally.values, tally.gradients) == (3, 1)
    # Of y0 exp(y1 t): 2 d0 d1 t exp(y1 t) + d1^2 y0 t^2 exp(y1 t).
    wave = np.exp(Y[1] * TIMES)
    second = 2 * direction[0] * direction[1] * TIMES * wave + direction[1] ** 2 * Y[0] * TIMES**2 * wave
    close(oracle.second_jvp(jnp.asarray(direction)), second)
    assert (tally.values, tally.gradients) == (7, 1)
    oracle.jacobian()
    assert (tally.values, tally.gradients) == (8, 2)


def test_a_jacobian_of_the_whole_is_made_of_the_fewer_products():
    few = odeopt.LeastSquares(lambda y, _: jnp.stack([y[0] * y[1], y[1] + y[2]]))
    many = odeopt.LeastSquares(of_all, DATA)
    assert tuple(few.jacobian_passes(jnp.ones(3))) == (1, 2)
    assert tuple(many.jacobian_passes(jnp.ones(2))) == (3, 0)
    close(few.jacobian(jnp.array([2.0, 3.0, 5.0]))[1], [[3.0, 2.0, 0.0], [0.0, 1.0, 1.0]])


def test_memory_of_chunks_does_not_grow_with_the_number_of_samples():
    def temporary(count):
        samples = (jnp.ones(count), jnp.ones(count))

        def gradient(y, samples):
            wide = lambda y, sample: of_sample(y, sample) * jnp.ones(50)  # noqa: E731
            return jax.value_and_grad(odeopt.LeastSquares(wide, samples, per_sample=True, chunk_size=64).value)(y)

        return jax.jit(gradient).lower(jnp.asarray(Y), samples).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary(640), temporary(64_000)
    # All residuals at once would be 25 MB; the samples themselves, which may be copied, are 1 MB.
    assert many < few + 2_000_000


def test_single_precision_stays_single():
    data = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), DATA)
    misfit = odeopt.LeastSquares(of_sample, data, per_sample=True, reduction="mean", weight=2.0)
    y = jnp.asarray(Y, jnp.float32)
    assert misfit.value(y).dtype == jnp.float32
    assert {leaf.dtype for leaf in misfit.jacobian(y)} == {jnp.dtype(jnp.float32)}


def test_residuals_of_a_model_leave_out_what_is_not_trained():
    model = eqx.nn.MLP(1, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    misfit = odeopt.LeastSquares(lambda model, x: model(x) - 1.0, jnp.ones((3, 1)), per_sample=True)
    parameters, frozen = split_parameters(model)
    residuals, jacobian = odeopt.Oracle(PartialObjective(misfit, frozen), parameters, Tally()).jacobian()
    assert residuals.shape == (3,)
    assert jacobian.shape == (3, 4 + 4 + 4 + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: odeopt.LeastSquares(3.0), "expected a function"),
        (lambda: odeopt.LeastSquares(of_all, DATA, reduction="max"), "expected one of"),
        (lambda: odeopt.LeastSquares(of_all, DATA, weight=-1.0), "finite weight >= 0"),
        (lambda: odeopt.LeastSquares(of_all, DATA, chunk_size=3), "only residuals per sample"),
        (lambda: odeopt.LeastSquares(of_sample, DATA, per_sample=True, chunk_size=0), "whole number >= 1"),
        (lambda: odeopt.LeastSquares(of_sample, (DATA[0], DATA[1][:3]), per_sample=True), "same length"),
        (lambda: odeopt.LeastSquares(of_sample, 2.0, per_sample=True), "first axis"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(make, message, as_installed):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (lambda y, _: y * (1 + 2j), "complex"),
        (lambda y, _: jnp.arange(3), "dtype int"),
        (lambda y, _: None, "expected arrays of floating point"),
        (lambda y, _: y[:0], "no residual at all"),
    ],
)
def test_residuals_that_cannot_be_squared_and_summed_are_refused_before_the_run(residual, message):
    solver = odeopt.Solver(odeopt.GradientFlow())
    with pytest.raises((TypeError, ValueError), match=message):
        odeopt.minimise(odeopt.LeastSquares(residual), solver, jnp.ones(2))


def test_a_sum_of_squares_is_an_objective_for_every_solver():
    solution = odeopt.minimise(FORMS["chunks"](), odeopt.Solver(), jnp.ones(2), history=None)
    plain = odeopt.minimise(lambda y, _: 0.5 * jnp.sum(of_sample(y, DATA) ** 2), odeopt.Solver(), jnp.ones(2))
    np.testing.assert_allclose(solution.value, plain.value, rtol=1e-5)


def test_what_needs_residuals_says_so():
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt())
    with pytest.raises(TypeError, match=r"Write the loss as odeopt\.LeastSquares"):
        odeopt.minimise(lambda y, _: jnp.sum(y**2), solver, jnp.ones(2))


@pytest.mark.parametrize("scheme", [odeopt.LevenbergMarquardt(), odeopt.LevenbergMarquardt(linear_solver="cg"), None])
def test_a_model_with_functions_in_it_is_trained_in_chunks_as_it_is_at_once(scheme):
    model = eqx.nn.MLP("scalar", "scalar", 4, 1, jnp.tanh, key=jax.random.key(0))
    x = jnp.linspace(-1, 1, 10)

    def trained(chunk_size):
        misfit = odeopt.LeastSquares(
            lambda model, sample: model(sample[0]) - sample[1],
            (x, jnp.sin(3 * x)),
            per_sample=True,
            chunk_size=chunk_size,
        )
        solver = odeopt.Solver(odeopt.GradientFlow(), scheme, None if scheme else odeopt.LyapunovControl())
        return odeopt.train(model, misfit, None, solver, max_steps=8)

    whole, chunked = trained(None), trained(4)
    assert chunked[0].activation is jnp.tanh
    assert chunked[1].loss < chunked[1].history.start["loss"]
    np.testing.assert_allclose(chunked[1].loss, whole[1].loss, rtol=1e-6)


def test_a_number_is_a_residual_too():
    misfit = odeopt.LeastSquares(lambda y, _: (3.0, y[0] - 1))
    solution = odeopt.minimise(misfit, odeopt.Solver(odeopt.GradientFlow(), odeopt.LevenbergMarquardt()), jnp.zeros(1))
    np.testing.assert_allclose(solution.loss, 4.5)
