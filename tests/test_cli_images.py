"""`odeopt train` and `odeopt predict` on images, with LeNet-1, and with a model of one's own."""

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
from idx_files import stripes, write_folder
from test_cli import read_csv, run, table_of
from test_cli_errors import refused, refused_training

import odeopt
from odeopt._run_folder import RunFolderError

MY_MODEL = """
import equinox as eqx, jax

open(__file__ + ".ran", "a").write("x")

class Two(eqx.Module):
    layers: tuple

    def __init__(self, inputs, outputs, key):
        keys = jax.random.split(key)
        self.layers = eqx.nn.Linear(inputs, 4, key=keys[0]), eqx.nn.Linear(4, outputs, key=keys[1])

    def __call__(self, x):
        return self.layers[1](jax.nn.softplus(self.layers[0](x)))

def build(inputs, outputs, key):
    return Two(inputs, outputs, key)
"""


def config_in(folder) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "stripes", 30, 9)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("lenet") / "run"
    options = ("--model", "lenet1", "--loss", "squared", "--chunk-size", "7", "--max-steps", "6")
    return folder, run("train", "--data", data, *options, "--out", folder)


def test_table_of_a_run_on_images_says_what_the_loaded_model_says(lenet):
    folder, outcome = lenet
    assert outcome.exit_code == 0, outcome.output
    assert "9 to test; network lenet1, 1895 parameters, float32" in " ".join(outcome.output.split())
    rows, predictor = table_of(outcome), odeopt.load(folder)
    images, labels = stripes(30, 30)
    probabilities = np.asarray(predictor(images), np.float64)
    assert probabilities.shape == (30, 3)
    assert float(rows["loss"]) == pytest.approx(np.mean((probabilities - np.eye(3)[labels]) ** 2), rel=1e-4)
    assert rows["accuracy, train"] == f"{np.mean(predictor.labels(images) == labels):.4f}"
    assert rows["energy"].startswith("never rose")
    # More than for all examples at once, where the forward pass of a trial is kept.
    assert config_in(folder)["result"]["stats"]["values"] > 1 + 6


def test_configuration_of_images_holds_what_rebuilds_the_model_and_no_number_for_every_pixel(lenet, data):
    config = config_in(lenet[0])
    assert config["network"] == {"model": "lenet1", "inputs": 784, "outputs": 3, "dtype": "float32"}
    preprocessing = config["preprocessing"]
    assert (preprocessing["input_mean"], preprocessing["input_scale"]) == (0.0, 255.0)
    assert preprocessing["image_shape"] == [28, 28]
    options = config["options"]
    assert (options["model"], options["loss"], options["chunk_size"]) == ("lenet1", "squared", 7)
    assert options["data"] == str(data)


def test_images_are_predicted_flat_or_not_and_those_of_a_folder_are_its_test_set(tmp_path, lenet, data):
    folder, outcome = lenet
    images, labels = stripes(9, 9)
    np.savez(tmp_path / "flat.npz", x=images.reshape(9, 784), y=labels)
    np.savez(tmp_path / "square.npz", x=images)
    predicted = [run("predict", folder, "--data", given) for given in (tmp_path / "flat.npz", data)]
    square = run("predict", folder, "--data", tmp_path / "square.npz")
    assert predicted[0].stdout == predicted[1].stdout == square.stdout
    assert len(square.stdout.splitlines()) == 1 + 9
    for done in predicted:
        assert done.stderr == f"accuracy: {table_of(outcome)['accuracy, test']}\n"
    np.savez(tmp_path / "small.npz", x=np.ones((2, 8, 8)))
    assert "has shape (2, 8, 8)" in refused(tmp_path, "predict", folder, "--data", tmp_path / "small.npz")
    other = write_folder(tmp_path / "other", 6, 3, side=8)
    assert "the images have the shape (8, 8)" in refused(tmp_path, "predict", folder, "--data", other)


