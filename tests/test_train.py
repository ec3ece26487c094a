"""The host-driven trainer takes the steps of `minimise` and answers to the host."""

import os
import signal
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import RESULTS

X = np.linspace(-1, 1, 40)[:, None]
DATA = (X, np.sin(3 * X))
STOP = odeopt.Stop(gradient_norm=1e-5)


def network(seed=0):
    return eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=jax.random.key(seed), dtype=jnp.float64)


def loss(model, batch):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def train(**options):
    defaults = {"solver": odeopt.Solver(odeopt.Adam()), "stop": STOP, "max_steps": 700, "progress": False}
    return odeopt.train(network(), loss, DATA, **(defaults | options))


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def test_train_takes_the_steps_of_minimise_to_the_last_bit():
    model, solution = train()
    whole = odeopt.minimise(
        loss,
        odeopt.Solver(odeopt.Adam()),
        network(),
        jax.tree.map(jnp.asarray, DATA),
        stop=STOP,
        max_steps=700,
        throw=False,
    )
    expected = whole.history.trimmed()
    for name in ("t", "step_size", "loss", "energy", "dissipation", "gradient_norm", "rejections"):
        np.testing.assert_array_equal(getattr(solution.history, name), getattr(expected, name), err_msg=name)
    assert {k: int(v) for k, v in solution.stats.items()} == {k: int(v) for k, v in whole.stats.items()}
    for ours, theirs in zip(leaves(model), leaves(whole.value), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_in_two_parts_is_the_same_as_one():
    _, whole = train()
    _, first = train(max_steps=300)
    assert first.result == RESULTS.max_steps_reached
    model, second = train(max_steps=400, state=first.state)
    np.testing.assert_array_equal(np.concatenate([first.history.loss, second.history.loss]), whole.history.loss)
    for ours, theirs in zip(leaves(model), leaves(whole.value), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_states_are_kept_where_they_are_asked_for():
    _, solution = train(history="states", max_steps=100)
    accepted = int(solution.stats["accepted"])
    assert all(leaf.shape[0] == accepted for leaf in leaves(solution.history.position))
    last = jax.tree.map(lambda leaf: leaf[-1], solution.history.position)
    for ours, theirs in zip(leaves(last), leaves(solution.state.run.snapshot.state.position), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_history_is_kept_where_none_is_asked_for():
    assert train(history=None, max_steps=5)[1].history is None


def test_metrics_are_those_of_the_model_that_is_returned():
    worst = lambda model, batch: jnp.max(jnp.abs(jax.vmap(model)(batch[0]) - batch[1]))  # noqa: E731
    model, solution = train(metrics={"worst": worst}, validation=DATA, max_steps=50)
    prediction = np.asarray(jax.vmap(model)(jnp.asarray(X)))
    assert solution.metrics["validation/worst"][-1] == pytest.approx(np.max(np.abs(prediction - DATA[1])), rel=1e-12)
    assert solution.metrics["trials"][-1] == 50


def test_a_callback_sees_the_run_and_ends_it():
    seen = []

    def callback(progress):
        seen.append(progress)
        return progress.trials >= 10

    model, solution = train(callbacks=[callback])
    assert solution.result == RESULTS.interrupted
    assert seen[-1].stats["accepted"] == int(solution.stats["accepted"])
    assert seen[-1].loss == float(solution.state.run.snapshot.value)
    for ours, theirs in zip(leaves(seen[-1].best()), leaves(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_ctrl_c_returns_the_best_model_so_far():
    def press(progress):
        if progress.trials >= 5:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    model, solution = train(callbacks=[press])
    assert solution.result == RESULTS.interrupted
    assert float(loss(model, DATA)) == pytest.approx(float(solution.loss), rel=1e-12)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_time_limit_ends_the_run():
    slow = lambda progress: time.sleep(0.02)  # noqa: E731
    _, solution = train(stop=odeopt.Stop(gradient_norm=0.0), max_steps=10**7, time_limit=3.0, callbacks=[slow])
    assert solution.result == RESULTS.time_limit_reached


def test_a_thread_other_than_the_main_one_can_train():
    results = []
    worker = threading.Thread(target=lambda: results.append(train(max_steps=5)[1].result))
    worker.start()
    worker.join()
    assert results[0] == RESULTS.max_steps_reached


def test_a_failed_run_returns_instead_of_raising():
    _, solution = train(solver=odeopt.Solver(odeopt.HeavyBall(), odeopt.Euler()))
    assert solution.result == RESULTS.step_underflow


def test_an_objective_that_carries_its_data_stands_for_the_loss():
    objective = odeopt.Objective(loss, jax.tree.map(jnp.asarray, DATA))
    solver = odeopt.Solver(odeopt.Adam())
    _, solution = odeopt.train(network(), objective, None, solver, max_steps=20, progress=False)
    assert float(solution.loss) == float(train(max_steps=20)[1].loss)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, X[:-1]), "same leading axis"),
        ((X, 1.0), "pytree of arrays"),
        ((), "pytree of arrays"),
        ((X[:0], X[:0]), "length > 0"),
    ],
)
def test_data_that_are_no_examples_are_refused(data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        odeopt.train(network(), loss, data, odeopt.Solver(odeopt.Adam()))
