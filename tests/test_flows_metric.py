"""Flows that are gradient flow in another metric: rescaled, sign, clipped, spectral, natural gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest
from catalogue import alternating

import odeopt
from odeopt._flow.spectral import inverse_root
from odeopt._objective import Tally

# A few units of rounding (2.2e-16) for each of the dozen operations of a rate.
ROUNDING = 1e-12


def coupled_metric(x):
    matrix = jnp.diag(1 + x**2) + 0.3 * jnp.ones((x.size, x.size))
    return lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)


def matrices():
    mixing = jnp.array([[1.0, 0.3], [-0.2, 2.0]])

    def fn(y, args):
        bowl = jnp.sum((y["w"] @ y["w"].T - jnp.eye(3)) ** 2)
        return jnp.sum(jnp.cos(y["w"] @ mixing)) + 0.5 * bowl + jnp.sum((y["b"] - 0.3) ** 2)

    return fn, {"w": jnp.array([[0.7, -0.4], [0.2, 1.1], [-0.9, 0.5]]), "b": jnp.array([0.4, -0.8])}


FLOWS = {
    "p-gradient flow of power 3": (lambda: odeopt.PGradient(power=3.0), None),
    "normalized": (odeopt.Normalized, None),
    "sign": (odeopt.Sign, None),
    "smooth sign": (lambda: odeopt.SmoothSign(width=0.2), None),
    "clipped by norm": (lambda: odeopt.ClippedByNorm(threshold=0.5), None),
    "clipped by coordinate": (odeopt.ClippedByCoordinate, None),
    "spectral": (odeopt.Spectral, matrices),
    "natural gradient": (lambda: odeopt.NaturalGradient(coupled_metric), None),
}


@pytest.mark.parametrize("name", alternating(FLOWS, every=4))
def test_the_energy_is_what_the_flow_declares(name):
    make, problem = FLOWS[name]
    audit = odeopt.audit_energy(make(), problem and problem())
    assert audit.passed, str(audit)


# --- rates ------------------------------------------------------------------------------------------------------------


def linear(slope):
    return lambda y, args: sum(jnp.vdot(g, x) for g, x in zip(*map(jax.tree.leaves, (slope, y)), strict=True))


def oracle_at(fn, position):
    return odeopt.Oracle(odeopt.Objective(fn), position, Tally())


def velocity_and_dissipation(flow, position, slope):
    """On a plane with a given slope, so that the gradient is one of our choice."""
    state = flow.init(position)
    oracle = oracle_at(linear(slope), position)
    flow, t = flow.calibrate(state, oracle), jnp.zeros(())
    return flow.vector_field(t, state, oracle).position, flow.dissipation(t, state, oracle)


def norm(g):
    return np.sqrt(np.sum(g**2))


RATES = {
    "power 3": (odeopt.PGradient(3.0, 0.2), lambda g: -g / (norm(g) ** 2 + 0.04) ** 0.25),
    "power 1.5": (odeopt.PGradient(1.5, 0.2), lambda g: -g * (norm(g) ** 2 + 0.04) ** 0.5),
    "power 2 is gradient flow": (odeopt.PGradient(2.0, 0.2), lambda g: -g),
    "open smoothing": (odeopt.PGradient(3.0), lambda g: -g / (norm(g) ** 2 * (1 + 1e-6)) ** 0.25),
    "normalized": (odeopt.Normalized(0.3), lambda g: -g / np.sqrt(norm(g) ** 2 + 0.09)),
    "sign": (odeopt.Sign(), lambda g: -np.sign(g)),
    "smooth sign": (odeopt.SmoothSign(0.5), lambda g: -g / np.sqrt(g**2 + 0.25)),
    "open width": (odeopt.SmoothSign(), lambda g: -g / np.sqrt(g**2 + 1e-6 * np.mean(g**2))),
    "clipped norm": (odeopt.ClippedByNorm(0.7), lambda g: -g * min(1.0, 0.7 / norm(g))),
    "norm below the threshold": (odeopt.ClippedByNorm(1e3), lambda g: -g),
    "clipped entries": (odeopt.ClippedByCoordinate(0.7), lambda g: -np.clip(g, -0.7, 0.7)),
    "open threshold": (odeopt.ClippedByCoordinate(), lambda g: -np.clip(g, -norm(g) / 6**0.5, norm(g) / 6**0.5)),
}


@pytest.mark.parametrize("name", RATES)
def test_velocity_and_dissipation_are_those_of_the_formula(name):
    flow, formula = RATES[name]
    for seed in range(5):
        random = np.random.default_rng(seed)
        x, g = random.normal(size=6), 10 ** random.uniform(-2, 2) * random.normal(size=6)
        velocity, dissipation = velocity_and_dissipation(flow, jnp.asarray(x), jnp.asarray(g))
        np.testing.assert_allclose(velocity, formula(g), rtol=ROUNDING)
        np.testing.assert_allclose(dissipation, g @ formula(g), rtol=ROUNDING)


@pytest.mark.parametrize("name", [name for name in RATES if name != "open threshold"])
def test_a_zero_gradient_is_an_equilibrium(name):
    velocity, dissipation = velocity_and_dissipation(RATES[name][0], jnp.ones(6), jnp.zeros(6))
    np.testing.assert_array_equal(velocity, 0)
    assert float(dissipation) == 0


def test_the_sign_is_the_limit_of_the_smooth_sign():
    g = jnp.array([1e-2, -0.3, 2.0, 50.0])
    for width in (1e-1, 1e-3, 1e-5):
        smooth, _ = velocity_and_dissipation(odeopt.SmoothSign(width), jnp.ones(4), g)
        exact, _ = velocity_and_dissipation(odeopt.Sign(), jnp.ones(4), g)
        # 1 - 1 / sqrt(1 + u) <= u / 2
        assert np.all(np.abs(smooth - exact) <= 0.5 * (width / g) ** 2 + 1e-15)


def test_a_hyper_parameter_may_be_traced():
    g, powers = jnp.array([0.3, -2.0]), jnp.array([1.5, 3.0, 8.0])
    rate = lambda p: velocity_and_dissipation(odeopt.PGradient(p, 0.1), jnp.ones(2), g)[0]  # noqa: E731
    np.testing.assert_allclose(jax.jit(jax.vmap(rate))(powers), [rate(p) for p in powers], rtol=ROUNDING)


# --- finite time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [3.0, 4.0])
def test_the_p_gradient_flow_arrives_when_theory_says(power):
    """x' = -x^(1/(p-1)) from 1 is (1 - t/T)^T with T = (p - 1)/(p - 2)."""
    arrival = (power - 1) / (power - 2)
    fractions = np.array([0.3, 0.6, 0.9, 1.0])
    reference = odeopt.reference_solution(
        odeopt.PGradient(power, smoothing=1e-6),
        (lambda y, args: 0.5 * jnp.sum(y**2), jnp.ones(1)),
        times=arrival * fractions,
    )
    # Smoothing by e changes x by about e**2 / x; on arrival x is within e of zero.
    np.testing.assert_allclose(reference.states.position[:3, 0], (1 - fractions[:3]) ** arrival, atol=1e-9)
    assert 0 < reference.states.position[3, 0] < 1e-5


