"""The error of controlled runs against the tolerance of their test."""

import jax.numpy as jnp
import numpy as np
import pytest

import odeopt

BOWL = (lambda y, _: 0.5 * jnp.sum(y**2), jnp.asarray([1.5]))
QUARTIC = (lambda y, _: 0.25 * jnp.sum(y**4), jnp.asarray([1.0, -1.3]))
SETTLED = {"settling": 0.5, "duration": 1.0}
# What a measured order may be off by anywhere in the package.
AGREEMENT = 0.2


@pytest.fixture(scope="module")
def euler():
    return odeopt.tolerance_order(odeopt.GradientFlow(), odeopt.Euler(), problem=BOWL, **SETTLED)


def test_euler_on_gradient_flow_has_slope_one(euler):
    assert abs(euler.slope - 1) <= AGREEMENT, str(euler)
    assert abs(euler.step.order - 1) <= AGREEMENT, str(euler)


def test_the_steps_of_euler_on_a_quadratic_are_twice_the_tolerance(euler):
    r"""V+ - V = (-2h + h^2) V <= (1 - eps) (-2h V) if and only if h <= 2 eps."""
    ratio = euler.mean_step_sizes / (2 * euler.tolerances)
    assert np.all(ratio <= 1 + 1e-6), str(euler)
    # Within 1.2 percent of the longest, but for some short steps at the beginning.
    assert np.all(ratio[4:] > 0.95), str(euler)


def test_the_error_of_euler_on_a_quadratic_is_that_of_its_steps(euler):
    """(1 - h)^(t/h) - e^-t = -h t e^-t / 2 to leading order, the largest at t = 1, in units of the start."""
    np.testing.assert_allclose(euler.errors[4:], euler.tolerances[4:] * np.exp(-1), rtol=0.05)


def test_every_accepted_step_of_euler_costs_a_gradient(euler):
    assert euler.gradients.tolist() == (euler.steps + 1).tolist()


@pytest.mark.parametrize("problem", [None, QUARTIC], ids=["built-in", "quartic"])
def test_heun_with_the_quadrature_has_slope_one(problem):
    """The share lost is f' f''' h^2 / 12 in one dimension: second order, as the scheme."""
    result = odeopt.tolerance_order(odeopt.GradientFlow(), odeopt.Heun(), problem=problem)
    assert abs(result.slope - 1) <= AGREEMENT, str(result)
    assert abs(result.step.order - 1 / 2) <= AGREEMENT / 2, str(result)


def test_heun_on_a_quadratic_loses_a_share_of_third_order():
    """z^4 / 4 of 2 z: the slope is 2/3, which is told from 1 by half the usual tolerance."""
    result = odeopt.tolerance_order(odeopt.GradientFlow(), odeopt.Heun(), problem=BOWL, **SETTLED)
    assert abs(result.slope - 2 / 3) <= AGREEMENT / 2, str(result)


def test_inertial_flows_and_controllers_of_ones_own():
    def controller(tolerance):
        return odeopt.LyapunovControl(decrease=1 - tolerance, grow=1.1, shrink=1.1, bisections=3, rounding=None)

    tolerances = tuple(2.0**-k for k in range(4, 10))
    result = odeopt.tolerance_order(
        odeopt.HeavyBall(friction=0.5), odeopt.Euler(), controller, BOWL, tolerances=tolerances, **SETTLED
    )
    assert abs(result.slope - 1) <= AGREEMENT, str(result)
    assert result.controller == "LyapunovControl"
    np.testing.assert_array_equal(result.tolerances, tolerances)


def test_a_step_that_gains_dissipation_is_not_bounded():
    """On a hilltop the slope grows along a step: every length passes at every tolerance."""
    hill = (lambda y, _: -0.5 * jnp.sum(y**2), jnp.asarray([1.0]))
    result = odeopt.tolerance_order(odeopt.GradientFlow(), odeopt.Euler(), problem=hill, **SETTLED)
    assert abs(result.slope) < 0.01, str(result)
    assert np.all(result.steps == result.steps[0])
    assert "hardly follows" in str(result)


def test_the_table_has_a_row_for_each_tolerance(euler):
    lines = str(euler).splitlines()
    assert len(lines) == 3 + len(euler.tolerances)
    assert "hardly follows" not in str(euler)
    assert lines[-1].startswith(f"error ~ tolerance^{euler.slope:.2f}")


def test_the_picture_shows_errors_and_step_sizes(euler):
    figure = euler.plot()
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    np.testing.assert_array_equal(lines[0].get_ydata(), euler.errors)
    np.testing.assert_array_equal(lines[1].get_ydata(), euler.mean_step_sizes)
    assert euler.plot(axes=axes) is figure


def test_a_run_that_does_not_arrive_says_how_far_it_came():
    with pytest.raises(
        RuntimeError, match=r"Euler under LyapunovControl at tolerance 0\.125 came to t = .* in 3 trials"
    ):
        odeopt.tolerance_order(odeopt.GradientFlow(), odeopt.Euler(), problem=BOWL, max_trials=3)


WRONG = {
    "two tolerances": ({"tolerances": (0.5, 0.25)}, ValueError, "tolerances=(0.5, 0.25)"),
    "not halves": ({"tolerances": (0.5, 0.25, 0.1)}, ValueError, "tolerances=(0.5, 0.25, 0.1)"),
    "above one": ({"tolerances": (2.0, 1.0, 0.5)}, ValueError, "tolerances=(2.0, 1.0, 0.5)"),
    "no trial": ({"max_trials": 0}, ValueError, "max_trials=0"),
    "a controller": ({"controller": lambda tolerance: "fast"}, TypeError, "gave 'fast'"),
    "a scheme": ({"scheme": odeopt.Euler}, TypeError, "scheme must be a scheme"),
    "settling": ({"settling": -1.0}, ValueError, "settling=-1.0"),
}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named(case):
    options, kind, words = WRONG[case]
    with pytest.raises(kind) as caught:
        odeopt.tolerance_order(odeopt.GradientFlow(), **({"scheme": odeopt.Euler(), "problem": BOWL} | options))
    assert words in str(caught.value)
