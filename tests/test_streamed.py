"""Data that are read chunk by chunk, against the same arrays in memory, bit for bit."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt._objective.read_ahead import ReadAhead

RANDOM = np.random.default_rng(0)
COUNT, SIZE = 23, 5
X, TARGET = RANDOM.normal(size=(COUNT, 3)), RANDOM.normal(size=COUNT)
PIXELS = RANDOM.integers(0, 256, (COUNT, 2), np.uint8)
DATA = {"pixels": PIXELS, "target": TARGET, "x": X}
WEIGHTS = jnp.asarray(RANDOM.uniform(size=COUNT))
Y = jnp.asarray([0.3, -1.2, 0.7])


def loss(y, batch):
    bright = jnp.sum(batch["pixels"], axis=1) > 255
    losses = (batch["x"] @ y - batch["target"]) ** 2 * (1 + bright)
    return losses, bright


class Numbered:
    """Examples by their number, and nothing else."""

    def __init__(self, data=DATA, count=COUNT):
        self.data, self.count, self.asked = data, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked.append(index)
        return {name: array[index] for name, array in self.data.items()}


class Batches:
    """Batches of four, anew in every pass, from a buffer that is overwritten."""

    def __init__(self, count=COUNT):
        self.count, self.passes = count, 0

    def __iter__(self):
        self.passes += 1
        buffer = {name: np.empty((4, *array.shape[1:]), array.dtype) for name, array in DATA.items()}
        for start in range(0, self.count, 4):
            length = min(4, self.count - start)
            for name, array in DATA.items():
                buffer[name][:length] = array[start : start + length]
            yield {name: array[:length] for name, array in buffer.items()}


class Sliced:
    """As a library reads its files: by slices and single rows, never by lists."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, (int, slice))
        return self._array[rows]


def npy_files(folder):
    for name, array in DATA.items():
        np.save(folder / f"{name}.npy", array)
    return {name: folder / f"{name}.npy" for name in DATA}


def npz_file(folder):
    np.savez(folder / "data.npz", **DATA)
    return str(folder / "data.npz")


def memmaps(folder):
    """Parts of files, that of `x` without a header."""
    with (folder / "raw").open("wb") as file:
        file.write(b"ab" + np.concatenate([np.ones((2, 3)), X]).tobytes())
    raw = np.memmap(folder / "raw", np.float64, "r", offset=2, shape=(COUNT + 2, 3))
    return {name: np.load(path, mmap_mode="r") for name, path in npy_files(folder).items()} | {"x": raw[2:]}


SOURCES = {
    "arrays": lambda folder: DATA,
    "arrays of columns": lambda folder: {name: np.asfortranarray(array) for name, array in DATA.items()},
    "the other byte order": lambda folder: DATA | {"x": X.astype(">f8")},
    "memory-mapped": memmaps,
    "npy": npy_files,
    "npz": npz_file,
    "sliced": lambda folder: jax.tree.map(Sliced, DATA),
    "numbered": lambda folder: Numbered(),
    "batches": lambda folder: Batches(),
}
BY_NUMBER = [name for name in SOURCES if name != "batches"]


def everything(objective):
    """What a run asks of an objective, in one program."""

    def asked(y):
        return (
            jax.value_and_grad(objective.value)(y),
            objective.value_until(y, lambda bound: bound > 0.5),
            objective.auxiliary(y),
        )

    return jax.jit(asked)(Y)