def test_the_decay_is_the_one_that_the_flow_predicts():
    flow = odeopt.PGradient(4.0, smoothing=1e-9)
    solver = odeopt.Solver(flow, odeopt.Euler(), odeopt.LyapunovControl(decrease=0.99))
    stop = odeopt.Stop(gradient_norm=1e-7)
    solution = odeopt.minimise(lambda y, args: 1.5 * jnp.sum(y**2), solver, jnp.ones(1), stop=stop)
    found = odeopt.decay_rate(
        solution.history, minimum=0.0, flow=flow, lojasiewicz_exponent=0.5, lojasiewicz_constant=np.sqrt(2 * 3.0)
    )
    assert found.passed, str(found)
    assert found.law == "finite time"
    assert found.order == pytest.approx(2 / 3, abs=0.02)  # p / (2 (p - 1))
    assert found.predicted.rate == pytest.approx(6 ** (2 / 3), rel=1e-12)


@pytest.mark.parametrize(
    ("flow", "order", "rate"),
    [
        (odeopt.Normalized(1.0), 0.5, 3.0),
        (odeopt.Sign(), 0.5, 3.0),
        (odeopt.SmoothSign(1.0), 0.5, 3.0),
        (odeopt.Spectral(1.0), 0.5, 3.0),
        (odeopt.ClippedByNorm(1.0), 1.0, 9.0),
        (odeopt.ClippedByCoordinate(1.0), 1.0, 9.0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, odeopt.AbstractFlow) else "",
)
def test_theory_of_the_other_decays(flow, order, rate):
    assert flow.predicted_decay(0.5, 3.0) == odeopt.DecayBound(order, rate)


# --- spectral ---------------------------------------------------------------------------------------------------------


def smooth_polar(matrix, smoothing):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left * (values / np.sqrt(values**2 + smoothing**2))) @ right


