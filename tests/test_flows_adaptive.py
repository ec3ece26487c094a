"""AdaGrad, RMSProp and AEGD: flows whose memory changes the metric."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import alternating

import odeopt
from odeopt._objective import Tally

ROUNDING = 1e-12

FLOWS = {
    "AdaGrad": odeopt.AdaGrad,
    "RMSProp": odeopt.RMSProp,
    # Twenty times as fast as any momentum would allow: without momentum there is no condition.
    "RMSProp with a short memory": lambda: odeopt.RMSProp(scaling_rate=80.0, epsilon=0.2),
    "AEGD": lambda: odeopt.AEGD(shift=10.0),
    "AEGD, elementwise": lambda: odeopt.AEGD(shift=10.0, elementwise=True),
}


@pytest.mark.parametrize("name", alternating(FLOWS))
def test_the_energy_is_what_the_flow_declares(name):
    audit = odeopt.audit_energy(FLOWS[name]())
    assert audit.passed, str(audit)


# --- rates ------------------------------------------------------------------------------------------------------------


def bowl(y, _):
    return 2 + jnp.sum(jnp.cosh(y) - 1) + 0.5 * jnp.sum(y) ** 2


def bowl_gradient(y):
    return np.sinh(y) + np.sum(y)


def oracle_at(position):
    return odeopt.Oracle(odeopt.Objective(bowl), jnp.asarray(position), Tally())


def adagrad(x, v):
    g = bowl_gradient(x)
    return -g / np.sqrt(v + 0.04), 1.7 * g**2, float(bowl(x, None)), -np.sum(g**2 / np.sqrt(v + 0.04))


def rmsprop(x, v):
    g = bowl_gradient(x)
    return -g / np.sqrt(v + 0.04), 1.7 * (g**2 - v), float(bowl(x, None)), -np.sum(g**2 / np.sqrt(v + 0.04))


def aegd(x, memory):
    """With r = 2.5 times the memory and c = 3; grad F = g / (2 F)."""
    r, slope = 2.5 * memory, bowl_gradient(x) / (2 * np.sqrt(float(bowl(x, None)) + 3))
    square = np.sum(slope**2)
    return -2 * r * slope, -2 * r * square / 2.5, r**2 - 3, -4 * r**2 * square


def aegd_elementwise(x, memory):
    r, slope = 2.5 * memory, bowl_gradient(x) / (2 * np.sqrt(float(bowl(x, None)) + 3))
    return -2 * r * slope, -2 * r * slope**2 / 2.5, np.mean(r**2) - 3, -4 * np.mean(r**2 * slope**2)


RATES = {
    "AdaGrad": (odeopt.AdaGrad(1.7, 0.2), adagrad, 4),
    "RMSProp": (odeopt.RMSProp(1.7, 0.2), rmsprop, 4),
    "AEGD": (odeopt.AEGD(3.0, initial_root=2.5), aegd, None),
    "AEGD, elementwise": (odeopt.AEGD(3.0, True, initial_root=2.5), aegd_elementwise, 4),
}


@pytest.mark.parametrize("name", RATES)
def test_rates_and_energy_are_those_of_the_formula(name):
    flow, formula, size = RATES[name]
    for seed in range(5):
        random = np.random.default_rng(seed)
        x, memory = random.normal(size=4), random.lognormal(size=size)
        state, t = odeopt.State(jnp.asarray(x), jnp.asarray(memory)), jnp.zeros(())
        velocity, memory_rate, energy, dissipation = formula(x, memory)
        field = flow.vector_field(t, state, oracle_at(x))
        np.testing.assert_allclose(field.position, velocity, rtol=ROUNDING)
        np.testing.assert_allclose(field.memory, memory_rate, rtol=ROUNDING)
        np.testing.assert_allclose(flow.energy(t, state, oracle_at(x)), energy, rtol=ROUNDING)
        np.testing.assert_allclose(flow.dissipation(t, state, oracle_at(x)), dissipation, rtol=ROUNDING)


@pytest.mark.parametrize("make", [odeopt.AdaGrad, odeopt.RMSProp])
def test_the_open_constant_is_in_units_of_the_gradient(make):
    x = jnp.array([0.3, -2.0, 1.0])
    state, oracle = make().init(x), oracle_at(x)
    with pytest.raises(ValueError, match="has not been calibrated"):
        make().vector_field(jnp.zeros(()), state, oracle)
    rms = np.sqrt(np.mean(bowl_gradient(np.asarray(x)) ** 2))
    assert float(make().calibrate(state, oracle).epsilon) == pytest.approx(1e-3 * rms, rel=1e-12)
    assert float(make(epsilon=0.5).calibrate(state, oracle).epsilon) == 0.5


# --- equivalents ------------------------------------------------------------------------------------------------------

EQUIVALENT = {
    "RMSProp": (odeopt.RMSProp(1.5, 0.05), odeopt.ExponentialEuler(), None),
    "RMSProp with decay 1 - b h": (odeopt.RMSProp(1.5, 0.05), odeopt.SemiImplicitEuler(), None),
    "RMSProp, by its betas": (
        odeopt.RMSProp(1.5, 0.05),
        odeopt.ExponentialEuler(),
        optax.rmsprop(0.01, decay=np.exp(-0.015), eps=0.05**2),
    ),
    "AdaGrad": (odeopt.AdaGrad(1.5, 0.05), odeopt.ExponentialEuler(), None),
    # A learning rate eta stands for h = eta and p = 1 / eta.
    "AdaGrad, by its learning rate": (
        odeopt.AdaGrad(100.0, 0.05),
        odeopt.SemiImplicitEuler(),
        optax.adagrad(0.01, initial_accumulator_value=0.0, eps=0.05**2),
    ),
}


@pytest.mark.parametrize("name", alternating(EQUIVALENT))
def test_the_flow_is_the_discrete_optimizer(name):
    flow, scheme, optimizer = EQUIVALENT[name]
    result = odeopt.equivalence(flow, scheme, optimizer, step_size=0.01)
    assert result.passed, str(result)
    assert result.largest <= 1e-12
    assert len(result.difference) == 200


WRONG = {
    "epsilon not squared": (odeopt.RMSProp(1.5, 0.05), optax.rmsprop(0.01, decay=np.exp(-0.015), eps=0.05)),
    "decay of the other scheme": (odeopt.RMSProp(1.5, 0.05), optax.rmsprop(0.01, decay=1 - 0.015, eps=0.05**2)),
    "AdaGrad with one accumulation per unit of time": (
        odeopt.AdaGrad(1.0, 0.05),
        optax.adagrad(0.01, initial_accumulator_value=0.0, eps=0.05**2),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_constant_of_the_optimizer_shows(name):
    flow, optimizer = WRONG[name]
    problem = (bowl, jnp.array([1.0, -2.0, 0.7]))
    assert not odeopt.equivalence(flow, odeopt.ExponentialEuler(), optimizer, problem, step_size=0.01).passed


@pytest.mark.parametrize("flow", [odeopt.AdaGrad(1.0, 0.1), odeopt.RMSProp(1.0, 0.1)])
def test_explicit_euler_with_the_old_memory_is_another_method(flow):
    assert flow.discrete_equivalent(odeopt.Euler(), jnp.asarray(0.1)) is None


# --- AEGD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("step_size", [1e-3, 1.0, 1e3])
def test_the_square_of_r_falls_by_the_identity_at_every_step_size(elementwise, step_size):
    """(r+)^2 = r^2 - (r+ - r)^2 - |x+ - x|^2 / eta, likewise for each parameter."""
    flow, x = odeopt.AEGD(3.0, elementwise, initial_root=2.5), jnp.array([1.0, -0.4, 0.3])
    memory = jnp.array([0.9, 0.5, 0.1]) if elementwise else jnp.asarray(0.8)
    state = odeopt.State(x, memory)
    trial = odeopt.AEGDStep().step(flow, jnp.zeros(()), jnp.asarray(step_size), state, oracle_at(x))
    r, new = 2.5 * np.asarray(memory), 2.5 * np.asarray(trial.state.memory)
    moved = np.asarray(trial.state.position - x) ** 2
    slope = bowl_gradient(np.asarray(x)) / (2 * np.sqrt(float(bowl(x, None)) + 3))
    square = slope**2 if elementwise else np.sum(slope**2)
    np.testing.assert_allclose(new, r / (1 + 2 * step_size * square), rtol=ROUNDING)
    np.testing.assert_allclose(trial.state.position, x - 2 * step_size * new * slope, rtol=ROUNDING)
    lost = (moved if elementwise else np.sum(moved)) / step_size
    np.testing.assert_allclose(new**2, r**2 - (new - r) ** 2 - lost, atol=1e-14 * np.max(r**2))


def test_a_run_is_the_published_method():
    x, r, rows = np.array([1.0, -0.4, 0.3]), np.sqrt(float(bowl(jnp.array([1.0, -0.4, 0.3]), None)) + 1), []
    r = np.full(3, r)
    for _ in range(50):
        slope = bowl_gradient(x) / (2 * np.sqrt(float(bowl(x, None)) + 1))
        r = r / (1 + 2 * 0.1 * slope**2)
        x = x - 2 * 0.1 * r * slope
        rows.append(x)
    solver = odeopt.Solver(odeopt.AEGD(1.0, elementwise=True), controller=odeopt.ConstantStep(0.1))
    solution = odeopt.minimise(
        bowl, solver, jnp.array([1.0, -0.4, 0.3]), stop=odeopt.Stop(), max_steps=50, history="states", throw=False
    )
    np.testing.assert_allclose(solution.history.position, rows, rtol=ROUNDING, atol=ROUNDING)


def test_in_continuous_time_it_is_gradient_flow():
    problem, times = (bowl, jnp.array([1.0, -0.4, 0.3])), [0.1, 0.5]
    ours = odeopt.reference_solution(odeopt.AEGD(shift=1.0), problem, times=times)
    plain = odeopt.reference_solution(odeopt.GradientFlow(), problem, times=times)
    np.testing.assert_allclose(ours.states.position, plain.states.position, rtol=1e-10)
    # r = sqrt(f + c) all along.
    start = float(bowl(problem[1], None)) + 1
    values = np.array([float(bowl(x, None)) + 1 for x in ours.states.position])
    np.testing.assert_allclose(ours.states.memory, np.sqrt(values / start), rtol=1e-10)
    assert odeopt.AEGD(1.0).predicted_decay(0.5, 3.0) == odeopt.GradientFlow().predicted_decay(0.5, 3.0)


def test_long_steps_use_r_up_and_freeze_the_parameters():
    solver = odeopt.Solver(odeopt.AEGD(shift=1.0), controller=odeopt.ConstantStep(50.0))
    solution = odeopt.minimise(
        lambda y, _: jnp.sum(jnp.array([1.0, 9.0]) * y**2),
        solver,
        jnp.ones(2),
        stop=odeopt.Stop(),
        max_steps=100,
        throw=False,
    )
    energy, loss = solution.history.energy, solution.history.loss
    assert np.all(np.diff(energy) <= 0)
    assert energy[-1] == pytest.approx(-1.0, abs=1e-6)  # r^2 - c, with nothing left of r
    assert np.ptp(loss[-20:]) < 1e-6 * loss[-1]
    assert loss[-1] > 0.1


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: odeopt.AdaGrad(accumulation_rate=0.0),
            r"AdaGrad\(accumulation_rate=0.0\): expected a finite number > 0",
        ),
        (lambda: odeopt.AdaGrad(epsilon=-1.0), r"AdaGrad\(epsilon=-1.0\)"),
        (lambda: odeopt.RMSProp(scaling_rate=-1.0), r"RMSProp\(scaling_rate=-1.0\).*second moment turns negative"),
        (lambda: odeopt.RMSProp(epsilon=0.0), r"RMSProp\(epsilon=0.0\)"),
        (lambda: odeopt.AEGD(shift=float("inf")), r"AEGD\(shift=inf\)"),
        (lambda: odeopt.AEGD(1.0, initial_root=0.0), r"AEGD\(initial_root=0.0\)"),
        (lambda: odeopt.Solver(odeopt.Adam(), odeopt.AEGDStep()), "Adam has none"),
    ],
)
def test_what_is_out_of_range_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.usefixtures("as_installed")
def test_a_second_number_is_no_switch():
    with pytest.raises(ValueError, match=r"AEGD\(elementwise=2.0\): expected True or False"):
        odeopt.AEGD(1.0, 2.0)


def test_with_a_negative_rate_the_second_moment_turns_negative():
    flow = eqx.tree_at(lambda flow: flow.scaling_rate, odeopt.RMSProp(1.0, 0.1), jnp.asarray(-1.0))
    audit = odeopt.audit_energy(flow)
    assert not audit.passed


# --- runs -------------------------------------------------------------------------------------------------------------


def line_fit(dtype):
    """Two layers without a nonlinearity; minimum 0.1."""
    x = np.linspace(-1, 1, 9)

    def fn(y, args):
        return 0.1 + jnp.mean((jnp.outer(args, y["in"]) @ y["out"] + y["bias"] - (2 * args - 1)) ** 2)

    y0 = {"in": np.array([0.5, -0.3]), "out": np.array([0.2, 0.9]), "bias": np.array(0.0)}
    return fn, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), y0), jnp.asarray(x, dtype)


RUNS = {
    "AdaGrad": (odeopt.AdaGrad(), jnp.float32),
    "RMSProp": (odeopt.RMSProp(), jnp.float32),
    "AEGD": (odeopt.AEGD(shift=1.0), jnp.float32),
    "AEGD, elementwise": (odeopt.AEGD(shift=1.0, elementwise=True), jnp.float64),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_recommended_solver_lowers_the_energy_to_the_minimum(name):
    flow, dtype = RUNS[name]
    fn, y0, x = line_fit(dtype)
    stop = odeopt.Stop(target_loss=0.1005)
    solution = odeopt.minimise(fn, odeopt.Solver(flow), y0, x, stop=stop)
    energy = solution.history.trimmed().energy
    assert energy.dtype == dtype
    assert np.all(np.diff(energy) <= 0)
    assert float(solution.loss) <= 0.1005, solution.describe()
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(solution.value))
    if isinstance(flow, odeopt.AEGD):
        assert int(solution.stats["rejected"]) == 0
