"""The relatives of Adam: their energies, and what they find."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import alternating, named

import odeopt
from odeopt._objective import Tally

A, B, E = 1.3, 2.1, 0.2

FLOWS = {
    "Adam with bias correction": lambda: odeopt.BiasCorrectedAdam(A, B, E),
    "NAdam": lambda: odeopt.NAdam(A, B, 0.3, E),
    # Forty times the rate of the momentum: where nothing shrinks no condition ties the two.
    "AdaGrad with momentum": lambda: odeopt.AdaGradMomentum(A, 40 * A, E),
    "AMSGrad": lambda: odeopt.AMSGrad(A, 40 * A, E),
    "Padam": lambda: odeopt.Padam(0.25, A, 8 * A, E),
    "Adam with an L2 penalty": lambda: odeopt.AdamL2(0.4, A, B, E),
    "AdamW": lambda: odeopt.AdamW(0.4, A, B, E),
    # A constant of the size of the gradients themselves would hide the matrices: it is left open.
    "Shampoo": odeopt.Shampoo,
}

# Of the random states of an audit: a quarter of what is usual, to half its time. Near critical points a violation at
# a tenth beyond the condition still shows at hundreds of them.
SAMPLES = 1024

MATRIX = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
START = np.array([1.0, -2.0, 0.7])


def bowl(y, args):
    """Convex, not quadratic."""
    return 0.5 * y @ MATRIX @ y + 0.1 * jnp.sum(y**4)


def bowl_gradient(y):
    return MATRIX @ y + 0.4 * y**3


def at(flow, t, x, memory, fn=bowl):
    """Field, energy and rate of a flow, as NumPy arrays."""
    state = odeopt.State(jnp.asarray(x), jax.tree.map(jnp.asarray, memory))
    oracle = odeopt.Oracle(odeopt.Objective(fn), state.position, Tally())
    arguments = jnp.asarray(t, jnp.float64), state, oracle
    field = flow.vector_field(*arguments)
    return jax.tree.map(np.asarray, (field, flow.energy(*arguments), flow.dissipation(*arguments)))


# --- energies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", alternating(FLOWS, every=4))
def test_the_energy_is_the_one_of_the_flow(name):
    audit = odeopt.audit_energy(FLOWS[name](), samples=SAMPLES)
    assert audit.passed, str(audit)


def outside(flow, **changes):
    """A flow with constants that its constructor refuses."""
    for name, value in changes.items():
        flow = eqx.tree_at(lambda flow, name=name: getattr(flow, name), flow, jnp.asarray(value))
    return flow


# A tenth beyond the condition. Near critical points v may be far above the squares of the gradients.
BEYOND = {
    "Adam with bias correction": lambda: outside(odeopt.BiasCorrectedAdam(A, A, 1e-3), scaling_rate=4.4 * A),
    "NAdam": lambda: outside(odeopt.NAdam(A, A, 1e-3, 1e-3), scaling_rate=4.4 * A),
    "Padam": lambda: outside(odeopt.Padam(0.25, A, A, 1e-3), scaling_rate=8.8 * A),
    "Adam with an L2 penalty": lambda: outside(odeopt.AdamL2(0.1, A, A, 1e-3), scaling_rate=4.4 * A),
    "Shampoo": lambda: outside(odeopt.Shampoo(A, A, ridge=0.0), scaling_rate=4.4 * A),
}


@pytest.mark.parametrize("name", named(BEYOND, set(BEYOND) - {"NAdam"}))
def test_just_beyond_its_condition_the_energy_can_rise(name):
    audit = odeopt.audit_energy(BEYOND[name](), samples=2 * SAMPLES)
    sign = next(check for check in audit.checks if check.name == "sign of dV/dt")
    assert sign.passed is False, str(audit)


def random_states(count=20):
    random = np.random.default_rng(0)
    for _ in range(count):
        x, m, v = random.normal(size=3), random.normal(size=3), random.normal(size=3) ** 2
        yield random.exponential(), x, m, v


def rate_of_adam(m, v, g, root):
    return -np.sum(m**2 / root * (1 + B * (g**2 - v) / (4 * A * root**2)))


def bias_corrected(t, x, m, v, g):
    first, second = 1 - np.exp(-A * t), 1 - np.exp(-B * t)
    mh, vh = m / first, v / second
    root = np.sqrt(vh + E**2)
    bracket = 1 + (1 - first) / (2 * first) + B * (g**2 - vh) / (4 * A * second * root**2)
    return -mh / root, np.sum(m**2 / root) / (2 * A * first), -np.sum(m**2 / (first * root) * bracket)


def nadam(t, x, m, v, g):
    root = np.sqrt(v + E**2)
    rate = rate_of_adam(m, v, g, root) - 0.3 * np.sum(g**2 / root)
    return -(m + 0.3 * g) / root, np.sum(m**2 / root) / (2 * A), rate


def adagrad(t, x, m, v, g):
    root = np.sqrt(v + E**2)
    rate = -np.sum(m**2 / root * (1 + 40 * A * g**2 / (4 * A * root**2)))
    return -m / root, np.sum(m**2 / root) / (2 * A), rate


def amsgrad(t, x, m, v, g):
    root = np.sqrt(v + E**2)
    rate = -np.sum(m**2 / root * (1 + 40 * A * np.maximum(g**2 - v, 0) / (4 * A * root**2)))
    return -m / root, np.sum(m**2 / root) / (2 * A), rate


def padam(t, x, m, v, g):
    scaled = 0.7**0.5 * (v + E**2) ** 0.25  # s^(1 - 2p) (v + e^2)^p with s = 0.7
    rate = -np.sum(m**2 / scaled * (1 + 0.25 * 8 * A * (g**2 - v) / (2 * A * (v + E**2))))
    return -m / scaled, np.sum(m**2 / scaled) / (2 * A), rate


def with_penalty(t, x, m, v, g):
    root = np.sqrt(v + E**2)
    return -m / root, 0.2 * np.sum(x**2) + np.sum(m**2 / root) / (2 * A), rate_of_adam(m, v, g, root)


def adamw(t, x, m, v, g):
    root, w = np.sqrt(v + E**2), 0.4
    slope = B * (g**2 - v) / (2 * root)
    # All of it times a, as the law is usually written.
    energy = 0.5 * A * w * np.sum(root * x**2) + 0.5 * np.sum((m + w * root * x) ** 2 / root)
    rate = -(A + w) * np.sum((m + w * root * x) ** 2 / root)
    rate += 0.5 * np.sum(slope * ((A * w + w**2) * x**2 - m**2 / root**2))
    return -m / root - w * x, energy / A, rate / A


TRUTHS = {
    "Adam with bias correction": bias_corrected,
    "NAdam": nadam,
    "AdaGrad with momentum": adagrad,
    "AMSGrad": amsgrad,
    "Padam": padam,
    "Adam with an L2 penalty": with_penalty,
    "AdamW": adamw,
}


@pytest.mark.parametrize("name", TRUTHS)
def test_velocity_energy_and_rate_are_the_formulas(name):
    flow = FLOWS[name]()
    if name == "Padam":
        flow = outside(odeopt.Padam(0.25, A, 8 * A, E, scale=0.7))
    for t, x, m, v in random_states():
        velocity, energy, rate = TRUTHS[name](t, x, m, v, bowl_gradient(x))
        field, found_energy, found_rate = at(flow, t, x, (m, v))
        np.testing.assert_allclose(field.position, velocity, rtol=1e-12)
        np.testing.assert_allclose(found_energy, bowl(x, None) + energy, rtol=1e-12)
        # A rate is a difference where squares of gradients stand beside their averages.
        np.testing.assert_allclose(found_rate, rate, rtol=1e-12, atol=1e-12)


def inverse_fourth_root(S):
    """By two square roots of Denman and Beavers: products and inverses, no eigenvalues."""

    def square_root(S):
        Y, Z = S, np.eye(len(S))
        for _ in range(60):
            Y, Z = 0.5 * (Y + np.linalg.inv(Z)), 0.5 * (Z + np.linalg.inv(Y))
        return Y

    return np.linalg.inv(square_root(square_root(S)))


def matrix_bowl(X, args):
    return 0.5 * jnp.sum(X**2) + jnp.sum((X @ X.T) ** 2)


def matrix_bowl_gradient(X):
    return X + 4 * X @ X.T @ X


def test_shampoo_multiplies_with_the_inverse_fourth_roots_from_both_sides():
    random = np.random.default_rng(1)
    X, M, P, Q = (random.normal(size=shape) for shape in ((2, 3), (2, 3), (2, 2), (3, 3)))
    L, R, ridge = P @ P.T, Q @ Q.T, 0.05
    flow = odeopt.Shampoo(A, B, E, ridge)
    field, energy, _ = at(flow, 0.0, X, (M, (L, R)), matrix_bowl)
    shifted = lambda S: S + (ridge * np.trace(S) + E**2) * np.eye(len(S))  # noqa: E731
    product = inverse_fourth_root(shifted(L)) @ M @ inverse_fourth_root(shifted(R))
    np.testing.assert_allclose(field.position, -product, rtol=1e-10)
    np.testing.assert_allclose(energy, matrix_bowl(X, None) + np.sum(M * product) / (2 * A), rtol=1e-12)
    G = matrix_bowl_gradient(X)
    np.testing.assert_allclose(field.memory[1][0], B * (G @ G.T - L), rtol=1e-12)
    np.testing.assert_allclose(field.memory[1][1], B * (G.T @ G - R), rtol=1e-12)


def test_shampoo_is_adam_for_scalars():
    random = np.random.default_rng(2)
    x, m, v = random.normal(size=()), random.normal(size=()), random.normal(size=()) ** 2
    wave = lambda y, args: jnp.sum(jnp.cos(y))  # noqa: E731
    ours = at(odeopt.Shampoo(A, B, E, ridge=0.0), 0.0, x, (m, (v[None, None], v[None, None])), wave)
    adams = at(odeopt.Adam(A, B, E), 0.0, x, (m, v), wave)
    np.testing.assert_allclose(ours[0].position, adams[0].position, rtol=1e-12)
    np.testing.assert_allclose(ours[1:], adams[1:], rtol=1e-12)


# --- bias correction --------------------------------------------------------------------------------------------------


def test_bias_corrected_adam_has_its_limits_at_the_start():
    g = bowl_gradient(START)
    root = np.sqrt(g**2 + E**2)
    field, energy, rate = at(FLOWS["Adam with bias correction"](), 0.0, START, (np.zeros(3), np.zeros(3)))
    np.testing.assert_allclose(field.position, -g / root, rtol=1e-15)
    np.testing.assert_allclose(energy, bowl(START, None), rtol=1e-15)
    np.testing.assert_allclose(rate, -0.5 * np.sum(g**2 / root), rtol=1e-14)


@pytest.mark.parametrize("t", [1e-12, 1e-6, 1e-2, 1.0, 20.0])
def test_on_a_plane_bias_corrected_adam_goes_straight_at_constant_speed(t):
    """m = A g and v = B g^2 there, so that V' = -(1 - e^(-at) / 2) times the sum of g^2 / D."""
    slope = np.array([0.7, -2.0, 0.01])
    plane = lambda y, args: jnp.sum(slope * y)  # noqa: E731
    memory = (-np.expm1(-A * t) * slope, -np.expm1(-B * t) * slope**2)
    field, energy, rate = at(FLOWS["Adam with bias correction"](), t, START, memory, plane)
    root = np.sqrt(slope**2 + E**2)
    descent = np.sum(slope**2 / root)
    np.testing.assert_allclose(field.position, -slope / root, rtol=1e-14)
    np.testing.assert_allclose(energy, slope @ START - np.expm1(-A * t) * descent / (2 * A), rtol=1e-14)
    np.testing.assert_allclose(rate, -(1 - np.exp(-A * t) / 2) * descent, rtol=1e-14)