@pytest.mark.parametrize("shape", [(3, 2), (2, 5), (4, 4)])
def test_the_spectral_velocity_is_the_smooth_polar_factor(shape):
    g = np.random.default_rng(3).normal(size=shape)
    velocity, dissipation = velocity_and_dissipation(odeopt.Spectral(0.2), jnp.zeros(shape), jnp.asarray(g))
    np.testing.assert_allclose(velocity, -smooth_polar(g, 0.2), atol=ROUNDING)
    values = np.linalg.svd(g, compute_uv=False)
    np.testing.assert_allclose(dissipation, -np.sum(values**2 / np.sqrt(values**2 + 0.04)), rtol=ROUNDING)


def test_other_arrays_are_matrices_too():
    random = np.random.default_rng(4)
    g = {"kernel": random.normal(size=(3, 2, 2, 2)), "vector": random.normal(size=5), "scalar": random.normal()}
    g = jax.tree.map(jnp.asarray, g)
    velocity, _ = velocity_and_dissipation(odeopt.Spectral(0.3), jax.tree.map(jnp.ones_like, g), g)
    folded = smooth_polar(np.asarray(g["kernel"]).reshape(3, 8), 0.3)
    np.testing.assert_allclose(velocity["kernel"], -folded.reshape(3, 2, 2, 2), atol=ROUNDING)
    np.testing.assert_allclose(velocity["vector"], -g["vector"] / np.sqrt(norm(g["vector"]) ** 2 + 0.09), rtol=ROUNDING)
    np.testing.assert_allclose(velocity["scalar"], -g["scalar"] / np.sqrt(g["scalar"] ** 2 + 0.09), rtol=ROUNDING)


def test_the_open_smoothing_is_in_units_of_a_singular_value():
    g = {"w": 7.0 * jnp.eye(3, 5), "b": 7.0 * jnp.eye(4)[0]}  # four singular values, 7 each
    position = jax.tree.map(jnp.zeros_like, g)
    flow = odeopt.Spectral()
    calibrated = flow.calibrate(flow.init(position), oracle_at(linear(g), position))
    assert float(calibrated.smoothing) == pytest.approx(7e-3, rel=1e-12)


@pytest.mark.parametrize("values", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (2.0, 0.3, 0.3)])
def test_the_inverse_root_has_a_derivative_where_eigenvalues_coincide(values):
    random = np.random.default_rng(5)
    basis = np.linalg.qr(random.normal(size=(3, 3)))[0]
    gram, direction = (basis * values) @ basis.T, random.normal(size=(3, 3))
    direction = direction + direction.T
    d, change = 0.8, 0.1

    def root(s):
        shifted = gram + s * direction + (d + s * change) ** 2 * np.eye(3)
        eigenvalues, vectors = np.linalg.eigh(shifted)
        return (vectors / np.sqrt(eigenvalues)) @ vectors.T

    at, along = (jnp.asarray(gram), jnp.asarray(d)), (jnp.asarray(direction), jnp.asarray(change))
    primal, tangent = jax.jvp(inverse_root, at, along)
    np.testing.assert_allclose(primal, root(0.0), atol=ROUNDING)
    # Central differences: 1e-10 from the third derivative, 1e-11 from rounding.
    np.testing.assert_allclose(tangent, (root(1e-5) - root(-1e-5)) / 2e-5, atol=1e-8)


# --- natural gradient -------------------------------------------------------------------------------------------------


def steps_of(flow, fn, y0, step_size, steps):
    solver = odeopt.Solver(flow, controller=odeopt.ConstantStep(step_size))
    solution = odeopt.minimise(fn, solver, y0, stop=odeopt.Stop(), max_steps=steps, history="states", throw=False)
    return np.asarray(solution.history.position)


def test_the_velocity_solves_with_the_metric():
    x, g = np.array([0.4, -1.2, 2.0]), np.array([1.0, 0.5, -3.0])
    velocity, dissipation = velocity_and_dissipation(
        odeopt.NaturalGradient(coupled_metric), jnp.asarray(x), jnp.asarray(g)
    )
    truth = -np.linalg.solve(np.diag(1 + x**2) + 0.3 * np.ones((3, 3)), g)
    np.testing.assert_allclose(velocity, truth, rtol=ROUNDING)
    np.testing.assert_allclose(dissipation, g @ truth, rtol=ROUNDING)


def test_with_the_hessian_of_a_quadratic_all_errors_shrink_alike():
    """x_k = (1 - h)^k x_0, the Euler steps of g(t) = e^-t g_0."""
    hessian = jnp.array([[2.0, 0.3], [0.3, 90.0]])
    metric = lambda x: lx.MatrixLinearOperator(hessian, lx.positive_semidefinite_tag)  # noqa: E731
    path = steps_of(odeopt.NaturalGradient(metric), lambda y, _: 0.5 * y @ hessian @ y, jnp.array([1.0, -3.0]), 0.1, 20)
    np.testing.assert_allclose(path, 0.9 ** np.arange(1, 21)[:, None] * [1.0, -3.0], rtol=ROUNDING)


