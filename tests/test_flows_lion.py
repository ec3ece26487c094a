"""The Lion-K family: energies, conjugate functions, polar factors, and constrained minima."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import named

import odeopt
from odeopt._objective import Tally

A, BETA, DECAY, D = 1.3, 0.2, 0.02, 0.3

# Audits start at up to ten times the size of their own problem: the bound 1 / DECAY lies beyond.
FLOWS = {
    "Lion": lambda: odeopt.Lion(A, BETA, DECAY, D),
    "Lion, open smoothing, no decay": odeopt.Lion,
    "normalized momentum": lambda: odeopt.LionK(odeopt.SmoothL2Norm(D), A, 0.0, DECAY),
    "Muon": lambda: odeopt.Muon(A, BETA, DECAY, D),
    "Muon by products of matrices": lambda: odeopt.Muon(A, BETA, DECAY, D, newton_schulz=60),
    "Muon without look-ahead": lambda: odeopt.Muon(A, 0.0, None, D),
}

SAMPLES = 512


def wave(y, args):
    """Of matrices, not convex."""
    return jnp.sum(jnp.cos(y["a"])) + jnp.sum((y["a"] @ y["b"] - 1) ** 2)


WAVE = (wave, {"a": jnp.array([[1.0, -0.5], [0.3, 0.2]]), "b": jnp.array([0.5, -1.0])})


def at(flow, x, m, fn, oracle_type=odeopt.Oracle):
    """Field, energy and rate of a flow, as NumPy arrays."""
    state = odeopt.State(jax.tree.map(jnp.asarray, x), jax.tree.map(jnp.asarray, m))
    oracle = odeopt.Oracle(odeopt.Objective(fn), state.position, Tally())
    arguments = jnp.zeros(()), state, oracle
    field = flow.vector_field(*arguments)
    return jax.tree.map(np.asarray, (field, flow.energy(*arguments), flow.dissipation(*arguments)))


# --- energies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", named(FLOWS, {"Muon by products of matrices", "Muon without look-ahead"}))
def test_the_energy_is_the_one_of_the_flow(name):
    """Those of matrices on matrices: a vector is a matrix with a single singular value. The library's own derivative,
    for which a flow with a declared rate has no use, may fail where a run rests at a bound and its velocity is no more
    than rounding."""
    audit = odeopt.audit_energy(FLOWS[name](), WAVE if "Muon" in name else None, samples=SAMPLES)
    failed = {check.name for check in audit.checks if check.passed is False}
    assert failed <= {"dissipation, derived"}, str(audit)


@pytest.mark.parametrize("name", named(["l1", "l2"], {"l2"}))
def test_just_beyond_its_condition_the_energy_can_rise(name):
    function = {"l1": odeopt.SmoothL1Norm, "l2": odeopt.SmoothL2Norm}[name](D)
    flow = eqx.tree_at(lambda flow: flow.gradient_weight, odeopt.LionK(function, A, 1.0, DECAY), jnp.asarray(1.05))
    audit = odeopt.audit_energy(flow, samples=4 * SAMPLES)
    sign = next(check for check in audit.checks if check.name == "sign of dV/dt")
    assert sign.passed is False, str(audit)


def slope_of(x):
    return np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]]) @ x + 0.4 * x**3


def bowl(y, args):
    """Convex, not quadratic."""
    return 0.5 * y @ np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]]) @ y + 0.1 * jnp.sum(y**4)


def test_energy_and_rate_are_the_published_ones_over_the_weight_of_the_objective():
    """Written with m' = -al g - gam m, mt = m + eps m' for al = gam = a, eps = beta / a."""
    random = np.random.default_rng(0)
    lam, eps = 0.3, BETA / A
    for _ in range(20):
        x, m = random.uniform(-3, 3, 3), random.normal(size=3)
        g = slope_of(x)
        mdot = -A * g - A * m
        mt = m + eps * mdot
        K = lambda m: np.sum(np.sqrt(m**2 + D**2) - D)  # noqa: E731
        dK = lambda m: m / np.sqrt(m**2 + D**2)  # noqa: E731
        Ks, z = np.sum(D * (1 - np.sqrt(1 - (lam * x) ** 2))), D * lam * x / np.sqrt(1 - (lam * x) ** 2)
        c = (1 - eps * A) / (1 + eps * lam)
        energy = A * bowl(x, None) + A / lam * Ks + c * (Ks + K(m) - lam * x @ m)
        rate = -(A + lam) / (1 + eps * lam) * (mt - z) @ (dK(mt) - lam * x) - c * mdot @ (dK(mt) - dK(m))
        field, found_energy, found_rate = at(odeopt.Lion(A, BETA, lam, D), x, m, bowl)
        np.testing.assert_allclose(field.position, dK(mt) - lam * x, rtol=1e-12)
        np.testing.assert_allclose(field.memory, mdot, rtol=1e-12)
        np.testing.assert_allclose(A * found_energy, energy, rtol=1e-12)
        np.testing.assert_allclose(A * found_rate, rate, rtol=1e-12)
        free = at(odeopt.Lion(A, BETA, None, D), x, m, bowl)
        np.testing.assert_allclose(A * free[1], A * bowl(x, None) + (1 - eps * A) * K(m), rtol=1e-12)
        np.testing.assert_allclose(A * free[2], -A * mt @ dK(mt) - (1 - BETA) * mdot @ (dK(mt) - dK(m)), rtol=1e-12)


def test_no_decay_is_the_limit_of_a_small_one():
    x, m = np.array([0.3, -1.0, 2.0]), np.array([0.1, 0.7, -0.2])
    none = at(odeopt.Lion(A, BETA, None, D), x, m, bowl)
    for decay, tolerance in ((0.0, 1e-14), (1e-9, 1e-7)):
        some = at(odeopt.Lion(A, BETA, decay, D), x, m, bowl)
        np.testing.assert_allclose(some[0].position, none[0].position, rtol=tolerance)
        np.testing.assert_allclose(some[1:], none[1:], rtol=tolerance)


# --- what they find ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_muon_by_products_of_matrices_goes_where_muon_goes():
    paths = []
    for products in (None, 60):
        solver = odeopt.Solver(odeopt.Muon(A, BETA, DECAY, D, newton_schulz=products))
        solution = odeopt.minimise(wave, solver, WAVE[1], stop=odeopt.Stop(), max_steps=60, throw=False)
        paths.append(solution.value)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), *paths)


def polar(M):
    U, _, Vt = np.linalg.svd(M, full_matrices=False)
    return U @ Vt


def find(flow, fn, start, **options):
    options = {"stop": odeopt.Stop(gradient_norm=1e-7), "max_steps": 10_000, "throw": False} | options
    return odeopt.minimise(fn, odeopt.Solver(flow), start, **options)


def falls(solution):
    """Whether the energy never rises by more than its rounding and that of the parameters explain."""
    energy, slope = np.asarray(solution.history.energy), np.asarray(solution.history.gradient_norm)
    steps = np.isfinite(energy)
    energy, slope = energy[steps], slope[steps]
    size = np.sqrt(sum(np.sum(np.asarray(leaf) ** 2) for leaf in jax.tree.leaves(solution.value)))
    allowed = np.finfo(energy.dtype).eps * (10 * np.abs(energy) + size * slope)
    return np.all(np.diff(energy) <= allowed[:-1])


def valley(y, args):
    """Rosenbrock's valley, ten times as wide."""
    return (1 - y[0]) ** 2 + 10 * (y[1] - y[0] ** 2) ** 2


