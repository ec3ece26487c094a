"""The host-driven trainer takes the steps of `minimise` and answers to the host."""

import math
import os
import re
import signal
import threading
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import RESULTS
from odeopt._train import _next_block

X = np.linspace(-1, 1, 40)[:, None]
DATA = (X, np.sin(3 * X))
VALIDATION = (X[:7] + 0.1, np.cos(X[:7]))
STOP = odeopt.Stop(gradient_norm=1e-5)


def network(seed=0):
    return eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=jax.random.key(seed), dtype=jnp.float64)


def loss(model, batch):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def train(**options):
    defaults = {"solver": odeopt.Solver(odeopt.Adam()), "stop": STOP, "max_steps": 700, "progress": False}
    return odeopt.train(network(), loss, DATA, **(defaults | options))


# The loss falls in the first step and rises ever after, so that the best model is not the last one.
DIVERGING = odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler(), odeopt.ConstantStep(1.0))
ENDLESS = odeopt.Stop(gradient_norm=0.0)


def worst(model, batch):
    return jnp.max(jnp.abs(jax.vmap(model)(batch[0]) - batch[1]))


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def assert_identical(ours, theirs):
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def in_blocks_of(trials, monkeypatch):
    monkeypatch.setattr("odeopt._train._next_block", lambda *arguments: trials)


@pytest.mark.exact
def test_train_takes_the_steps_of_minimise_to_the_last_bit(monkeypatch):
    """In blocks so short that many end between a rejected trial and the step that is kept."""
    in_blocks_of(7, monkeypatch)
    model, solution = train(history="states")
    whole = odeopt.minimise(
        loss,
        odeopt.Solver(odeopt.Adam()),
        network(),
        jax.tree.map(jnp.asarray, DATA),
        stop=STOP,
        max_steps=700,
        history="states",
        throw=False,
    )
    expected = whole.history.trimmed()
    for name in ("t", "step_size", "loss", "energy", "dissipation", "gradient_norm", "rejections", "start"):
        ours, theirs = getattr(solution.history, name), getattr(expected, name)
        jax.tree.map(lambda a, b, name=name: np.testing.assert_array_equal(a, b, err_msg=name), ours, theirs)
    assert_identical((solution.history.position, solution.history.memory), (expected.position, expected.memory))
    assert solution.stats == {name: int(count) for name, count in whole.stats.items()}
    assert_identical(model, whole.value)
    assert_identical(solution.value, model)


def test_a_block_ends_where_its_history_is_full(monkeypatch):
    monkeypatch.setattr("odeopt._train.BLOCK_TRIALS", 5)
    monkeypatch.setattr("odeopt._train.BLOCK_SECONDS", 1e6)
    # A loss of its own, because a block that is compiled already keeps its room.
    quartic = lambda y, batch: jnp.mean((batch[0] - y) ** 4)  # noqa: E731
    reports = []
    _, solution = odeopt.train(
        jnp.ones(1), quartic, DATA, odeopt.Solver(odeopt.Adam()), max_steps=60, callbacks=[reports.append]
    )
    assert np.max(np.diff([report.trials for report in reports])) == 5
    assert len(solution.history.loss) == solution.stats["accepted"] > 5


def test_blocks_become_longer_as_long_as_they_are_short():
    reports = []
    train(max_steps=200, callbacks=[reports.append])
    assert reports[-1].trials == 200
    assert len(reports) < 100


def test_a_run_in_two_parts_is_the_same_as_one():
    _, whole = train()
    _, first = train(max_steps=300)
    assert first.result == RESULTS.max_steps_reached
    model, second = train(max_steps=400, state=first.state)
    np.testing.assert_array_equal(np.concatenate([first.history.loss, second.history.loss]), whole.history.loss)
    assert float(second.history.start["loss"]) == float(first.state.run.snapshot.value)
    assert_identical(model, whole.value)


def test_without_a_solver_it_is_the_default_and_in_a_second_part_the_one_of_the_first():
    model, solution = odeopt.train(network(), loss, DATA, max_steps=20)
    assert isinstance(solution.state.solver.flow, odeopt.Adam)
    assert_identical(model, odeopt.train(network(), loss, DATA, odeopt.Solver(), max_steps=20)[0])
    first = odeopt.train(network(), loss, DATA, odeopt.Solver(odeopt.HeavyBall(1.0)), max_steps=20)[1]
    second = odeopt.train(network(), loss, DATA, state=first.state, max_steps=20)[1]
    assert isinstance(second.state.solver.flow, odeopt.HeavyBall)


def test_no_history_is_kept_where_none_is_asked_for():
    assert train(history=None, max_steps=5)[1].history is None