def test_the_declared_rate_at_the_start_is_the_one_along_the_solution():
    """The quotient of differences of V over t = 1e-6, from diffrax: it differs from the rate by about t itself."""
    flow = FLOWS["Adam with bias correction"]()
    states = odeopt.reference_solution(flow, (bowl, jnp.asarray(START)), times=[0.0, 1e-6]).states
    at_start, soon = (
        at(flow, t, states.position[k], tuple(part[k] for part in states.memory)) for k, t in enumerate((0.0, 1e-6))
    )
    np.testing.assert_allclose((soon[1] - at_start[1]) / 1e-6, at_start[2], rtol=1e-5)


# --- conditions -------------------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: odeopt.Adam(bias_correction=True), "Use BiasCorrectedAdam"),
    (lambda: odeopt.BiasCorrectedAdam(1.0, 4.1), r"BiasCorrectedAdam\(.*must be at most 4 \* momentum_rate"),
    (lambda: odeopt.BiasCorrectedAdam(1.0, 0.0), r"BiasCorrectedAdam\(scaling_rate=0.0\): expected a rate > 0"),
    (lambda: odeopt.NAdam(1.0, 4.1), r"NAdam\(.*must be at most 4 \* momentum_rate"),
    (lambda: odeopt.NAdam(gradient_weight=0.0), r"NAdam\(gradient_weight=0.0\): .*it is Adam"),
    (lambda: odeopt.Padam(0.25, 1.0, 8.1), r"Padam\(.*must be at most 2 \* momentum_rate"),
    (lambda: odeopt.Padam(-0.1), r"Padam\(exponent=-0.1\): expected a finite number >= 0"),
    (lambda: odeopt.Padam(scale=0.0), r"Padam\(scale=0.0\): expected a finite number > 0, in units of the gradient"),
    (lambda: odeopt.AdamL2(0.1, 1.0, 4.1), r"AdamL2\(.*must be at most 4 \* momentum_rate"),
    (lambda: odeopt.AdamL2(-0.1), r"AdamL2\(weight_decay=-0.1\): expected a finite number >= 0"),
    (lambda: odeopt.AdamW(-0.1), r"AdamW\(weight_decay=-0.1\): expected a finite rate >= 0"),
    (lambda: odeopt.Shampoo(1.0, 4.1), r"Shampoo\(.*must be at most 4 \* momentum_rate"),
    (lambda: odeopt.Shampoo(ridge=-1.0), r"Shampoo\(ridge=-1.0\): expected a finite number >= 0"),
    (lambda: odeopt.AMSGrad(momentum_rate=0.0), r"AMSGrad\(momentum_rate=0.0\): expected a finite rate > 0"),
    (lambda: odeopt.AMSGrad(scaling_rate=-1.0), r"AMSGrad\(scaling_rate=-1.0\): expected a finite rate >= 0"),
    (lambda: odeopt.AdaGradMomentum(epsilon=0.0), r"AdaGradMomentum\(epsilon=0.0\): expected a finite number > 0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_lies_outside_of_a_condition_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_ends_of_the_conditions_are_allowed():
    odeopt.BiasCorrectedAdam(1.0, 4.0)
    odeopt.Padam(0.5, 1.0, 4.0)
    odeopt.Shampoo(1.0, 4.0)


@pytest.mark.parametrize("make", [odeopt.NAdam, odeopt.Padam, odeopt.Shampoo])
def test_a_flow_that_has_not_been_calibrated_says_so(make):
    flow = make()
    state = flow.init(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="has not been calibrated: minimise and train do it"):
        flow.kinetic_energy(jnp.asarray(0.0), state)


# --- what they find ---------------------------------------------------------------------------------------------------


def valley(y, args):
    """Rosenbrock's valley, ten times as wide."""
    return (1 - y[0]) ** 2 + 10 * (y[1] - y[0] ** 2) ** 2


def find(flow, fn, start, **options):
    options = {"stop": odeopt.Stop(gradient_norm=1e-6), "max_steps": 10_000, "throw": False} | options
    return odeopt.minimise(fn, odeopt.Solver(flow), start, **options)


def falls(solution):
    """Whether the energy never rises by more than its rounding and that of the parameters explain."""
    energy, slope = np.asarray(solution.history.energy), np.asarray(solution.history.gradient_norm)
    steps = np.isfinite(energy)
    energy, slope = energy[steps], slope[steps]
    size = np.sqrt(sum(np.sum(np.asarray(leaf) ** 2) for leaf in jax.tree.leaves(solution.value)))
    allowed = np.finfo(energy.dtype).eps * (10 * np.abs(energy) + size * slope)
    return np.all(np.diff(energy) <= allowed[:-1])


OPEN = {
    "Adam with bias correction": odeopt.BiasCorrectedAdam,
    "NAdam": odeopt.NAdam,
    "AdaGrad with momentum": odeopt.AdaGradMomentum,
    "AMSGrad": odeopt.AMSGrad,
    "Padam": odeopt.Padam,
    "Adam with an L2 penalty": lambda: odeopt.AdamL2(0.0),
    "Shampoo": odeopt.Shampoo,
}


@pytest.mark.parametrize("name", OPEN)
def test_the_minimum_is_found_and_the_energy_never_rises(name):
    solution = find(OPEN[name](), valley, jnp.array([-1.0, 1.0]))
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    assert falls(solution)
    np.testing.assert_allclose(solution.value, 1.0, atol=1e-5)


@pytest.mark.parametrize("name", alternating(OPEN))
def test_scaling_the_objective_changes_nothing(name):
    start = jnp.array([-1.0, 1.0])
    here = find(OPEN[name](), valley, start, max_steps=60, stop=odeopt.Stop())
    there = find(OPEN[name](), lambda y, args: 2.0**20 * valley(y, args), start, max_steps=60, stop=odeopt.Stop())
    np.testing.assert_allclose(there.value, here.value, rtol=1e-9)


def test_single_precision_and_a_pytree_of_matrices_do_as_well():
    target = np.array([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]], np.float32)

    def factors(y, target):
        return jnp.sum((y["left"] @ y["right"] + y["shift"] - target) ** 2) + 0.1 * jnp.sum(y["shift"] ** 2)

    start = {"left": jnp.eye(2, dtype=jnp.float32), "right": jnp.ones((2, 3), jnp.float32), "shift": jnp.float32(0.5)}
    for flow in (odeopt.BiasCorrectedAdam(), odeopt.Shampoo()):
        solution = find(flow, factors, start, args=jnp.asarray(target), stop=odeopt.Stop(gradient_norm=1e-4))
        assert solution.result == odeopt.RESULTS.converged, str(solution)
        assert solution.value["left"].dtype == jnp.float32
        assert float(solution.loss) < 1e-6
        assert falls(solution)


