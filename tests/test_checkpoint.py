"""Checkpoints: a run that is resumed is the run that was not interrupted; nothing is lost when something goes wrong."""

import errno
import json
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import RESULTS
from odeopt._checkpoint import CheckpointError, Rows, Store
from odeopt._checkpoint.arrays import ArrayWriter

pytest.importorskip("orbax.checkpoint")
X = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
DATA = (X, np.sin(3 * X))
ENDLESS = odeopt.Stop(gradient_norm=0.0)
ADAM = odeopt.Solver(odeopt.Adam())
SEQUENCE = odeopt.Sequence([ADAM, odeopt.Solver(odeopt.QuasiNewton())])


def network(width=6, dtype=jnp.float32):
    return eqx.nn.MLP(1, 1, width, 1, jnp.tanh, key=jax.random.key(0), dtype=dtype)


def loss(model, batch):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def train(folder=None, *, every_steps=None, model=None, data=DATA, **options):
    defaults = {"solver": ADAM, "stop": ENDLESS, "max_steps": 60, "progress": False}
    checkpoints = None if folder is None else odeopt.Checkpoints(folder, every_steps=every_steps)
    return odeopt.train(model or network(), loss, data, **(defaults | {"checkpoints": checkpoints} | options))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "checkpoints"


def assert_the_same(found, expected):
    """Models, histories, states and statistics, to the last bit."""
    (model, solution), (other_model, other) = found, expected
    parts = [(model, solution.history, solution.state), (other_model, other.history, other.state)]
    found_leaves, expected_leaves = (jax.tree_util.tree_leaves_with_path(eqx.filter(p, eqx.is_array)) for p in parts)
    for (path, a), (_, b) in zip(found_leaves, expected_leaves, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))
        assert np.asarray(a).dtype == np.asarray(b).dtype
    assert solution.stats == other.stats
    assert str(solution.result) == str(other.result)


def interrupt_after(trials):
    return lambda progress: progress.trials >= trials


# The run


@pytest.mark.parametrize("mesh", [None, "devices"])
def test_a_run_on_a_sum_in_chunks_is_resumed_as_it_was(folder, mesh):
    def losses(model, batch):
        x, y = batch
        return jnp.sum((jax.vmap(model)(x) - y) ** 2, axis=1)

    def run(folder=None, **options):
        on = odeopt.device_mesh() if mesh else None
        objective = odeopt.FiniteSum(losses, DATA, chunk_size=4, nonnegative=True, mesh=on)
        checkpoints = None if folder is None else odeopt.Checkpoints(folder)
        model, data = network(), None
        return odeopt.train(
            model, objective, data, ADAM, stop=ENDLESS, progress=False, checkpoints=checkpoints, **options
        )

    run(folder, max_steps=7)
    assert_the_same(run(folder, max_steps=20, resume=True), run(max_steps=20))


