"""`odeopt train` and `odeopt predict` where everything goes well."""

import csv
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from catalogue import CONTROLLERS, FLOWS, SCHEMES
from typer.testing import CliRunner

import odeopt
from odeopt._data import digits
from odeopt._named import build, text_of
from odeopt.cli import app

MY_FLOW = """
import jax, jax.numpy as jnp, optax, odeopt

class MyFlow(odeopt.AbstractFlow):
    friction: float = 1.0

    def init(self, params):
        return odeopt.State(params, jax.tree.map(jnp.zeros_like, params))

    def vector_field(self, t, state, oracle):
        force = jax.tree.map(lambda v, g: -self.friction * v - g, state.memory, oracle.gradient)
        return odeopt.State(state.memory, force)

    def energy(self, t, state, oracle):
        return oracle.value + 0.5 * optax.tree.vdot(state.memory, state.memory)
"""


def run(*arguments):
    """The outcome of a command in this process, its lines joined so that tests do not depend on where they break."""
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome


def train(folder, *arguments, steps=12):
    return run("train", "--hidden", "6", "--max-steps", steps, "--out", folder, *arguments)


def table_of(outcome) -> dict[str, str]:
    """The rows of the printed table."""
    cells = [line.split("│")[1:3] for line in outcome.output.splitlines() if line.count("│") == 3]
    rows: dict[str, str] = {}
    last = ""
    for name, value in cells:
        last = name.strip() or last
        rows[last] = f"{rows.get(last, '')} {value.strip()}".strip()
    return rows


def read_csv(file) -> list[dict[str, str]]:
    with Path(file).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    return folder, train(folder, steps=40)


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """A file with two kinds of flowers, names in several scripts, and two columns that do not matter."""
    generator = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("flowers") / "blüten.csv"
    lines = ["länge,ширина,constant,花"]
    for index in range(80):
        kind = index % 2
        length, width = generator.normal([10 + 4 * kind, 1e6 - 5 * kind], 1.0)
        lines.append(f"{float(length)!r},{float(width)!r},7,{['Löwenzahn', '菊'][kind]}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_digits_leave_a_whole_run_folder(digits_run):
    folder, outcome = digits_run
    assert outcome.exit_code == 0, outcome.output
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "history.csv", "model.eqx", "picture.png"]
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_table_says_what_the_model_and_the_history_say(digits_run):
    folder, outcome = digits_run
    rows, data, predictor = table_of(outcome), digits(), odeopt.load(folder)
    for name, x, y in (("train", data.x, data.y), ("test", data.x_test, data.y_test)):
        measured = np.mean(np.argmax(predictor(x), axis=1) == y)
        assert rows[f"accuracy, {name}"] == f"{measured:.4f}"
    probabilities = np.asarray(predictor(data.x), np.float64)[np.arange(len(data.y)), data.y]
    assert float(rows["loss"]) == pytest.approx(-np.mean(np.log(probabilities)), rel=1e-4)
    history = read_csv(folder / "history.csv")
    assert int(rows["accepted"]) == len(history)
    assert int(rows["accepted"]) + int(rows["rejected"]) == 40
    assert int(rows["gradients"]) == len(history) + 1
    assert min(float(row["loss"]) for row in history) == pytest.approx(float(rows["loss"]), rel=1e-5)
    energy = np.array([float(row["energy"]) for row in history])
    assert np.all(np.diff(energy) < 0)
    assert rows["energy"].startswith("never rose: the smallest fall")
    assert rows["stopped because"].startswith("All 40 trial steps are used up; the last gradient norm is ")
    assert rows["stopped because"].endswith("(--gradient-norm 0.0001). Raise --max-steps to get further.")
    assert "compilation" in rows["time"]


def test_last_line_after_the_digits_predicts_them(digits_run):
    _, outcome = digits_run
    line = outcome.output.strip().splitlines()[-1]
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert len(done.stdout.strip("[]\n").split()) == 20


def test_last_line_after_a_file_predicts_a_file(tmp_path, flowers):
    folder = tmp_path / "a run"
    outcome = train(folder, "--data", flowers, steps=2)
    assert outcome.output.strip().splitlines()[-1].endswith(f"odeopt predict '{folder}' --data FILE")


def test_version_is_printed():
    outcome = run("--version")
    assert outcome.exit_code == 0
    assert outcome.output == f"odeopt {importlib.metadata.version('odeopt')}\n"