def assert_identical(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def in_memory(**options):
    options = {"chunk_size": SIZE, "nonnegative": True, "has_aux": True} | options
    return odeopt.FiniteSum(loss, jax.tree.map(jnp.asarray, DATA), **options)


def streamed(source, **options):
    options = {"chunk_size": SIZE, "nonnegative": True, "has_aux": True} | options
    return odeopt.FiniteSum(loss, source if isinstance(source, odeopt.Streamed) else odeopt.Streamed(source), **options)


@pytest.fixture(scope="module")
def expected():
    return everything(in_memory(weights=WEIGHTS))


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_gives_what_the_arrays_in_memory_give(name, expected, tmp_path):
    objective = streamed(SOURCES[name](tmp_path), weights=WEIGHTS)
    assert objective.count == COUNT
    assert_identical(everything(objective), expected)


@pytest.mark.parametrize("chunk_size", [None, COUNT, 4 * COUNT])
def test_few_data_are_one_chunk(chunk_size):
    options = {"chunk_size": chunk_size}
    assert_identical(everything(streamed(Numbered(), **options)), everything(in_memory(**options)))


def test_a_run_is_that_of_the_arrays_in_memory():
    def run(objective):
        solver = odeopt.Solver(odeopt.HeavyBall(), controller=odeopt.LyapunovControl(grow=100.0, hold_growth=False))
        _, solution = odeopt.train(Y, objective, None, solver, max_steps=40)
        assert solution.stats["rejected"] > 5
        return solution.value, solution.history, solution.aux

    assert_identical(run(streamed(Batches())), run(in_memory()))


def test_lanes_of_a_vmap_are_single_runs():
    values = jax.vmap(streamed(Numbered()).value)(jnp.stack([Y, 2 * Y]))
    np.testing.assert_allclose(values, [in_memory().value(Y), in_memory().value(2 * Y)], rtol=1e-14)


def test_single_precision_is_chosen_by_the_program():
    data = odeopt.Streamed(DATA)
    with jax.enable_x64(False):
        value = jax.jit(streamed(data).value)(jnp.asarray(Y, jnp.float32))
        again = jax.jit(lambda y: in_memory().value(y))(jnp.asarray(Y, jnp.float32))
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, again)


def test_numbers_keep_their_type():
    example = odeopt.Streamed(DATA).example
    assert (example["pixels"].dtype, example["x"].shape) == (np.uint8, (3,))


@pytest.mark.parametrize("name", SOURCES)
def test_rows_are_read_on_the_host(name, tmp_path):
    data = odeopt.Streamed(SOURCES[name](tmp_path))
    for start, length in ((4, 9), (20, 3), (0, 1)):
        assert_identical(data.rows(start, length), {key: array[start : start + length] for key, array in DATA.items()})


@pytest.mark.parametrize("name", BY_NUMBER)
def test_rows_are_taken_by_their_numbers(name, tmp_path):
    data, indices = odeopt.Streamed(SOURCES[name](tmp_path)), [7, 0, 22, 7]
    assert_identical(data.take(indices), {key: array[indices] for key, array in DATA.items()})


def test_fewer_examples_than_there_are_can_be_used():
    data = odeopt.Streamed(Batches(), count=9)
    assert data.count == 9
    assert_identical(data.rows(5, 4), {name: array[5:9] for name, array in DATA.items()})


def test_what_a_memory_map_has_changed_and_its_file_has_not_is_read(tmp_path):
    changed = np.load(npy_files(tmp_path)["x"], mmap_mode="c")
    changed[3] = 5.0
    np.testing.assert_array_equal(odeopt.Streamed(changed).rows(2, 2), [X[2], [5.0] * 3])


# Reading ahead.


def test_a_chunk_is_read_while_the_one_before_it_is_in_use():
    asked, go_on = [], threading.Event()

    def read(start, length):
        asked.append((start, length, threading.current_thread() is threading.main_thread()))
        # Where nothing is read ahead this is waited for in vain.
        assert start == 0 or go_on.wait(10)
        return [np.arange(start, start + length)]

    ahead = ReadAhead(read, 7)
    np.testing.assert_array_equal(ahead.chunk(0, 3)[0], [0, 1, 2])
    go_on.set()
    np.testing.assert_array_equal(ahead.chunk(3, 3)[0], [3, 4, 5])
    np.testing.assert_array_equal(ahead.chunk(6, 1)[0], [6])
    ahead.alone(lambda: None)
    # Behind the last chunk the first of the next pass.
    assert asked == [(0, 3, True), (3, 3, False), (6, 1, False), (0, 3, False)]


