"""The audit of steps: what it recomputes, what it measures against closed forms, and what it catches."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import CONTROLLERS, FLOWS, PROBLEMS, SCHEMES

import odeopt
import odeopt.plot
from odeopt._verify.case import system_of
from odeopt._verify.dissipation_ratio import dissipation_ratio
from odeopt._verify.follow import regular_states

CURVATURE = 3.0
PARABOLA = (lambda y, _: 0.5 * CURVATURE * jnp.sum(y**2), jnp.array([1.4]))


def failed(audit):
    return {check.name for check in audit.checks if check.passed is False}


def message(audit, name):
    return next(check.message for check in audit.checks if name in check.name)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_passes_with_what_it_recommends(name):
    audit = odeopt.audit_steps(FLOWS[name].make())
    assert audit.passed, str(audit)
    assert audit.dead_locks == 0
    # A scheme of many stages arrives in fewer steps.
    assert len(audit.run.change) > (10 if isinstance(odeopt.Solver(FLOWS[name].make()).scheme, odeopt.RKC1) else 20)


@pytest.mark.parametrize("controller", ["rate at the trial", "quadrature", "dichotomy"])
def test_every_kind_of_acceptance_test_is_recomputed(controller):
    audit = odeopt.audit_steps(odeopt.HeavyBall(0.7), odeopt.Heun(), CONTROLLERS[controller](), trials=150)
    assert audit.passed, str(audit)
    assert np.all(np.isfinite(audit.run.bound))
    assert "beyond doubt" in message(audit, "acceptance")


def test_energies_and_bounds_are_those_of_the_saved_states():
    case, problem = FLOWS["heavy ball"], PROBLEMS["two"]
    audit = odeopt.audit_steps(case.make(), problem=(problem.fn, problem.y0()), trials=60)
    energies, rates = [], []
    for x, v in zip(audit.run.states.position, audit.run.states.memory, strict=True):
        f, g = problem.value(x), problem.gradient(x)
        energies.append(case.energy(case.make(), x, v, f, g))
        rates.append(case.rate(case.make(), x, v, f, g))
    np.testing.assert_allclose(audit.run.energy, energies, rtol=1e-13)
    np.testing.assert_allclose(audit.run.change, np.diff(energies), atol=1e-13)
    bounds = 0.1 * audit.run.step_size * np.array(rates[:-1])
    np.testing.assert_allclose(audit.run.bound, bounds, rtol=1e-12, atol=1e-300)


class Careless(odeopt.LyapunovControl):
    """Promises to keep only steps that pass, and keeps all."""

    def judge(self, state, attempt):
        return jnp.asarray(odeopt.Verdict.ACCEPT, jnp.int32)


def test_a_controller_that_breaks_its_promise_is_caught():
    controller = Careless(initial_step_size=1.0, grow=1.0, scouting_growth=1.0)
    audit = odeopt.audit_steps(odeopt.GradientFlow(), odeopt.Euler(), controller, problem=PARABOLA, trials=20)
    # |1 - h L| = 2: every step raises the energy fourfold.
    assert {"acceptance inequality, recomputed", "energy never rises"} <= failed(audit)
    assert "20 of 20 steps" in message(audit, "acceptance")


@pytest.mark.parametrize(("step_size", "rises"), [(0.7, 30), (0.6, 0)])
def test_how_often_the_energy_rises_under_a_constant_step_is_a_note(step_size, rises):
    """Gradient descent on a parabola multiplies the parameter by 1 - h L: longer than 2 / L = 0.67 it grows."""
    controller = odeopt.ConstantStep(step_size)
    audit = odeopt.audit_steps(odeopt.GradientFlow(), odeopt.Euler(), controller, PARABOLA, trials=30)
    assert audit.run.rises == rises
    assert audit.passed
    assert audit.along is None
    assert f"it does in {rises} of 30" in message(audit, "energy along the run")


@pytest.mark.parametrize(("flow", "scheme"), [*(("heavy ball", scheme) for scheme in SCHEMES), ("Adam", "Bosh3")])
def test_the_dissipation_ratio_tends_to_one_at_the_order_of_the_scheme(flow, scheme):
    scheme, system = SCHEMES[scheme](), system_of(FLOWS[flow].make(), None)
    ratio = dissipation_ratio(system, scheme, odeopt.LyapunovControl(), *regular_states(system))
    assert abs(ratio.start_slope.order - 1) < 0.1, ratio.start_slope
    assert (ratio.quadrature is None) == (not scheme.has_quadrature)
    if ratio.quadrature is not None:
        assert ratio.quadrature_slope.order > scheme.order - 0.2, ratio.quadrature_slope
        # Above order 4 the distance from 1 is lost in rounding before it has settled.
        assert scheme.order > 4 or ratio.quadrature_slope.order < scheme.order + 0.2, ratio.quadrature_slope


def test_the_ratio_of_gradient_descent_on_a_parabola_is_known():
    """V+ - V = -h g^2 (1 - h L / 2)."""
    audit = odeopt.audit_steps(odeopt.GradientFlow(), odeopt.Euler(), problem=PARABOLA, trials=5)
    expected = 1 - audit.ratio.step_size * CURVATURE / 2
    np.testing.assert_allclose(audit.ratio.start, np.broadcast_to(expected, audit.ratio.start.shape), atol=1e-11)


@pytest.mark.parametrize("decrease", [0.1, 0.5])
def test_the_largest_step_of_gradient_descent_on_a_parabola_is_known(decrease):
    """1 - h L / 2 >= lambda."""
    controller = odeopt.LyapunovControl(decrease=decrease)
    audit = odeopt.audit_steps(odeopt.GradientFlow(), odeopt.Euler(), controller, problem=PARABOLA, trials=10)
    known = audit.along.largest[audit.along.found]
    assert len(known) >= 3
    # Found by bisection to 2**-13 of half a decade.
    np.testing.assert_allclose(known, 2 * (1 - decrease) / CURVATURE, rtol=2e-4)


def test_the_largest_step_of_semi_implicit_euler_from_rest_is_known():
    """v+ = -h L x, x+ = (1 - h^2 L) x, and V+ <= V as long as h^2 L <= 1."""
    audit = odeopt.audit_steps(odeopt.HeavyBall(0.7), odeopt.SemiImplicitEuler(), problem=PARABOLA, trials=5)
    np.testing.assert_allclose(audit.rest.largest, 1 / np.sqrt(CURVATURE), rtol=2e-4)


@pytest.mark.parametrize("name", ["heavy ball", "Adam"])
def test_a_scheme_that_cannot_leave_rest_is_a_dead_lock(name):
    audit = odeopt.audit_steps(FLOWS[name].make(), odeopt.Euler())
    assert not audit.passed
    assert {"the run", "starts from rest"} <= failed(audit)
    assert np.all(audit.rest.locked)
    assert "dead lock" in message(audit, "starts from rest")
    assert "use SemiImplicitEuler" in message(audit, "starts from rest")


def test_a_state_at_a_critical_point_is_no_dead_lock():
    audit = odeopt.audit_steps(odeopt.HeavyBall(0.7), problem=(PARABOLA[0], jnp.zeros(1)), trials=5)
    assert not np.any(audit.rest.locked), str(audit)
    assert np.all(np.isnan(audit.rest.largest))


def test_a_flow_that_dissipates_nothing_has_no_ratio():
    audit = odeopt.audit_steps(odeopt.HeavyBall(0.0), odeopt.SemiImplicitEuler(), problem=PARABOLA, trials=20)
    assert audit.ratio is None
    assert "there is no ratio" in str(audit)


class HalfRate(odeopt.HeavyBall):
    """A closed form with a missing factor."""

    def dissipation(self, t, state, oracle):
        return 0.5 * super().dissipation(t, state, oracle)


def test_a_rate_with_a_missing_factor_is_caught_by_the_ratio():
    audit = odeopt.audit_steps(HalfRate(0.7), odeopt.Heun(), trials=60)
    name = "dissipation ratio, h to 0"
    assert failed(audit) == {f"{name}, rate at the start", f"{name}, stage quadrature"}
    assert "tends to 2 and not to 1" in message(audit, "stage quadrature")


class Uphill(odeopt.GradientFlow):
    """The sign of the gradient is wrong."""

    def vector_field(self, t, state, oracle):
        return odeopt.State(oracle.gradient)

    dissipation = odeopt.AbstractFlow.dissipation


def test_a_flow_that_raises_its_energy_is_told_so_and_not_called_a_dead_lock():
    audit = odeopt.audit_steps(Uphill(), trials=60)
    assert {"dV/dt along the run", "starts from rest"} <= failed(audit)
    assert "dead lock" not in message(audit, "starts from rest")
    assert "the flow itself raises its declared energy" in message(audit, "starts from rest")


class Overrated(odeopt.SemiImplicitEuler):
    """Heun's rule without its second stage, with the weights of both: order 1 under the name of 2."""

    order = 2
    has_quadrature = True

    def step(self, flow, t, step_size, state, oracle, learnt=None):
        slope = flow.vector_field(t, state, oracle)
        end = jax.tree.map(lambda y, k: y + step_size * k, state, slope)
        there = oracle.at(end.position)

        def mean():
            rates = flow.dissipation(t, state, oracle), flow.dissipation(t + step_size, end, there)
            return 0.5 * (rates[0] + rates[1])

        return odeopt.Trial(end, there, quadrature=mean)