def test_configuration_is_enough_to_repeat_the_run(digits_run):
    folder, _ = digits_run
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["network"] == {"inputs": 64, "outputs": 10, "hidden": [6], "activation": "tanh", "dtype": "float32"}
    assert config["preprocessing"]["classes"] == list(range(10))
    assert config["options"]["flow"] == "Adam"
    assert config["options"]["max_steps"] == 40
    assert config["examples"] == {"train": 1400, "test": 397}
    assert config["versions"]["jax"] == jax.__version__
    assert config["result"]["stats"]["accepted"] == len(read_csv(folder / "history.csv"))
    assert config["solver"]["flow"].startswith("Adam(momentum_rate=1.0, scaling_rate=0.5, epsilon=")
    assert "epsilon=None" not in config["solver"]["flow"]
    assert config["solver"]["scheme"] == "ExponentialEuler()"


@pytest.mark.parametrize(
    "text", ["HeavyBall", "heavy-ball", "heavy_ball", "HEAVYBALL()", " HeavyBall (friction=None) "]
)
def test_name_is_read_in_any_case_with_or_without_hyphens(text):
    assert isinstance(build(text, odeopt.AbstractFlow, vars(odeopt)), odeopt.HeavyBall)


def test_flow_scheme_and_controller_are_taken_by_name(tmp_path):
    names = ("--flow", "heavy-ball", "--scheme", "heun", "--controller", "constant-step(0.1)")
    outcome = train(tmp_path / "run", *names, steps=3)
    assert outcome.exit_code == 0, outcome.output
    assert "HeavyBall · Heun · ConstantStep" in outcome.output
    assert [float(row["step_size"]) for row in read_csv(tmp_path / "run" / "history.csv")] == pytest.approx([0.1] * 3)


def test_arguments_reach_the_flow_and_the_controller(tmp_path):
    controller = "LyapunovControl(decrease=0.3, initial_step_size=0.125)"
    outcome = train(tmp_path / "run", "--flow", "HeavyBall(friction=0.25)", "--controller", controller, steps=2)
    assert outcome.exit_code == 0, outcome.output
    solver = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["solver"]
    assert solver["flow"] == "HeavyBall(friction=0.25)"
    assert solver["controller"].startswith("LyapunovControl(decrease=0.3, shrink=2.0, ")
    assert float(read_csv(tmp_path / "run" / "history.csv")[0]["step_size"]) == 0.125


