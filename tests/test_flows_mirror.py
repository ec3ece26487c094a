"""Mirror flow and its potentials: exponentiated gradients, probabilities, and what lies on a boundary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import alternating

import odeopt
from odeopt._objective import Tally

ROUNDING = 1e-12


def positive():
    """A minimum inside for the first parameter, beyond zero for the others."""
    return lambda y, args: jnp.sum((y - jnp.array([2.0, -1.0, -0.3])) ** 2), jnp.array([0.5, 1.5, 3.0])


def probabilities():
    return lambda y, args: jnp.sum(jnp.cos(5 * y)) + y[0] * y[1], jnp.array([0.2, 0.5, 0.3])


POTENTIALS = {
    "entropy": (odeopt.Entropy(), positive),
    "entropy of probabilities": (odeopt.SimplexEntropy(), probabilities),
    "hyperbolic entropy": (odeopt.HyperbolicEntropy(scale=0.5), None),
    "p-norm": (odeopt.PNorm(power=1.5), None),
}


@pytest.mark.parametrize("name", alternating(POTENTIALS))
def test_the_energy_is_what_the_flow_declares(name):
    potential, problem = POTENTIALS[name]
    audit = odeopt.audit_energy(odeopt.MirrorFlow(potential), problem and problem())
    assert audit.passed, str(audit)


# --- potentials -------------------------------------------------------------------------------------------------------


def vectors(name, count=5):
    random = np.random.default_rng(11)
    if name == "entropy":
        return random.lognormal(size=(count, 4))
    if name == "entropy of probabilities":
        return random.dirichlet(np.ones(4), size=count)
    return random.normal(size=(count, 4))


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_two_gradients_are_inverse_to_each_other(name):
    potential = POTENTIALS[name][0]
    for x in vectors(name):
        np.testing.assert_allclose(potential.conjugate_gradient(potential.gradient(jnp.asarray(x))), x, rtol=ROUNDING)


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_inverse_metric_is_the_inverse_of_the_hessian(name):
    potential = POTENTIALS[name][0]
    w = jnp.array([0.3, -1.0, 2.0, 0.1])
    for x in vectors(name):
        hessian = np.asarray(jax.jacobian(potential.gradient)(jnp.asarray(x)))
        product = np.asarray(potential.inverse_hessian_product(jnp.asarray(x), w))
        if name == "entropy of probabilities":
            # In the plane of constant sums: the product is in it, and the Hessian returns w up to a constant.
            assert abs(np.sum(product)) < ROUNDING
            returned = hessian @ product - w
            np.testing.assert_allclose(returned, returned[0], atol=ROUNDING)
        else:
            np.testing.assert_allclose(product, np.linalg.solve(hessian, w), rtol=1e-11)


def test_the_p_norm_is_that_of_all_parameters_together():
    """grad |x|_p^2 / 2 by automatic differentiation, on a tree."""
    potential, x = odeopt.PNorm(power=1.2), {"a": jnp.array([0.3, -2.0]), "b": jnp.array([[1.5]])}
    half_square = lambda x: 0.5 * sum(jnp.sum(jnp.abs(leaf) ** 1.2) for leaf in jax.tree.leaves(x)) ** (2 / 1.2)  # noqa: E731
    truth, found = jax.grad(half_square)(x), potential.gradient(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=ROUNDING), found, truth)


def test_the_p_norm_of_large_powers_stays_in_range():
    potential = odeopt.PNorm(power=1.02)  # the dual power is 51
    for scale in (1e-10, 1e10):  # 1e-510 and 1e510 are beyond float64
        x = scale * jnp.array([1.0, -2.0, 0.5])
        np.testing.assert_allclose(potential.gradient(potential.conjugate_gradient(x)), x, rtol=1e-11)


# --- solutions in closed form -----------------------------------------------------------------------------------------


def test_the_entropic_flow_of_a_likelihood_is_exponential_relaxation():
    """f = sum x - a ln x has x' = -x (1 - a/x) = a - x."""
    a, x0, times = np.array([2.0, 0.1]), np.array([0.5, 3.0]), [0.5, 2.0]
    reference = odeopt.reference_solution(
        odeopt.MirrorFlow(odeopt.Entropy()),
        (lambda y, a: jnp.sum(y - a * jnp.log(y)), jnp.asarray(x0), jnp.asarray(a)),
        times=times,
    )
    truth = a + (x0 - a) * np.exp(-np.array(times))[:, None]
    np.testing.assert_allclose(reference.states.position, truth, rtol=1e-10)


