"""RAG and RAGL: rebalanced splitting of a finite sum."""

import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import RAG, RAGL, RESULTS, Stop

COUNT, WIDTH = 120, 4
INPUTS = np.random.default_rng(0).normal(size=(COUNT, WIDTH))
TARGETS = INPUTS @ np.array([1.0, -2.0, 0.5, 3.0]) + np.random.default_rng(1).normal(size=COUNT)
DATA = (jnp.asarray(INPUTS), jnp.asarray(TARGETS))
SOLUTION = np.linalg.lstsq(INPUTS, TARGETS, rcond=None)[0]
METHODS = {"RAG": RAG, "RAGL": RAGL}


def loss(y, batch):
    inputs, targets = batch
    return 0.5 * jnp.mean((inputs @ y - targets) ** 2)


def gradient(y):
    return INPUTS.T @ (INPUTS @ y - TARGETS) / COUNT


def trained(method, max_steps, **options):
    return odeopt.train(jnp.zeros(WIDTH), loss, DATA, method, max_steps=max_steps, **options)


@pytest.mark.parametrize("name", METHODS)
def test_the_minimum_of_the_whole_sum_is_found_and_its_gradient_bounded(name):
    y, solution = trained(METHODS[name](batches=6), 20_000, stop=Stop(gradient_norm=1e-6))
    assert bool(solution.result == RESULTS.converged)
    # Both |g| and |grad R - g| are at most the tolerance.
    assert np.linalg.norm(gradient(np.asarray(y))) <= 2e-6
    np.testing.assert_allclose(y, SOLUTION, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_one_batch_is_gradient_descent_with_the_step_of_its_own_search(name):
    method = METHODS[name](batches=1, decrease=0.4, safety=0.8)
    y, solution = trained(method, 1)
    slope = gradient(np.zeros(WIDTH))

    def value(y):
        return 0.5 * np.mean((INPUTS @ y - TARGETS) ** 2)

    def searched(first):
        while value(-first * slope) - value(np.zeros(WIDTH)) > -0.4 * first * slope @ slope:
            first /= 2
        return first

    # The start has searched already, and the first step begins with twice what was found there.
    own = searched(2 * searched(1 / np.linalg.norm(slope)))
    factor = {"RAG": 1, "RAGL": 3}[name]
    np.testing.assert_allclose(y, -0.8 / factor * own * slope, rtol=1e-10)
    np.testing.assert_allclose(solution.history.step_size[0], 0.0)


def test_the_armijo_rule_of_a_batch_says_nothing_of_the_whole_sum():
    # Two batches that pull in opposite directions: each gains along its own gradient, and their sum rises. (Remedy 11.)
    data = jnp.asarray([[10.0], [-1.0]])

    def pull(y, batch):
        return jnp.mean(0.5 * (y - batch) ** 2)

    whole = lambda y: float(pull(y, data))  # noqa: E731
    start = jnp.asarray([4.5])  # the minimum of the sum
    batch = data[:1]
    step = 1.5 * (batch[0] - start)  # along the gradient of the batch, within what Armijo's rule with 0.1 allows
    assert float(pull(start + step, batch)) - float(pull(start, batch)) <= -0.1 * 1.5 * float(
        jnp.sum((batch - start) ** 2)
    )
    assert whole(start + step) > whole(start)
    # The energy of the tournament is that of the sum: it never rises, whatever the batches say.
    settings = odeopt.EnergyTournament(odeopt.GradientFlow(), batch=1, window=1, probe="all", step_size=1.5)
    _, solution = odeopt.train(start + 1.0, pull, data, settings, max_steps=40)
    kept = solution.history.energy[solution.history.kept]
    assert solution.stats["rolled_back"] > 0
    assert np.all(np.diff(np.concatenate([[solution.history.start], kept])) <= 0)


def test_a_resumed_run_is_the_same_run(tmp_path):
    y, whole = trained(RAG(batches=6), 60)
    folder = odeopt.Checkpoints(tmp_path / "run", every_steps=6)
    trained(RAG(batches=6), 24, checkpoints=folder)
    z, resumed = trained(RAG(batches=6), 60, checkpoints=folder, resume=True)
    np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(whole.history.energy, resumed.history.energy)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RAG(batches=0), "batches=0"),
        (lambda: RAG(decrease=1.0), "decrease=1.0"),
        (lambda: RAGL(safety=0.0), r"RAGL\(safety=0.0\)"),
        (lambda: RAG(seed=-1), "seed=-1"),
        (lambda: trained(RAG(batches=COUNT + 1), 1), "hold 120 examples"),
        (lambda: trained(RAG(), 1, stop=Stop(loss_change=1e-3)), "loss_change"),
    ],
)
def test_what_cannot_work_is_refused(make, words, as_installed):
    with pytest.raises(ValueError, match=words):
        make()


def test_streamed_data_are_refused(as_installed):
    with pytest.raises(TypeError, match="takes arrays in memory"):
        odeopt.train(jnp.zeros(WIDTH), loss, odeopt.Streamed((INPUTS, TARGETS)), RAG())