def test_flow_of_ones_own_is_the_same_as_the_one_of_the_library(tmp_path):
    (tmp_path / "my flow.py").write_text(MY_FLOW)
    steps = ("--scheme", "SemiImplicitEuler", "--controller", "LyapunovControl(initial_step_size=0.1)")
    own = train(tmp_path / "own", "--flow", f"{tmp_path / 'my flow.py'}:MyFlow(friction=0.5)", *steps)
    assert own.exit_code == 0, own.output
    assert train(tmp_path / "library", "--flow", "HeavyBall(friction=0.5)", *steps).exit_code == 0
    losses = [[float(row["loss"]) for row in read_csv(tmp_path / name / "history.csv")] for name in ("own", "library")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert table_of(own)["energy"].startswith("never rose")
    config = json.loads((tmp_path / "own" / "config.json").read_text(encoding="utf-8"))
    assert config["solver"]["flow"] == f"{tmp_path / 'my flow.py'}:MyFlow(friction=0.5)"


PARTS = {
    odeopt.AbstractFlow: [
        *(case.make for case in FLOWS.values()),
        lambda: odeopt.L2Regularised(odeopt.AdaptiveRestart(odeopt.Nesterov()), 0.3),
    ],
    odeopt.AbstractScheme: [*SCHEMES.values(), lambda: odeopt.KineticRescaling(odeopt.Leapfrog())],
    odeopt.AbstractController: [
        # No text stands for a schedule of the user's.
        *(make for name, make in CONTROLLERS.items() if name != "scheduled"),
        lambda: odeopt.ConstantStep(0.1 + 0.2),
        lambda: odeopt.LyapunovControl(shrink=1e22 / 3, maximum_step_size=float("inf")),
    ],
}


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(("kind", "make"), [(kind, make) for kind, makes in PARTS.items() for make in makes])
def test_text_of_a_part_builds_an_equal_one(kind, make, double):
    with jax.enable_x64(double):
        part = make()
        assert eqx.tree_equal(build(text_of(part, vars(odeopt)), kind, vars(odeopt)), part)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_number_in_a_text_keeps_all_digits(dtype):
    with jax.enable_x64(dtype == "float64"):
        for number in np.random.default_rng(0).lognormal(0, 20, 200).astype(dtype):
            text = text_of(odeopt.HeavyBall(number), vars(odeopt))
            assert build(text, odeopt.AbstractFlow, vars(odeopt)).friction == number


def test_solver_of_the_configuration_repeats_the_run(tmp_path, digits_run):
    folder, _ = digits_run
    solver = json.loads((folder / "config.json").read_text(encoding="utf-8"))["solver"]
    options = (word for part in ("flow", "scheme", "controller") for word in (f"--{part}", solver[part]))
    assert train(tmp_path / "run", *options, steps=40).exit_code == 0
    assert read_csv(tmp_path / "run" / "history.csv") == read_csv(folder / "history.csv")


def test_what_no_literal_stands_for_is_left_to_the_default_or_named(tmp_path):
    fields = "    shape: object = jnp.tanh\n    weights: object = None\n    friction: float = 1.0"
    (tmp_path / "mine.py").write_text(MY_FLOW.replace("    friction: float = 1.0", fields))
    given = f"{tmp_path / 'mine.py'}:MyFlow"
    flow = build(f"{given}(weights=(1, [2.0]))", odeopt.AbstractFlow, vars(odeopt))
    text = text_of(flow, vars(odeopt), [given])
    assert text == f"{given}(weights=(1, [2.0]), friction=1.0)"
    assert text_of(build(text, odeopt.AbstractFlow, vars(odeopt)), vars(odeopt), [given]) == text
    other = type(flow)(np.sin, weights=jax.random.key(0), friction=np.zeros(1000))
    assert text_of(other, vars(odeopt)) == "MyFlow(shape=numpy.sin, weights=key<fry>[], friction=float64[1000])"


def test_csv_with_unicode_names_is_learnt_and_predicted(tmp_path, flowers):
    outcome = train(tmp_path / "run", "--data", flowers, steps=60)
    assert outcome.exit_code == 0, outcome.output
    assert float(table_of(outcome)["accuracy, test"]) > 0.9
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert config["preprocessing"]["input_names"] == ["länge", "ширина", "constant"]
    assert config["preprocessing"]["classes"] == ["Löwenzahn", "菊"]

    out = tmp_path / "answers.csv"
    outcome = run("predict", tmp_path / "run", "--data", flowers, "--out", out)
    assert outcome.exit_code == 0, outcome.output
    rows = read_csv(out)
    kinds = [line.rsplit(",", 1)[1] for line in flowers.read_text(encoding="utf-8").splitlines()[1:]]
    right = np.mean([row["prediction"] == kind for row, kind in zip(rows, kinds, strict=True)])
    assert f"accuracy: {right:.4f}" in outcome.output
    assert float(rows[0]["probability Löwenzahn"]) + float(rows[0]["probability 菊"]) == pytest.approx(1, abs=1e-6)

    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(line.rsplit(",", 1)[0] for line in flowers.read_text(encoding="utf-8").splitlines()))
    outcome = run("predict", tmp_path / "run", "--data", bare)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout == out.read_text(encoding="utf-8")
    assert "accuracy" not in outcome.output


def test_regression_from_an_npz_file(tmp_path):
    generator = np.random.default_rng(1)
    x = generator.uniform(-1, 1, (120, 2))
    y = 1000 + 50 * x @ [1.0, -2.0]
    np.savez(tmp_path / "data.npz", x=x[:100], y=y[:100], x_test=x[100:], y_test=y[100:])
    outcome = train(tmp_path / "run", "--data", tmp_path / "data.npz", steps=80)
    assert outcome.exit_code == 0, outcome.output
    rows, predictor = table_of(outcome), odeopt.load(tmp_path / "run")
    residual = np.asarray(predictor(x[100:])) - y[100:]
    assert float(rows["RMSE, test"]) == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-4)
    assert float(rows["R2, test"]) > 0.9
    np.savez(tmp_path / "new.npz", x=x[100:], y=y[100:])
    outcome = run("predict", tmp_path / "run", "--data", tmp_path / "new.npz")
    assert f"RMSE: {float(rows['RMSE, test']):.6g}" in outcome.output
    values = [float(line) for line in outcome.stdout.splitlines()[1:]]
    assert values == np.asarray(predictor(x[100:])).tolist()


def test_regression_with_several_targets(tmp_path):
    x = np.random.default_rng(2).uniform(-1, 1, (40, 2))
    np.savez(tmp_path / "data.npz", x=x, y=np.column_stack([x[:, 0] * 3, x[:, 1] - 5, np.ones(40)]))
    assert train(tmp_path / "run", "--data", tmp_path / "data.npz", steps=40).exit_code == 0
    outcome = run("predict", tmp_path / "run", "--data", tmp_path / "data.npz")
    assert outcome.stdout.splitlines()[0] == "prediction 0,prediction 1,prediction 2"
    assert odeopt.load(tmp_path / "run")(x).shape == (40, 3)