LINEAR = {
    "entropy": (odeopt.Entropy(), lambda x, w: x * np.exp(w)),
    "entropy of probabilities": (odeopt.SimplexEntropy(), lambda x, w: x * np.exp(w) / np.sum(x * np.exp(w))),
    "hyperbolic entropy": (odeopt.HyperbolicEntropy(0.5), lambda x, w: 0.5 * np.sinh(np.arcsinh(x / 0.5) + w)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_flow_down_a_plane_is_a_straight_line_of_dual_variables(name):
    potential, moved = LINEAR[name]
    slope, x0, times = np.array([1.0, -0.5, 0.2]), np.array([0.2, 0.5, 0.3]), np.array([0.7, 1.5])
    problem = (lambda y, slope: slope @ y, jnp.asarray(x0), jnp.asarray(slope))
    reference = odeopt.reference_solution(odeopt.MirrorFlow(potential), problem, times=times)
    np.testing.assert_allclose(reference.states.position, [moved(x0, -t * slope) for t in times], rtol=1e-10)


# --- mirror descent ---------------------------------------------------------------------------------------------------

CENTRE = np.array([0.4, 0.1, 0.6])


def bowl(y, args):
    return jnp.sum(jnp.cosh(y - CENTRE)) + y[0] * y[2]


def bowl_gradient(y):
    return np.sinh(y - CENTRE) + np.array([y[2], 0.0, y[0]])


def p_norm_step(x, w):
    p, q = 1.5, 3.0
    z = np.sign(x) * np.abs(x) ** (p - 1) * np.sum(np.abs(x) ** p) ** ((2 - p) / p) + w
    return np.sign(z) * np.abs(z) ** (q - 1) * np.sum(np.abs(z) ** q) ** ((2 - q) / q)


DESCENT = LINEAR | {"p-norm": (odeopt.PNorm(1.5), p_norm_step)}


@pytest.mark.parametrize("name", DESCENT)
def test_euler_in_the_dual_variables_is_mirror_descent(name):
    potential, moved = DESCENT[name]
    x, rows = np.array([0.2, 0.5, 0.3]), []
    for _ in range(50):
        x = moved(x, -0.1 * bowl_gradient(x))
        rows.append(x)
    solver = odeopt.Solver(odeopt.MirrorFlow(potential), controller=odeopt.ConstantStep(0.1))
    solution = odeopt.minimise(
        bowl, solver, jnp.array([0.2, 0.5, 0.3]), stop=odeopt.Stop(), max_steps=50, history="states", throw=False
    )
    np.testing.assert_allclose(solution.history.position, rows, rtol=ROUNDING)


def test_the_domain_is_kept_at_every_step_size():
    fn, y0 = positive()
    for step_size, dtype in ((1.0, jnp.float64), (1e3, jnp.float32)):
        solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.Entropy()), controller=odeopt.ConstantStep(step_size))
        solution = odeopt.minimise(
            fn, solver, y0.astype(dtype), stop=odeopt.Stop(), max_steps=5, history="states", throw=False
        )
        rows = solution.history.trimmed().position
        assert np.all(rows > 0)


def test_a_parameter_that_has_come_down_to_nothing_can_come_back():
    potential, x = odeopt.Entropy(), jnp.array([1.0])
    nothing = potential.mirror_step(x, jnp.array([-1e6]))
    assert 0 < float(nothing[0]) < 1e-300
    assert float(potential.mirror_step(nothing, jnp.array([720.0]))[0]) > 1.0
    likely = odeopt.SimplexEntropy().mirror_step(jnp.array([0.5, 0.5]), jnp.array([-1e6, 0.0]))
    np.testing.assert_allclose(odeopt.SimplexEntropy().mirror_step(likely, jnp.array([720.0, 0.0])), [1, 0], atol=1e-4)


def test_the_sum_of_probabilities_stays_what_it_is():
    solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.SimplexEntropy()), controller=odeopt.ConstantStep(0.05))
    y0 = 3 * jnp.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    solution = odeopt.minimise(
        lambda y, _: jnp.sum(jnp.cos(2 * y)), solver, y0, stop=odeopt.Stop(), max_steps=300, throw=False
    )
    np.testing.assert_allclose(jnp.sum(solution.value, axis=-1), 3.0, rtol=1e-13)


def test_close_to_a_vertex_the_dissipation_is_accurate_and_of_one_sign():
    potential, g = odeopt.SimplexEntropy(), np.array([1.7, 2.3, -0.4])
    for distance in 10.0 ** -np.arange(1, 17):
        x = np.array([1 - distance, 0.6 * distance, 0.4 * distance])
        product = np.asarray(potential.inverse_hessian_product(jnp.asarray(x), jnp.asarray(g)))
        # The variance of g under the probabilities x, about its first entry.
        variance = x @ (g - g[0]) ** 2 - (x @ (g - g[0])) ** 2
        np.testing.assert_allclose(g @ product, variance, rtol=1e-10)