def test_the_penalty_moves_the_minimum_to_where_its_gradient_balances_the_other():
    solution = find(odeopt.AdamL2(0.5), bowl, jnp.asarray(START), stop=odeopt.Stop(gradient_norm=1e-9))
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    shifted = find(odeopt.AdamL2(0.5), lambda y, args: bowl(y - 1.0, args), jnp.asarray(START))
    y = np.asarray(shifted.value)
    np.testing.assert_allclose(bowl_gradient(y - 1.0) + 0.5 * y, 0.0, atol=2e-6)
    assert falls(shifted)


def test_adamw_comes_to_rest_inside_of_its_bound_and_its_energy_may_rise_on_the_way():
    """The plane pushes the first parameter to -1/w, as far as |g| / sqrt(g^2 + e^2) allows; the second is free."""
    w, e, slope = 0.5, 0.1, 3.0

    def half_pipe(y, args):
        return slope * y[0] + 0.5 * (y[1] - 1.0) ** 2

    solver = odeopt.Solver(odeopt.AdamW(w, 1.0, 1.0, e), controller=odeopt.ConstantStep(0.1))
    solution = odeopt.minimise(
        half_pipe, solver, jnp.array([0.5, 0.0]), stop=odeopt.Stop(gradient_norm=1e-8), max_steps=2000, throw=False
    )
    assert solution.result == odeopt.RESULTS.converged, str(solution)
    state = solution.state.run.snapshot.state
    free = np.asarray(state.position)[1]
    np.testing.assert_allclose(np.asarray(state.position)[0], -slope / np.sqrt(slope**2 + e**2) / w, rtol=1e-8)
    np.testing.assert_allclose(free - 1.0 + w * np.sqrt((free - 1.0) ** 2 + e**2) * free, 0.0, atol=1e-8)
    assert np.nanmax(np.asarray(solution.history.dissipation)) > 0


def test_without_scaling_the_energy_of_adamw_falls():
    """Its preconditioner then stands still, and the balance law is a Lyapunov function."""
    flow = odeopt.AdamW(0.4, A, 0.0, E)
    assert max(at(flow, t, x, (m, v))[2] for t, x, m, v in random_states(200)) <= 0