FREE = {
    "Lion": odeopt.Lion,
    "normalized momentum": lambda: odeopt.LionK(odeopt.SmoothL2Norm()),
    "Muon": odeopt.Muon,
}


@pytest.mark.parametrize("name", FREE)
def test_the_minimum_is_found_and_the_energy_never_rises(name):
    solution = find(FREE[name](), valley, jnp.array([-1.0, 1.0]))
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    assert falls(solution)
    np.testing.assert_allclose(solution.value, 1.0, atol=1e-6)


@pytest.mark.parametrize("name", FREE)
def test_scaling_the_objective_changes_nothing(name):
    start = jnp.array([-1.0, 1.0])
    here = find(FREE[name](), valley, start, max_steps=60, stop=odeopt.Stop())
    there = find(FREE[name](), lambda y, args: 2.0**20 * valley(y, args), start, max_steps=60, stop=odeopt.Stop())
    np.testing.assert_allclose(there.value, here.value, rtol=1e-9)


def test_lion_finds_the_minimum_in_the_box():
    """One entry wants to leave the box |x| <= 1/lambda, the other does not."""
    width, decay, target = 0.05, 2.0, jnp.array([2.0, 0.3])
    solution = find(
        odeopt.Lion(1.0, 0.1, decay, width), lambda y, t: 0.5 * jnp.sum((y - t) ** 2), jnp.zeros(2), args=target
    )
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    assert falls(solution)
    x = np.asarray(solution.value)
    np.testing.assert_allclose(x - target + width * decay * x / np.sqrt(1 - (decay * x) ** 2), 0, atol=1e-7)
    # At the bound 1 - u is (d/g)^2 / 2, and inside the pull of K* is d u.
    assert abs(x[0] - 0.5) < 0.5 * (width / 1.5) ** 2
    assert abs(x[1] - 0.3) < 1.5 * width


