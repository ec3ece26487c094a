"""Sums over 8 simulated devices against sums by hand and runs on one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device_runs import WEIGHTS, X, Y

import odeopt

SCRIPT = Path(__file__).parent / "device_runs.py"


@pytest.fixture(scope="module")
def found():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_hand(weights):
    product = X @ Y
    loss, share = np.sqrt(np.abs(product)), weights / weights.sum()
    slope, bend = 0.5 * np.sign(product) / loss, -0.25 / loss**3
    return {
        "value": share @ loss,
        "gradient": (share * slope) @ X,
        "product": (share * bend * (X @ X[0])) @ X,
        "large": share @ (loss > 1),
    }


def test_the_devices_are_eight(found):
    assert found["devices"] == 8


@pytest.mark.parametrize("name", ["value", "gradient", "product", "large"])
@pytest.mark.parametrize(("kind", "weights"), [("plain", np.ones(len(X))), ("weighted", WEIGHTS)])
def test_examples_that_do_not_divide_evenly_are_summed_as_by_hand(found, kind, weights, name):
    np.testing.assert_allclose(found["evaluations"][kind][name], by_hand(weights)[name], rtol=1e-12)


@pytest.mark.parametrize(("kind", "weights"), [("plain", np.ones(len(X))), ("weighted", WEIGHTS)])
def test_a_hopeless_sum_ends_early_for_all_devices(found, kind, weights):
    assert 0.1 < found["evaluations"][kind]["part"] < 0.8 * by_hand(weights)["value"]


def test_negative_losses_are_added_up_to_the_end(found):
    np.testing.assert_allclose(found["evaluations"]["signed"], Y[0] * X[:, 0].mean(), rtol=1e-12)


def test_means_of_batches_are_averaged_where_examples_divide_evenly(found):
    np.testing.assert_allclose(found["evaluations"]["mean of a batch"], np.mean((X[:200] @ Y) ** 2), rtol=1e-12)


# The order of the sums over examples differs, by some units of rounding of the gradient at every step, and 40 steps on
# the way down pull such differences apart by less than a hundredfold.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-12)])
@pytest.mark.parametrize("kind", ["eight", "divided"])
def test_eight_devices_decide_and_move_as_one_does(found, dtype, tolerance, kind):
    one, other = found[dtype]["one"], found[dtype][kind]
    assert one["decisions"][1] > 5
    assert other["decisions"] == one["decisions"]
    np.testing.assert_allclose(other["loss"], one["loss"], rtol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_divided_parameters_leave_an_eighth_of_everything_on_each_device(found, dtype):
    # 3 x 16 weights, 16 biases and 16 weights are divided; the last bias, one number, is whole. Adam remembers two.
    size = np.dtype(dtype).itemsize
    whole, part = (3 * 16 + 16 + 16 + 1) * size, ((3 * 16 + 16 + 16) // 8 + 1) * size
    assert found[dtype]["eight"]["bytes"] == [whole, 2 * whole, whole]
    assert found[dtype]["divided"]["bytes"] == [part, 2 * part, part]


def test_memory_is_divided_before_the_first_step(found):
    """It begins with zeros, which depend on no parameter."""
    assert found["start"] == found["float32"]["divided"]["bytes"]


def test_a_chunk_may_be_larger_than_the_share_of_a_device(found):
    np.testing.assert_allclose(found["evaluations"]["one chunk"], np.mean((X @ Y) ** 2), rtol=1e-12)


def test_a_mesh_of_one_device_changes_nothing():
    mesh = odeopt.device_mesh()
    alone, meshed = (odeopt.FiniteSum(lambda y, x: (x @ y) ** 2, jnp.asarray(X), mesh=m) for m in (None, mesh))
    np.testing.assert_allclose(meshed.value(jnp.asarray(Y)), alone.value(jnp.asarray(Y)), rtol=1e-15)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,)), "expected Auto"),
        ("eight", "must be a jax.sharding.Mesh"),
    ],
    ids=["explicit", "no mesh"],
)
def test_what_is_no_mesh_in_auto_mode_is_refused(mesh, message, as_installed):
    with pytest.raises((TypeError, ValueError), match=message):
        odeopt.FiniteSum(lambda y, x: x @ y, X, mesh=mesh)
    with pytest.raises((TypeError, ValueError), match=message):
        odeopt.shard_parameters(jnp.ones(8), mesh)


@pytest.mark.parametrize(("count", "parts"), [(10, 3), (7, 7), (1000, 6)])
def test_shares_are_nearly_equal_and_together_everything(count, parts):
    from odeopt._objective.sharded import share

    shares = [list(range(count)[share(count, index, parts)]) for index in range(parts)]
    assert [index for each in shares for index in each] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(ValueError, match="cannot be shared by"):
        share(parts - 1, 0, parts)