def test_without_a_trial_the_start_comes_back():
    model, solution = train(max_steps=0, metrics={"worst": worst})
    assert_identical(model, network())
    assert len(solution.history.loss) == 0
    assert solution.stats["accepted"] + solution.stats["rejected"] == 0
    assert solution.metrics["trials"].tolist() == [0]


def test_without_a_criterion_the_gradient_norm_is_the_one_of_minimise():
    quartic = lambda y, batch: jnp.sum(y**4)  # noqa: E731
    _, solution = odeopt.train(jnp.ones(1), quartic, DATA, odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler()))
    assert solution.result == RESULTS.converged
    assert 1e-8 < solution.history.gradient_norm[-1] <= 1e-6


def test_the_statistics_are_integers_of_python():
    assert {type(count) for count in train(max_steps=5)[1].stats.values()} == {int}


@pytest.mark.parametrize("metric", [worst, lambda model, batch: float(np.asarray(worst(model, batch)))])
def test_metrics_are_those_of_the_model_that_is_returned(metric):
    """A metric that JAX can trace, and one that needs numbers."""
    model, solution = train(solver=DIVERGING, metrics={"worst": metric}, validation=VALIDATION, max_steps=8)
    for name, (x, y) in {"train": DATA, "validation": VALIDATION}.items():
        prediction = np.asarray(jax.vmap(model)(jnp.asarray(x)))
        assert solution.metrics[f"{name}/worst"][-1] == pytest.approx(np.max(np.abs(prediction - y)), rel=1e-12)
    assert solution.metrics["trials"][-1] == 8


def test_metrics_follow_the_run_where_time_has_passed(monkeypatch):
    in_blocks_of(2, monkeypatch)
    monkeypatch.setattr("odeopt._scoreboard.METRIC_SECONDS", 0.0)
    reports = []
    _, solution = train(solver=DIVERGING, metrics={"loss": loss}, max_steps=7, callbacks=[reports.append])
    assert solution.metrics["trials"].tolist() == [1, 3, 5, 7, 7]
    # Where the run stands along the way, and the best model at the end.
    expected = [*solution.history.loss[[0, 2, 4, 6]], float(solution.loss)]
    np.testing.assert_allclose(solution.metrics["train/loss"], expected, rtol=1e-12)
    assert [report.metrics["train/loss"] for report in reports] == solution.metrics["train/loss"][:-1].tolist()


def test_metrics_wait_between_evaluations(monkeypatch):
    in_blocks_of(2, monkeypatch)
    monkeypatch.setattr("odeopt._scoreboard.METRIC_SECONDS", 1e6)
    assert train(metrics={"loss": loss}, max_steps=7)[1].metrics["trials"].tolist() == [1, 7]


def test_a_callback_sees_the_run_and_ends_it():
    seen = []

    def callback(progress):
        seen.append(progress)
        return progress.trials >= 5

    model, solution = train(solver=DIVERGING, callbacks=[callback, lambda progress: None])
    assert solution.result == RESULTS.interrupted
    last, history = seen[-1], solution.history
    assert last.trials == len(history.loss) >= 5
    assert last.stats == solution.stats
    assert (last.loss, last.energy, last.step_size, last.gradient_norm) == (
        history.loss[-1], history.energy[-1], history.step_size[-1], history.gradient_norm[-1],
    )  # fmt: skip
    assert last.loss > float(solution.loss)
    assert 0 < seen[0].elapsed < last.elapsed
    assert_identical(last.best(), model)


def test_a_run_that_has_met_its_criterion_is_not_called_interrupted():
    _, solution = train(solver=DIVERGING, stop=odeopt.Stop(target_loss=0.6), callbacks=[lambda progress: True])
    assert solution.result == RESULTS.target_reached


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
    def slow(progress):
        time.sleep(0.02)
        return progress.elapsed > 20  # where the limit does nothing

    began = time.monotonic()
    _, solution = train(stop=ENDLESS, max_steps=10**7, time_limit=1.0, callbacks=[slow])
    assert solution.result == RESULTS.time_limit_reached
    assert time.monotonic() - began >= 1.0


