"""What is compiled once stays compiled: steps, sweeps over hyper-parameters, lanes."""

from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import CONTROLLERS, FLOWS, PROBLEMS, SCHEMES

import odeopt
from odeopt._minimise import prepare
from odeopt._record import empty_record
from odeopt._run import start
from odeopt._trial import attempt_step

DTYPES = {"float32": jnp.float32, "float64": jnp.float64}
PROBLEM = PROBLEMS["two"]
DESCENT = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler())


def fits(scheme, controller):
    """Whether the scheme has the stage quadrature or the error estimate that some controllers ask for."""
    asks, has = CONTROLLERS[controller](), SCHEMES[scheme]()
    return (asks.rate != "quadrature" or has.has_quadrature) and (asks.tolerance is None or has.has_error)


def prepared(flow, scheme, controller, dtype):
    solver = odeopt.Solver(FLOWS[flow].make(), SCHEMES[scheme](), CONTROLLERS[controller]())
    return prepare(
        PROBLEM.fn, None, False, solver, PROBLEM.y0(dtype), odeopt.Stop(gradient_norm=1e-6, loss_change=1e-9)
    )


def described(tree):
    """Everything of a tree that decides whether a compiled step fits: structure, shapes, dtypes, weak types."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves]


# Both precisions in turn; the rest is slow.
TYPED = [
    pytest.param(flow, scheme, dtype, marks=pytest.mark.slow if (i + j) % 2 else ())
    for i, (flow, scheme) in enumerate(product(FLOWS, SCHEMES))
    for j, dtype in enumerate(DTYPES)
]


@pytest.mark.parametrize(("flow", "scheme", "dtype"), TYPED)
def test_a_step_maps_a_run_to_a_run_of_the_same_types(flow, scheme, dtype):
    """Traced only, nothing is compiled: all controllers on one scheme in turn, so that the product is covered."""
    controllers = [name for name in CONTROLLERS if fits(scheme, name)]
    if scheme not in ("ExponentialEuler", "Heun"):  # one scheme without stages and one with them meet every controller
        controllers = [controllers[(list(FLOWS).index(flow) + list(SCHEMES).index(scheme)) % len(controllers)]]
    for controller in controllers:
        problem, parameters = prepared(flow, scheme, controller, DTYPES[dtype])

        def one_step(parameters, problem=problem):
            calibrated, run = start(problem, parameters)
            record = empty_record(run, 5, True)
            return (run, record), attempt_step(calibrated, run, record)

        before, after = eqx.filter_eval_shape(one_step, parameters)
        assert described(before) == described(after), controller
        assert not any(weak for _, _, weak in described(before)[1]), controller


@pytest.mark.parametrize(
    ("flow", "scheme", "controller", "dtype"),
    [
        ("gradient flow", "Euler", "default", jnp.float32),
        ("heavy ball, open friction", "ExponentialEuler", "dichotomy", jnp.float64),
        ("Adam, open epsilon", "Heun", "quadrature", jnp.float32),
    ],
)
def test_a_hundred_steps_leave_one_entry_in_the_cache(flow, scheme, controller, dtype):
    problem, parameters = prepared(flow, scheme, controller, dtype)
    problem, run = eqx.filter_jit(start)(problem, parameters)
    static = eqx.filter((problem, run), eqx.is_array, inverse=True)

    @jax.jit
    def step(arrays):
        problem, run = eqx.combine(arrays, static)
        return eqx.filter((problem, attempt_step(problem, run, None)[0]), eqx.is_array)

    arrays = eqx.filter((problem, run), eqx.is_array)
    for _ in range(100):
        arrays = step(arrays)
    assert step._cache_size() == 1


class Tracings:
    """A loss that notes how often Python runs it, which is how often something is traced."""

    def __init__(self):
        self.number = 0

    def __call__(self, y, args):
        self.number += 1
        return PROBLEM.value(y)


def test_a_second_run_traces_nothing_but_the_check_of_its_arguments():
    loss = Tracings()
    for _ in range(2):
        before = loss.number
        odeopt.minimise(loss, odeopt.Solver(odeopt.HeavyBall(0.3)), PROBLEM.y0(), history=None)
        last = loss.number - before
    assert last <= ARGUMENT_CHECKS


# The abstract check of the arguments evaluates the function for its value, for the declaration and for the rate.
ARGUMENT_CHECKS = 3


SWEEPS = {
    "friction": lambda x: odeopt.Solver(odeopt.HeavyBall(0.1 + x)),
    "momentum rate": lambda x: odeopt.Solver(odeopt.Adam(momentum_rate=1 + x, epsilon=0.1)),
    "scaling rate": lambda x: odeopt.Solver(odeopt.Adam(scaling_rate=1 + x)),
    "decrease": lambda x: odeopt.Solver(
        odeopt.GradientFlow(), odeopt.Euler(), odeopt.LyapunovControl(decrease=0.1 + x)
    ),
    "first step": lambda x: odeopt.Solver(
        odeopt.GradientFlow(), odeopt.Euler(), odeopt.LyapunovControl(initial_step_size=0.1 + x)
    ),
    "constant step": lambda x: odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(0.1 + x)),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_over_a_hyper_parameter_compiles_once(name):
    loss, tracings, ends = Tracings(), [], []
    for x in (0.0, 0.1, 0.2):
        before = loss.number
        solution = odeopt.minimise(loss, SWEEPS[name](x), PROBLEM.y0(), history=None, max_steps=20, throw=False)
        tracings.append(loss.number - before)
        ends.append(np.asarray(solution.value).tobytes())
    assert tracings[0] > ARGUMENT_CHECKS >= max(tracings[1:]), tracings
    assert len(set(ends)) == 3, "the hyper-parameter has no effect"


def test_a_sweep_over_a_tolerance_compiles_once():
    loss, tracings = Tracings(), []
    for tolerance in (1e-2, 1e-4, 1e-6):
        before = loss.number
        stop = odeopt.Stop(gradient_norm=tolerance)
        odeopt.minimise(loss, DESCENT, PROBLEM.y0(), stop=stop, history=None)
        tracings.append(loss.number - before)
    assert max(tracings[1:]) <= ARGUMENT_CHECKS, tracings


def test_a_vmap_over_a_hyper_parameter_traces_once_for_all_lanes():
    def traced(lanes):
        loss = Tracings()

        def run(friction):
            solver = odeopt.Solver(odeopt.HeavyBall(friction))
            return odeopt.minimise(loss, solver, PROBLEM.y0(), history=None, throw=False).loss

        losses = jax.vmap(run)(jnp.linspace(0.2, 1.0, lanes))
        assert losses.shape == (lanes,)
        return loss.number

    assert traced(2) == traced(5)


def test_data_in_args_are_no_constants_of_the_program():
    fn_calls = Tracings()

    def fn(y, target):
        fn_calls.number += 1
        return jnp.sum((y - target) ** 2)

    tracings = []
    for shift in (0.0, 1.0, 2.0):
        before = fn_calls.number
        target = jnp.arange(3.0) + shift
        solution = odeopt.minimise(fn, DESCENT, jnp.zeros(3), target, history=None)
        tracings.append(fn_calls.number - before)
        np.testing.assert_allclose(solution.value, target, atol=1e-6 / 2)  # |g| = 2 |y - target| <= 1e-6
    assert max(tracings[1:]) <= ARGUMENT_CHECKS, tracings
