"""`odeopt` where something cannot work: exit code 2, one clear message, and nothing written."""

import os

import numpy as np
import pytest
from test_cli import MY_FLOW, run

BROKEN = {
    "syntax.py": ("class MyFlow(", "SyntaxError"),
    "raises.py": ("import odeopt\n\n1 / 0\n", "ZeroDivisionError: division by zero (raises.py, line 3"),
    "empty.py": ("import odeopt\n", "MyFlow does not exist"),
    "other.py": ("class MyFlow:\n    pass\n", "no subclass of odeopt.AbstractFlow"),
    "abstract.py": ("import odeopt\n\nclass MyFlow(odeopt.AbstractFlow):\n    pass\n", "abstract"),
    "misspelt.py": (MY_FLOW.replace("state.memory, oracle.gradient)", "state.memory, oracle.slope)"), "slope"),
    "shapes.py": (MY_FLOW.replace("odeopt.State(state.memory, force)", "odeopt.State(state.memory, 1.0)"), "memory"),
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
        ("--flow", "adamant", "available are Adam, GradientFlow, HeavyBall"),
        ("--scheme", "adamant", "available are Bosh3, "),
        ("--controller", "adamant", "available are ConstantStep, LyapunovControl"),
        ("--flow", "Heun", "no flow of odeopt"),
        ("--flow", "AbstractFlow", "no flow of odeopt"),
        ("--flow", "HeavyBall(friction=", "expected a name such as Adam"),
        ("--flow", "HeavyBall(friction=-1)", "friction must be >= 0"),
        ("--flow", "HeavyBall(fraction=1)", "The arguments of HeavyBall are: friction"),
        ("--flow", "HeavyBall(1, 2)", "too many positional arguments"),
        ("--flow", "HeavyBall(friction=1/2)", "arguments cannot be read"),
        ("--flow", "HeavyBall(**{'friction': 1})", "arguments cannot be read"),
        ("--flow", "HeavyBall(1)(2)", "arguments cannot be read"),
        ("--flow", "", "cannot be read"),
        ("--flow", "HeavyBall(friction='high')", "HeavyBall"),
        ("--controller", "ConstantStep", "missing a required argument: 'step_size'"),
        ("--controller", "ConstantStep(-1)", "expected a finite step size > 0"),
        ("--controller", "ConstantStep('long')", "ConstantStep"),
        ("--controller", "LyapunovControl(rate='quadrature')", "needs a scheme with stages"),
        ("--flow", "absent.py:MyFlow", "absent.py does not exist"),
        ("--hidden", "32,wide", "widths of the hidden layers"),
        ("--hidden", "", "widths of the hidden layers"),
        ("--hidden", "32,0", "widths of the hidden layers"),
        ("--dtype", "float16", "float16"),
        ("--task", "guess", "guess"),
        ("--task", "regression", "handwritten digits are classes"),
        ("--seed", "-1", "greater than or equal to 0"),
        ("--max-steps", "0", "greater than or equal to 1"),
        ("--gradient-norm", "-1", "finite number >= 0"),
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


def test_class_that_a_file_lacks_is_answered_with_those_it_has(tmp_path):
    (tmp_path / "mine.py").write_text(MY_FLOW)
    assert "The file defines the flows: MyFlow" in refused_training(tmp_path, "--flow", f"{tmp_path / 'mine.py'}:Mine")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("data.csv", "", "is empty"),
        ("data.csv", "a,b\n", "no examples"),
        ("data.csv", "a,b\n1,2\n3,\n", "line 3, column 'b': the value is missing"),
        ("data.csv", "a,größe,b\n1,x,2\n", "column 'größe': 'x' is not a number"),
        ("data.csv", "a,b\n1,2\n3,4\n", "expected at least 5"),
        ("data.npz", "no archive", "cannot be read as an .npz file"),
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