def test_rows_that_nobody_foresaw_are_read_all_the_same():
    ahead = ReadAhead(lambda start, length: [np.arange(start, start + length)], 100)
    for start in (0, 50, 3, 99, 0):
        np.testing.assert_array_equal(ahead.chunk(start, 1)[0], [start])


def test_every_row_is_read_once_in_a_pass():
    source = Numbered()
    value = jax.jit(streamed(source).value)
    source.asked.clear()
    for _ in range(2):
        value(Y).block_until_ready()
    # One pass more may be under way, in its first chunk.
    assert source.asked[: 2 * COUNT] == [*range(COUNT)] * 2
    assert len(source.asked) <= 2 * COUNT + SIZE


def test_an_iterable_is_begun_once_in_a_pass():
    source = Batches()
    data = odeopt.Streamed(source)
    value = jax.jit(streamed(data).value)
    before = source.passes
    for _ in range(3):
        value(Y).block_until_ready()
    data.rows(0, 1)
    assert source.passes - before == 4 + 1  # and the one that is begun ahead, and that of the last line


def test_chunks_lie_in_the_same_memory_as_soon_as_nobody_holds_them(tmp_path):
    data = odeopt.Streamed(npy_files(tmp_path)["x"])

    def place(start):
        return data._handed_over(start, 5)[0].__array_interface__["data"][0]

    assert len({place(start) for start in (0, 5, 10, 15, 0, 5)}) == 2


def test_a_chunk_that_somebody_holds_is_not_overwritten(tmp_path):
    data = odeopt.Streamed(npy_files(tmp_path)["x"])
    held = [data._handed_over(start, 5)[0][1:] for start in (0, 5, 10, 15)]
    np.testing.assert_array_equal(np.concatenate(held), np.delete(X[:20], [0, 5, 10, 15], axis=0))


def test_no_thread_is_left_when_a_run_has_ended():
    data = odeopt.Streamed(DATA)
    jax.jit(streamed(data).value)(Y).block_until_ready()
    data.rows(0, 1)  # waits for the chunk that is read ahead
    assert not [thread for thread in threading.enumerate() if "odeopt" in thread.name]


def test_a_second_run_compiles_nothing():
    data, traced = odeopt.Streamed(DATA), []

    def noted(y, batch):
        traced.append(1)
        return loss(y, batch)[0]

    numbers = []
    for _ in range(2):
        before = len(traced)
        objective = odeopt.FiniteSum(noted, data, chunk_size=SIZE)
        odeopt.minimise(objective, odeopt.Solver(odeopt.GradientFlow()), Y, max_steps=1, throw=False)
        numbers.append(len(traced) - before)
    # The abstract checks of the arguments evaluate the loss, and nothing else does.
    assert numbers[1] < numbers[0] / 2, numbers


def test_a_program_holds_no_copy_of_the_data():
    big = np.zeros((4000, 1000))
    objective = odeopt.FiniteSum(lambda y, x: (x @ y) ** 2, odeopt.Streamed(big), chunk_size=10)
    compiled = jax.jit(jax.value_and_grad(objective.value)).lower(jnp.zeros(1000)).compile()
    analysis = compiled.memory_analysis()
    held = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.generated_code_size_in_bytes
    assert held < big.nbytes / 20


def test_the_chunks_in_memory_are_part_of_the_budget():
    x = np.zeros((10_000, 50))
    sizes = {}
    for name, data in {"memory": jnp.asarray(x), "streamed": odeopt.Streamed(x)}.items():
        objective = odeopt.FiniteSum(lambda y, x: (x @ y) ** 2, data, memory=2**20)
        sizes[name] = objective._affordable(jnp.zeros(50))
    kept = 2**20 / sizes["memory"]
    assert sizes["streamed"] == pytest.approx(2**20 / (kept + 2 * 50 * 8), rel=0.01)


