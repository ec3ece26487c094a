"""The sums of squares on which flows of residuals are audited."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt._objective import Tally
from odeopt._verify.squares import SQUARES, SquareLandscapes


@pytest.mark.parametrize("index", range(len(SQUARES)), ids=[landscape.name for landscape in SQUARES])
def test_the_critical_point_is_one_and_convex_means_convex(index):
    terrain, random = SquareLandscapes(), np.random.default_rng(0)
    value = lambda z: terrain.value(jnp.asarray(index), z)  # noqa: E731
    critical = jnp.full(3, SQUARES[index].critical)
    np.testing.assert_allclose(jax.grad(value)(critical), 0, atol=1e-12)
    hessians = [jax.hessian(value)(jnp.asarray(random.normal(size=3))) for _ in range(20)]
    assert (min(np.linalg.eigvalsh(hessian)[0] for hessian in hessians) >= -1e-12) == SQUARES[index].convex


def test_a_plane_has_the_value_and_the_slope_that_are_asked_for():
    point, slope = jnp.array([1.0, -2.0]), jnp.array([0.3, 5.0])
    plane = SquareLandscapes().plane(point, jnp.asarray(7.0), slope)
    np.testing.assert_allclose(plane.value(point), 7.0)
    np.testing.assert_allclose(jax.grad(plane.value)(point), slope)


def test_a_moved_landscape_has_its_residuals_at_the_shift():
    terrain, shift, point = SquareLandscapes(), jnp.array([0.5, -1.0]), jnp.array([2.0, 0.1])
    oracle = odeopt.Oracle(terrain.moved(jnp.asarray(2), shift), point, Tally())
    np.testing.assert_allclose(oracle.residuals, SQUARES[2].function(point - shift))
    np.testing.assert_allclose(oracle.value, terrain.value(jnp.asarray(2), point - shift))


def test_a_flow_of_residuals_is_verified_without_a_problem_of_the_users():
    report = odeopt.verify(odeopt.GaussNewton(regularisation=0.5))
    assert report.passed, str(report)
    assert "line through points" in [row[0] for row in report.sections[1].result.rows]


def test_a_direction_uphill_is_found_on_residuals_too():
    class Uphill(odeopt.GaussNewton):
        def direction(self, oracle):
            return jax.tree.map(jnp.negative, super().direction(oracle))

    report = odeopt.verify(Uphill(regularisation=0.5))
    assert not report.passed
    assert "sign of dV/dt" in str(report)
