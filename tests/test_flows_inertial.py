"""Inertial flows: their energies, and the conditions under which those fall."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import alternating, named
from flow_catalogue import kinetic_energy

import odeopt
from odeopt._objective import Tally

jax.config.update("jax_enable_x64", True)


FLOWS = {
    "Nesterov": lambda: odeopt.Nesterov(power=3.0),
    "Bregman Lagrangian": lambda: odeopt.BregmanLagrangian(power=4.0, constant=0.5),
    "DIN": lambda: odeopt.DIN(friction=0.8, hessian_damping=0.3),
    "high resolution": lambda: odeopt.HighResolutionNesterov(learning_rate=0.1),
    "high resolution, strongly convex": lambda: odeopt.HighResolutionNesterov(0.1, strong_convexity=0.5),
    "HNAG": lambda: odeopt.HNAG(strong_convexity=0.5, initial_gamma=2.0, hessian_damping=1.5),
    "Hamiltonian": lambda: odeopt.HamiltonianDescent(kinetic_energy, friction=0.7),
    "relativistic": lambda: odeopt.Relativistic(speed=2.0, mass=1.5, friction=0.7),
    "friction-adaptive": lambda: odeopt.FrictionAdaptive(friction=0.2, relaxation=0.9, thermal_mass=1.3),
    "energy friction": lambda: odeopt.EnergyFriction(friction=0.8, initial_energy=30.0, lower_bound=-20.0),
    "graph tracking": lambda: odeopt.GraphTracking(rate=1.2, mobility=0.7, weight=0.4),
}

# Scales left open, as most users will.
OPEN = {
    "Nesterov": odeopt.Nesterov,
    "Bregman Lagrangian": lambda: odeopt.BregmanLagrangian(power=4.0),
    "DIN": odeopt.DIN,
    "high resolution": odeopt.HighResolutionNesterov,
    "HNAG": odeopt.HNAG,
    "relativistic": odeopt.Relativistic,
    "friction-adaptive": odeopt.FrictionAdaptive,
    "energy friction": odeopt.EnergyFriction,
    "graph tracking": odeopt.GraphTracking,
}


@pytest.mark.parametrize("name", alternating(FLOWS, every=4))
def test_the_energy_is_what_it_is_declared_to_be(name):
    audit = odeopt.audit_energy(FLOWS[name]())
    assert audit.passed, str(audit)


def broken(flow, **fields):
    """A flow whose constants its constructor would refuse."""
    for name, value in fields.items():
        flow = eqx.tree_at(lambda flow, name=name: getattr(flow, name), flow, jnp.asarray(value, jnp.float64))
    return flow


# Just outside of the conditions, by a few percent of something that the constant is compared with.
OUTSIDE = {
    "Nesterov": {"power": -0.03},
    "Bregman Lagrangian": {"constant": -0.03},
    "DIN": {"hessian_damping": -0.03},
    "relativistic": {"friction": -0.03},
    "friction-adaptive": {"relaxation": -0.03},
    "energy friction": {"friction": -0.03},
}


@pytest.mark.parametrize("name", named(OUTSIDE, {"relativistic", "DIN", "energy friction"}))
def test_the_condition_on_the_constants_is_sharp(name):
    assert not odeopt.audit_energy(broken(FLOWS[name](), **OUTSIDE[name])).passed


# Conditions on how gradient and memory combine: of one parameter, where the two are parallel. HNAG at gamma = 2:
# 4 beta <= 1 + 12; graph tracking: 4 * 0.7 * 1.2 c >= 1.
PARALLEL = (lambda y, args: jnp.sum(jnp.cos(y)), jnp.ones(1))
BORDER = {"HNAG": ("hessian_damping", 13 / 4, 1.03), "graph tracking": ("weight", 1 / 3.36, 0.97)}


@pytest.mark.parametrize("name", named(BORDER, {"HNAG"}))
def test_the_energy_falls_up_to_the_border_of_the_condition_and_rises_beyond(name):
    constant, border, beyond = BORDER[name]
    assert odeopt.audit_energy(broken(FLOWS[name](), **{constant: border}), PARALLEL).passed
    assert not odeopt.audit_energy(broken(FLOWS[name](), **{constant: beyond * border}), PARALLEL).passed


def test_the_energy_of_the_bregman_lagrangian_falls_where_its_flow_starts_with_a_singular_mass():
    assert odeopt.audit_energy(odeopt.BregmanLagrangian(power=1.3, constant=0.5)).passed


def test_a_kinetic_energy_that_is_not_convex_is_found_out():
    flow = odeopt.HamiltonianDescent(lambda p: jnp.sum(1 - jnp.cos(p)), friction=0.7)
    assert not odeopt.audit_energy(flow).passed


REFUSED = {
    "power must be >= 0": lambda: odeopt.Nesterov(power=-1.0),
    "finite power > 1": lambda: odeopt.BregmanLagrangian(power=1.0),
    "unit of time": lambda: odeopt.BregmanLagrangian(constant=0.0),
    "friction must be >= 0": lambda: odeopt.DIN(friction=-0.1),
    "hessian_damping must be >= 0": lambda: odeopt.DIN(hessian_damping=float("nan")),
    "inverse curvature": lambda: odeopt.HighResolutionNesterov(learning_rate=0.0),
    "strong_convexity must be >= 0": lambda: odeopt.HighResolutionNesterov(0.1, -1.0),
    "at gamma = initial_gamma": lambda: odeopt.HNAG(0.0, 2.0, 3.01),
    "at gamma = strong_convexity": lambda: odeopt.HNAG(3.0, 0.1, 2.7),
    "expected a function": lambda: odeopt.HamiltonianDescent(0.5, 1.0),
    "parameters per unit of time": lambda: odeopt.Relativistic(speed=-1.0),
    "square of the time": lambda: odeopt.FrictionAdaptive(thermal_mass=0.0),
    "relaxation must be >= 0": lambda: odeopt.FrictionAdaptive(relaxation=-1.0),
    "lower_bound": lambda: odeopt.EnergyFriction(lower_bound=float("-inf")),
    "units of the objective": lambda: odeopt.EnergyFriction(initial_energy=-1.0),
    "must be at least 1": lambda: odeopt.GraphTracking(1.0, 1.0, 0.24),
}


@pytest.mark.parametrize("words", REFUSED)
def test_constants_with_which_the_energy_could_rise_are_refused(words, as_installed):
    with pytest.raises((ValueError, TypeError), match=words):
        REFUSED[words]()


@pytest.mark.parametrize("name", [name for name in OPEN if name not in ("Nesterov", "Bregman Lagrangian")])
def test_a_flow_that_has_not_been_calibrated_says_so(name, as_installed):
    flow, x = OPEN[name](), jnp.ones(2)
    oracle = odeopt.Oracle(odeopt.Objective(lambda y, args: jnp.sum(y**2)), x, Tally())
    with pytest.raises(ValueError, match="has not been calibrated"):
        flow.vector_field(jnp.asarray(0.0), flow.init(x), oracle)


def test_calibration_stays_within_the_condition_of_hnag():
    """A damping far too large for the curvature of the start, or a gamma far too large for that."""
    for flow in (odeopt.HNAG(hessian_damping=1e4), odeopt.HNAG(initial_gamma=1e4), odeopt.HNAG(strong_convexity=1e4)):
        x = jnp.array([1.0, 2.0])
        oracle = odeopt.Oracle(odeopt.Objective(lambda y, args: jnp.sum(y**2)), x, Tally())
        flow = flow.calibrate(flow.init(x), oracle)
        mu, beta = float(flow.strong_convexity), float(flow.hessian_damping)
        for gamma in (mu, float(flow.initial_gamma)):
            assert beta * gamma**2 <= 2 * mu + 6 * gamma


def value(x):
    """Not convex, not separable, of three parameters; in operators that NumPy and JAX share."""
    return (x[0] ** 2 - x[1]) ** 2 + (x**4).sum() / 4 - x[0] * x[2] + 2


def gradient(x):
    ridge = x[0] ** 2 - x[1]
    return np.array([4 * ridge * x[0] - x[2], -2 * ridge, -x[0]]) + x**3


def hessian(x):
    ridge = x[0] ** 2 - x[1]
    mixed = -4 * x[0]
    return np.array([[4 * ridge + 8 * x[0] ** 2, mixed, -1.0], [mixed, 2.0, 0.0], [-1.0, 0.0, 0.0]]) + np.diag(3 * x**2)


# Velocity, slope of the memory, energy and rate by hand, from the formulas of the papers.


def nesterov(t, x, v, f, g):
    return v, -3 / t * v - g, f + v @ v / 2, -3 / t * v @ v


def bregman(t, x, q, f, g):
    w = 0.5 * 16 * t**2
    return w * q, -g - 7 / t * q, f + w * q @ q / 2, -6 / t * w * q @ q


def din(t, x, y, f, g):
    a, b = 0.8, 0.3
    rate = -(a * (y - b * g) @ (y - b * g) + b * g @ g) / (1 + a * b)
    return y - b * g, -a * y - (1 - a * b) * g, f + y @ y / (2 * (1 + a * b)), rate


def high_resolution(t, x, y, f, g):
    b = np.sqrt(0.1)
    clock = t + 1.5 * b
    c, slope = 1 + 4.5 * b / clock, -4.5 * b / clock**2
    xdot, ydot = y - b * g, -3 / clock * y - (1 - 1.5 * b / clock) * g
    return xdot, ydot, f + y @ y / (2 * c), g @ xdot + y @ ydot / c - slope * y @ y / (2 * c**2)


def high_resolution_strong(t, x, y, f, g):
    b, a = np.sqrt(0.1), 2 * np.sqrt(0.5)
    xdot, c = y - b * g, 1 + 1.5 * a * b
    rate = -(a * xdot @ xdot + b * (1 + a * b / 2) * g @ g) / c
    return xdot, -a * xdot - (1 + a * b / 2) * g, f + y @ y / (2 * c), rate


def hnag(t, x, memory, f, g):
    (v, ratio), mu, beta = memory, 0.5, 1.5
    gamma, w = 2 * ratio, v - x
    rate = -beta * g @ g + beta * gamma * g @ w - (mu + 3 * gamma) / 2 * w @ w
    return w - beta * g, (-mu / gamma * w - g / gamma, mu / 2 - ratio), f + gamma / 2 * w @ w, rate


def hamiltonian(t, x, p, f, g):
    velocity = p / np.sqrt(1 + p**2)
    return velocity, -0.7 * p - g, f + np.sum(np.sqrt(1 + p**2) - 1), -0.7 * velocity @ p


def relativistic(t, x, p, f, g):
    c, m = 2.0, 1.5
    root = np.sqrt(p @ p + (m * c) ** 2)
    return c * p / root, -0.7 * p - g, f + c * root - m * c**2, -0.7 * c * p @ p / root


def friction_adaptive(t, x, memory, f, g):
    (v, xi), a, alpha, m = memory, 0.2, 0.9, 1.3
    slope = (-(a + xi) * v - g, v @ v / m - alpha * xi)
    return v, slope, f + v @ v / 2 + m * xi**2 / 2, -a * v @ v - alpha * m * xi**2


def energy_friction(t, x, v, f, g):
    friction = 0.8 * np.sqrt((f + v @ v / 2 + 20) / 30)
    return v, -friction * v - g, f + v @ v / 2, -friction * v @ v


def graph_tracking(t, x, v, f, g):
    k, alpha, c = 1.2, 0.7, 0.4
    e = v + alpha * g
    rate = -alpha * g @ g + g @ e - k * c * e @ e
    return v, -k * e - alpha * hessian(x) @ v, f + c * e @ e / 2, rate


HAND = dict(
    zip(
        FLOWS,
        (
            nesterov,
            bregman,
            din,
            high_resolution,
            high_resolution_strong,
            hnag,
            hamiltonian,
            relativistic,
            friction_adaptive,
            energy_friction,
            graph_tracking,
        ),
        strict=True,
    )
)


def drawn(name, random):
    """A random time, position and memory."""
    x, m = random.normal(size=3), random.normal(size=3)
    scalar = {"HNAG": random.uniform(0.2, 1.0), "friction-adaptive": random.uniform(0.0, 2.0)}
    return random.uniform(0.1, 3.0), x, (m, scalar[name]) if name in scalar else m


def close(ours, truth):
    """To 1e-12 of the largest number that the truth is made of; sums of a few terms of that size."""
    ours, truth = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (ours, truth))
    np.testing.assert_allclose(ours, truth, rtol=1e-12, atol=1e-12 * np.max(np.abs(truth)))


@pytest.mark.parametrize("name", FLOWS)
def test_field_energy_and_rate_are_the_published_formulas(name):
    flow, random = FLOWS[name](), np.random.default_rng(0)
    for _ in range(20):
        t, x, memory = drawn(name, random)
        velocity, slope, energy, rate = HAND[name](t, x, memory, value(x), gradient(x))
        state = odeopt.State(jnp.asarray(x), jax.tree.map(jnp.asarray, memory))
        oracle = odeopt.Oracle(odeopt.Objective(lambda y, args: value(y)), state.position, Tally())
        field = flow.vector_field(jnp.asarray(t), state, oracle)
        close((field.position, field.memory), (velocity, slope))
        close(flow.energy(jnp.asarray(t), state, oracle), energy)
        close(flow.dissipation(jnp.asarray(t), state, oracle), rate)


WITH_STRUCTURE = [name for name in FLOWS if FLOWS[name]().declares("structure")]


@pytest.mark.parametrize("name", WITH_STRUCTURE)
def test_the_port_form_gives_the_field_and_dissipates(name):
    flow, random = FLOWS[name](), np.random.default_rng(1)
    for _ in range(20):
        t, x, memory = drawn(name, random)
        t, state = jnp.asarray(t), odeopt.State(jnp.asarray(x), jax.tree.map(jnp.asarray, memory))
        oracle = odeopt.Oracle(odeopt.Objective(lambda y, args: value(y)), state.position, Tally())
        by_memory = jax.grad(lambda m: flow.kinetic_energy(t, odeopt.State(state.position, m)))(state.memory)  # noqa: B023
        close(
            flow.structure(t, state, oracle, odeopt.State(oracle.gradient, by_memory)),
            flow.vector_field(t, state, oracle),
        )
        any_covector = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), state)
        product = flow.structure(t, state, oracle, any_covector)
        assert optax.tree.vdot(any_covector, product) <= 1e-12 * optax.tree.vdot(any_covector, any_covector)


WITH_RESCALING = [name for name in FLOWS if FLOWS[name]().declares("rescaled_memory")]


@pytest.mark.parametrize("name", WITH_RESCALING)
def test_a_rescaled_memory_has_the_square_of_the_factor_times_the_kinetic_energy(name):
    flow, random = FLOWS[name](), np.random.default_rng(2)
    t, x, memory = drawn(name, random)
    t, state = jnp.asarray(t), odeopt.State(jnp.asarray(x), jax.tree.map(jnp.asarray, memory))
    rescaled = odeopt.State(state.position, flow.rescaled_memory(t, state, jnp.asarray(0.3)))
    close(flow.kinetic_energy(t, rescaled), 0.09 * np.asarray(flow.kinetic_energy(t, state)))