def test_run_in_chunks_is_the_run_on_all_examples_at_once(tmp_path, data):
    losses = []
    for name, chunk in (("whole", ()), ("chunks", ("--chunk-size", "8"))):
        options = ("--hidden", "3", "--max-steps", "4", "--dtype", "float64", "--out", tmp_path / name)
        outcome = run("train", "--data", data, *options, *chunk)
        assert outcome.exit_code == 0, outcome.output
        losses.append([float(row["loss"]) for row in read_csv(tmp_path / name / "history.csv")])
    assert losses[0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


@pytest.fixture(scope="module")
def own(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("own")
    file = folder / "my model.py"
    file.write_text(MY_MODEL)
    model = f"{file}:build"
    outcome = run("train", "--data", data, "--model", model, "--max-steps", "3", "--out", folder / "run")
    assert outcome.exit_code == 0, outcome.output
    return SimpleNamespace(run=folder / "run", model=model, ran=folder / "my model.py.ran", outcome=outcome)


def test_model_of_ones_own_is_trained_and_loaded_with_its_function(own):
    space: dict = {"__file__": str(own.run.parent / "again")}
    exec(MY_MODEL, space)
    predictor = odeopt.load(own.run, build=space["build"])
    images, labels = stripes(30, 30)
    probabilities = np.asarray(predictor(images), np.float64)[np.arange(30), labels]
    assert float(table_of(own.outcome)["loss"]) == pytest.approx(-np.mean(np.log(probabilities)), rel=1e-4)
    assert config_in(own.run)["network"]["model"] == own.model
    assert own.outcome.output.strip().endswith(f"--data FILE --model {shlex.quote(own.model)}")


def test_model_of_ones_own_is_predicted_with_its_file_and_never_run_without_being_asked_for(own, data):
    ran = own.ran.read_text()
    message = refused(own.run.parent, "predict", own.run, "--data", data)
    assert f"was trained with the model {own.model}, and nothing is run because a folder says so" in message
    assert f"--model {own.model} to odeopt predict" in message
    with pytest.raises(RunFolderError, match="build=build"):
        odeopt.load(own.run)
    assert own.ran.read_text() == ran
    done = run("predict", own.run, "--data", data, "--model", own.model)
    assert done.exit_code == 0, done.output
    assert done.stderr == f"accuracy: {table_of(own.outcome)['accuracy, test']}\n"


def test_function_that_builds_another_model_or_none_is_refused(own, lenet):
    with pytest.raises(RunFolderError, match="builds another model than in that run"):
        odeopt.load(own.run, build=lambda inputs, outputs, key: odeopt.LeNet1(outputs, key=key))
    with pytest.raises(RunFolderError, match=r"cannot be loaded with this build: .* cannot be built"):
        odeopt.load(own.run, build=lambda inputs: None)
    with pytest.raises(RunFolderError, match="holds a network lenet1, which needs no build"):
        odeopt.load(lenet[0], build=lambda inputs, outputs, key: None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--model", "lenet1"), "--model: lenet1 takes images of 28 by 28 pixels, 784 inputs; the examples have 64"),
        (("--model", "lenet2"), "'lenet2' names no function; expected mlp, lenet1, or FILE.py:FUNCTION"),
        (("--model", "absent.py:build"), "absent.py does not exist"),
        (("--model", "lenet1", "--hidden", "4"), "--hidden '4' is for --model mlp"),
        (("--loss", "absolute"), "absolute"),
        (("--chunk-size", "0"), "greater than or equal to 1"),
    ],
)
def test_option_that_does_not_fit_is_refused(tmp_path, options, expected):
    assert expected in refused_training(tmp_path, *options)


def test_classes_are_asked_for_where_the_data_are_images_or_the_loss_is_theirs(tmp_path, data):
    message = refused_training(tmp_path, "--data", data, "--task", "regression")
    assert f"--task regression: the labels of {data} are classes" in message
    np.savez(tmp_path / "values.npz", x=np.ones((9, 2)), y=np.arange(9) / 8)
    message = refused_training(tmp_path, "--data", tmp_path / "values.npz", "--loss", "cross-entropy")
    assert "--loss cross-entropy is for classes, and the targets are values" in message


MODELS = {
    "syntax": ("def build(", "SyntaxError"),
    "other name": ("def make(inputs, outputs, key): ...", "build does not exist. The file defines the functions: make"),
    "number": ("build = 3", "build cannot be called"),
    "arguments": ("def build(inputs):\n    return inputs", "cannot be built (TypeError"),
    "raises": ("def build(inputs, outputs, key):\n    return 1 / 0", "division by zero (model.py, line 2, in build)"),
    "nothing": ("def build(inputs, outputs, key):\n    pass", "returned a NoneType without parameters"),
    "shape": (
        "import equinox as eqx\ndef build(inputs, outputs, key):\n    return eqx.nn.Linear(inputs, 7, key=key)",
        "the model returned shape (7,) and dtype float32. Expected build(inputs, outputs, key) -> an Equinox model",
    ),
    "inputs": (
        "import equinox as eqx\ndef build(inputs, outputs, key):\n    return eqx.nn.Linear(5, outputs, key=key)",
        "cannot be called (TypeError",
    ),
    "key": (
        "def build(inputs, outputs, key):\n    return key, 1.0",
        "holds an array of key<fry>",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_of_ones_own_that_cannot_be_used_is_explained(tmp_path, name):
    text, expected = MODELS[name]
    (tmp_path / "model.py").write_text(text)
    assert expected in refused_training(tmp_path, "--model", f"{tmp_path / 'model.py'}:build")