def test_the_path_does_not_depend_on_the_coordinates():
    change = np.array([[2.0, 1.0], [0.5, -1.0]])  # x = change @ y, and so the metric of y is change' change

    def fn(x, _):
        return jnp.sum(jnp.cosh(x - jnp.array([0.3, 1.0])))

    x0 = np.array([1.5, -0.5])
    plain = steps_of(odeopt.GradientFlow(), fn, jnp.asarray(x0), 0.1, 30)
    # A function that solves, in place of an operator.
    metric = lambda y: lambda w: jnp.linalg.solve(change.T @ change, w)  # noqa: E731
    flow = odeopt.NaturalGradient(metric)
    other = steps_of(flow, lambda y, _: fn(change @ y, None), jnp.asarray(np.linalg.solve(change, x0)), 0.1, 30)
    np.testing.assert_allclose(other @ change.T, plain, rtol=1e-11)


def test_a_normal_distribution_is_fitted():
    data = jnp.arange(5.0)

    def fisher(parameters):
        _, log_deviation = parameters
        return lx.DiagonalLinearOperator((jnp.exp(-2 * log_deviation), jnp.asarray(2.0, log_deviation.dtype)))

    def loss(parameters, data):
        mean, log_deviation = parameters
        return jnp.mean(0.5 * ((data - mean) / jnp.exp(log_deviation)) ** 2) + log_deviation

    solver = odeopt.Solver(odeopt.NaturalGradient(fisher))
    solution = odeopt.minimise(loss, solver, (jnp.asarray(0.0), jnp.asarray(0.0)), data)
    assert float(solution.value[0]) == pytest.approx(2.0, abs=1e-5)
    assert float(jnp.exp(solution.value[1])) == pytest.approx(np.sqrt(2.0), abs=1e-5)


# --- equivalents ------------------------------------------------------------------------------------------------------

# Each with a step size for which Euler is stable: for the smooth sign about the width over the curvature.
EQUIVALENT = {
    "signSGD": (odeopt.Sign(), 0.01),
    "RMSProp without memory": (odeopt.SmoothSign(width=0.03), 0.002),
    "clipping by the global norm": (odeopt.ClippedByNorm(threshold=0.1), 0.1),
    "clipping of entries": (odeopt.ClippedByCoordinate(threshold=0.02), 0.1),
}


@pytest.mark.parametrize("name", EQUIVALENT)
def test_the_discrete_optimizer_is_the_one_that_the_flow_names(name):
    flow, step_size = EQUIVALENT[name]
    result = odeopt.equivalence(flow, step_size=step_size)
    assert result.passed, str(result)
    assert result.largest <= 1e-12
    assert len(result.difference) == 200


@pytest.mark.parametrize(
    ("flow", "optimizer"),
    [
        (odeopt.ClippedByNorm(threshold=0.1), optax.chain(optax.clip_by_global_norm(0.2), optax.sgd(0.01))),
        (odeopt.ClippedByCoordinate(threshold=0.02), optax.chain(optax.clip(0.04), optax.sgd(0.01))),
        (odeopt.SmoothSign(width=0.03), optax.rmsprop(0.01, decay=0.0, eps=0.03)),
    ],
    ids=["norm", "entries", "width not squared"],
)
def test_a_wrong_constant_of_the_optimizer_shows(flow, optimizer):
    bowl = (lambda y, _: jnp.sum(jnp.cosh(y) * jnp.array([1.0, 2.0, 0.5])), jnp.array([1.0, -2.0, 0.7]))
    assert not odeopt.equivalence(flow, transformation=optimizer, problem=bowl, step_size=0.01).passed


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: odeopt.PGradient(1.0), r"power=1.0\): expected a finite power > 1"),
        (lambda: odeopt.PGradient(float("inf")), r"Normalized\(\)"),
        (lambda: odeopt.PGradient(3.0, smoothing=0.0), r"PGradient\(smoothing=0.0\): expected a finite number > 0"),
        (lambda: odeopt.Normalized(smoothing=-1.0), r"Normalized\(smoothing=-1.0\)"),
        (lambda: odeopt.SmoothSign(width=0.0), r"SmoothSign\(width=0.0\)"),
        (lambda: odeopt.ClippedByNorm(threshold=-0.5), r"ClippedByNorm\(threshold=-0.5\)"),
        (lambda: odeopt.ClippedByCoordinate(threshold=float("nan")), r"ClippedByCoordinate\(threshold=nan\)"),
        (lambda: odeopt.Spectral(smoothing=0.0), r"Spectral\(smoothing=0.0\)"),
    ],
)
def test_a_constant_out_of_range_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.usefixtures("as_installed")
def test_something_that_is_no_metric_is_refused():
    with pytest.raises(TypeError, match="expected a function of the parameters"):
        odeopt.NaturalGradient(np.eye(2))
    with pytest.raises(TypeError, match="expected a lineax operator"):
        odeopt.minimise(lambda y, _: jnp.sum(y**2), odeopt.Solver(odeopt.NaturalGradient(jnp.diag)), jnp.ones(2))


