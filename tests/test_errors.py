"""Arguments that cannot work are refused before anything is compiled, with a message that says what to do."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
import pytest

import odeopt
from odeopt._objective import Tally

START = jnp.asarray([1.0, -0.5])


def bowl(y, args):
    return jnp.sum(y**2)


def minimise(fn=bowl, flow=None, y0=START, **settings):
    solver = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler()) if flow is None else odeopt.Solver(flow)
    return odeopt.minimise(fn, solver, y0, **settings)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_start_that_is_not_finite_raises_with_its_reason(value):
    with pytest.raises(RuntimeError, match=r"not a finite number at the start.*throw=False"):
        minimise(lambda y, args: jnp.sum(y**2) + value)


def test_a_failed_run_raises_under_jit_too():
    with pytest.raises(Exception, match="not a finite number at the start"):
        jax.block_until_ready(jax.jit(lambda y: minimise(y0=y).value)(START * jnp.nan))


def test_used_up_trials_raise_with_their_number_and_the_gradient():
    with pytest.raises(RuntimeError, match=r"maximum number of trial steps.*gradient norm.*accepted"):
        minimise(y0=START * 100, max_steps=2)


def test_expected_ends_do_not_raise():
    assert minimise(stop=odeopt.Stop(max_evaluations=1)).result == odeopt.RESULTS.max_evaluations_reached


class Drag(odeopt.AbstractFlow):
    """A flow whose methods the tests below replace one at a time by wrong ones."""

    def init(self, params):
        return odeopt.State(params, {"v": jnp.zeros_like(params)})

    def vector_field(self, t, state, oracle):
        v = state.memory["v"]
        return odeopt.State(v, {"v": -v - oracle.gradient})

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * jnp.sum(state.memory["v"] ** 2)


def declared(**methods):
    return type("Drag", (Drag,), methods)()


WRONG_DECLARATIONS = {
    "memory of another structure": (
        {"vector_field": lambda self, t, state, oracle: odeopt.State(state.position, (state.position,))},
        r"vector_field: the memory has the structure",
    ),
    "memory of another shape": (
        {"vector_field": lambda self, t, state, oracle: odeopt.State(state.position, {"v": jnp.zeros(3)})},
        r"vector_field: memory\['v'\] has shape \(3,\); expected \(2,\)",
    ),
    "position of another structure": (
        {"vector_field": lambda self, t, state, oracle: odeopt.State([state.position], state.memory)},
        r"vector_field: the position has the structure",
    ),
    "field that is no state": (
        {"vector_field": lambda self, t, state, oracle: state.position},
        r"vector_field returned .*expected odeopt.State",
    ),
    "start that is no state": ({"init": lambda self, params: params}, r"init returned .*expected odeopt.State"),
    "integer memory": (
        {"init": lambda self, params: odeopt.State(params, {"v": jnp.zeros(2, int)})},
        r"init: the memory has a leaf of dtype int.*floating point",
    ),
    "energy that is a vector": (
        {"energy": lambda self, t, state, oracle: oracle.value + state.memory["v"] ** 2},
        r"energy returned an array of shape \(2,\); expected a scalar",
    ),
    "energy that is a Python number": (
        {"energy": lambda self, t, state, oracle: 1.0},
        r"energy returned .*scalar array",
    ),
    "rate that is a vector": (
        {"dissipation": lambda self, t, state, oracle: state.memory["v"]},
        r"dissipation returned an array of shape \(2,\); expected a scalar",
    ),
    "stationarity that is an integer": (
        {"stationarity": lambda self, t, state, oracle, norm=None: jnp.asarray(0)},
        r"stationarity returned dtype int.*floating point",
    ),
    "memory that is used and was never made": (
        {"init": lambda self, params: odeopt.State(params)},
        r"Drag\.vector_field failed on .*position float64\[2\] and memory None .*init.*'NoneType' object is not",
    ),
    "memory that does not fit the gradient": (
        {"init": lambda self, params: odeopt.State(params, {"v": jnp.zeros(3)})},
        r"Drag\.vector_field failed on .*position float64\[2\] and memory \['v'\] float64\[3\] .*shapes",
    ),
    "memory that is a Python number": (
        {"init": lambda self, params: odeopt.State(params, 0)},
        r"Drag\.init: memory is 0, a Python int; expected arrays.*None",
    ),
    "slope that is a Python number": (
        {"vector_field": lambda self, t, state, oracle: odeopt.State(state.position, {"v": 0.0})},
        r"Drag\.vector_field: memory\['v'\] is 0\.0, a Python float; expected an array",
    ),
    "information that no oracle has": (
        {"vector_field": lambda self, t, state, oracle: odeopt.State(-oracle.grad, state.memory)},
        r"Drag\.vector_field failed on .*no attribute 'grad'.*has value, gradient, hvp\(vector\) and at\(point\)",
    ),
    "calibration without a return": (
        {"calibrate": lambda self, state, oracle: None},
        r"Drag\.calibrate returned NoneType; expected the flow",
    ),
    "jump to a memory of another structure": (
        {"jump": lambda self, t, before, after, oracle_before, oracle_after: after},
        r"Drag\.jump: the memory has the structure",
    ),
    "energy that cannot be differentiated": (
        {"energy": lambda self, t, state, oracle: jax.pure_callback(float, jnp.zeros(()), state.memory["v"][0])},
        r"Drag\.dissipation failed on .*callback.*derived from energy.*closed form",
    ),
}


def test_the_flow_that_the_wrong_ones_are_made_from_works():
    assert minimise(flow=Drag()).result == odeopt.RESULTS.converged


@pytest.mark.parametrize("name", WRONG_DECLARATIONS)
def test_a_wrong_declaration_of_a_flow_is_named(name):
    methods, message = WRONG_DECLARATIONS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        minimise(flow=declared(**methods))


def fails(error):
    def method(self, *arguments):
        raise error

    return method


METHODS = (
    "init", "calibrate", "vector_field", "energy", "dissipation", "kinetic_energy", "stationarity", "jump",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("error", "kind"), [(ValueError("one"), ValueError), (TypeError("two"), TypeError), (KeyError("three"), TypeError)]
)
def test_an_error_inside_a_method_is_told_with_its_place_and_its_cause(method, error, kind):
    message = rf"^Drag\.{method} failed on .*float64\[2\].*{type(error).__name__}: .*{error.args[0]}"
    with pytest.raises(kind, match=message) as caught:
        minimise(flow=declared(**{method: fails(error)}))
    assert caught.value.__cause__ is error


def test_the_librarys_own_words_come_through():
    class Hasty(odeopt.Adam):
        def calibrate(self, state, oracle):
            return self

    with pytest.raises(ValueError, match=r"Hasty\.vector_field failed.*Hasty\(epsilon=None\) has not been calibrated"):
        minimise(flow=Hasty())


def test_an_objective_without_a_gradient_is_not_blamed_on_the_flow():
    counted = lambda y, args: jax.lax.while_loop(lambda s: s < 3, lambda s: s + 1, jnp.sum(y))  # noqa: E731
    with pytest.raises(ValueError, match=r"^Reverse-mode differentiation does not work"):
        minimise(fn=counted)


def test_a_stationarity_that_takes_no_norm_is_named_where_one_is_chosen():
    flow = declared(stationarity=lambda self, t, state, oracle: jnp.sum(oracle.gradient**2))
    assert minimise(flow=flow).result == odeopt.RESULTS.converged
    with pytest.raises(TypeError, match=r"Drag\.stationarity failed"):
        minimise(flow=flow, stop=odeopt.Stop(gradient_norm=1e-6, norm=optx.max_norm))


@pytest.mark.parametrize(
    ("y0", "message"),
    [
        (jnp.asarray([1, 2]), r"y0 has dtype int.*floating point"),
        (3, r"y0 has dtype int.*Write 1.0 instead of 1"),
        ({"w": jnp.ones(2), "n": 4}, r"y0\['n'\] has dtype int"),
        (jnp.asarray([True]), r"y0 has dtype bool"),
        (jnp.ones(2) + 1j, r"y0 is complex.*must be real"),
        ([1.0, 2j], r"y0\[1\] is complex"),
        ({}, r"nothing to train"),
        (None, r"nothing to train"),
        (jax.nn.relu, r"nothing to train"),
    ],
)
def test_parameters_that_no_flow_can_move_are_refused(y0, message):
    with pytest.raises((TypeError, ValueError), match=message):
        minimise(fn=lambda y, args: 0.0, y0=y0)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda y, args: y**2, r"must return a scalar; it returned an array of shape \(2,\).*jnp.mean"),
        (lambda y, args: (jnp.sum(y**2), y), r"has_aux=True"),
        (lambda y, args: (jnp.sum(y**2), 0.5), r"has_aux=True"),
        (lambda y, args: (jnp.sum(y**2), {"y": y}), r"has_aux=True"),
        (lambda y, args: None, r"must return"),
        (lambda y, args: jnp.sum(y > 0), r"floating-point number; it returned dtype int"),
        (lambda y, args: jnp.sum(y) * 1j, r"floating-point number; it returned dtype complex"),
        (3.0, r"fn must be a function"),
    ],
)
def test_a_function_that_returns_no_number_is_refused(fn, message):
    with pytest.raises((TypeError, ValueError), match=message):
        minimise(fn=fn)


def test_an_objective_carries_its_own_data():
    with pytest.raises(ValueError, match="carries its own data"):
        minimise(fn=odeopt.Objective(bowl), args=START)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"history": "everything"}, r"history='everything': expected 'scalars', 'states' or None"),
        ({"max_steps": -1}, r"max_steps=-1: expected a whole number >= 0"),
        ({"max_steps": 10.5}, r"max_steps=10.5: expected a whole number"),
        ({"state": "yesterday's"}, r"state must be the state of an earlier solution"),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_a_setting_out_of_range_is_refused(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        minimise(**settings)


def test_a_hyper_parameter_that_hides_a_method_is_refused():
    with pytest.raises(TypeError, match=r"Damped\.damping: a hyper-parameter cannot be called like a method"):

        class Damped(odeopt.GradientFlow):
            damping: float = 0.1


@pytest.mark.parametrize("solver", [odeopt.GradientFlow(), odeopt.Adam, None])
@pytest.mark.usefixtures("as_installed")
def test_a_flow_is_no_solver(solver):
    with pytest.raises(TypeError, match=r"must be an odeopt\.Solver"):
        odeopt.minimise(bowl, solver, START)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((odeopt.Adam(), diffrax.Tsit5()), r"Solver\(scheme=.*Write odeopt.from_diffrax\(diffrax.Tsit5\(\)\)"),
        ((odeopt.Adam,), r"Solver\(flow=\.\.\.\): expected an odeopt.AbstractFlow.*Did you mean Adam\(\)\?"),
        ((odeopt.Heun(),), r"Solver\(flow=\.\.\.\)"),
        ((odeopt.GradientFlow(), diffrax.Heun()), r"Solver\(scheme=\.\.\.\): expected an odeopt.AbstractScheme"),
        ((odeopt.GradientFlow(), odeopt.LyapunovControl()), r"given by name: controller=LyapunovControl"),
        ((odeopt.GradientFlow(), optax.sgd(0.1)), r"odeopt.equivalence compares with one"),
        (
            (odeopt.GradientFlow(), None, 0.1),
            r"Solver\(controller=\.\.\.\): expected an odeopt.AbstractController, got 0.1",
        ),
        (
            (odeopt.HeavyBall(), odeopt.ExponentialEuler(), odeopt.LyapunovControl(rate="quadrature")),
            r"needs the rate at the stages of a step; ExponentialEuler does not",
        ),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_a_solver_of_wrong_parts_is_refused(parts, message):
    with pytest.raises((TypeError, ValueError), match=message):
        odeopt.Solver(*parts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: odeopt.HeavyBall(friction=-0.1), r"HeavyBall\(friction=-0.1\): friction must be >= 0"),
        (lambda: odeopt.HeavyBall(friction=float("nan")), r"HeavyBall\(friction=nan\)"),
        (lambda: odeopt.Adam(momentum_rate=0.0), r"Adam\(momentum_rate=0.0\): expected a finite rate > 0"),
        (lambda: odeopt.Adam(scaling_rate=-1.0), r"Adam\(scaling_rate=-1.0\)"),
        (lambda: odeopt.Adam(momentum_rate=1.0, scaling_rate=4.1), r"scaling_rate must be at most 4 \* momentum_rate"),
        (lambda: odeopt.Adam(epsilon=0.0), r"Adam\(epsilon=0.0\): expected a finite number > 0"),
        (lambda: odeopt.Adam(bias_correction=True), "Use BiasCorrectedAdam"),
        (lambda: odeopt.ConstantStep(0.0), r"expected a finite step size > 0"),
        (lambda: odeopt.ConstantStep(-1.0), r"expected a finite step size > 0"),
        (lambda: odeopt.LyapunovControl(decrease=1.0), r"decrease=1.0\): expected 0 <= decrease < 1"),
        (lambda: odeopt.LyapunovControl(shrink=1.0), r"shrink=1.0\): expected shrink > 1"),
        (lambda: odeopt.LyapunovControl(grow=0.5), r"grow=0.5\): expected grow >= 1"),
        (lambda: odeopt.LyapunovControl(initial_step_size=0.0), r"initial_step_size=0.0\)"),
        (lambda: odeopt.LyapunovControl(search="often"), r"search='often'\): expected one of"),
        (lambda: odeopt.LyapunovControl(rate="end"), r"rate='end'\): expected one of"),
        (lambda: odeopt.LyapunovControl(bisections=-1), r"bisections=-1\): expected a whole number"),
        (lambda: odeopt.Stop(gradient_norm=-1.0), r"Stop\(gradient_norm=-1.0\): expected a finite number >= 0"),
        (lambda: odeopt.Stop(target_loss=float("nan")), r"Stop\(target_loss=nan\)"),
        (lambda: odeopt.Objective(bowl, evaluation="eager"), r"evaluation='eager'\): expected 'linearised' or 'lazy'"),
        (lambda: odeopt.ExplicitRK(diffrax.Kvaerno3.tableau, order=3), r"tableau is implicit"),
    ],
)
def test_a_hyper_parameter_out_of_range_is_refused_with_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_largest_scaling_rate_is_allowed():
    assert float(odeopt.Adam(momentum_rate=0.5, scaling_rate=2.0).scaling_rate) == 2.0


@pytest.mark.parametrize("flow", [odeopt.HeavyBall(), odeopt.Adam()])
def test_a_flow_with_open_scales_asks_for_calibration(flow):
    state = flow.init(START)
    oracle = odeopt.Oracle(odeopt.Objective(bowl), START, Tally())
    with pytest.raises(ValueError, match=r"has not been calibrated.*flow.calibrate"):
        flow.vector_field(jnp.asarray(0.0), state, oracle)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (odeopt.Solver(odeopt.Adam()), r"flow GradientFlow, but solver has Adam"),
        (odeopt.Solver(odeopt.GradientFlow(), odeopt.Heun()), r"scheme Euler, but solver has Heun"),
        (
            odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(0.1)),
            r"controller LyapunovControl, but",
        ),
    ],
)
def test_the_state_of_another_solver_is_refused(other, message):
    earlier = minimise(max_steps=2, throw=False)
    with pytest.raises(ValueError, match=message):
        odeopt.minimise(bowl, other, START, state=earlier.state)


@pytest.mark.parametrize("y0", [jnp.ones(3), jnp.ones(2, jnp.float32), [jnp.ones(2)]])
def test_the_state_of_a_run_with_other_parameters_is_refused(y0):
    earlier = minimise(max_steps=2, throw=False)
    with pytest.raises(ValueError, match="other parameters than y0"):
        minimise(fn=lambda y, args: jnp.sum(jax.flatten_util.ravel_pytree(y)[0] ** 2), y0=y0, state=earlier.state)


def test_integers_inside_a_module_are_part_of_the_model_and_no_error():
    class Counted(eqx.Module):
        w: jax.Array
        n: jax.Array

    solution = minimise(fn=lambda m, args: jnp.sum(m.w**2) * m.n, y0=Counted(jnp.ones(2), jnp.asarray(3)))
    assert int(solution.value.n) == 3