def test_an_order_that_the_scheme_does_not_have_is_caught_by_the_ratio():
    audit = odeopt.audit_steps(odeopt.GradientFlow(), Overrated(), trials=30)
    assert failed(audit) == {"dissipation ratio, h to 0, stage quadrature"}
    assert "expected order 2" in message(audit, "stage quadrature")


class Restarted(odeopt.HeavyBall):
    """Forgets its velocity where it points uphill."""

    def jump(self, t, before, after, oracle_before, oracle_after):
        uphill = jnp.vdot(after.memory, oracle_after.gradient) > 0
        return jnp.where(uphill, 0.0, after.memory)


def test_a_flow_that_jumps_passes():
    audit = odeopt.audit_steps(Restarted(0.1), odeopt.SemiImplicitEuler())
    assert audit.passed, str(audit)
    assert np.any(np.all(audit.run.states.memory[1:] == 0, axis=1))


class Clocked(odeopt.AbstractFlow):
    """Friction 3 / (t + 1), and an energy with explicit time."""

    def init(self, params):
        return odeopt.State(params, jnp.zeros_like(params))

    def vector_field(self, t, state, oracle):
        return odeopt.State(state.memory, -3 / (t + 1) * state.memory - oracle.gradient)

    def energy(self, t, state, oracle):
        return (1 + 1 / (t + 1)) * oracle.value + 0.5 * (1 + 1 / (t + 1)) * jnp.sum(state.memory**2)


