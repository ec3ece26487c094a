"""Convex functions of a momentum with their conjugates, and the polar factors of matrices that two of them need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import named

import odeopt
from odeopt._flow.polar import newton_schulz, smooth_polar

D = 0.3

SMOOTH = {
    "l1": lambda: odeopt.SmoothL1Norm(D),
    "l2": lambda: odeopt.SmoothL2Norm(D),
    "nuclear": lambda: odeopt.SmoothNuclearNorm(D),
    "nuclear, by products": lambda: odeopt.SmoothNuclearNorm(D, newton_schulz=60),
}


def random_momenta():
    random = np.random.default_rng(3)
    for scale in (1e-6, 1.0, 1e3):
        matrices = {
            "wide": random.normal(size=(2, 4)),
            "tall": random.normal(size=(3, 2)),
            "one": random.normal(size=3),
        }
        yield jax.tree.map(lambda m, scale=scale: jnp.asarray(scale * m), matrices | {"zero": np.zeros((2, 2))})


@pytest.mark.parametrize("name", named(SMOOTH, {"nuclear, by products"}))
def test_a_smooth_norm_has_the_gradient_and_the_conjugate_that_belong_to_it(name):
    K = SMOOTH[name]()
    for m in random_momenta():
        u, derivative = K.gradient(m), jax.grad(K.value)(m)
        # u is rounded, and grad K* is steeper than K* by (m/d)^2.
        largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(m))
        digits = 1e-14 * (1 + (largest / D) ** 2)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-13), u, derivative)
        product = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(m), jax.tree.leaves(u), strict=True))
        np.testing.assert_allclose(K.value(m) + K.conjugate(u), product, rtol=1e-9)
        inverse = K.conjugate_gradient(u)
        close = lambda a, b, d=digits: np.testing.assert_allclose(a, b, rtol=d, atol=d * largest)  # noqa: E731, B023
        jax.tree.map(close, inverse, m)


@pytest.mark.parametrize("name", ["l1", "l2", "nuclear"])
def test_outside_of_its_domain_a_conjugate_is_infinite(name):
    K = SMOOTH[name]()
    inside = {"wide": 0.2 * jnp.eye(2, 4), "one": jnp.array([0.3, -0.5])}
    assert np.isfinite(K.conjugate(inside))
    assert np.isinf(K.conjugate(jax.tree.map(lambda u: 10 * u, inside)))


def test_small_and_large_arguments_keep_their_digits():
    K = odeopt.SmoothL1Norm(1.0)
    np.testing.assert_allclose(K.value(jnp.array([1e-9])), 0.5e-18, rtol=1e-14)
    np.testing.assert_allclose(K.conjugate(jnp.array([1e-9])), 0.5e-18, rtol=1e-14)


@pytest.mark.parametrize("make", [odeopt.SmoothL1Norm, odeopt.SmoothL2Norm, odeopt.SmoothNuclearNorm])
def test_open_smoothing_is_a_part_of_what_the_norm_is_made_of(make):
    gradient = {"a": jnp.full((2, 3), 2.0), "b": jnp.full(4, 2.0)}
    part, parts = {
        odeopt.SmoothL1Norm: (0.03, 10),
        odeopt.SmoothL2Norm: (1e-3, 1),
        odeopt.SmoothNuclearNorm: (1e-3, 2 + 1),
    }[make]
    np.testing.assert_allclose(make().calibrate(gradient).smoothing, part * np.sqrt(40 / parts), rtol=1e-12)


def test_exact_norms_have_subgradients_and_the_residuals_of_their_constraints():
    G = np.array([[3.0, 0.0], [0.0, 0.0]])
    K = odeopt.NuclearNorm()
    np.testing.assert_allclose(K.value(jnp.asarray(G)), 3.0)
    np.testing.assert_allclose(K.gradient(jnp.asarray(G)), [[1, 0], [0, 0]], atol=1e-15)
    np.testing.assert_allclose(jax.grad(K.value)(jnp.asarray(G)), [[1, 0], [0, 0]], atol=1e-15)
    # -G points out of the spectral ball at u = -1 in its first direction: nothing is left to be done.
    at_bound, inside = np.array([[-1.0, 0], [0, 0.3]]), np.zeros((2, 2))
    np.testing.assert_allclose(K.residual(jnp.asarray(G), jnp.asarray(at_bound)), 0.0, atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(K.residual(jnp.asarray(G), jnp.asarray(inside))), 3.0)
    signs, g = odeopt.L1Norm(), jnp.array([3.0, -2.0, 0.0])
    np.testing.assert_allclose(signs.residual(g, jnp.array([-1.0, 1.0, 0.2])), 0.0)
    np.testing.assert_allclose(signs.residual(g, jnp.zeros(3)), np.abs(g))


# --- polar factors ----------------------------------------------------------------------------------------------------


def inverse_root(S):
    values, basis = np.linalg.eigh(S)
    return (basis / np.sqrt(values)) @ basis.T


MATRICES = {
    "square": np.random.default_rng(0).normal(size=(3, 3)),
    "tall": np.random.default_rng(1).normal(size=(4, 2)),
    "wide": np.random.default_rng(2).normal(size=(2, 5)),
    "rank one": np.outer([1.0, 2.0, -1.0], [0.5, 1.0]),
    "equal singular values": 2.0 * np.eye(3, 2),
    "zero": np.zeros((2, 3)),
    "scalar": np.array([[0.7]]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_the_smooth_polar_factor_and_its_derivative_are_the_formulas(name):
    M, width = MATRICES[name], 0.3
    formula = lambda M, d: M @ inverse_root(M.T @ M + d**2 * np.eye(M.shape[1]))  # noqa: E731
    rate, h = np.random.default_rng(4).normal(size=M.shape), 1e-6
    primals, tangents = (jnp.asarray(M), jnp.asarray(width)), (jnp.asarray(rate), jnp.asarray(0.7))
    value, slope = jax.jvp(smooth_polar, primals, tangents)
    np.testing.assert_allclose(value, formula(M, width), atol=1e-13)
    quotient = (formula(M + h * rate, width + 0.7 * h) - formula(M - h * rate, width - 0.7 * h)) / (2 * h)
    # Second differences: h**2 times a third derivative of size 1/d**3, and rounding over h.
    np.testing.assert_allclose(slope, quotient, atol=1e-8)


@pytest.mark.parametrize("ratio", [1e1, 1e3, 1e5])
def test_newton_schulz_needs_the_iterations_that_its_bound_names_and_not_many_fewer(ratio):
    """With singular values from d to ratio * d, |A|_F is about ratio * d."""
    random = np.random.default_rng(5)
    (U, _), (W, _) = np.linalg.qr(random.normal(size=(5, 4))), np.linalg.qr(random.normal(size=(4, 4)))
    values, width = np.array([1.0, 0.1, 2 / ratio, 0.0]), 1 / ratio
    M, truth = (U * values) @ W.T, (U * (values / np.sqrt(values**2 + width**2))) @ W.T
    size = np.sqrt(np.sum(M**2) + 4 * width**2)
    iterations = int(np.ceil(7 + np.log(size / (2 * width)) / np.log(11 / 8)))
    error = lambda n: np.max(np.abs(newton_schulz(jnp.asarray(M), jnp.asarray(width), n)[0] - truth))  # noqa: E731
    # A polar factor moves by the change of its matrix over the smallest singular value.
    assert error(iterations) < 1e-14 * ratio
    assert error(iterations // 2) > 1e-3
    _, root = newton_schulz(jnp.asarray(M.T), jnp.asarray(width), iterations)
    np.testing.assert_allclose(root @ root, M.T @ M + width**2 * np.eye(4), atol=1e-12)
