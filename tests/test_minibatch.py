"""Training on mini-batches: the flow, the order of the examples, the contest of step sizes, and the windows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import odeopt
from odeopt import RESULTS, EnergyTournament
from odeopt._minibatch.contest import contest, lowest
from odeopt._minibatch.order import BatchOrder, permutation
from odeopt._objective import Oracle, PartialObjective, Tally

COUNT, WIDTH = 600, 5
INPUTS = np.random.default_rng(0).normal(size=(COUNT, WIDTH))
TARGETS = INPUTS @ np.arange(1.0, WIDTH + 1) + 0.1 * np.random.default_rng(1).normal(size=COUNT)
DATA = (jnp.asarray(INPUTS), jnp.asarray(TARGETS))
START = jnp.zeros(WIDTH)


def loss(y, batch):
    inputs, targets = batch
    return jnp.mean((inputs @ y - targets) ** 2)


def oracle_at(fn, x):
    return Oracle(PartialObjective(odeopt.Objective(lambda x, _: fn(x)), None), x, Tally())


def stepped(flow, fn, x, step_size, steps):
    """States of the flow under `ScheduleFreeStep` at a constant step size, the start included."""
    scheme, state, states = odeopt.ScheduleFreeStep(), flow.init(x), []
    states.append(state)
    for k in range(steps):
        t, h = jnp.asarray(k * step_size), jnp.asarray(step_size)
        state = scheme.step(flow, t, h, state, oracle_at(fn, state.position)).state
        states.append(state)
    return states


# --- the flow and its step --------------------------------------------------------------------------------------------


def quartic(x):
    return jnp.sum(x**4 - x) + x[0] * x[1]


def test_with_a_plain_average_the_step_is_the_schedule_free_optimizer_of_optax():
    rate, step_size, epsilon, beta = 1.5, 0.02, 1e-3, 0.9
    flow = odeopt.ScheduleFreeAdam(beta, 0.0, rate, epsilon, 0.0)
    x = jnp.array([1.0, -0.5, 2.0])
    base = optax.chain(
        optax.scale_by_rms(np.exp(-rate * step_size), eps=epsilon**2, eps_in_sqrt=True, bias_correction=True),
        optax.scale(-step_size),
    )
    theirs = contrib.schedule_free(base, step_size, b1=beta)
    y, memory = x, theirs.init(x)
    for state in stepped(flow, quartic, x, step_size, 30)[1:]:
        updates, memory = theirs.update(jax.grad(quartic)(y), memory, y)
        y = optax.apply_updates(y, updates)
        np.testing.assert_allclose(state.position, contrib.schedule_free_eval_params(memory, y), rtol=1e-10)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_the_answer_is_the_average_of_z_with_a_power_of_time_as_weights(power):
    flow, step_size = odeopt.ScheduleFreeAdam(0.9, power, 3.0, 1e-3, 0.0), 0.05
    states = stepped(flow, quartic, jnp.array([1.0, -0.5]), step_size, 12)
    z = np.stack([state.memory[0] for state in states[1:]])
    times = step_size * np.arange(13)
    weights = np.diff(times ** (power + 1))
    np.testing.assert_allclose(states[-1].position, weights @ z / weights.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"interpolation": 1.5}, r"interpolation=1.5\): expected a number in \[0, 1\]"),
        ({"averaging_power": -1.0}, "averaging_power=-1.0"),
        ({"scaling_rate": 0.0}, "scaling_rate=0.0"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"delay": -1.0}, "delay=-1.0"),
    ],
)
def test_constants_of_the_flow_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        odeopt.ScheduleFreeAdam(**arguments)


def test_the_step_is_refused_to_other_flows():
    with pytest.raises(ValueError, match=r"made for the average of odeopt.ScheduleFreeAdam; Adam has none"):
        odeopt.Solver(odeopt.Adam(), odeopt.ScheduleFreeStep())


# --- the order of the examples ----------------------------------------------------------------------------------------


def test_an_epoch_takes_every_example_at_most_once():
    order = BatchOrder(count=100, batch=7, seed=3)
    for epoch in range(3):
        seen = order.indices(14 * epoch, 14).ravel()
        assert len(set(seen.tolist())) == 98
        assert 0 <= seen.min() <= seen.max() < 100


def test_a_batch_depends_on_seed_and_step_alone():
    order = BatchOrder(count=100, batch=7, seed=3)
    whole = order.indices(0, 40)
    np.testing.assert_array_equal(order.indices(25, 5), whole[25:30])
    permutation.cache_clear()
    np.testing.assert_array_equal(BatchOrder(100, 7, 3).indices(39, 1), whole[39:])
    assert not np.array_equal(BatchOrder(100, 7, 4).indices(0, 40), whole)
    assert not np.array_equal(whole[:14], whole[14:28])


# --- the contest of step sizes ----------------------------------------------------------------------------------------


class Valley:
    """Runs whose energy behind `steps` is a parabola in log h, lowest at `best`, and infinite above `limit`."""

    def __init__(self, best, limit=np.inf):
        self.best, self.limit = best, limit

    def runner(self, step_size):
        return Walk(self, step_size)


class Walk:
    def __init__(self, valley, step_size):
        self.valley, self.step_size, self.steps = valley, step_size, 0

    def advance(self, steps):
        self.steps += steps

    def energy(self, examples):
        if self.step_size > self.valley.limit and self.steps:
            return np.inf
        off = np.log(self.step_size / self.valley.best) ** 2
        return np.exp(1 + 0.01 * off) if self.steps else 1e3


@pytest.mark.parametrize("best", [1e-6, 0.003, 40.0])
def test_the_contest_finds_the_lowest_energy_and_takes_less_for_a_long_run(best):
    # 0.375: what the documentation says of long runs; 2: the root of 128 / 32.
    np.testing.assert_allclose(contest(Valley(best), 1.0, 128), 2 * 0.375 * best, rtol=1e-6)


def test_step_sizes_at_which_runs_diverge_lose():
    assert contest(Valley(0.1, limit=0.05), 1.0, 32) < 0.05


def test_where_no_step_size_lowers_the_energy_there_is_none():
    assert contest(Valley(1e9, limit=1e-30), 1.0, 32) is None


def test_a_parabola_is_drawn_through_three_neighbours_only():
    assert lowest({1.0: 1.0, 2.0: 2.0, 4.0: 3.0}) == 1.0
    assert lowest({1.0: 3.0, 2.0: 2.0, 4.0: np.inf}) == 2.0


# --- windows ----------------------------------------------------------------------------------------------------------


def trained(settings, max_steps=256, loss=loss, start=START, data=DATA, **options):
    return odeopt.train(start, loss, data, settings, max_steps=max_steps, **options)


def test_the_probe_energy_never_rises_along_windows_that_are_kept():
    _, solution = trained(EnergyTournament(batch=8, window=16, step_size=0.5), 640)
    history = solution.history
    kept = np.concatenate([[history.start], history.energy[history.kept]])
    assert 0 < solution.stats["rolled_back"] < solution.stats["windows"]
    assert np.all(np.diff(kept) <= 0)
    assert solution.loss == kept[-1]


def test_a_window_that_raises_the_energy_is_put_back_and_the_step_size_halved():
    settings = EnergyTournament(batch=8, window=16, step_size=100.0)
    y, solution = trained(settings, 16)
    assert not solution.history.kept[0]
    np.testing.assert_array_equal(y, START)
    assert solution.step_size == 50.0


def test_the_energy_is_the_mean_loss_over_the_probe():
    y, solution = trained(EnergyTournament(batch=32, window=64, probe="all"))
    np.testing.assert_allclose(solution.loss, np.mean((INPUTS @ np.asarray(y) - TARGETS) ** 2), rtol=1e-12)
    probe = permutation(COUNT, 0, 2, 0)[:50]
    y, solution = trained(EnergyTournament(batch=32, window=64, probe=50))
    np.testing.assert_allclose(
        solution.loss, np.mean((INPUTS[probe] @ np.asarray(y) - TARGETS[probe]) ** 2), rtol=1e-12
    )


def test_nothing_tuned_comes_close_to_least_squares():
    y, solution = trained(EnergyTournament(batch=32, window=64), 4000)
    best = np.linalg.lstsq(INPUTS, TARGETS, rcond=None)[0]
    least = np.mean((INPUTS @ best - TARGETS) ** 2)
    # The noise of the targets is 0.01; what the start has is about 55.
    assert np.mean((INPUTS @ np.asarray(y) - TARGETS) ** 2) < 1.1 * least
    assert bool(solution.result == RESULTS.max_steps_reached)


def test_losses_that_are_not_finite_are_never_kept():
    # No logarithm behind the border at 1.5, which long steps reach.
    def barrier(y, batch):
        return jnp.mean((batch[0] @ y - batch[1]) ** 2) - jnp.sum(jnp.log(1.5 - y))

    y, solution = trained(EnergyTournament(batch=8, window=16, step_size=4.0), 320, barrier)
    assert np.all(np.asarray(y) < 1.5)
    assert solution.stats["rolled_back"] > 0
    assert np.isfinite(solution.loss)


def test_a_start_that_is_not_finite_ends_the_run():
    _, solution = trained(EnergyTournament(batch=8), loss=lambda y, batch: jnp.nan * jnp.sum(y))
    assert bool(solution.result == RESULTS.nonfinite_start)
    assert solution.stats["steps"] == 0


def test_a_loss_that_no_step_lowers_ends_the_run():
    _, solution = trained(EnergyTournament(batch=8), loss=lambda y, batch: 0 * jnp.sum(y) + 1.0)
    assert bool(solution.result == RESULTS.step_underflow)
    assert "No step size lowers the energy" in str(solution)


@pytest.mark.parametrize("flow", [odeopt.GradientFlow(), odeopt.HeavyBall(1.0), odeopt.Adam(), odeopt.Lion()])
def test_any_flow_can_be_run_on_mini_batches(flow):
    settings = EnergyTournament(flow, batch=32, window=16, step_size=0.01)
    _, solution = trained(settings, 64)
    assert solution.loss < solution.history.start
    assert solution.stats["gradients"] > 0


def test_costs_are_counted_in_passes_over_the_data():
    _, solution = trained(EnergyTournament(batch=32, window=64, probe=100, step_size=0.01), 128)
    # One step has calibrated the flow; three energies, of the start and behind two windows.
    assert solution.stats["gradients"] == (32 + 128 * 32) / COUNT
    assert solution.stats["values"] == (32 + 128 * 32 + 3 * 100) / COUNT


def test_budget_target_and_callbacks_end_a_run():
    settings = EnergyTournament(batch=32, window=16, step_size=0.05)
    ends = {
        "max_evaluations_reached": {"stop": odeopt.Stop(max_evaluations=10)},
        "target_reached": {"stop": odeopt.Stop(target_loss=40.0)},
        "interrupted": {"callbacks": [lambda report: report.trials >= 32]},
        "time_limit_reached": {"time_limit": 1e-9},
    }
    for name, options in ends.items():
        _, solution = trained(settings, 10_000, **options)
        assert bool(solution.result == getattr(RESULTS, name)), name


def test_streamed_data_give_the_same_run():
    settings = EnergyTournament(batch=32, window=16, probe=100)
    inputs, targets = (np.asarray(leaf) for leaf in DATA)
    y, solution = trained(settings, 48)
    z, streamed = trained(settings, 48, data=odeopt.Streamed((inputs, targets)))
    np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(solution.history.energy, streamed.history.energy)


def test_a_resumed_run_is_the_same_run(tmp_path):
    settings = EnergyTournament(batch=8, window=16, step_size=0.5)
    metrics = {"loss": loss}
    y, whole = trained(settings, 96, metrics=metrics)
    folder = odeopt.Checkpoints(tmp_path / "run", every_steps=16)
    trained(settings, 48, metrics=metrics, checkpoints=folder)
    z, resumed = trained(settings, 96, metrics=metrics, checkpoints=folder, resume=True)
    np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(whole.history.energy, resumed.history.energy)
    assert whole.stats == resumed.stats
    assert 0 < whole.stats["rolled_back"] < whole.stats["windows"]


def test_the_checkpoint_of_another_tournament_is_refused(tmp_path):
    folder = odeopt.Checkpoints(tmp_path / "run", every_steps=16)
    trained(EnergyTournament(batch=8, window=16, step_size=0.5), 16, checkpoints=folder)
    with pytest.raises(ValueError, match=r"solver.batch: the checkpoint has 8, this run 16"):
        trained(EnergyTournament(batch=16, window=16, step_size=0.5), 32, checkpoints=folder, resume=True)


# --- randomness in the loss (remedy 12) -------------------------------------------------------------------------------


def test_energies_are_compared_with_one_key_and_steps_have_keys_of_their_own():
    def noisy(y, batch, key):
        # The noise of a key is larger than everything that a window can gain.
        return loss(y, batch) + 1e6 * jax.random.uniform(key, dtype=y.dtype)

    plain = EnergyTournament(batch=8, window=16, step_size=0.5)
    keyed = EnergyTournament(batch=8, window=16, step_size=0.5, keyed=True)
    y, quiet = trained(plain, 160)
    z, loud = trained(keyed, 160, noisy)
    np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(quiet.history.kept, loud.history.kept)


def test_every_step_drops_other_inputs():
    def dropout(y, batch, key):
        kept = jax.random.bernoulli(key, 0.5, y.shape)
        return loss(2 * kept * y, batch)

    settings = EnergyTournament(odeopt.GradientFlow(), batch=COUNT, window=8, step_size=1e-3, keyed=True)
    _, solution = trained(settings, 16, dropout)
    fixed = EnergyTournament(odeopt.GradientFlow(), batch=COUNT, window=8, step_size=1e-3)
    key = jax.random.key(0)
    _, held = trained(fixed, 16, lambda y, batch: dropout(y, batch, key))
    # Under one key half of the parameters never move; under changing ones all do.
    assert np.sum(np.asarray(held.value) != 0) < WIDTH
    assert np.all(np.asarray(solution.value) != 0)


# --- what cannot work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: EnergyTournament(batch=0), ValueError, "batch=0"),
        (lambda: EnergyTournament(window=1.5), ValueError, "window=1.5"),
        (lambda: EnergyTournament(probe="some"), ValueError, "probe='some'"),
        (lambda: EnergyTournament(seed=-1), ValueError, "seed=-1"),
        (lambda: EnergyTournament(step_size=0.0), ValueError, "step_size=0.0"),
        (lambda: EnergyTournament(odeopt.QuasiNewton()), ValueError, "differences of gradients"),
        (lambda: EnergyTournament(odeopt.NewtonCG()), ValueError, "products of the whole data set"),
        (lambda: EnergyTournament(scheme=odeopt.RKC1()), ValueError, "curvature of one objective"),
        (lambda: EnergyTournament("Adam"), TypeError, "expected an odeopt.AbstractFlow"),
        (lambda: trained(EnergyTournament(batch=COUNT + 1)), ValueError, "hold 600 examples"),
        (
            lambda: trained(EnergyTournament(), stop=odeopt.Stop(gradient_norm=1e-3)),
            ValueError,
            "does not know the grad",
        ),
        (lambda: trained(EnergyTournament(), history="states"), ValueError, "history='states'"),
        (lambda: trained(EnergyTournament(), state=0), ValueError, "from its checkpoints"),
        (lambda: trained(EnergyTournament(), loss=odeopt.Objective(loss)), TypeError, "evaluates all of its examples"),
        (lambda: trained(EnergyTournament(), loss=lambda y, b: b[1]), ValueError, "the mean over the batch"),
        (lambda: trained(EnergyTournament(keyed=True)), TypeError, r"loss\(model, batch, key\)"),
        (lambda: trained(EnergyTournament(), data=(np.zeros((0, 5)), np.zeros(0))), ValueError, "length > 0"),
    ],
)
def test_what_cannot_work_is_refused(make, error, words, as_installed):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("row", [0, 437])
def test_a_row_that_is_no_number_is_named(row):
    """Whether it is one of the probe, so that the run cannot begin, or only one of those that steps see."""
    inputs = INPUTS.copy()
    inputs[row, 2] = np.nan
    _, solution = trained(EnergyTournament(batch=200, window=8, probe=300), 400, data=(jnp.asarray(inputs), DATA[1]))
    assert f"data[0] row {row} holds NaN" in str(solution)