def test_explicit_time_is_followed():
    problem = (lambda y, _: jnp.sum(jnp.log(jnp.cosh(y - jnp.array([1.0, -2.0, 0.5])))), jnp.zeros(3))
    audit = odeopt.audit_steps(Clocked(), odeopt.Ralston(), problem=problem)
    assert audit.passed, str(audit)
    assert abs(audit.ratio.quadrature_slope.order - 2) < 0.2


def test_an_equinox_model_in_single_precision_is_audited_in_double_precision():
    model = eqx.nn.MLP(1, 1, 4, 1, activation=jnp.tanh, dtype=jnp.float32, key=jax.random.key(0))
    inputs = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]

    def loss(model, inputs):
        return jnp.mean((jax.vmap(model)(inputs) - jnp.sin(3 * inputs)) ** 2)

    with jax.enable_x64(False):
        audit = odeopt.audit_steps(odeopt.HeavyBall(), problem=(loss, model, inputs), trials=60)
        assert not jax.config.jax_enable_x64
    assert audit.passed, str(audit)
    assert audit.run.energy.dtype == np.float64


def test_the_picture_shows_the_ratio_and_the_step_sizes():
    audit = odeopt.audit_steps(odeopt.HeavyBall(0.7), problem=PARABOLA, trials=40)
    figure = audit.plot()
    ratio, step_sizes = figure.axes
    assert ratio.get_xscale() == ratio.get_yscale() == "log"
    np.testing.assert_array_equal(step_sizes.lines[0].get_ydata(), audit.run.step_size)
    known = np.isfinite(audit.along.largest)
    np.testing.assert_array_equal(step_sizes.lines[1].get_ydata(), audit.along.largest[known])
    assert audit.plot(axes=figure.axes) is figure
    with pytest.raises(ValueError, match="expected two"):
        odeopt.plot.steps(audit, axes=[ratio])


def test_the_picture_of_a_run_that_did_not_start_says_so():
    audit = odeopt.audit_steps(odeopt.HeavyBall(0.7), odeopt.Euler(), problem=PARABOLA, trials=40)
    assert "no step was accepted" in audit.plot().axes[1].texts[0].get_text()


def test_a_number_of_trials_out_of_range_is_refused():
    with pytest.raises(ValueError, match="whole number >= 1"):
        odeopt.audit_steps(odeopt.GradientFlow(), trials=0)