def test_blocks_become_shorter_before_the_time_limit():
    assert _next_block(1000, 0.25, left=math.inf, history=None) == 1000
    assert _next_block(1000, 0.25, left=0.025, history=None) == 100
    assert _next_block(1000, 0.25, left=-1.0, history=None) == 1


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_drawn_where_it_is_asked_for(shown, capsys, monkeypatch):
    in_blocks_of(1, monkeypatch)
    slow = lambda progress: time.sleep(0.15)  # noqa: E731 (tqdm redraws ten times a second)
    train(max_steps=3, progress=shown, metrics={"worst": worst}, callbacks=[slow])
    drawn = capsys.readouterr().err
    assert [word in drawn for word in ("2/3", "loss=", "train/worst=")] == [shown] * 3


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
    settings = {"max_steps": 20, "progress": False, "metrics": {"loss": loss}, "validation": VALIDATION}
    _, solution = odeopt.train(network(), objective, None, odeopt.Solver(odeopt.Adam()), **settings)
    assert float(solution.loss) == float(train(max_steps=20)[1].loss)
    assert set(solution.metrics) == {"trials", "validation/loss"}


@pytest.fixture
def nothing_compiles(monkeypatch):
    def compiled(*arguments):
        raise AssertionError("the run was compiled before its arguments were checked")

    monkeypatch.setattr("odeopt._train._start", compiled)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, X[:-1]), "same leading axis"),
        ((X, 1.0), r"data\[1\] is a Python float; expected a pytree of arrays"),
        ((), "data holds no array"),
        ((X[:0], X[:0]), "length > 0"),
        ((X, np.full(40, "a")), r"data\[1\] has dtype <U1; expected numbers"),
    ],
)
@pytest.mark.usefixtures("nothing_compiles")
def test_data_that_are_no_examples_are_refused(data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        odeopt.train(network(), loss, data, odeopt.Solver(odeopt.Adam()))


def returns(something):
    return {"odd": lambda model, batch: something}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop": 1e-5}, r"stop=1e-05: expected an odeopt\.Stop"),
        ({"time_limit": "3"}, r"time_limit='3': expected seconds > 0"),
        ({"time_limit": 0}, r"time_limit=0: expected seconds > 0"),
        ({"callbacks": print}, r"callbacks must be a list of functions.*callbacks=\[function\]; got .*print"),
        ({"callbacks": ["print"]}, r"callbacks must be a list of functions.*got \['print'\]"),
        ({"metrics": [worst]}, r"metrics must be a dict of functions by name.*got \[.*worst"),
        ({"metrics": {"worst": 3}}, r"metrics must be a dict of functions by name.*got \{'worst': 3\}"),
        ({"metrics": {3: worst}}, r"metrics must be a dict of functions by name"),
        ({"metrics": returns(X)}, r"'train/odd' returned an array of shape \(40, 1\); expected a scalar.*jnp\.mean"),
        ({"metrics": returns(jnp.asarray(1j))}, r"'train/odd' returned dtype complex128; expected a real number"),
        ({"metrics": returns(None)}, r"'train/odd' returned NoneType; expected a scalar"),
        ({"metrics": {"odd": lambda model, batch: batch[7]}}, r"'train/odd' failed: IndexError: tuple index"),
        ({"metrics": {"odd": lambda model, batch: np.asarray(batch[0])}}, r"'train/odd' returned an array of shape"),
        ({"validation": DATA}, r'there are none.*metrics=\{"name": function\}'),
    ],
)
@pytest.mark.usefixtures("as_installed", "nothing_compiles")
def test_a_setting_that_cannot_work_is_refused(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        train(**settings)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (X, r"validation has the structure .*expected that of data"),
        ((X, X[:, 0]), r"validation\[1\] has examples of shape \(\); expected \(1,\), as in data\[1\]"),
        ((X, X.astype(int)), r"validation\[1\] has dtype int64; data\[1\] has float64"),
        ((X, X[:3]), r"validation: the arrays must have the same leading axis"),
    ],
)
@pytest.mark.usefixtures("nothing_compiles")
def test_validation_data_unlike_the_data_are_refused(validation, message):
    with pytest.raises((TypeError, ValueError), match=message):
        train(validation=validation, metrics={"worst": worst})


@pytest.mark.usefixtures("nothing_compiles")
def test_metrics_without_data_are_refused():
    objective = odeopt.Objective(loss, jax.tree.map(jnp.asarray, DATA))
    with pytest.raises(ValueError, match=r"no data to be evaluated on.*validation"):
        odeopt.train(network(), objective, None, odeopt.Solver(odeopt.Adam()), metrics={"loss": loss})


@pytest.mark.parametrize(("page", "end"), [("README.md", RESULTS.target_reached), ("docs/train.md", RESULTS.converged)])
def test_the_example_in_the_documentation_ends_by_its_criterion(page, end, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # it saves a picture
    text = (Path(__file__).parent.parent / page).read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "odeopt.train(" in block)
    names = {}
    exec(example, names)
    assert names["solution"].result == end
    assert str(end) in capsys.readouterr().out
