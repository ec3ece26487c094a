"""Flows made of flows: every combinator keeps an energy, and is what it says."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import PROBLEMS, named

import odeopt


def bowl(y, args):
    return jnp.sum(jnp.cosh(y)) + 0.3 * y[0] * y[1]


def run(fn, flow, y0, **options):
    options = {"max_steps": 300, "throw": False, "history": "states"} | options
    return odeopt.minimise(fn, odeopt.Solver(flow), y0, **options)


def speed(t, state, oracle):
    return 1 / jnp.sqrt(1 + jnp.sum(oracle.gradient**2))


COMBINED = {
    "L2 on heavy ball": lambda: odeopt.L2Regularised(odeopt.HeavyBall(friction=0.7), 0.3),
    "L2 on Adam": lambda: odeopt.L2Regularised(odeopt.Adam(epsilon=0.1), 0.3),
    "another time": lambda: odeopt.Rescaled(odeopt.HeavyBall(friction=0.7), speed),
    "a flow with time in another time": lambda: odeopt.Rescaled(odeopt.Nesterov(), speed),
    "restart": lambda: odeopt.AdaptiveRestart(odeopt.HeavyBall(friction=0.1)),
    "schedule-free average": odeopt.ScheduleFree,
    "schedule-free": lambda: odeopt.ScheduleFree(interpolation=0.9),
}


@pytest.mark.parametrize("name", named(COMBINED, set(COMBINED) - {"restart", "schedule-free"}))
def test_a_combined_flow_is_what_it_declares(name):
    audit = odeopt.audit_energy(COMBINED[name]())
    assert audit.passed, str(audit)


def test_groups_are_what_they_declare():
    flow = odeopt.PerGroup([("a", odeopt.HeavyBall(friction=0.7)), ("b", odeopt.Adam(epsilon=0.1)), ("c", None)])
    fn = lambda y, args: bowl(y["a"], args) + jnp.sum(jnp.cosh(y["b"]) * y["c"] ** 2) + jnp.sum(y["a"] * y["b"])  # noqa: E731
    y0 = {"a": jnp.array([0.3, -1.0]), "b": jnp.array([0.8, 0.1]), "c": jnp.array(1.5)}
    audit = odeopt.audit_energy(flow, (fn, y0))
    assert audit.passed, str(audit)
    solution = run(fn, flow, y0)
    assert float(solution.value["c"]) == 1.5
    assert np.all(np.diff(solution.history.trimmed().energy) <= 1e-12)


def test_the_energy_of_groups_counts_the_objective_once():
    flow = odeopt.PerGroup([(r"\[0\]", odeopt.HeavyBall(friction=1.0)), (r"\[1\]", odeopt.Adam(2.0, 1.0, 0.5))])
    fn, y0 = lambda y, args: jnp.sum(y[0] ** 2) * jnp.sum(y[1] ** 4), (jnp.array([1.0, 2.0]), jnp.array([0.5]))
    history = run(fn, flow, y0, max_steps=20).history.trimmed()
    (ball, moments) = history.memory
    kinetic = 0.5 * np.sum(ball[0] ** 2, axis=1) + np.sum(
        moments[0][1] ** 2 / np.sqrt(moments[1][1] + 0.25), axis=1
    ) / (2 * 2.0)
    np.testing.assert_allclose(history.energy, history.loss + kinetic, rtol=1e-12)


def test_one_group_is_the_flow_itself():
    alone, grouped = (
        run(PROBLEMS["two"].fn, flow, PROBLEMS["two"].y0(), max_steps=50)
        for flow in (odeopt.HeavyBall(0.5), odeopt.PerGroup([(".*", odeopt.HeavyBall(0.5))]))
    )
    np.testing.assert_allclose(grouped.history.trimmed().position, alone.history.trimmed().position, rtol=1e-10)


def test_groups_train_an_equinox_model_by_the_names_of_its_parameters():
    model = eqx.nn.MLP(1, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    x = jnp.linspace(-1, 1, 16)[:, None]
    loss = lambda model, x: jnp.mean((jax.vmap(model)(x) - jnp.sin(2 * x)) ** 2)  # noqa: E731
    flow = odeopt.PerGroup([("bias", None), ("weight", odeopt.Adam())])
    trained, solution = odeopt.train(model, loss, x, odeopt.Solver(flow), max_steps=60)
    np.testing.assert_array_equal(trained.layers[0].bias, model.layers[0].bias)
    assert float(solution.loss) < 0.5 * float(loss(model, x))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("groups", [{"a": odeopt.Adam()}, [("a", odeopt.Adam(), 1)]])
def test_groups_that_are_no_pairs_are_refused(groups):
    with pytest.raises(TypeError, match=r"expected pairs \[\(pattern, flow\)"):
        odeopt.PerGroup(groups)


def test_a_speed_may_be_a_number_and_must_be_a_scalar():
    solution = run(bowl, odeopt.Rescaled(odeopt.GradientFlow(), lambda t, state, oracle: 2.0), jnp.ones(3))
    assert solution.loss < bowl(jnp.ones(3), None)
    with pytest.raises(TypeError, match=r"expected a function to a scalar, got one to shape \(3,\)"):
        run(bowl, odeopt.Rescaled(odeopt.GradientFlow(), lambda t, state, oracle: state.position), jnp.ones(3))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([("a", odeopt.HeavyBall())], r"parameter \['b'\] is in none of the groups"),
        ([("a", None), ("b", None)], "no group has a flow"),
        ([("(", odeopt.HeavyBall())], "no regular expression"),
        ([("c", odeopt.HeavyBall()), ("a|b", None)], "all parameters are in frozen groups"),
        ([("c", odeopt.HeavyBall()), (".", odeopt.Adam())], "the pattern 'c' is found in no path"),
        ([("a", odeopt.AEGD(shift=1.0)), ("b", odeopt.Adam())], "energy of AEGD .* does not contain the objective"),
        ([("a", odeopt.Rescaled(odeopt.AEGD(shift=1.0), abs)), ("b", None)], "energy of Rescaled .* does not contain"),
        ([("a", odeopt.PrimalDual(jnp.ones((1, 1)), jnp.ones(1))), ("b", None)], "energy of PrimalDual .* not contain"),
    ],
)
def test_groups_that_cannot_be_meant_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        run(lambda y, _: y["a"] ** 2 + y["b"] ** 2, odeopt.PerGroup(groups), {"a": jnp.ones(()), "b": jnp.ones(())})


ADAMW = odeopt.AdamW(0.5)
RECOMMENDED = {
    "groups without memory": (lambda: odeopt.PerGroup([(".*", odeopt.GradientFlow())]), "RKC1", "LyapunovControl"),
    "groups of both kinds": (
        lambda: odeopt.PerGroup([("a", odeopt.GradientFlow()), ("b", odeopt.Adam())]),
        "ExponentialEuler",
        "LyapunovControl",
    ),
    "groups of a balance law": (lambda: odeopt.PerGroup([(".*", ADAMW)]), "ExponentialEuler", "BalanceControl"),
    "another time": (lambda: odeopt.Rescaled(odeopt.GradientFlow(), speed), "RKC1", "LyapunovControl"),
    "a balance law in another time": (lambda: odeopt.Rescaled(ADAMW, speed), "SemiImplicitEuler", "BalanceControl"),
}


@pytest.mark.parametrize("name", RECOMMENDED)
def test_what_is_made_of_flows_recommends_what_suits_them(name):
    make, scheme, controller = RECOMMENDED[name]
    solver = odeopt.Solver(make())
    assert type(solver.scheme).__name__ == scheme
    assert type(solver.controller).__name__ == controller


def test_groups_of_a_balance_law_go_where_the_flow_goes():
    """AdamW finds the minimum in the box; under a test of falling energy it would not leave the start."""
    fn, y0, end = PROBLEMS["Rosenbrock"].fn, PROBLEMS["Rosenbrock"].y0(), {"max_steps": 2000}
    alone, grouped = (run(fn, flow, y0, **end) for flow in (ADAMW, odeopt.PerGroup([(".*", ADAMW)])))
    np.testing.assert_allclose(grouped.value, alone.value, rtol=1e-6)


def test_regularisation_is_that_of_the_objective():
    """The flow of f + w |x|^2 / 2, given as a flow and as a function."""
    problem, weight = PROBLEMS["two"], 0.4
    plain = lambda y, args: problem.fn(y, args) + 0.5 * weight * jnp.sum(y**2)  # noqa: E731
    for flow in (odeopt.HeavyBall(0.5), odeopt.Adam(epsilon=0.1)):
        ours = run(problem.fn, odeopt.L2Regularised(flow, weight), problem.y0(), max_steps=60)
        theirs = run(plain, flow, problem.y0(), max_steps=60)
        np.testing.assert_allclose(ours.history.trimmed().energy, theirs.history.trimmed().energy, rtol=1e-9)
        np.testing.assert_allclose(ours.history.trimmed().position, theirs.history.trimmed().position, rtol=1e-8)


@pytest.mark.slow
def test_regularised_sgd_is_sgd_with_weight_decay():
    result = odeopt.equivalence(odeopt.L2Regularised(odeopt.HeavyBall(2.0), 0.1), odeopt.ExponentialEuler())
    assert result.passed, str(result)


def test_the_answer_of_a_regularised_flow_is_where_its_energy_ends():
    """The objective alone is lower elsewhere on the way."""
    solution = odeopt.minimise(
        lambda y, _: jnp.sum((y - 1) ** 2),
        odeopt.Solver(odeopt.L2Regularised(odeopt.HeavyBall(0.3), 2.0)),
        jnp.zeros(1),
        stop=odeopt.Stop(gradient_norm=1e-8),
    )
    # 2 (y - 1) + 2 y = 0
    assert float(solution.value[0]) == pytest.approx(0.5, abs=1e-7)


def test_another_time_follows_the_same_curve():
    """In the time of its arc length gradient flow passes the same points."""
    problem = PROBLEMS["two"]
    arc = odeopt.Rescaled(odeopt.GradientFlow(), lambda t, state, oracle: 1 / jnp.sqrt(jnp.sum(oracle.gradient**2)))
    at = odeopt.reference_solution(arc, (problem.fn, problem.y0()), times=[0.4])
    clock = float(at.states.memory[0][0])
    plain = odeopt.reference_solution(odeopt.GradientFlow(), (problem.fn, problem.y0()), times=[clock])
    np.testing.assert_allclose(at.states.position, plain.states.position, rtol=1e-9)


def test_a_restart_takes_the_kinetic_energy_away():
    problem = PROBLEMS["quadratic with residual"]
    solution = run(problem.fn, odeopt.AdaptiveRestart(odeopt.HeavyBall(friction=0.1)), problem.y0(), max_steps=1500)
    history = solution.history.trimmed()
    origin, velocity = history.memory
    restarted = np.flatnonzero(np.diff(origin) > 0) + 1
    assert len(restarted) > 2
    assert np.all(velocity[restarted] == 0)
    np.testing.assert_allclose(origin[restarted], history.t[restarted])
    assert np.all(np.diff(history.energy) <= 1e-12)


def test_a_flow_without_kinetic_energy_has_no_restart():
    with pytest.raises(ValueError, match="declares no rescaled_memory"):
        odeopt.AdaptiveRestart(odeopt.GradientFlow())


def test_schedule_free_is_the_published_recursion():
    """z+ = z - h g(x), x+ = (1 - 1/k) x + z+ / k."""
    result = odeopt.equivalence(odeopt.ScheduleFree(delay=0.0), odeopt.SemiImplicitEuler())
    assert result.passed, str(result)


def test_schedule_free_is_that_of_optax():
    """With interpolation and equal weights (their power of the learning rate is zero), by hand through our scheme."""
    problem, h, beta = PROBLEMS["two"], 0.05, 0.9
    solver = odeopt.Solver(
        odeopt.ScheduleFree(interpolation=beta, delay=0.0), odeopt.SemiImplicitEuler(), odeopt.ConstantStep(h)
    )
    ours = odeopt.minimise(problem.fn, solver, problem.y0(), max_steps=50, throw=False, history="states")
    theirs = optax.contrib.schedule_free(optax.sgd(h), learning_rate=h, b1=beta, weight_lr_power=0.0)
    y, state = problem.y0(), theirs.init(problem.y0())
    for position in ours.history.trimmed().position:
        updates, state = theirs.update(jnp.asarray(problem.gradient(np.asarray(y))), state, y)
        y = optax.apply_updates(y, updates)
        np.testing.assert_allclose(position, optax.contrib.schedule_free_eval_params(state, y), rtol=1e-9)


def test_the_primal_dual_flow_meets_the_constraint_and_its_conditions():
    matrix, target = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, -2.0]]), jnp.array([1.0, 0.5])
    curvature, slope = np.diag([1.0, 2.0, 0.5]), np.array([0.3, -0.2, 0.1])
    fn = lambda y, _: 0.5 * y @ (curvature @ y) - slope @ y  # noqa: E731
    flow = odeopt.PrimalDual(matrix, target)
    solution = odeopt.minimise(fn, odeopt.Solver(flow), jnp.zeros(3), stop=odeopt.Stop(gradient_norm=1e-9))
    system = np.block([[curvature, matrix.T], [matrix, np.zeros((2, 2))]])
    exact = np.linalg.solve(system, np.concatenate([slope, target]))
    np.testing.assert_allclose(solution.value, exact[:3], atol=1e-8)
    np.testing.assert_allclose(solution.state.run.snapshot.state.memory, exact[3:], atol=1e-8)


def test_the_primal_dual_flow_declares_a_convex_energy():
    flow = odeopt.PrimalDual(jnp.array([[1.0, 0.5, -1.0, 0.2]]), jnp.array([0.3]))
    audit = odeopt.audit_energy(flow, (lambda y, _: jnp.sum(jnp.cosh(y)), jnp.array([0.4, -0.3, 0.8, 0.1])))
    assert audit.passed, str(audit)


def test_a_constraint_for_another_number_of_parameters_is_refused():
    with pytest.raises(ValueError, match="3 parameters"):
        run(lambda y, _: jnp.sum(y**2), odeopt.PrimalDual(jnp.ones((1, 2)), jnp.ones(1)), jnp.ones(3))
