"""What holds for every scheme whose cost is known at run time only."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import PROBLEMS, RUN_TIME_SCHEMES, alternating
from test_scheme_special import described

import odeopt
from odeopt._minimise import prepare
from odeopt._objective import Tally
from odeopt._record import empty_record
from odeopt._run import start
from odeopt._trial import attempt_step

PROBLEM = PROBLEMS["two"]


def made(name):
    scheme, flow = RUN_TIME_SCHEMES[name]
    return scheme(), flow()


@pytest.mark.parametrize("name", alternating(RUN_TIME_SCHEMES, 1))
def test_under_control_the_energy_never_rises(name):
    scheme, flow = made(name)
    solution = odeopt.minimise(PROBLEM.fn, odeopt.Solver(flow, scheme), PROBLEM.y0(), max_steps=60, throw=False)
    energy = solution.history.trimmed().energy
    assert len(energy) > 3
    assert np.all(np.diff(energy) <= 4 * np.finfo(float).eps * energy[0])
    assert energy[-1] < energy[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", RUN_TIME_SCHEMES)
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


@pytest.mark.parametrize("name", alternating(RUN_TIME_SCHEMES))
def test_a_step_in_lanes_is_the_step_of_each(name):
    scheme, flow = made(name)

    def step(position, h):
        memory = jax.tree.map(lambda _: 0.3 + 0.1 * jnp.abs(position), flow.init(position).memory)
        oracle = odeopt.Oracle(odeopt.Objective(PROBLEM.fn), position, Tally())
        return scheme.step(flow, jnp.asarray(0.5), h, odeopt.State(position, memory), oracle).state

    positions, lengths = PROBLEM.y0() * jnp.array([[1.0], [0.5], [-1.2]]), jnp.array([0.01, 0.002, 0.05])
    lanes = jax.jit(jax.vmap(step))(positions, lengths)
    for lane in range(3):
        alone = jax.jit(step)(positions[lane], lengths[lane])
        mine = jax.tree.map(lambda leaf, lane=lane: leaf[lane], lanes)
        assert np.all(np.isfinite(jax.flatten_util.ravel_pytree(alone)[0]))
        # Rounding may end an iteration one round earlier in one of the two.
        np.testing.assert_allclose(
            jax.flatten_util.ravel_pytree(mine)[0], jax.flatten_util.ravel_pytree(alone)[0], rtol=1e-9
        )
