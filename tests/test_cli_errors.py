"""`odeopt` where something cannot work: exit code 2, one clear message, and nothing written; wrong flows; Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import MY_FLOW, read_csv, run, table_of, train

import odeopt
import odeopt.plot
from odeopt._cli.energy import energy_verdict

BROKEN = {
    "syntax.py": ("class MyFlow(", "SyntaxError"),
    "raises.py": ("import odeopt\n\n1 / 0\n", "ZeroDivisionError: division by zero (raises.py, line 3"),
    "empty.py": ("import odeopt\n", "MyFlow does not exist"),
    "other.py": ("class MyFlow:\n    pass\n", "no subclass of odeopt.AbstractFlow"),
    "abstract.py": ("import odeopt\n\nclass MyFlow(odeopt.AbstractFlow):\n    pass\n", "abstract"),
    "misspelt.py": (MY_FLOW.replace("state.memory, oracle.gradient)", "state.memory, oracle.slope)"), "slope"),
    "shapes.py": (MY_FLOW.replace("odeopt.State(state.memory, force)", "odeopt.State(state.memory, 1.0)"), "memory"),
    "unknown.py": (
        MY_FLOW.replace("    def init", "    def __init__(self):\n        self.mass = 1.0\n\n    def init"),
        "Declare what __init__ sets as a field",
    ),
    "vector.py": (MY_FLOW.replace("return oracle.value", "return jnp.ones(2) * oracle.value"), "scalar"),
}


def refused(folder, *arguments) -> str:
    """The message of a command that must fail with exit code 2 and leave the folder as it was."""
    before = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    }
    outcome = run(*arguments)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in str(path)}
    assert outcome.exit_code == 2, outcome.output
    assert after == before
    assert not [path for path in folder.rglob("*") if path.name.endswith(".unfinished")]
    assert "Traceback" not in outcome.output
    return " ".join(outcome.stderr.split())


def refused_training(folder, *arguments) -> str:
    message = refused(folder, "train", "--max-steps", "3", "--out", folder / "run", *arguments)
    assert not (folder / "run").exists()
    return message


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("--flow", "adamant", "no flow of odeopt. Did you mean Adam? Available are AEGD, AMSGrad, AdaGrad, "),
        ("--scheme", "adamant", "Available are AEGDStep, AveragedField, Bosh3, "),
        ("--controller", "adamant", "Available are AdaptiveControl, AverageControl, BalanceControl, "),
        ("--flow", "Heun", "no flow of odeopt"),
        ("--flow", "AbstractFlow", "no flow of odeopt"),
        ("--flow", "HeavyBall(friction=", "expected a name such as HeavyBall"),
        ("--flow", "HeavyBall(friction=-1)", "friction must be >= 0"),
        ("--flow", "HeavyBall(friction=1, fraction=1)", "The arguments of HeavyBall are: friction."),
        ("--flow", "HeavyBall(1, 2)", "too many positional arguments"),
        ("--flow", "HeavyBall(friction=1/2)", "arguments cannot be read"),
        ("--flow", "HeavyBall(**{'friction': 1})", "arguments cannot be read"),
        ("--flow", "HeavyBall(1)(2)", "arguments cannot be read"),
        ("--flow", "L2Regularised(minimise(), 1)", "arguments cannot be read"),
        ("--flow", "L2Regularised(HeavyBall(-1), 1)", "friction must be >= 0"),
        ("--flow", "", "cannot be read"),
        ("--flow", "HeavyBall(friction='high')", "HeavyBall"),
        ("--controller", "ConstantStep", "missing a required argument: 'step_size'"),
        ("--controller", "ConstantStep(-1)", "expected a finite step size > 0"),
        ("--controller", "ConstantStep('long')", "ConstantStep"),
        ("--controller", "LyapunovControl(rate='quadrature')", "needs the rate at the stages"),
        ("--flow", "absent.py:MyFlow", "absent.py does not exist"),
        ("--hidden", "32,wide", "widths of the hidden layers"),
        ("--hidden", "", "widths of the hidden layers"),
        ("--hidden", "32,0", "widths of the hidden layers"),
        ("--dtype", "float16", "float16"),
        ("--task", "guess", "guess"),
        ("--task", "regression", "handwritten digits are classes"),
        ("--seed", "-1", "greater than or equal to 0"),
        ("--max-steps", "0", "greater than or equal to 1"),
        ("--gradient-norm", "-1", "--gradient-norm -1.0: expected a finite number >= 0"),
        ("--data", ".", "lacks train-images-idx3-ubyte (or train-images-idx3-ubyte.gz)"),
        ("--target-loss", "nan", "expected a number"),
        ("--time-limit", "0", "expected seconds > 0"),
        ("--time-limit", "nan", "expected seconds > 0"),
    ],
)
def test_option_that_cannot_be_used_is_refused(tmp_path, option, text, expected):
    assert expected in refused_training(tmp_path, option, text)


def test_arguments_are_never_executed(tmp_path):
    harm = tmp_path / "harm"
    refused_training(tmp_path, "--flow", f"HeavyBall(open({str(harm)!r}, 'w'))")
    assert not harm.exists()


@pytest.mark.parametrize("name", BROKEN)
def test_flow_of_ones_own_that_cannot_be_run_is_explained(tmp_path, name):
    text, expected = BROKEN[name]
    (tmp_path / name).write_text(text)
    assert expected in refused_training(tmp_path, "--flow", f"{tmp_path / name}:MyFlow")


def test_error_in_a_flow_of_ones_own_names_the_line(tmp_path):
    text = MY_FLOW.replace("oracle.value + 0.5", "oracle.value + nothing * 0.5")
    line = next(number for number, line in enumerate(text.splitlines(), start=1) if "nothing" in line)
    (tmp_path / "mine.py").write_text(text)
    message = refused_training(tmp_path, "--flow", f"{tmp_path / 'mine.py'}:MyFlow")
    assert f"(mine.py, line {line}, in energy)" in message
    assert "NameError" in message


def test_argument_that_lacks_its_type_in_the_class_is_explained(tmp_path):
    (tmp_path / "mine.py").write_text(MY_FLOW.replace("    def init", "    mass = 1.0\n\n    def init"))
    message = refused_training(tmp_path, "--flow", f"{tmp_path / 'mine.py'}:MyFlow(mass=2)")
    assert "`mass: float = 1.0`" in message
    message = refused_training(tmp_path, "--flow", "HeavyBall(friction=1, fraction=1)")
    assert message.endswith("The arguments of HeavyBall are: friction.")


def test_file_without_the_name_of_a_class_is_answered_with_those_it_has(tmp_path):
    (tmp_path / "mine.py").write_text(MY_FLOW)
    message = refused_training(tmp_path, "--flow", tmp_path / "mine.py")
    assert "expected FILE.py:CLASS; the file defines the flows: MyFlow" in message


def test_file_of_ones_own_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text(MY_FLOW)
    (tmp_path / "mine.py").write_text("from neighbour_of_mine import MyFlow\n\n\nclass Mine(MyFlow):\n    pass\n")
    outcome = train(tmp_path / "run", "--flow", f"{tmp_path / 'mine.py'}:Mine", steps=2)
    assert outcome.exit_code == 0, outcome.output


def test_class_that_a_file_lacks_is_answered_with_those_it_has(tmp_path):
    (tmp_path / "mine.py").write_text(MY_FLOW)
    assert "The file defines the flows: MyFlow" in refused_training(tmp_path, "--flow", f"{tmp_path / 'mine.py'}:Mine")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("data.csv", "", "is empty"),
        ("data.csv", "a,b\n", "no examples"),
        ("data.csv", "1,2,x\n3,4,y\n5,6,x\n", "the first line holds numbers"),
        ("data.csv", "a,b\n1,2\n3,\n", "line 3, column 'b': the value is missing"),
        ("data.csv", "a,größe,b\n1,x,2\n", "column 'größe': 'x' is not a number"),
        ("data.csv", "a,b\n1,2\n3,4\n", "expected at least 5"),
        ("data.npz", "no archive", "is no .npz archive"),
        ("data.xlsx", "a,b\n", "expected .npz"),
        ("data", "a,b\n", "(no extension)"),
    ],
)
def test_data_that_cannot_be_used_are_refused(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert expected in refused_training(tmp_path, "--data", tmp_path / name)


def test_missing_data_wrong_shapes_and_nan_are_refused(tmp_path):
    assert "does not exist" in refused_training(tmp_path, "--data", tmp_path / "absent.csv")
    np.savez(tmp_path / "shapes.npz", x=np.ones((5, 2)), y=np.ones(4))
    assert "y has shape (4,) with 5 examples" in refused_training(tmp_path, "--data", tmp_path / "shapes.npz")
    np.savez(tmp_path / "gaps.npz", x=np.full((5, 2), np.nan), y=np.ones(5))
    assert "10 missing or infinite values" in refused_training(tmp_path, "--data", tmp_path / "gaps.npz")
    np.savez(tmp_path / "text.npz", x=np.ones((6, 2)), y=np.array(list("ababab")))
    message = refused_training(tmp_path, "--data", tmp_path / "text.npz", "--task", "regression")
    assert "regression expects numbers" in message
    np.savez(tmp_path / "objects.npz", x=np.ones((6, 2)), y=np.array([None] * 6))
    message = refused_training(tmp_path, "--data", tmp_path / "objects.npz")
    assert "an array holds Python objects" in message
    assert "allow_pickle" not in message


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_run_folder_that_exists_is_not_touched(tmp_path, kind):
    target = tmp_path / "old"
    if kind == "folder":
        target.mkdir()
        (target / "precious.txt").write_text("precious")
    else:
        target.write_text("precious")
    assert "exists already" in refused(tmp_path, "train", "--max-steps", "3", "--out", target)


def test_run_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert "cannot be created" in refused(tmp_path, "train", "--max-steps", "3", "--out", tmp_path / "file" / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data.csv").write_text("a,b,c\n" + "".join(f"{i},{i % 3},{i % 2}\n" for i in range(20)))
    outcome = run("train", "--data", folder / "data.csv", "--hidden", "3", "--max-steps", "2", "--out", folder / "run")
    assert outcome.exit_code == 0, outcome.output
    return folder / "run"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty"),
        ("a,x,c\n1,2,0\n", "lacks the column 'b'"),
        ("a,b\n1,\n", "the value is missing"),
        ("a,b,c\n1,2,zero\n", "the classes of the model are 0, 1"),
    ],
)
def test_file_to_predict_that_cannot_be_used_is_refused(tmp_path, trained, content, expected):
    (tmp_path / "new.csv").write_text(content)
    out = ("--out", tmp_path / "answers.csv")
    assert expected in refused(tmp_path, "predict", trained, "--data", tmp_path / "new.csv", *out)


def test_predictions_never_overwrite_a_file(tmp_path, trained):
    (tmp_path / "new.csv").write_text("a,b\n1,2\n")
    (tmp_path / "answers.csv").write_text("precious")
    out = ("--out", tmp_path / "answers.csv")
    assert "exists already" in refused(tmp_path, "predict", trained, "--data", tmp_path / "new.csv", *out)
    out = ("--out", tmp_path / "absent" / "answers.csv")
    assert "cannot be written" in refused(tmp_path, "predict", trained, "--data", tmp_path / "new.csv", *out)


def test_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "new.csv").write_text("a,b\n1,2\n")
    assert "is no folder" in refused(tmp_path, "predict", tmp_path / "absent", "--data", tmp_path / "new.csv")
    os.mkdir(tmp_path / "bare")
    assert "config.json is missing" in refused(tmp_path, "predict", tmp_path / "bare", "--data", tmp_path / "new.csv")


@pytest.mark.parametrize("wrong", ["self.friction * v - g", "-self.friction * v + g"])
def test_energy_that_rises_along_the_flow_is_said_to_be_wrong(tmp_path, wrong):
    (tmp_path / "mine.py").write_text(MY_FLOW.replace("-self.friction * v - g", wrong))
    outcome = train(tmp_path / "run", "--flow", f"{tmp_path / 'mine.py'}:MyFlow", steps=3000)
    assert outcome.exit_code == 1
    rows, history = table_of(outcome), read_csv(tmp_path / "run" / "history.csv")
    assert rows["stopped because"] == str(odeopt.RESULTS.energy_rises)
    counted = re.match(r"dV/dt > 0 at (\d+) of (\d+) points: the declared energy is not one of this", rows["energy"])
    assert counted, rows["energy"]
    assert int(counted[2]) == len(history) + 1
    positive = sum(float(row["dissipation"]) > 0 for row in history)
    assert 0.9 * positive <= int(counted[1]) <= positive


def test_quiet_run_that_fails_still_says_why(tmp_path):
    (tmp_path / "mine.py").write_text(MY_FLOW.replace("-self.friction * v - g", "self.friction * v - g"))
    out = tmp_path / "run"
    outcome = run("train", "--hidden", 4, "--flow", f"{tmp_path / 'mine.py'}:MyFlow", "--quiet", "--out", out)
    assert (outcome.exit_code, outcome.stdout) == (1, f"{out}\n")
    assert outcome.stderr == f"odeopt: {odeopt.RESULTS.energy_rises}\n"


@pytest.mark.parametrize(
    ("energy", "verdict"),
    [
        ([], "no accepted step"),
        ([2.5, 2.0], "never rose: the smallest fall between accepted steps is 0.5"),
        ([2.5, 2.5], "never rose: the smallest fall between accepted steps is 0"),
        ([2.5, 2.0, np.nextafter(np.float32(2.0), np.float32(3))], "never rose beyond rounding"),
        ([2.5, 2.0, 2.001], "rose at 1 of 3 steps, most by 0.001"),
        ([4.0], "rose at 1 of 1 steps, most by 1"),
    ],
)
def test_rise_of_the_energy_is_measured_against_rounding(energy, verdict):
    assert energy_verdict(history_of(energy, -np.ones(len(energy)), start=-1.0)).startswith(verdict)


@pytest.mark.parametrize(
    ("dissipation", "verdict"),
    [
        ([-1.0, -2.0], "never rose"),
        ([-1.0, 1e-5], "never rose"),
        ([-1.0, 0.1], "dV/dt > 0 at 1 of 3 points: the declared energy is not one of this flow"),
        ([0.2, 0.1], "dV/dt > 0 at 2 of 3 points"),
        ([np.nan, -1.0], "never rose"),
    ],
)
def test_rate_of_the_energy_is_measured_against_the_rate_of_the_loss(dissipation, verdict):
    assert energy_verdict(history_of([2.5, 2.0], dissipation, start=0.0)).startswith(verdict)


def history_of(energy, dissipation, start):
    """A run from energy and loss 3 with steps of length 1."""
    energy, dissipation = np.array(energy, np.float32), np.array(dissipation, np.float32)
    ones = np.ones(len(energy), np.float32)
    values = {"t": 0.0, "energy": 3.0, "loss": 3.0, "dissipation": start, "gradient_norm": 1.0}
    first = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return odeopt.History(np.cumsum(ones), ones, energy, energy, dissipation, ones, 0 * ones, start=first)


def test_picture_of_a_rising_energy_does_not_speak_of_dissipation_kept():
    title = odeopt.plot.run(history_of([2.5, 2.0, 1.9], [-0.1, 0.2, -0.3], start=-0.4)).axes[1].get_title()
    assert title == "Energy: dV/dt > 0 along the run"


EARLY = "odeopt: interrupted before the first step; nothing has been written.\n"
PRESS = "os.kill(os.getpid(), signal.SIGINT)"


def pressing(file: Path, place: str) -> str:
    """The name of a flow in a file that presses Ctrl-C while it is imported, or while it is compiled."""
    indent = "        " if place == "compiling" else ""
    marker = "        force =" if place == "compiling" else "class MyFlow"
    file.write_text("import os, signal\n" + MY_FLOW.replace(marker, f"{indent}{PRESS}\n{marker}"))
    return f"{file}:MyFlow"


@pytest.mark.parametrize("place", ["importing", "compiling"])
def test_ctrl_c_before_the_first_step_leaves_one_line_and_nothing_else(tmp_path, place):
    flow = pressing(tmp_path / "mine.py", place)
    command = [Path(sys.executable).with_name("odeopt"), "train", "--hidden", "4", "--out", "new/run", "--flow", flow]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, EARLY)
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


def once(action):
    """An action that answers the first call only."""
    calls = iter([action])
    return lambda *_: next(calls, lambda: None)()


def press():
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_the_best_model_so_far(tmp_path, monkeypatch):
    original, pressed = odeopt.train, once(press)

    def interrupted(*arguments, callbacks, **options):
        return original(*arguments, callbacks=[*callbacks, pressed], **options)

    monkeypatch.setattr(odeopt, "train", interrupted)
    outcome = train(tmp_path / "run", steps=5000)
    assert outcome.exit_code == 130
    assert table_of(outcome)["stopped because"] == "Ctrl-C. The best model so far is kept."
    assert sorted(os.listdir(tmp_path)) == ["run"]
    assert odeopt.load(tmp_path / "run")(np.zeros(64)).shape == (10,)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("place", ["odeopt._experiment.scores", "odeopt._cli.run.record", "odeopt.plot.run"])
def test_ctrl_c_after_the_last_step_does_not_lose_the_run(tmp_path, monkeypatch, place):
    module, name = place.rsplit(".", 1)
    original, pressed = getattr(sys.modules[module], name), once(press)

    def interrupted(*arguments, **options):
        pressed()
        return original(*arguments, **options)

    monkeypatch.setattr(place, interrupted)
    outcome = train(tmp_path / "run")
    assert outcome.exit_code == 130
    assert table_of(outcome)["stopped because"].startswith("All 12 trial steps are used up")
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "history.csv", "model.eqx", "picture.png"]


def test_second_ctrl_c_ends_the_program_at_once(tmp_path):
    code = (
        "import os, signal, sys, odeopt.cli as cli, odeopt._cli.run as run\n"
        f"run.record = lambda *_: [{PRESS}, {PRESS}]\n"
        "sys.argv = 'odeopt train --hidden 4 --max-steps 3 --out run'.split()\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    assert not (tmp_path / "run").exists()


def test_training_leaves_the_answer_of_a_program_to_ctrl_c_alone():
    seen, pressed = [], once(press)
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        _, solution = odeopt.train(
            jnp.ones(2),
            lambda y, batch: jnp.sum(y**2) + 0 * jnp.sum(batch),
            jnp.ones(3),
            odeopt.Solver(odeopt.HeavyBall()),
            max_steps=5,
            callbacks=[pressed],
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]
    assert solution.result == odeopt.RESULTS.max_steps_reached
