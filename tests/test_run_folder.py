"""The run folder: what is written comes back, and what is damaged is named."""

import csv
import json
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt._architecture import Architecture
from odeopt._data import Preprocessing
from odeopt._networks import cross_entropy, mean_square, multilayer_perceptron
from odeopt._predictor import Predictor, scores
from odeopt._run_folder import RunFolderError, config_of, load, new_folder, write_run

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(5.0, 2.0, (30, 3))

CLASSES = Preprocessing(
    input_mean=INPUTS.mean(axis=0),
    input_scale=INPUTS.std(axis=0),
    classes=("no", "perhaps", "ja, größer"),
    input_names=("länge", "b", "c"),
    target_name="Ziel",
)
VALUES = Preprocessing(
    input_mean=INPUTS.mean(axis=0),
    input_scale=INPUTS.std(axis=0),
    target_mean=np.array([1.0, 1 / 3]),
    target_scale=np.array([0.1, 1e6]),
    scalar_target=False,
)


@pytest.fixture(scope="module")
def solution():
    rosenbrock = lambda y, _: (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2  # noqa: E731
    solver = odeopt.Solver(odeopt.HeavyBall())
    return odeopt.minimise(rosenbrock, solver, jnp.array([-1.0, 1.0]), max_steps=40, throw=False)


def write(folder, preprocessing, history, dtype="float32", hidden=(5, 4)):
    network = multilayer_perceptron(3, preprocessing.outputs, hidden, dtype, seed=3)
    predictor = Predictor(network, preprocessing)
    folder.mkdir()
    architecture = Architecture("mlp", 3, preprocessing.outputs, tuple(hidden), dtype)
    write_run(folder, config_of(architecture, preprocessing), predictor, history.trimmed(), title="a run")
    return predictor


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("preprocessing", [CLASSES, VALUES], ids=["classes", "values"])
def test_loaded_model_predicts_what_the_written_one_did(tmp_path, solution, preprocessing, dtype):
    written = write(tmp_path / "run", preprocessing, solution.history, dtype)
    loaded = odeopt.load(tmp_path / "run")
    assert np.array_equal(loaded(INPUTS), written(INPUTS))
    assert loaded(INPUTS).dtype == written(INPUTS).dtype
    assert loaded.classes == written.classes
    assert loaded.input_names == written.input_names
    assert jax.tree.leaves(loaded.network)[0].dtype == dtype


def test_history_has_one_line_for_each_accepted_step_in_full_precision(tmp_path, solution):
    write(tmp_path / "run", CLASSES, solution.history)
    with (tmp_path / "run" / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    history = solution.history.trimmed()
    assert [int(row["step"]) for row in rows] == list(range(1, int(solution.stats["accepted"]) + 1))
    for name in ("t", "step_size", "loss", "energy", "dissipation", "gradient_norm", "rejections"):
        assert [float(row[name]) for row in rows] == getattr(history, name).tolist()


def test_float64_model_in_single_precision_is_announced(tmp_path, solution):
    written = write(tmp_path / "run", VALUES, solution.history, "float64")
    with jax.enable_x64(False):
        with pytest.warns(UserWarning, match="jax_enable_x64"):
            loaded = odeopt.load(tmp_path / "run")
        answers = np.asarray(loaded(INPUTS))
    assert answers.dtype == np.float32
    assert np.allclose(answers, written(INPUTS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["config.json", "model.eqx"])
def test_missing_file_is_named(tmp_path, solution, name):
    write(tmp_path / "run", CLASSES, solution.history)
    (tmp_path / "run" / name).unlink()
    with pytest.raises(RunFolderError, match=f"{name} is missing"):
        load(tmp_path / "run")


@pytest.mark.parametrize("name", ["config.json", "model.eqx"])
@pytest.mark.parametrize("kept", [0, 10, 150])
def test_truncated_file_is_named(tmp_path, solution, name, kept):
    write(tmp_path / "run", CLASSES, solution.history)
    file = tmp_path / "run" / name
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(RunFolderError, match=f"{name} is damaged"):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("network", "hidden", "wide"),
        ("network", "dtype", "no type"),
        ("network", "inputs", 4),
        ("network", "activation", "os.system"),
        ("preprocessing", "classes", None),
        ("preprocessing", "input_mean", ["a"]),
    ],
)
def test_configuration_that_describes_no_model_is_named(tmp_path, solution, part, name, value):
    write(tmp_path / "run", CLASSES, solution.history)
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config[part][name] = value
    file.write_text(json.dumps(config))
    with pytest.raises(RunFolderError, match=r"config\.json does not describe a model"):
        load(tmp_path / "run")


def test_weights_of_another_network_are_refused(tmp_path, solution):
    write(tmp_path / "run", CLASSES, solution.history)
    write(tmp_path / "other", CLASSES, solution.history, hidden=(7,))
    (tmp_path / "run" / "model.eqx").write_bytes((tmp_path / "other" / "model.eqx").read_bytes())
    with pytest.raises(RunFolderError, match=r"model\.eqx is damaged or belongs to another run"):
        load(tmp_path / "run")


def test_pickled_weights_are_not_executed(tmp_path, solution):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    write(tmp_path / "run", CLASSES, solution.history)
    with (tmp_path / "run" / "model.eqx").open("wb") as stream:
        np.save(stream, np.array([Harm()], dtype=object), allow_pickle=True)
    with pytest.raises(RunFolderError, match=r"model\.eqx"):
        load(tmp_path / "run")
    assert not (tmp_path / "harm").exists()


def test_no_folder_and_a_newer_format_are_refused(tmp_path, solution):
    with pytest.raises(RunFolderError, match="is no folder"):
        load(tmp_path / "absent")
    write(tmp_path / "run", CLASSES, solution.history)
    file = tmp_path / "run" / "config.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"format": 1', '"format": 2'), encoding="utf-8")
    with pytest.raises(RunFolderError, match="has format 2"):
        load(tmp_path / "run")


def test_new_folder_vanishes_with_the_parents_it_made_when_the_block_fails(tmp_path):
    def interrupted():
        with new_folder(tmp_path / "a" / "b" / "run") as unfinished:
            (unfinished / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_new_folder_has_the_usual_permissions_and_only_its_own_name(tmp_path):
    with new_folder(tmp_path / "run") as unfinished:
        (unfinished / "file").write_text("whole")
        assert not (tmp_path / "run").exists()
    (tmp_path / "usual").mkdir()
    assert os.stat(tmp_path / "run").st_mode == os.stat(tmp_path / "usual").st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "usual"]


def test_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(RunFolderError, match="exists already"), new_folder(tmp_path / "run"):
        pass
    with pytest.raises(RunFolderError, match="come into being"), new_folder(tmp_path / "late"):
        (tmp_path / "late").mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late", "run"]


def test_predictor_gives_probabilities_and_labels():
    predictor = Predictor(multilayer_perceptron(3, 3, [4], "float32", seed=0), CLASSES)
    probabilities = predictor(INPUTS)
    assert probabilities.shape == (30, 3)
    assert np.allclose(np.sum(probabilities, axis=-1), 1, atol=1e-6)
    assert predictor(INPUTS[0]).shape == (3,)
    assert np.allclose(predictor(INPUTS.reshape(5, 6, 3))[1, 2], probabilities[8], atol=1e-6)
    assert predictor.labels(INPUTS).tolist() == [CLASSES.classes[i] for i in np.argmax(probabilities, axis=1)]
    assert np.allclose(eqx.filter_jit(predictor)(jnp.asarray(INPUTS)), probabilities, atol=1e-6)


def test_predictor_of_values_undoes_the_preprocessing():
    predictor = Predictor(multilayer_perceptron(3, 2, [4], "float64", seed=0), VALUES)
    inside = jax.vmap(predictor.network)((INPUTS - VALUES.input_mean) / VALUES.input_scale)
    assert np.allclose(predictor(INPUTS), VALUES.target_mean + VALUES.target_scale * inside)


def test_predictor_refuses_other_inputs_and_labels_of_a_regression():
    predictor = Predictor(multilayer_perceptron(3, 2, [4], "float32", seed=0), VALUES)
    with pytest.raises(ValueError, match="takes 3 inputs"):
        predictor(np.ones((2, 4)))
    with pytest.raises(TypeError, match="regression"):
        predictor.labels(INPUTS)


def test_scores_are_those_of_the_definitions():
    predictor = Predictor(multilayer_perceptron(3, 2, [4], "float64", seed=0), VALUES)
    y = np.asarray(predictor(INPUTS)) + np.array([1.0, -1.0])
    measured = scores(predictor, INPUTS, y)
    assert measured["rmse"] == pytest.approx(1.0)
    assert measured["r2"] == pytest.approx(1 - y.size / np.sum((y - y.mean(axis=0)) ** 2))
    assert np.isnan(scores(predictor, INPUTS, np.ones((30, 2)))["r2"])


def test_cross_entropy_is_that_of_log_softmax_and_keeps_a_small_loss_precise():
    logits = GENERATOR.normal(size=(6, 4)) * 5
    classes = np.array([0, 1, 2, 3, 0, 1], np.int32)
    expected = -np.mean(jax.nn.log_softmax(logits)[np.arange(6), classes])
    assert cross_entropy(lambda x: x, (logits, classes)) == pytest.approx(expected)
    sure = np.array([[40.0, 0.0]], np.float32)
    assert cross_entropy(lambda x: x, (sure, np.zeros(1, np.int32))) == pytest.approx(np.exp(-40.0), rel=1e-5)
    gradient = jax.grad(lambda z: cross_entropy(lambda x: x, (z, classes)))(jnp.asarray(logits))
    assert np.allclose(gradient, (jax.nn.softmax(logits) - np.eye(4)[classes]) / 6)


def test_mean_square_is_over_examples_and_outputs():
    assert mean_square(lambda x: x, (np.ones((3, 2)), np.array([[1.0, 0.0]] * 3))) == pytest.approx(0.5)
