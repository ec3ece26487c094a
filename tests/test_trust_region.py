"""Step sizes by how far a model of the energy is right, against the rule as it is published and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt

jax.config.update("jax_enable_x64", True)


def attempt(change, rate=-1.0, step_size=2.0, rounding=0.0):
    numbers = [jnp.asarray(x) for x in (step_size, change, rate, rounding)]
    return odeopt.Attempt(*numbers, finite=jnp.asarray(True))


# Nielsen's rule, 1 / max(1/3, 1 - (2 rho - 1)^3); promised is a decrease of 2.
@pytest.mark.parametrize(
    ("change", "factor"), [(-2.0, 3.0), (-4.0, 3.0), (-1.0, 1.0), (-1.5, 8 / 7), (-0.5, 8 / 9), (-0.01, 0.507463)]
)
def test_the_step_size_follows_the_gain(change, factor):
    control = odeopt.TrustRegionControl()
    state = control.init(jnp.asarray(2.0))
    after = control.update(state, attempt(change), jnp.asarray(odeopt.Verdict.ACCEPT), jnp.asarray(True))
    np.testing.assert_allclose(control.step_size(after) / 2.0, factor, rtol=1e-3)


@pytest.mark.parametrize("change", [-1e-9, 1e-9, 0.0])
def test_a_change_that_rounding_hides_does_not_freeze_the_step_size(change):
    control = odeopt.TrustRegionControl()
    state = control.init(jnp.asarray(2.0))
    hidden = attempt(change, rounding=1e-8)
    after = control.update(state, hidden, jnp.asarray(odeopt.Verdict.UNDECIDED), jnp.asarray(True))
    np.testing.assert_allclose(control.step_size(after), 6.0)


def test_rejections_shorten_the_step_ever_faster():
    control = odeopt.TrustRegionControl()
    state, sizes = control.init(jnp.asarray(64.0)), []
    for _ in range(3):
        failed = attempt(1.0, step_size=control.step_size(state))
        state = control.update(state, failed, jnp.asarray(odeopt.Verdict.REJECT), jnp.asarray(False))
        sizes.append(float(control.step_size(state)))
    assert sizes == [32.0, 8.0, 1.0]


@pytest.mark.parametrize("name", ["decrease", "initial_step_size", "grow", "shrink", "rounding", "max_rejections"])
def test_constants_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"TrustRegionControl\\({name}=-1.0\\): expected"):
        odeopt.TrustRegionControl(**{name: -1.0})


# By hand: h (1 - h/2) V' is 1/2 * 3/4 * V' at h = 1/2, all of what a quadratic loses, and 1 is the longest step.
@pytest.mark.parametrize(("change", "after"), [(-0.375, 1.0), (-0.1875, 0.5), (-0.28125, 4 / 7)])
def test_newtons_model_promises_what_a_quadratic_loses(change, after):
    control = odeopt.TrustRegionControl(model="newton")
    state = control.init(jnp.asarray(0.5))
    accepted = control.update(
        state, attempt(change, step_size=0.5), jnp.asarray(odeopt.Verdict.ACCEPT), jnp.array(True)
    )
    np.testing.assert_allclose(control.step_size(accepted), after, rtol=1e-6)
    assert control.step_size(control.init(jnp.asarray(1e3))) == 1.0
    kept = [control.judge(state, attempt(fraction * -0.375, step_size=0.5)) for fraction in (1.1e-3, 0.9e-3)]
    assert [int(verdict) for verdict in kept] == [odeopt.Verdict.ACCEPT, odeopt.Verdict.REJECT]


@pytest.mark.parametrize(
    "flow",
    [odeopt.QuasiNewton(), odeopt.QuasiNewton(pairs=5), odeopt.Newton(), odeopt.NewtonCG(), odeopt.GradientFlow()],
    ids=["matrix", "pairs", "Newton", "truncated", "no model"],
)
def test_flows_in_a_metric_find_minima_with_newtons_model(flow):
    control = odeopt.TrustRegionControl(model="newton")
    solution = odeopt.minimise(
        lambda y, _: (1 - y[0]) ** 2 + 10 * (y[1] - y[0] ** 2) ** 2,
        odeopt.Solver(flow, odeopt.Euler(), control),
        jnp.array([-1.2, 1.0]),
        stop=odeopt.Stop(gradient_norm=1e-6),
        max_steps=5000,
    )
    np.testing.assert_allclose(solution.value, 1.0, atol=1e-5)
    steps = int(solution.stats["accepted"])
    assert np.max(solution.history.step_size[:steps]) <= 1
    assert np.all(np.diff(solution.history.energy[:steps]) <= 1e-15)


def test_every_step_of_newton_is_whole_where_the_objective_is_a_quadratic():
    flow = odeopt.Newton(regularisation=0.0)
    control = odeopt.TrustRegionControl(model="newton", initial_step_size=0.25)
    solution = odeopt.minimise(
        lambda y, _: jnp.vdot(y, jnp.array([1.0, 100.0]) * y) / 2,
        odeopt.Solver(flow, controller=control),
        jnp.ones(2),
        stop=odeopt.Stop(gradient_norm=1e-12),
    )
    # 1/4, then three times as long, then the whole way.
    np.testing.assert_allclose(solution.history.step_size[:3], [0.25, 0.75, 1.0])


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"model='none'\): expected one of"):
        odeopt.TrustRegionControl(model="none")