@pytest.mark.parametrize(
    "flow", [odeopt.PGradient(3.0), odeopt.Normalized(), odeopt.SmoothSign(), odeopt.ClippedByNorm(), odeopt.Spectral()]
)
def test_an_uncalibrated_flow_says_so(flow):
    with pytest.raises(ValueError, match=r"has not been calibrated"):
        flow.vector_field(jnp.zeros(()), flow.init(jnp.ones(2)), oracle_at(linear(jnp.ones(2)), jnp.ones(2)))


@pytest.mark.parametrize(
    "flow", [odeopt.PGradient(3.0), odeopt.Normalized(), odeopt.SmoothSign(), odeopt.ClippedByNorm(), odeopt.Spectral()]
)
def test_scaling_the_objective_scales_the_open_constant_alone(flow):
    x, g = jnp.ones(3), jnp.array([0.3, -2.0, 5.0])
    plain, scaled = (flow.calibrate(flow.init(x), oracle_at(linear(c * g), x)) for c in (1.0, 1e6))
    changed = jax.tree.map(lambda a, b: float(b / a), plain, scaled)
    assert sorted(jax.tree.leaves(changed))[-1] == pytest.approx(1e6, rel=1e-12)
    assert sorted(jax.tree.leaves(changed))[:-1] == [1.0] * (len(jax.tree.leaves(changed)) - 1)


def indefinite(x):
    return lx.DiagonalLinearOperator(jnp.where(jnp.arange(x.size) == 1, -1.0, 1.0))


@pytest.mark.parametrize(
    "flow",
    [
        eqx.tree_at(lambda flow: flow.threshold, odeopt.ClippedByNorm(1.0), jnp.asarray(-1.0)),
        odeopt.NaturalGradient(indefinite),
    ],
    ids=["negative threshold", "indefinite metric"],
)
def test_outside_the_condition_the_energy_can_rise(flow):
    audit = odeopt.audit_energy(flow)
    assert not audit.passed
    assert "dV/dt > 0" in str(audit)


# --- runs -------------------------------------------------------------------------------------------------------------


def factorisation(dtype):
    """The nearest product of two factors to a matrix of rank 2, with a bias: not convex, minimum 0."""
    target = np.array([[1.0, 2.0, 0.0], [0.5, -1.0, 1.0], [2.0, 2.0, 1.0]])

    def fn(y, args):
        return jnp.sum((y["left"] @ y["right"] + y["bias"] - args) ** 2)

    random = np.random.default_rng(7)
    y0 = {"left": random.normal(size=(3, 2)), "right": random.normal(size=(2, 3)), "bias": np.zeros(3)}
    return fn, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), y0), jnp.asarray(target, dtype)


RUNS = {
    "p-gradient flow": (odeopt.PGradient(4.0), jnp.float64),
    "normalized": (odeopt.Normalized(), jnp.float32),
    "sign": (odeopt.Sign(), jnp.float64),
    "smooth sign": (odeopt.SmoothSign(), jnp.float32),
    "clipped by norm": (odeopt.ClippedByNorm(), jnp.float32),
    "clipped by coordinate": (odeopt.ClippedByCoordinate(), jnp.float64),
    "spectral": (odeopt.Spectral(), jnp.float32),
}


@pytest.mark.parametrize("name", alternating(RUNS, 1))
def test_the_recommended_solver_lowers_the_energy_to_the_minimum(name):
    flow, dtype = RUNS[name]
    fn, y0, target = factorisation(dtype)
    stop = odeopt.Stop(target_loss=1e-4)
    solution = odeopt.minimise(fn, odeopt.Solver(flow), y0, target, stop=stop, max_steps=5000)
    energy = solution.history.trimmed().energy
    assert energy.dtype == dtype
    assert np.all(np.diff(energy) <= 0)
    assert float(solution.loss) <= 1e-4, solution.describe()
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(solution.value))