@pytest.mark.parametrize(
    "options",
    [{}, {"history": None}, {"history": "states"}, {"solver": SEQUENCE, "max_steps": 250}],
    ids=["scalars", "no history", "states", "sequence"],
)
def test_a_run_in_parts_is_the_same_as_one_in_a_piece(options, folder):
    whole = train(**options)
    last = options.get("max_steps", 60)
    for max_steps in (last // 3, 2 * last // 3 + 1, last):
        parts = train(folder, resume=True, **(options | {"max_steps": max_steps}))
    assert_the_same(parts, whole)


def test_a_run_that_is_interrupted_in_the_middle_of_a_rejection_goes_on(folder, monkeypatch):
    """Blocks of one trial: many end between a rejected trial and the step that is kept."""
    whole = train(metrics={"loss": loss})
    monkeypatch.setattr("odeopt._train._next_block", lambda *arguments: 1)
    rejected = []

    def after_a_rejection(progress):
        rejected.append(progress.stats["rejected"])
        return len(rejected) > 2 and rejected[-1] > rejected[-2]

    interrupted = train(folder, metrics={"loss": loss}, callbacks=[after_a_rejection])[1]
    assert interrupted.result == RESULTS.interrupted
    assert 0 < interrupted.stats["accepted"] + interrupted.stats["rejected"] < 60
    model, solution = train(folder, metrics={"loss": loss}, resume=True)
    assert_the_same((model, solution), whole)
    assert solution.metrics["trials"][-1] == 60
    assert solution.metrics["train/loss"][-1] == whole[1].metrics["train/loss"][-1]
    assert solution.metrics["train/loss"][0] == interrupted.metrics["train/loss"][0]


def test_a_run_that_went_on_from_a_state_is_resumed(folder):
    _, first = train(max_steps=20)
    whole = train(state=first.state, max_steps=40)
    train(folder, state=first.state, max_steps=15)
    assert_the_same(train(folder, state=first.state, max_steps=40, resume=True), whole)


def test_a_run_that_has_ended_is_not_begun_again_unless_it_is_to_end_elsewhere(folder):
    stop = odeopt.Stop(target_loss=0.3)
    ended = train(folder, stop=stop)
    assert ended[1].result == RESULTS.target_reached
    assert_the_same(train(folder, stop=stop, resume=True), ended)
    assert_the_same(train(folder, resume=True), train())


def test_an_empty_folder_is_where_a_resumed_run_begins(folder):
    assert_the_same(train(folder, resume=True), train())


def test_the_time_limit_counts_the_earlier_parts(folder):
    def slow(progress):
        time.sleep(0.5)
        return True

    before = train(folder, callbacks=[slow], max_steps=10**6)[1]
    after = train(folder, time_limit=0.5, max_steps=10**6, resume=True)[1]
    assert after.result == RESULTS.time_limit_reached
    assert after.stats == before.stats


def test_arguments_that_mean_nothing_are_refused(folder):
    with pytest.raises(ValueError, match="say where the checkpoints are"):
        train(resume=True)
    for settings in ({"every_steps": 0}, {"every_seconds": -1.0}, {"keep": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            odeopt.Checkpoints(folder, **settings)


def test_checkpoints_of_another_run_are_never_overwritten(folder):
    train(folder, max_steps=5)
    before = sorted(folder.rglob("*"))
    with pytest.raises(CheckpointError, match=r"holds checkpoints already.*resume=True"):
        train(folder, max_steps=10)
    assert sorted(folder.rglob("*")) == before


FIRST_DIFFERENCES = {
    "model": (
        {"model": network(7)},
        r"parameters\.layers\[0\]\.weight: the checkpoint has shape \(6, 1\) float32, this run shape \(7, 1\) float32",
    ),
    "dtype": ({"model": network(dtype=jnp.float64)}, "weight: the checkpoint has .* float32, this run .* float64"),
    "flow": (
        {"solver": odeopt.Solver(odeopt.HeavyBall())},
        r"solver\.flow: the checkpoint has Adam, this run HeavyBall",
    ),
    "scheme": (
        {"solver": odeopt.Solver(odeopt.Adam(), odeopt.Heun())},
        r"solver\.scheme: the checkpoint has ExponentialEuler, this run Heun",
    ),
    "controller": (
        {"solver": odeopt.Solver(odeopt.Adam(), controller=odeopt.ConstantStep(0.1))},
        r"solver\.controller: the checkpoint has \w+, this run ConstantStep",
    ),
    "sequence": ({"solver": SEQUENCE}, "solver: the checkpoint has Solver, this run Sequence"),
    "open number": (
        {"solver": odeopt.Solver(odeopt.Adam(), controller=odeopt.LyapunovControl(initial_step_size=0.5))},
        "initial_step_size: the checkpoint has nothing, this run shape",
    ),
    "data": (
        {"data": (X[1:], DATA[1][1:])},
        r"data\[0\]: the checkpoint has 40 examples of shape \(1,\) float32, this run 39 examples",
    ),
    "history": ({"history": None}, "history: the checkpoint has 'scalars', this run None"),
    "metrics": ({"metrics": {"loss": loss}}, "metrics: the checkpoint has none, this run train/loss"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The checkpoints of a run, not to be changed."""
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    train(folder, max_steps=3)
    return folder


@pytest.mark.parametrize("name", FIRST_DIFFERENCES)
def test_the_checkpoint_of_another_run_is_refused_with_the_first_difference(name, written):
    options, message = FIRST_DIFFERENCES[name]
    with pytest.raises(CheckpointError, match=message):
        train(written, resume=True, **options)
    assert [path.name for path in written.iterdir()] == ["0000000003"]


def test_other_hyperparameters_are_refused(folder):
    train(folder, solver=odeopt.Solver(odeopt.HeavyBall(friction=1.0)), max_steps=2)
    with pytest.raises(ValueError, match=r"comes from a run with solver\.flow\.friction = 1\.0, but solver has 2\.0"):
        train(folder, solver=odeopt.Solver(odeopt.HeavyBall(friction=2.0)), max_steps=4, resume=True)


def test_sigterm_ends_the_run_with_a_checkpoint_and_the_handler_is_put_back(folder):
    before = signal.getsignal(signal.SIGTERM)
    ask = lambda progress: os.kill(os.getpid(), signal.SIGTERM) if progress.trials == 1 else None  # noqa: E731
    _, solution = train(folder, callbacks=[ask], max_steps=10**6)
    assert solution.result == RESULTS.interrupted
    assert signal.getsignal(signal.SIGTERM) is before
    trials = solution.stats["accepted"] + solution.stats["rejected"]
    assert f"{trials:010d}" in os.listdir(folder)


def test_a_program_keeps_its_own_answer_to_sigterm(folder):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        ask = lambda progress: os.kill(os.getpid(), signal.SIGTERM) if progress.trials == 1 else None  # noqa: E731
        assert train(folder, callbacks=[ask])[1].result == RESULTS.max_steps_reached
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_thread_other_than_the_main_one_can_write_checkpoints(folder):
    ends = []
    worker = threading.Thread(target=lambda: ends.append(train(folder, max_steps=5)))
    worker.start()
    worker.join()
    assert ends[0][1].result == RESULTS.max_steps_reached
    assert os.listdir(folder) == ["0000000005"]


def test_a_callback_that_raises_leaves_the_checkpoints_before_it(folder, monkeypatch):
    monkeypatch.setattr("odeopt._train._next_block", lambda *arguments: 5)

    def fail(progress):
        if progress.trials >= 21:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(folder, every_steps=5, callbacks=[fail])
    assert os.listdir(folder)
    assert_the_same(train(folder, resume=True), train())


# The disk


class Full:
    """A disk that is full, for some `times` at least: the writing of arrays fails in the background."""

    def __init__(self, monkeypatch, times=10**6):
        self.left, usual = times, ArrayWriter.wait

        def wait(writer):
            usual(writer)
            self.left -= 1
            if self.left >= 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(ArrayWriter, "wait", wait)


def test_a_disk_that_is_full_for_a_while_costs_a_warning(folder, monkeypatch):
    Full(monkeypatch, times=1)
    with pytest.warns(UserWarning, match="step 10 could not be written .*No space left"):
        found = train(folder, every_steps=10)
    assert_the_same(found, train())
    assert "0000000060" in os.listdir(folder)


def test_a_disk_that_stays_full_ends_in_an_error_that_carries_the_solution(folder, monkeypatch):
    train(folder, max_steps=10)
    Full(monkeypatch)
    with pytest.warns(UserWarning, match="could not be written"), pytest.raises(odeopt.NotSavedError) as caught:
        train(folder, every_steps=20, resume=True)
    whole = train()
    assert_the_same((caught.value.solution.value, caught.value.solution), whole)
    # What was saved before is as it was, and no half of a checkpoint is left.
    assert os.listdir(folder) == ["0000000010"]
    monkeypatch.undo()
    assert_the_same(train(folder, resume=True), whole)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the administrator")
def test_a_folder_that_may_not_be_written_to_is_refused_at_once(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="cannot take checkpoints"):
        train(tmp_path / "locked" / "checkpoints")


def test_a_place_that_cannot_be_a_folder_is_refused_before_anything_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr("odeopt._train._start", lambda *arguments: pytest.fail("compiled"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="file cannot take checkpoints"):
        train(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_without_orbax_the_message_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(CheckpointError, match=r"pip install 'odeopt\[checkpoint\]'"):
        train(folder)
    assert not folder.exists()


def truncate(folder):
    file = max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])


def flip(folder):
    file = max(folder.glob("arrays/d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def lose(folder):
    next(folder.glob("arrays/manifest*")).unlink()


def scribble(folder):
    (folder / "checkpoint.json").write_text('{"format": 1')


def empty(folder):
    (folder / "checkpoint.json").unlink()


@pytest.mark.parametrize("damage", [truncate, flip, lose, scribble, empty])
def test_a_damaged_checkpoint_is_passed_over_and_named(damage, folder):
    train(folder, max_steps=20)
    train(folder, max_steps=40, resume=True)
    damage(folder / "0000000040")
    with pytest.warns(UserWarning, match="0000000040: a damaged checkpoint"):
        found = train(folder, resume=True)
    assert_the_same(found, train())
    assert sorted(os.listdir(folder)) == ["0000000020", "0000000060", "damaged-0000000040"]


def test_where_all_are_damaged_nothing_is_begun_anew(folder):
    train(folder, max_steps=20)
    truncate(folder / "0000000020")
    with pytest.raises(CheckpointError, match="No checkpoint can be read"):
        train(folder, resume=True)
    assert os.listdir(folder) == ["0000000020"]


def test_a_checkpoint_that_was_not_finished_is_cleared_away_and_named(folder):
    train(folder, max_steps=20)
    (folder / ".unfinished-0000000040" / "arrays").mkdir(parents=True)
    with pytest.warns(UserWarning, match="unfinished-0000000040: .* incomplete"):
        train(folder, max_steps=30, resume=True)
    assert sorted(os.listdir(folder)) == ["0000000020", "0000000030"]


def test_the_checkpoints_of_another_version_are_refused(folder):
    train(folder, max_steps=2)
    file = folder / "0000000002" / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        train(folder, resume=True)


def test_nothing_in_a_checkpoint_is_code(folder):
    """No pickle (its opcodes begin with 0x80 and a protocol), and reading one imports and calls no pickle."""
    train(folder, solver=SEQUENCE, max_steps=3)
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        content = file.read_bytes()
        assert not any(content.startswith(bytes([0x80, protocol])) for protocol in range(6))
        assert b"cbuiltins" not in content
        assert b"__reduce__" not in content
    assert {file.suffix for file in files} <= {"", ".json", ".txt", ".ocdbt"}


# The store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store", keep=2)
    store.open(resume=True)
    yield store
    store.close()


TREE = {
    "float32": jnp.linspace(0, 1, 7, dtype=jnp.float32),
    "float64": np.linspace(0, 1, 5),
    "bfloat16": jnp.linspace(0, 1, 6, dtype=jnp.bfloat16),
    "bool": jnp.asarray([True, False]),
    "scalar": jnp.asarray(-3, jnp.int32),
    "empty": jnp.zeros((0, 3)),
    "NaN": jnp.asarray([jnp.nan, -jnp.inf, -0.0]),
    "key": jax.random.key(7),
    "keys": jax.random.split(jax.random.key(8, impl="rbg"), 3),
    "rows": Rows(np.arange(6.0).reshape(3, 2)),
    "no rows": Rows(np.zeros((0, 2))),
    "number": 0.1,
    "integer": 2**70,
    "function": jnp.tanh,
    "nothing": None,
}


def bits(leaf):
    if isinstance(leaf, Rows):
        leaf = leaf.values
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), np.asarray(jax.random.key_data(leaf)).tobytes()
    return (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) if hasattr(leaf, "dtype") else leaf


def test_a_tree_comes_back_to_the_last_bit_and_in_its_own_kinds(store):
    store.save(1, TREE, {"position": [3, 4]}, 0.5)
    like = {name: Rows(leaf.values[:0]) if isinstance(leaf, Rows) else leaf for name, leaf in TREE.items()}
    tree, metadata = store.restore(like)
    assert metadata == {"position": [3, 4]}
    assert {name: bits(leaf) for name, leaf in tree.items()} == {name: bits(leaf) for name, leaf in TREE.items()}
    assert {name: type(leaf) for name, leaf in tree.items()} == {name: type(leaf) for name, leaf in TREE.items()}
    # A key draws what it would have drawn.
    assert jax.random.uniform(tree["key"]) == jax.random.uniform(TREE["key"])


def test_shapes_are_enough_to_read_a_tree(store):
    tree = {"a": jnp.arange(3.0), "key": jax.random.key(1)}
    store.save(1, tree, {}, 0.0)
    found, _ = store.restore(jax.eval_shape(lambda: tree))
    assert {name: bits(leaf) for name, leaf in found.items()} == {name: bits(leaf) for name, leaf in tree.items()}


def test_the_newest_and_the_best_are_kept(store):
    for step, value in enumerate([3.0, 1.0, float("nan"), 2.0, 2.5, 4.0], start=1):
        store.save(step, {"a": jnp.ones(2)}, {}, value)
    store.wait()
    assert store.steps() == [2, 5, 6]


def test_the_best_is_known_after_a_restart(tmp_path):
    for step, value in [(1, 0.5), (2, 0.1), (3, 0.9), (4, 0.8)]:
        store = Store(tmp_path, keep=1)
        store.open(resume=True)
        store.save(step, {"a": jnp.ones(2)}, {}, value)
        store.close()
    assert store.steps() == [2, 4]


def test_a_key_of_another_kind_is_refused(store):
    store.save(1, {"key": jax.random.key(0)}, {}, 0.0)
    with pytest.raises(CheckpointError, match=r"key.*: the checkpoint has shape .*fry.*, this run shape .*rbg"):
        store.restore({"key": jax.random.key(0, impl="rbg")})


def test_nothing_is_restored_from_nothing(store):
    assert store.restore({"a": jnp.ones(2)}) is None


def test_a_save_returns_before_it_is_written(store, monkeypatch):
    free, usual = threading.Event(), ArrayWriter.wait

    def wait(writer):
        assert free.wait(60)
        usual(writer)

    monkeypatch.setattr(ArrayWriter, "wait", wait)
    store.save(1, {"a": jnp.ones(2)}, {}, 0.0)
    assert (store.busy, store.steps()) == (True, [])
    free.set()
    store.wait()
    assert (store.busy, store.steps()) == (False, [1])


def test_a_run_does_not_wait_for_a_checkpoint_that_is_being_written(folder, monkeypatch):
    """The writing of the first one ends when the run has: all that fall due meanwhile are left out."""
    free, usual = threading.Event(), ArrayWriter.wait

    def wait(writer):
        assert free.wait(60)
        usual(writer)

    monkeypatch.setattr(ArrayWriter, "wait", wait)
    release = lambda progress: free.set() if progress.trials >= 60 else None  # noqa: E731
    train(folder, every_steps=10, callbacks=[release])
    assert sorted(os.listdir(folder)) == ["0000000010", "0000000060"]


@pytest.fixture(autouse=True)
def no_other_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_a_small_disk_that_fills_up_keeps_the_checkpoint_before(small_disk):
    store = Store(small_disk / "store", keep=3)
    store.open(resume=True)
    store.save(1, {"a": jnp.zeros(100_000, jnp.float32)}, {}, 1.0)
    store.wait()
    too_large = {"a": jax.random.normal(jax.random.key(0), (2_000_000,), jnp.float32)}
    store.save(2, too_large, {}, 0.0)
    with pytest.raises(Exception, match=r"(?i)space|exhausted"):
        store.wait()
    # The room is given back, and the store goes on.
    store.save(3, {"a": jnp.ones(100_000, jnp.float32)}, {}, 1.0)
    store.close()
    assert [path.name for path in sorted((small_disk / "store").iterdir())] == ["0000000001", "0000000003"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, where one may be mounted."""
    disk = Path(tmp_path / "disk")
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=4m tmpfs '{disk}' 2>/dev/null") != 0:
        pytest.skip("no file system can be mounted here")
    yield disk
    os.system(f"umount '{disk}'")
