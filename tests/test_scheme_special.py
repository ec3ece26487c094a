"""What holds for every scheme that steps some flows only."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import PROBLEMS, SPECIAL_SCHEMES

import odeopt
from odeopt._minimise import prepare
from odeopt._objective import Tally
from odeopt._record import empty_record
from odeopt._run import start
from odeopt._trial import attempt_step
from odeopt._verify.case import system_of
from odeopt._verify.dissipation_ratio import dissipation_ratio
from odeopt._verify.follow import regular_states

PROBLEM = PROBLEMS["two"]


def made(name):
    scheme, flow = SPECIAL_SCHEMES[name]
    return scheme(), flow()


@pytest.mark.parametrize("name", SPECIAL_SCHEMES)
def test_the_order_is_the_declared_one(name):
    scheme, flow = made(name)
    result = odeopt.convergence_order(flow, scheme)
    assert result.passed, str(result)
    assert result.order <= scheme.order + 1, str(result)


@pytest.mark.parametrize("name", SPECIAL_SCHEMES)
def test_a_step_costs_the_gradients_that_its_scheme_declares(name):
    scheme, flow = made(name)
    state, tally = flow.init(PROBLEM.y0()), Tally()
    oracle = odeopt.Oracle(odeopt.Objective(PROBLEM.fn), state.position, tally)
    trial = scheme.step(flow, jnp.asarray(0.0), jnp.asarray(0.1), state, oracle)
    trial.oracle.gradient  # noqa: B018  the next step's first
    assert tally.gradients == scheme.gradients_per_step + 1


@pytest.mark.parametrize("name", SPECIAL_SCHEMES)
def test_under_control_the_energy_never_rises(name):
    scheme, flow = made(name)
    solution = odeopt.minimise(PROBLEM.fn, odeopt.Solver(flow, scheme), PROBLEM.y0(), max_steps=80, throw=False)
    energy = solution.history.trimmed().energy
    assert len(energy) > 20
    assert np.all(np.diff(energy) <= 4 * np.finfo(float).eps * energy[0])
    assert energy[-1] < energy[0]


@pytest.mark.parametrize("name", [name for name in SPECIAL_SCHEMES if made(name)[0].has_quadrature])
def test_the_quadrature_of_the_dissipation_has_the_order_of_the_scheme(name):
    scheme, flow = made(name)
    system = system_of(flow, None)
    ratio = dissipation_ratio(system, scheme, odeopt.LyapunovControl(), *regular_states(system))
    assert abs(ratio.quadrature_slope.order - scheme.order) < 0.2, ratio.quadrature_slope


def described(tree):
    leaves, structure = jax.tree.flatten(eqx.filter(tree, lambda leaf: hasattr(leaf, "dtype")))
    return structure, [(leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SPECIAL_SCHEMES)
def test_a_step_maps_a_run_to_a_run_of_the_same_types(name, dtype):
    scheme, flow = made(name)
    solver = odeopt.Solver(flow, scheme)
    problem, parameters = prepare(PROBLEM.fn, None, False, solver, PROBLEM.y0(dtype), odeopt.Stop(gradient_norm=1e-6))

    def one_step(parameters):
        calibrated, run = start(problem, parameters)
        record = empty_record(run, 5, True)
        return (run, record), attempt_step(calibrated, run, record)

    before, after = eqx.filter_eval_shape(one_step, parameters)
    assert described(before) == described(after)
    assert not any(weak for _, _, weak in described(before)[1])


@pytest.mark.parametrize("name", SPECIAL_SCHEMES)
def test_a_step_in_lanes_is_the_step_of_each(name):
    scheme, flow = made(name)

    def step(position, h):
        # In motion, so that schemes that cannot leave rest take part.
        memory = jax.tree.map(lambda _: 0.3 + 0.1 * jnp.abs(position), flow.init(position).memory)
        state = odeopt.State(position, memory)
        oracle = odeopt.Oracle(odeopt.Objective(PROBLEM.fn), position, Tally())
        return scheme.step(flow, jnp.asarray(0.5), h, state, oracle).state

    positions, lengths = PROBLEM.y0() * jnp.array([[1.0], [0.5], [-1.2]]), jnp.array([0.01, 0.002, 0.005])
    lanes = jax.jit(jax.vmap(step))(positions, lengths)
    for lane in range(3):
        alone = jax.jit(step)(positions[lane], lengths[lane])
        assert np.all(np.isfinite(jax.flatten_util.ravel_pytree(alone)[0]))
        np.testing.assert_allclose(
            jax.flatten_util.ravel_pytree(jax.tree.map(lambda leaf, lane=lane: leaf[lane], lanes))[0],
            jax.flatten_util.ravel_pytree(alone)[0],
            rtol=1e-13,
        )