def test_table_names_the_option_that_has_ended_the_run(tmp_path):
    limited = train(tmp_path / "limited", "--time-limit", "0.001", steps=5000)
    assert limited.exit_code == 0
    assert table_of(limited)["stopped because"] == "The time limit of 0.001 s was reached (--time-limit)."
    reached = train(tmp_path / "reached", "--target-loss", "2.2", steps=5000)
    assert table_of(reached)["stopped because"] == "The loss is at most 2.2 (--target-loss)."
    assert float(table_of(reached)["loss"]) <= 2.2
    converged = train(tmp_path / "converged", "--gradient-norm", "0.05", steps=5000)
    assert table_of(converged)["stopped because"] == "The gradient norm is at most 0.05 (--gradient-norm)."
    assert float(read_csv(tmp_path / "converged" / "history.csv")[-1]["gradient_norm"]) <= 0.05


def test_gradient_norm_of_zero_is_no_criterion(tmp_path):
    still = "    def stationarity(self, t, state, oracle):\n        return jnp.zeros(())\n"
    (tmp_path / "mine.py").write_text(MY_FLOW + "\n" + still)
    flow = ("--flow", f"{tmp_path / 'mine.py'}:MyFlow")
    assert int(table_of(train(tmp_path / "stops", *flow, steps=5))["accepted"]) == 0
    rows = table_of(train(tmp_path / "goes on", *flow, "--gradient-norm", "0", steps=5))
    assert int(rows["accepted"]) + int(rows["rejected"]) == 5
    assert rows["stopped because"].startswith("All 5 trial steps are used up; the last gradient norm is 0. ")


def test_run_that_fails_says_so_and_leaves_its_folder(tmp_path):
    (tmp_path / "mine.py").write_text(MY_FLOW.replace("return oracle.value", "return jnp.inf * oracle.value"))
    outcome = train(tmp_path / "run", "--flow", f"{tmp_path / 'mine.py'}:MyFlow")
    assert outcome.exit_code == 1, outcome.output
    assert "not a finite number at the start. Try another --seed" in table_of(outcome)["stopped because"]
    assert table_of(outcome)["energy"] == "no accepted step to measure"
    assert read_csv(tmp_path / "run" / "history.csv") == []
    assert odeopt.load(tmp_path / "run")(np.zeros(64)).shape == (10,)


def test_energy_that_rises_is_reported(tmp_path):
    outcome = train(
        tmp_path / "run", "--flow", "HeavyBall(friction=0.0)", "--controller", "ConstantStep(3.0)", steps=30
    )
    energy = [float(row["energy"]) for row in read_csv(tmp_path / "run" / "history.csv")]
    assert np.max(np.diff(energy)) > 1e-3
    assert table_of(outcome)["energy"].startswith("rose at")


def test_quiet_prints_the_folder_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run("train", "--hidden", "6", "--max-steps", 2, "--quiet")
    folder = Path(outcome.output.strip())
    assert outcome.output.count("\n") == 1
    assert folder.parent == Path("runs")
    assert folder.name.endswith("-adam")
    assert sorted(os.listdir(folder)) == ["config.json", "history.csv", "model.eqx", "picture.png"]


def test_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert train(tmp_path / name, "--seed", seed, steps=5).exit_code == 0
    weights = {name: (tmp_path / name / "model.eqx").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"]
    assert weights["a"] != weights["c"]


def test_command_in_a_process_of_its_own_works_in_float64(tmp_path):
    odeopt_command = Path(sys.executable).with_name("odeopt")
    arguments = ["train", "--dtype", "float64", "--hidden", "5,4", "--max-steps", "20", "--out", "run"]
    done = subprocess.run([odeopt_command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "float64" in done.stdout
    energy = [row["energy"] for row in read_csv(tmp_path / "run" / "history.csv")]
    assert any(float(np.float32(text)) != float(text) for text in energy)
    data = digits()
    np.savez(tmp_path / "digits.npz", x=data.x_test, y=data.y_test)
    done = subprocess.run(
        [odeopt_command, "predict", "run", "--data", "digits.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = np.array([[float(cell) for cell in line.split(",")[1:]] for line in done.stdout.splitlines()[1:]])
    assert np.allclose(answers, odeopt.load(tmp_path / "run")(data.x_test), rtol=1e-12)
    assert "accuracy: " in done.stderr