def test_the_p_norm_leaves_zero():
    flow, y0 = odeopt.MirrorFlow(odeopt.PNorm(1.2)), jnp.zeros(3)
    target = jnp.array([1.0, 0.0, -0.1])
    fn = lambda y, _: 0.5 * jnp.sum((y - target) ** 2)  # noqa: E731
    # x(t) = grad phi*(-t g) as long as the gradient does not change.
    oracle = odeopt.Oracle(odeopt.Objective(fn), y0, Tally())
    velocity = flow.vector_field(jnp.zeros(()), flow.init(y0), oracle).position
    np.testing.assert_allclose(velocity, flow.potential.conjugate_gradient(target), rtol=ROUNDING)
    solution = odeopt.minimise(fn, odeopt.Solver(flow), y0, stop=odeopt.Stop(target_loss=1e-8))
    np.testing.assert_allclose(solution.value, target, atol=2e-4)


# --- boundaries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [None, odeopt.Euler(), odeopt.Heun()], ids=["MirrorEuler", "Euler", "Heun"])
def test_a_minimum_on_the_boundary_is_found(scheme):
    fn, y0 = positive()
    y0 = y0.astype(jnp.float32 if scheme is None else jnp.float64)
    solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.Entropy()), scheme)
    solution = odeopt.minimise(fn, solver, y0, stop=odeopt.Stop(gradient_norm=1e-5))
    assert "tolerance has been met" in str(solution.result)
    # |x'| <= 1e-5 with x' = -x g: at most 1e-5 / g is left where g > 0, and g = 2 and 0.6 there; 2 g at x = 2.
    np.testing.assert_allclose(solution.value, [2.0, 0.0, 0.0], atol=1e-5 / 0.6)
    assert np.all(np.diff(solution.history.trimmed().energy) <= 1e-6)
    assert solution.value.dtype == y0.dtype


def test_a_start_outside_of_the_domain_is_reported():
    solver = odeopt.Solver(odeopt.MirrorFlow(odeopt.Entropy()))
    solution = odeopt.minimise(lambda y, _: jnp.sum(y**2), solver, jnp.array([1.0, -1.0]), throw=False)
    assert solution.result == odeopt.RESULTS.nonfinite_start


# --- potentials of one's own ------------------------------------------------------------------------------------------


class Weighted(odeopt.AbstractPotential):
    """phi = sum w x^2 / 2."""

    weights: jax.Array

    def gradient(self, position):
        return self.weights * position

    def conjugate_gradient(self, dual):
        return dual / self.weights


def test_a_potential_needs_two_gradients_and_no_more():
    solver = odeopt.Solver(odeopt.MirrorFlow(Weighted(jnp.array([1.0, 100.0]))))
    fn = lambda y, _: 0.5 * jnp.sum(jnp.array([1.0, 100.0]) * (y - 1) ** 2)  # noqa: E731
    solution = odeopt.minimise(fn, solver, jnp.array([3.0, -2.0]))
    np.testing.assert_allclose(solution.value, 1.0, atol=1e-6)
    # With the Hessian for the metric all steps point to the minimum, and few of them are needed.
    assert int(solution.stats["accepted"]) < 30


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("given", [odeopt.Entropy, None, jnp.log])
def test_something_that_is_no_potential_is_refused(given):
    with pytest.raises(TypeError, match=r"expected an odeopt\.AbstractPotential"):
        odeopt.MirrorFlow(given)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: odeopt.HyperbolicEntropy(0.0), r"HyperbolicEntropy\(scale=0.0\)"),
        (lambda: odeopt.PNorm(1.0), r"PNorm\(power=1.0\): expected 1 < power <= 2"),
        (lambda: odeopt.PNorm(2.5), r"PNorm\(power=2.5\)"),
        (lambda: odeopt.Solver(odeopt.GradientFlow(), odeopt.MirrorEuler()), "GradientFlow has none"),
    ],
)
def test_what_is_out_of_range_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


class Concave(Weighted):
    """One weight is negative: no convex potential, and no metric."""


def test_with_a_potential_that_is_not_convex_the_energy_can_rise():
    audit = odeopt.audit_energy(odeopt.MirrorFlow(Concave(jnp.array([1.0, 1.0, -1.0, 1.0]))))
    assert not audit.passed
    assert "dV/dt > 0" in str(audit)
