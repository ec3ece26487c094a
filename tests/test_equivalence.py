"""Flows at a constant step beside optimizers of optax: equal where the map is exact, told apart where it is not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import FLOWS

import odeopt
import odeopt.plot

MATRIX = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])


def bowl(y, _):
    """Convex, not quadratic."""
    return 0.5 * y @ MATRIX @ y + 0.1 * jnp.sum(y**4)


BOWL = (bowl, jnp.array([1.0, -2.0, 0.7]))


def momentum_descent(friction, step_size):
    """SGD with the momentum and the learning rate of exact friction."""
    momentum = np.exp(-friction * step_size)
    return optax.sgd(step_size * (1 - momentum) / friction, momentum=momentum)


def adam_without_bias_correction(learning_rate, b1, b2, eps, eps_root):
    def init(params):
        return jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)

    def update(g, state, params=None):
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state[0], g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state[1], g)
        return jax.tree.map(lambda m, v: -learning_rate * m / (jnp.sqrt(v + eps_root) + eps), m, v), (m, v)

    return optax.GradientTransformation(init, update)


ADAM_RATES, ADAM_STEP = {"momentum_rate": 4.0, "scaling_rate": 1.5}, 0.02
ADAM_MOMENTS = {"b1": np.exp(-4.0 * ADAM_STEP), "b2": np.exp(-1.5 * ADAM_STEP)}


def adam(epsilon):
    return odeopt.Adam(**ADAM_RATES, epsilon=epsilon)


EXACT = {
    "gradient descent": (odeopt.GradientFlow(), odeopt.Euler(), optax.sgd(0.1), 0.1),
    "exact friction": (odeopt.HeavyBall(1.0), odeopt.ExponentialEuler(), momentum_descent(1.0, 0.1), 0.1),
    "weak exact friction": (odeopt.HeavyBall(0.3), odeopt.ExponentialEuler(), momentum_descent(0.3, 0.2), 0.2),
    # Momentum 1 and learning rate h (1 - e^{-ah}) / a -> h^2
    "no friction": (odeopt.HeavyBall(0.0), odeopt.ExponentialEuler(), optax.sgd(0.01, momentum=1.0), 0.1),
    # h = sqrt(lr), b = (1 - beta) / h
    "published heavy ball": (odeopt.HeavyBall(2.0), odeopt.SemiImplicitEuler(), optax.sgd(0.01, momentum=0.8), 0.1),
    "Adam without bias correction": (
        adam(0.05),
        odeopt.ExponentialEuler(),
        adam_without_bias_correction(ADAM_STEP, **ADAM_MOMENTS, eps=0.0, eps_root=0.05**2),
        ADAM_STEP,
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_map_holds(name):
    flow, scheme, optimizer, step_size = EXACT[name]
    result = odeopt.equivalence(flow, scheme, optimizer, BOWL, step_size=step_size)
    assert result.passed, str(result)
    assert result.largest <= 1e-12
    assert len(result.difference) == 200


@pytest.mark.parametrize("name", ["exact friction", "Adam without bias correction"])
def test_an_exact_map_holds_through_the_training_of_a_network(name):
    flow, scheme, optimizer, step_size = EXACT[name]
    result = odeopt.equivalence(flow, scheme, optimizer, step_size=step_size)
    assert result.passed, str(result)
    assert result.largest <= 1e-12
    assert result.loss[-1] < 0.9 * result.loss[0]


WRONG = {
    "momentum 1 - a h for exact friction": (
        odeopt.HeavyBall(1.0),
        optax.sgd(0.1 * 0.1, momentum=1 - 1.0 * 0.1),
        0.1,
        "first step differs",
    ),
    "learning rate h^2 for exact friction": (
        odeopt.HeavyBall(1.0),
        optax.sgd(0.1**2, momentum=np.exp(-0.1)),
        0.1,
        "first step differs",
    ),
    "momentum off in the ninth digit": (
        odeopt.HeavyBall(1.0),
        optax.sgd(0.1 * (1 - np.exp(-0.1)), momentum=np.exp(-0.1) * (1 + 1e-9)),
        0.1,
        "The first step agrees",
    ),
    "Nesterov's momentum": (
        odeopt.HeavyBall(1.0),
        optax.sgd(0.1 * (1 - np.exp(-0.1)), momentum=np.exp(-0.1), nesterov=True),
        0.1,
        "first step differs",
    ),
    "Adam with bias correction": (
        adam(0.05),
        optax.adam(ADAM_STEP, **ADAM_MOMENTS, eps=0.0, eps_root=0.05**2),
        ADAM_STEP,
        "first step differs",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_map_is_told_from_the_right_one(name):
    flow, optimizer, step_size, hint = WRONG[name]
    result = odeopt.equivalence(flow, odeopt.ExponentialEuler(), optimizer, BOWL, step_size=step_size, steps=40)
    assert not result.passed
    assert hint in str(result), str(result)


@pytest.mark.parametrize(("epsilon", "least", "most"), [(1e-8, 1e-12, 1e-5), (1e-3, 1e-4, 1.0)])
def test_epsilon_outside_the_root_is_measured_as_a_difference(epsilon, least, most):
    """It is of the first order in epsilon over the root mean square of the gradient, and so are these brackets."""
    outside = adam_without_bias_correction(ADAM_STEP, **ADAM_MOMENTS, eps=epsilon, eps_root=0.0)
    result = odeopt.equivalence(adam(epsilon), odeopt.ExponentialEuler(), outside, BOWL, step_size=ADAM_STEP)
    assert not result.passed
    assert least < result.largest < most, str(result)
    assert f"{result.largest:.1e}" in str(result)


CLAIMED = [
    ("gradient flow", odeopt.Euler),
    ("gradient flow", odeopt.SemiImplicitEuler),
    ("heavy ball", odeopt.ExponentialEuler),
    ("heavy ball, open friction", odeopt.SemiImplicitEuler),
    ("Adam, open epsilon", odeopt.ExponentialEuler),
    ("Adam", odeopt.SemiImplicitEuler),
]


@pytest.mark.parametrize(("name", "scheme"), CLAIMED)
def test_a_flow_is_the_optimizer_that_it_names(name, scheme):
    result = odeopt.equivalence(FLOWS[name].make(), scheme(), problem=BOWL)
    assert result.passed, str(result)
    assert result.largest <= 1e-12


def test_heavy_ball_without_friction_names_the_limit():
    stated = odeopt.HeavyBall(0.0).discrete_equivalent(odeopt.ExponentialEuler(), jnp.asarray(0.1))
    params, gradient = jnp.ones(2), jnp.array([3.0, -1.0])
    updates, _ = stated.update(gradient, stated.init(params), params)
    np.testing.assert_allclose(updates, -(0.1**2) * gradient, rtol=1e-15)


class Boastful(odeopt.HeavyBall):
    """Names gradient descent, which it is not."""

    def discrete_equivalent(self, scheme, step_size):
        return optax.sgd(step_size)


def test_a_wrong_statement_of_a_flow_is_caught():
    assert not odeopt.equivalence(Boastful(1.0), problem=BOWL, steps=20).passed


@pytest.mark.parametrize("flow", [odeopt.HeavyBall(1.0), FLOWS["Adam, open epsilon"].make()], ids=["given", "open"])
def test_a_flow_that_names_nothing_is_neither_right_nor_wrong(flow):
    result = odeopt.equivalence(flow, odeopt.Heun())
    assert not result.passed
    assert [check.passed for check in result.checks] == [None]
    assert "states no discrete optimizer under Heun" in str(result)


def test_a_chaotic_run_is_compared_as_far_as_its_reference_is_known():
    """Gradient descent at learning rate 2 in this double well is x -> 3 x - 2 x^3, conjugate to the third Chebyshev
    polynomial: errors grow threefold in a step. A heavy ball of extreme friction computes it in another order."""
    problem = (lambda y, _: jnp.sum(0.25 * y**4 - 0.5 * y**2), jnp.array([0.3, -1.1]))
    flow, scheme, step_size = odeopt.HeavyBall(20.0), odeopt.ExponentialEuler(), 40.0
    result = odeopt.equivalence(flow, scheme, momentum_descent(20.0, step_size), problem, step_size=step_size)
    assert result.passed, str(result)
    assert result.largest > 1e-3
    growth = np.log(result.tolerance[25] / result.tolerance[12]) / 13
    assert abs(growth - np.log(3)) < 0.2, str(result)
    assert result.tolerance[0] == 1e-12
    assert "rounding alone moves the run" in str(result)
    wrong = optax.sgd(2.0 * (1 + 1e-9))
    assert not odeopt.equivalence(flow, scheme, wrong, problem, step_size=step_size).passed


def test_a_run_that_overflows_is_compared_up_to_there():
    problem = (lambda y, _: jnp.sum(y**4), jnp.array([1.0, -0.7]))
    result = odeopt.equivalence(odeopt.GradientFlow(), odeopt.Euler(), optax.sgd(2.0), problem, step_size=2.0)
    assert result.passed, str(result)
    assert 2 <= len(result.difference) < 10


def test_a_flow_that_ends_before_its_optimizer_is_not_equal_to_it():
    problem = (lambda y, _: jnp.sum(y**4), jnp.array([1.0, -0.7]))
    result = odeopt.equivalence(odeopt.GradientFlow(), odeopt.Euler(), optax.sgd(1e-3), problem, step_size=2.0)
    assert not result.passed


def test_a_run_that_does_not_move_shows_nothing():
    problem = (bowl, jnp.zeros(3))
    result = odeopt.equivalence(odeopt.GradientFlow(), odeopt.Euler(), optax.sgd(0.1), problem, step_size=0.1)
    assert not result.passed
    assert "does not move" in str(result)


def test_parameters_may_be_a_pytree_and_the_difference_is_placed_in_it():
    def fn(y, target):
        return jnp.sum((y["a"] ** 2 - target) ** 2) + jnp.sum(y["b"][0] ** 2 * 1.5) + jnp.cos(y["b"][1])

    start = {"a": jnp.arange(6.0).reshape(2, 3) / 10 + 0.5, "b": [jnp.ones(2), 0.3]}
    flow, problem = odeopt.HeavyBall(1.0), (fn, start, 0.4)
    right = odeopt.equivalence(flow, odeopt.ExponentialEuler(), None, problem, step_size=0.05)
    assert right.passed, str(right)
    for labels, place in [
        ({"a": "right", "b": ["wrong", "right"]}, "['b'][0]"),
        ({"a": "wrong", "b": "right"}, "['a']"),
    ]:
        optimizers = {"right": momentum_descent(1.0, 0.05), "wrong": momentum_descent(2.0, 0.05)}
        optimizer = optax.partition(optimizers, labels)
        wrong = odeopt.equivalence(flow, odeopt.ExponentialEuler(), optimizer, problem, step_size=0.05)
        assert f"most in {place}." in str(wrong), str(wrong)


def test_the_parameters_of_an_equinox_model_are_compared():
    # Written in single precision, as users write it; the comparison is made in double precision.
    model = eqx.nn.MLP(2, 1, 4, 1, activation=jnp.tanh, dtype=jnp.float32, key=jax.random.key(1))
    inputs = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)

    def loss(model, inputs):
        return jnp.mean((jax.vmap(model)(inputs)[:, 0] - jnp.sin(3 * inputs[:, 0])) ** 2)

    flow, problem = odeopt.HeavyBall(1.0), (loss, model, inputs)
    result = odeopt.equivalence(flow, odeopt.ExponentialEuler(), momentum_descent(1.0, 0.2), problem, step_size=0.2)
    assert result.passed, str(result)
    assert result.loss[-1] < result.loss[0]


def test_the_comparison_is_in_double_precision_where_that_is_switched_off():
    with jax.enable_x64(False):
        flow = odeopt.HeavyBall(0.5)
        result = odeopt.equivalence(flow, odeopt.ExponentialEuler(), momentum_descent(0.5, 0.1), BOWL, step_size=0.1)
        assert not jax.config.jax_enable_x64
    assert result.passed, str(result)
    assert result.difference.dtype == np.float64


def test_constants_that_were_rounded_when_the_flow_was_made_are_told_of():
    with jax.enable_x64(False):
        flow = odeopt.HeavyBall(0.1)
        given = odeopt.equivalence(flow, odeopt.ExponentialEuler(), momentum_descent(0.1, 0.1), BOWL, step_size=0.1)
        held = momentum_descent(float(flow.friction), 0.1)
        assert odeopt.equivalence(flow, odeopt.ExponentialEuler(), held, BOWL, step_size=0.1).passed
    assert not given.passed
    assert "held in single precision" in str(given)


def test_an_optimizer_that_reads_the_loss_is_given_it():
    flow = odeopt.GradientFlow()
    polyak = optax.polyak_sgd(max_learning_rate=0.05)  # the bound is met where the loss is far above its minimum
    result = odeopt.equivalence(flow, odeopt.Euler(), polyak, BOWL, step_size=0.05, steps=3)
    assert result.passed, str(result)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"transformation": 0.1}, TypeError, "an optimizer of optax such as"),
        ({"scheme": optax.sgd(0.1)}, TypeError, "given by name"),
        ({"steps": 0}, ValueError, "whole number >= 1"),
        ({"step_size": -0.1}, ValueError, "finite step size > 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        odeopt.equivalence(odeopt.GradientFlow(), **({"problem": BOWL} | arguments))


def test_the_picture_shows_difference_and_tolerance():
    result = odeopt.equivalence(odeopt.HeavyBall(1.0), problem=BOWL, steps=30)
    (axes,) = result.plot().axes
    difference, tolerance = (line.get_ydata() for line in axes.lines)
    assert len(difference) == 30
    np.testing.assert_array_equal(tolerance, result.tolerance)
    assert result.plot(axes=axes) is axes.figure
    assert odeopt.plot.equivalence(odeopt.equivalence(odeopt.HeavyBall(1.0), odeopt.Heun())).axes
