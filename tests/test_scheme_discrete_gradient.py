"""Discrete gradient methods: what they dissipate, at which order, and what they ask of a flow."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from catalogue import PROBLEMS
from one_step import MATRIX, MOMENTUM, START, one_step

import odeopt
from odeopt import State

GRADIENTS = [odeopt.Gonzalez, odeopt.AveragedField]
SCHEMES = [*GRADIENTS, odeopt.ItohAbe]
FRICTION = 0.7
EPS = np.finfo(float).eps
TWO = PROBLEMS["two"]


def quadratic(y, args):
    return 0.5 * y @ MATRIX @ y


def gonzalez(value, gradient, y, z):
    """The midpoint discrete gradient in NumPy."""
    step, slope = z - y, gradient(0.5 * (y + z))
    return slope + (value(z) - value(y) - slope @ step) / (step @ step) * step


@pytest.mark.parametrize("h", [1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0])
def test_gonzalez_dissipates_exactly_at_every_step_size_of_a_function_that_is_not_convex(h):
    y = np.asarray(TWO.start)
    trial, *_ = one_step(odeopt.Gonzalez(), odeopt.GradientFlow(), State(y), h=h, fn=TWO.fn)
    z = np.asarray(trial.state.position)
    slope = gonzalez(TWO.value, TWO.gradient, y, z)
    np.testing.assert_allclose(z - y, -h * slope, rtol=1e-9)
    np.testing.assert_allclose(TWO.value(z) - TWO.value(y), -h * slope @ slope, rtol=1e-9)
    assert TWO.value(z) < TWO.value(y)


@pytest.mark.parametrize("h", [0.1, 1.0, 10.0])
def test_gonzalez_dissipates_what_friction_takes_and_no_more(h):
    x, v = np.asarray(TWO.start), np.array([0.3, 0.3])
    value = lambda y: TWO.value(y[:2]) + 0.5 * y[2:] @ y[2:]  # noqa: E731
    gradient = lambda y: np.concatenate([TWO.gradient(y[:2]), y[2:]])  # noqa: E731
    trial, *_ = one_step(odeopt.Gonzalez(), odeopt.HeavyBall(FRICTION), State(x, v), h=h, fn=TWO.fn)
    y, z = np.concatenate([x, v]), np.concatenate([trial.state.position, trial.state.memory])
    slope = gonzalez(value, gradient, y, z)
    # <w, A w> = -friction |w_v|**2.
    np.testing.assert_allclose(value(z) - value(y), -h * FRICTION * slope[2:] @ slope[2:], rtol=1e-9)


@pytest.mark.parametrize("h", [0.1, 1.0, 1000.0])
def test_the_averaged_field_dissipates_exactly_where_the_energy_is_a_polynomial(h):
    y = np.asarray(TWO.start)
    trial, *_ = one_step(odeopt.AveragedField(), odeopt.GradientFlow(), State(y), h=h, fn=TWO.fn)
    z = np.asarray(trial.state.position)
    places, weights = np.polynomial.legendre.leggauss(8)
    slope = sum(0.5 * w * TWO.gradient(y + 0.5 * (1 + s) * (z - y)) for s, w in zip(places, weights, strict=True))
    np.testing.assert_allclose(z - y, -h * slope, rtol=1e-9)
    np.testing.assert_allclose(TWO.value(z) - TWO.value(y), -h * slope @ slope, rtol=1e-9)


@pytest.mark.parametrize("h", [0.1, 10.0, 1e4])
@pytest.mark.parametrize("scheme", GRADIENTS)
def test_on_a_quadratic_both_are_the_implicit_midpoint_rule(scheme, h):
    trial, *_ = one_step(scheme(), odeopt.HeavyBall(FRICTION), State(START, MOMENTUM), h=h, fn=quadratic)
    zero, one = np.zeros((3, 3)), np.eye(3)
    field = np.block([[zero, one], [-MATRIX, -FRICTION * one]])
    y = np.concatenate([START, MOMENTUM])
    expected = np.linalg.solve(np.eye(6) - 0.5 * h * field, (np.eye(6) + 0.5 * h * field) @ y)
    found = np.concatenate([trial.state.position, trial.state.memory])
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("h", [0.01, 1.0, 1e4])
def test_on_a_quadratic_itoh_and_abe_is_successive_over_relaxation(h):
    trial, _, gradients = one_step(odeopt.ItohAbe(), odeopt.GradientFlow(), State(START), h=h, fn=quadratic)
    y = START.copy()
    for i in range(3):
        curvature = MATRIX[i, i]
        omega = 2 * h * curvature / (2 + h * curvature)
        y[i] -= omega * (MATRIX @ y)[i] / curvature
    # Each move is found from a decrease that is known to a rounding unit of the loss.
    np.testing.assert_allclose(trial.state.position, y, atol=1e-11)
    assert gradients == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("h", [1e-2, 1.0, 1000.0])
def test_itoh_and_abe_dissipates_exactly_at_every_step_size_of_a_function_that_is_not_convex(h, dtype):
    y = jnp.asarray(TWO.start, dtype)
    trial, *_ = one_step(odeopt.ItohAbe(), odeopt.GradientFlow(), State(y), t=dtype(0), h=dtype(h), fn=TWO.fn)
    z = trial.state.position
    assert z.dtype == dtype
    change = float(trial.oracle.value) - TWO.value(np.asarray(y))
    # Two parameters, 16 units of both losses each.
    atol = 64 * float(jnp.finfo(dtype).eps) * TWO.value(np.asarray(y))
    np.testing.assert_allclose(change, -float(jnp.sum((z - y) ** 2)) / h, atol=atol)


@pytest.mark.parametrize("x", [2.0, 0.25, -0.25, -1e-3])
def test_itoh_and_abe_steps_across_a_kink(x):
    """On |x| it goes the length h, or, where that would cross the kink, to s**2 + h s = 2 h |x|."""
    h = 0.3
    fn = lambda y, args: jnp.abs(y)  # noqa: E731
    trial, *_ = one_step(odeopt.ItohAbe(), odeopt.GradientFlow(), State(np.asarray(x)), h=h, fn=fn)
    across = 0.5 * (np.sqrt(h**2 + 8 * h * abs(x)) - h)
    np.testing.assert_allclose(trial.state.position, x - np.sign(x) * min(h, across), rtol=1e-12)


class RelativeFlow(odeopt.AbstractMetricFlow):
    """Gradient flow in units of the parameters: a structure that depends on the state."""

    def inverse_metric(self, t, state, oracle, covector):
        return jax.tree.map(lambda x, w: (1 + x**2) * w, state.position, covector)


class Coupled(odeopt.AbstractMetricFlow):
    """A metric with entries off its diagonal."""

    def inverse_metric(self, t, state, oracle, covector):
        return (1 + jnp.sum(state.position**2)) * covector + 0.5 * jnp.roll(covector, 1) + 0.5 * jnp.roll(covector, -1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_structure_that_depends_on_the_state_keeps_the_order(scheme):
    result = odeopt.convergence_order(RelativeFlow(), scheme(), steps=tuple(2**k for k in range(3, 9)))
    assert result.passed, str(result)
    assert abs(result.order - scheme.order) < 0.2, str(result)


class StructureAtTheStart(odeopt.Gonzalez):
    """The same with the structure where the step begins."""

    def step(self, flow, t, step_size, state, oracle, learnt=None):
        class Frozen(type(flow)):
            def structure(self, t, at, oracle_at, covector):
                return super().structure(t, state, oracle, covector)

        return super().step(Frozen(), t, step_size, state, oracle, learnt)


def test_the_structure_belongs_to_the_middle_of_the_step():
    steps = tuple(2**k for k in range(3, 9))
    result = odeopt.convergence_order(RelativeFlow(), StructureAtTheStart(), steps=steps)
    assert abs(result.order - 1) < 0.2, str(result)


@pytest.mark.parametrize("h", [0.1, 10.0])
def test_in_a_metric_itoh_and_abe_dissipates_its_square(h):
    """-h <DV, P DV>, and y+ - y = -h P DV."""
    flow, y = Coupled(), jnp.asarray(START)
    trial, *_ = one_step(odeopt.ItohAbe(), flow, State(y), h=h, fn=quadratic)
    metric = (1 + START @ START) * np.eye(3) + 0.5 * (np.roll(np.eye(3), 1, 0) + np.roll(np.eye(3), -1, 0))
    move = np.asarray(trial.state.position) - START
    change = float(trial.oracle.value) - 0.5 * START @ MATRIX @ START
    np.testing.assert_allclose(change, -move @ np.linalg.solve(metric, move) / h, rtol=1e-10)


def test_a_metric_that_is_not_symmetric_is_no_metric_for_itoh_and_abe():
    class Turning(odeopt.AbstractMetricFlow):
        def inverse_metric(self, t, state, oracle, covector):
            return covector + 0.5 * jnp.roll(covector, 1)

    trial, *_ = one_step(odeopt.ItohAbe(), Turning(), State(START), fn=quadratic)
    assert np.all(np.isnan(trial.state.position))


@pytest.mark.parametrize("scheme", GRADIENTS)
def test_a_solve_that_does_not_converge_is_not_finite(scheme):
    trial, *_ = one_step(
        scheme(max_iterations=2), odeopt.GradientFlow(), State(np.asarray(TWO.start)), h=1.0, fn=TWO.fn
    )
    assert np.all(np.isnan(trial.state.position))


# Passes over the objective of one evaluation of each equation: values and gradients.
EVALUATION = {odeopt.Gonzalez: (2, 1), odeopt.AveragedField: (5, 5)}


@pytest.mark.parametrize("chord", [False, True])
@pytest.mark.parametrize("scheme", GRADIENTS)
def test_every_evaluation_and_every_column_of_a_jacobian_is_counted(scheme, chord):
    """On a quadratic Newton takes two iterations: to the root, and to see that it is there."""
    finder = (optx.Chord if chord else optx.Newton)(rtol=1e-8, atol=1e-8)
    state = State(np.asarray(START))
    _, tally, gradients = one_step(scheme(finder), odeopt.GradientFlow(), state, fn=quadratic)
    evaluations = 1 + 3 + 2 if chord else 2 * (1 + 3)
    values, gradients_each = EVALUATION[scheme]
    assert int(gradients) == evaluations * gradients_each
    # The one before the step, whose gradient is known.
    assert int(tally.values) - 1 == evaluations * values


@pytest.mark.parametrize("scheme", [odeopt.Gonzalez, odeopt.ItohAbe])
def test_parameters_of_any_structure_move_as_one_array(scheme):
    split = lambda y: {"a": jnp.asarray(y[:1]), "b": jnp.asarray(y[1:]).reshape(1, 2)}  # noqa: E731
    joined = lambda y: jnp.concatenate([y["a"], y["b"].ravel()])  # noqa: E731
    flow, fn = odeopt.GradientFlow(), lambda y, args: quadratic(joined(y), args)
    whole, *_ = one_step(scheme(), flow, State(START), fn=quadratic)
    apart, *_ = one_step(scheme(), flow, State(split(START)), fn=fn)
    np.testing.assert_allclose(joined(apart.state.position), whole.state.position, rtol=1e-13)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_flows_without_a_port_form_are_refused(scheme):
    with pytest.raises(ValueError, match=rf"{scheme.__name__} needs the port form.*Adam does not state it"):
        odeopt.Solver(odeopt.Adam(), scheme())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_flow_that_takes_its_word_back_is_refused_in_the_step(scheme):
    class Undecided(odeopt.GradientFlow):
        def structure(self, t, state, oracle, covector):
            return None

    with pytest.raises(ValueError, match="Undecided does not state it"):
        one_step(scheme(), Undecided(), State(START))


def test_itoh_and_abe_refuses_flows_with_a_memory():
    with pytest.raises(ValueError, match="HeavyBall has a memory"):
        odeopt.Solver(odeopt.HeavyBall(FRICTION), odeopt.ItohAbe())
    with pytest.raises(ValueError, match="HeavyBall has a memory"):
        one_step(odeopt.ItohAbe(), odeopt.HeavyBall(FRICTION), State(START, MOMENTUM))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("scheme", GRADIENTS)
def test_arguments_out_of_range_are_refused(scheme):
    with pytest.raises(TypeError, match=r"expected optimistix\.Newton"):
        scheme(root_finder=optx.Bisection(rtol=1e-3, atol=1e-3))
    with pytest.raises(ValueError, match="expected a whole number >= 1"):
        scheme(max_iterations=0)