def test_muon_finds_the_minimum_in_the_ball_of_the_spectral_norm():
    """The nearest matrix without singular values above 1/lambda has them cut off there."""
    random = np.random.default_rng(7)
    target, width, decay = 2 * random.normal(size=(3, 2)), 0.02, 1.0
    objective = lambda X, T: 0.5 * jnp.sum((X - T) ** 2)  # noqa: E731
    flow = odeopt.Muon(1.0, 0.1, decay, width)
    solution = find(flow, objective, jnp.zeros((3, 2)), args=jnp.asarray(target), stop=odeopt.Stop(gradient_norm=1e-4))
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    assert falls(solution)
    U, s, Vt = np.linalg.svd(target, full_matrices=False)
    assert s[0] > 1 / decay
    np.testing.assert_allclose(solution.value, (U * np.minimum(s, 1 / decay)) @ Vt, atol=2 * width)


def test_the_exact_sign_lowers_its_energy_and_finds_the_box_too():
    target = jnp.array([2.0, 0.3])
    solution = find(
        odeopt.Lion(1.0, 0.1, 2.0, smoothing=0), lambda y, t: 0.5 * jnp.sum((y - t) ** 2), jnp.zeros(2), args=target
    )
    assert falls(solution)
    # The second entry slides along the jump of the sign, where steps become short: it gets near, and no nearer.
    np.testing.assert_allclose(solution.value, [0.5, 0.3], atol=0.05)


def test_single_precision_and_a_pytree_of_matrices_do_as_well():
    target = np.array([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]], np.float32)

    def factors(y, target):
        return jnp.sum((y["left"] @ y["right"] + y["shift"] - target) ** 2) + 0.1 * jnp.sum(y["shift"] ** 2)

    start = {"left": jnp.eye(2, dtype=jnp.float32), "right": jnp.ones((2, 3), jnp.float32), "shift": jnp.float32(0.5)}
    for flow in (odeopt.Lion(), odeopt.Muon(), odeopt.Muon(newton_schulz=40)):
        solution = find(flow, factors, start, args=jnp.asarray(target), stop=odeopt.Stop(gradient_norm=1e-4))
        assert solution.result == odeopt.RESULTS.converged, str(solution)
        assert solution.value["left"].dtype == jnp.float32
        assert float(solution.loss) < 1e-6
        assert falls(solution)


def test_a_kernel_of_a_convolution_is_folded_to_one_matrix():
    momentum = np.random.default_rng(8).normal(size=(2, 3, 2))
    flow = odeopt.Muon(smoothing=0)
    field, _, _ = at(flow, np.zeros((2, 3, 2)), momentum, lambda y, args: jnp.sum(0.0 * y))
    folded = polar((1 - 0.05) * momentum.reshape(2, 6))
    np.testing.assert_allclose(field.position, folded.reshape(2, 3, 2), rtol=1e-12)


# --- the domain, and what is refused ----------------------------------------------------------------------------------