# What goes wrong.


def run(data):
    return odeopt.minimise(streamed(data), odeopt.Solver(odeopt.GradientFlow()), Y, max_steps=0, throw=False)


def test_a_file_that_becomes_shorter_is_said_to_end(tmp_path):
    paths = npy_files(tmp_path)
    data = odeopt.Streamed(paths)
    with paths["x"].open("r+b") as file:
        file.truncate(128 + 12 * 24)
    with pytest.raises(
        RuntimeError, match=r"^rows 10 to 14 of the streamed data could not be read: .*x.npy ends before row 12"
    ):
        run(data)
    with pytest.raises(EOFError, match="shorter than its 23 rows"):
        data.take([0])


class Faulty(Numbered):
    """As `Numbered`, with one example that is another."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return self.wrong(example) if index == 13 else example


def fails(example):
    raise OSError("disk on fire")


WRONG_EXAMPLES = {
    "fails": (fails, r"source\[13\] raised OSError: disk on fire"),
    "shape": (lambda example: example | {"x": np.ones(4)}, r"source\[13\] has an example of shape \(4,\).*\(3,\)"),
    "dtype": (lambda example: example | {"target": 1}, r"source\[13\] has .*dtype int64; expected .*float64"),
    "structure": (lambda example: {"x": example["x"]}, r"source\[13\] has the structure"),
    "object": (lambda example: example | {"target": None}, r"source\[13\] has the structure"),
    "text": (lambda example: example | {"target": "3"}, r"source\[13\] has dtype <U1; expected numbers"),
}


@pytest.mark.parametrize("name", WRONG_EXAMPLES)
@pytest.mark.parametrize("ends", ["minimise", "train"])
def test_an_example_that_cannot_be_used_is_named(name, ends):
    wrong, message = WRONG_EXAMPLES[name]
    data = odeopt.Streamed(Faulty(wrong))
    with pytest.raises(RuntimeError, match=rf"^rows 10 to 14 of the streamed data could not be read: .*{message}"):
        run(data) if ends == "minimise" else odeopt.train(Y, streamed(data), None, max_steps=0)


def test_a_run_can_be_made_when_the_source_has_been_mended():
    source = Faulty(fails)
    data = odeopt.Streamed(source)
    with pytest.raises(RuntimeError, match="disk on fire"):
        run(data)
    source.wrong = lambda example: example
    assert_identical(run(data).loss, run(Numbered()).loss)


class Shuffled(Batches):
    def __iter__(self):
        batches = [jax.tree.map(np.copy, batch) for batch in super().__iter__()]
        return iter(batches if self.passes < 3 else batches[::-1])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (odeopt.Streamed(Batches(20), count=23), r"rows 20 to 22 .*ended after 20 of 23 examples"),
        (odeopt.Streamed(Shuffled()), r"begins with another example than the pass before.*shuffling"),
    ],
    ids=["short", "shuffled"],
)
def test_an_iterable_that_changes_is_refused(source, message):
    with pytest.raises(RuntimeError, match=message):
        [run(source) for _ in range(2)]


def compressed(folder):
    np.savez_compressed(folder / "small.npz", x=X)
    return folder / "small.npz"


def of_objects(folder):
    np.save(folder / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    return folder / "objects.npy"


def npz_of_objects(folder):
    np.savez(folder / "objects.npz", x=np.array([{}, {}]))
    return folder / "objects.npz"


def of_columns(folder):
    np.save(folder / "columns.npy", np.asfortranarray(X))
    return folder / "columns.npy"


def cut(folder):
    path = npy_files(folder)["x"]
    path.write_bytes(path.read_bytes()[:-1])
    return path


def no_array(folder):
    (folder / "text.npy").write_text("x,y\n1,2\n")
    return folder / "text.npy"


def a_csv(folder):
    (folder / "data.csv").write_text("x,y\n1,2\n")
    return folder / "data.csv"


REFUSED = {
    "compressed": (compressed, r"small.npz: 'x' is compressed.*numpy.savez, not numpy.savez_compressed"),
    "objects in npy": (of_objects, r"objects.npy holds Python objects.*never loaded"),
    "objects in npz": (npz_of_objects, r"objects.npz: 'x' holds Python objects.*never loaded"),
    "columns": (of_columns, r"columns.npy is in Fortran order.*ascontiguousarray"),
    "incomplete": (cut, r"x.npy is incomplete: shape \(23, 3\) of float64 needs 552 bytes, and it holds 551"),
    "no array": (no_array, r"text.npy is no .npy file"),
    "csv": (a_csv, r"data.csv: files of type .csv are not read; expected .npy or .npz"),
    "no file": (lambda folder: folder / "absent.npy", r"absent.npy does not exist"),
    "generator": (
        lambda folder: (batch for batch in Batches()),
        r"Streamed\(generator\): an iterator can be read once",
    ),
    "number": (lambda folder: 3, r"expected a pytree of arrays.*got int\."),
    "nothing": (lambda folder: None, r"got NoneType\."),
    "numbers": (lambda folder: (X, 3.0), r"got tuple with float\."),
    "objects": (lambda folder: np.array([{}, {}]), r"has dtype object; expected numbers"),
    "texts": (lambda folder: {"x": np.array(["a", "b"])}, r"data\['x'\] has dtype <U1; expected numbers"),
    "lengths": (lambda folder: (X, TARGET[:-1]), r"same length >= 1; got shapes \[\(23, 3\), \(22,\)\]"),
    "scalars": (lambda folder: np.asarray(3.0), r"same length >= 1; got shapes \[\(\)\]"),
    "empty": (lambda folder: X[:0], r"same length >= 1; got shapes \[\(0, 3\)\]"),
    "empty source": (lambda folder: Numbered(count=0), r"holds no example"),
    "empty iterable": (lambda folder: Batches(0), r"yields no batch"),
    "examples for batches": (lambda folder: type("", (), {"__iter__": lambda _: iter([1.0])})(), r"must yield batches"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_streamed_is_refused(name, tmp_path):
    make, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError, OSError), match=message):
        odeopt.Streamed(make(tmp_path))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: odeopt.Streamed(X, count=24), r"count=24\): expected a whole number from 1 to 23"),
        (lambda: odeopt.Streamed(X, count=0), r"count=0\): expected a whole number from 1"),
        (lambda: odeopt.Streamed(Batches(), count=-1), r"count=-1\): expected a whole number"),
        (lambda: odeopt.Streamed(X).rows(20, 4), r"rows\(20, 4\): expected rows within 0 to 22"),
        (lambda: odeopt.Streamed(X).take([23]), r"expected numbers from 0 to 22; got 23 to 23"),
        (lambda: odeopt.Streamed(X).take([-1]), r"expected numbers from 0 to 22; got -1"),
        (lambda: odeopt.Streamed(X).take([0.5]), r"expected whole numbers"),
        (lambda: odeopt.Streamed(Batches()).take([0]), r"an iterable of batches has no rows by number"),
        (
            lambda: odeopt.train(Y, loss, odeopt.Streamed(X)),
            r"Write odeopt.train\(model, odeopt.FiniteSum\(loss, data\)",
        ),
    ],
)
def test_what_cannot_be_asked_of_streamed_data_is_refused(call, message, as_installed):
    with pytest.raises((TypeError, ValueError, IndexError), match=message):
        call()


# Libraries of data.


def test_the_data_sets_of_grain_are_sources(expected):
    grain = pytest.importorskip("grain")
    numbered = grain.MapDataset.source(Numbered())
    assert_identical(everything(streamed(numbered, weights=WEIGHTS)), expected)
    batches = numbered.batch(4).to_iter_dataset()
    assert_identical(everything(streamed(batches, weights=WEIGHTS)), expected)