def test_a_start_outside_of_the_domain_is_a_start_without_energy():
    solution = find(odeopt.Lion(weight_decay=1.0), bowl, jnp.array([0.5, 1.2, 0.0]))
    assert solution.result == odeopt.RESULTS.nonfinite_start
    assert find(odeopt.Lion(weight_decay=1.0), bowl, jnp.array([0.5, 0.9, 0.0])).result == odeopt.RESULTS.converged


def test_outside_of_the_domain_the_flow_comes_nearer_at_the_rate_of_the_decay():
    """Phase 1: of explicit Euler the distance of lambda x to the box falls by 1 - h lambda a step at least."""
    decay, h, flow = 0.5, 0.1, odeopt.Lion(1.0, 0.1, 0.5, 1e-3)
    x, m = np.array([7.0, -3.0, 0.5]), np.zeros(3)
    distance = lambda x: np.max(np.maximum(np.abs(decay * x) - 1, 0))  # noqa: E731
    for _ in range(30):
        field = at(flow, x, m, bowl)[0]
        further, m = x + h * field.position, m + h * field.memory
        assert distance(further) <= (1 - h * decay) * distance(x) + 1e-15
        x = further


class Quadratic(odeopt.AbstractConvexFunction):
    """Heavy ball, as a convex function; without its conjugate."""

    def value(self, momentum):
        return 0.5 * jnp.sum(momentum**2)

    def gradient(self, momentum):
        return momentum


def test_a_function_of_ones_own_needs_no_conjugate_without_weight_decay():
    solution = find(odeopt.LionK(Quadratic()), bowl, jnp.array([1.0, -2.0, 0.7]))
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    with pytest.raises(TypeError, match=r"weight decay needs Quadratic\.conjugate and \.conjugate_gradient"):
        find(odeopt.LionK(Quadratic(), weight_decay=0.1), bowl, jnp.array([1.0, -2.0, 0.7]))


REFUSED = [
    (lambda: odeopt.Lion(gradient_weight=1.1), r"Lion\(gradient_weight=1.1\d*\): expected a number from 0 to 1"),
    (lambda: odeopt.Muon(gradient_weight=-0.1), r"Muon\(gradient_weight=-0.1\d*\): expected a number from 0 to 1"),
    (lambda: odeopt.Lion(momentum_rate=0.0), r"Lion\(momentum_rate=0.0\): expected a finite rate > 0"),
    (lambda: odeopt.Lion(weight_decay=-1.0), r"Lion\(weight_decay=-1.0\): expected a finite rate >= 0, or None"),
    (lambda: odeopt.SmoothL1Norm(0.0), r"SmoothL1Norm\(smoothing=0.0\): expected a finite number > 0"),
    (lambda: odeopt.SmoothNuclearNorm(1.0, 0), r"SmoothNuclearNorm\(newton_schulz=0\): expected a whole number >= 1"),
    (lambda: odeopt.Muon(smoothing=0, newton_schulz=5), "the iteration converges at a known rate for smoothing > 0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_lies_outside_of_a_condition_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_something_else_than_a_function_is_refused(as_installed):
    with pytest.raises(TypeError, match=r"expected an odeopt.AbstractConvexFunction. Write SmoothL1Norm\(\)"):
        odeopt.LionK(odeopt.SmoothL1Norm)


def test_a_function_that_has_not_been_calibrated_says_so():
    with pytest.raises(ValueError, match=r"SmoothL1Norm\(smoothing=None\) has not been calibrated: minimise and train"):
        odeopt.Lion().kinetic_energy(jnp.zeros(()), odeopt.State(jnp.ones(2), jnp.ones(2)))


def test_hyper_parameters_may_be_traced_and_a_decay_of_zero_is_one_of_them():
    def energy(decay):
        flow = odeopt.Lion(A, BETA, decay, D)
        state = odeopt.State(jnp.array([0.3, -1.0]), jnp.array([0.1, 0.7]))
        oracle = odeopt.Oracle(odeopt.Objective(lambda y, args: jnp.sum(y**2)), state.position, Tally())
        return flow.energy(jnp.zeros(()), state, oracle)

    decays = jnp.array([0.0, 0.1, 0.5])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(energy))(decays), [energy(float(decay)) for decay in decays], rtol=1e-14
    )
    assert np.all(np.isfinite(jax.vmap(jax.grad(energy))(decays)))
