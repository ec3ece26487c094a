"""The examples run as a user runs them, and print what their texts promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from idx_files import write_folder

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def printed_by(file, folder, *arguments) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    command = [sys.executable, file, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_digits_are_learnt_by_every_flow(tmp_path):
    accuracies = re.findall(
        r"(\w+): test accuracy (\d\.\d+)\. (.*)", printed_by(EXAMPLES / "train_digits.py", tmp_path)
    )
    assert [name for name, _, _ in accuracies] == ["Adam", "HeavyBall", "GradientFlow"]
    for _, accuracy, reason in accuracies:
        assert float(accuracy) > 0.93
        assert reason.startswith("The stopping tolerance has been met.")


def test_declared_flow_minimises_and_trains_with_an_energy_that_falls(tmp_path):
    text = printed_by(EXAMPLES / "declare_a_flow.py", tmp_path)
    assert text.count("the energy fell at every step") == 2
    found = re.search(r"minimum found at \[(\S+)\s+(\S+)\]", text)
    assert [float(value) for value in found.groups()] == pytest.approx([1, 1], abs=1e-5)
    assert "The target loss has been reached." in text


# Errors that the examples promise; the network of Poisson's equation is the quick one.
PINNS = [
    ("poisson", 1e-7),
    pytest.param("heat", 1e-7, marks=pytest.mark.slow),
    pytest.param("burgers", 1e-5, marks=pytest.mark.slow),
    pytest.param("allen_cahn", 1e-5, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "error"), PINNS)
def test_differential_equations_are_solved_to_what_is_promised(name, error, tmp_path):
    text = printed_by(EXAMPLES / "pinns.py", tmp_path, name)
    assert float(re.search(rf"{name}: relative L2 error (\S+) with", text).group(1)) <= error
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_a_differential_equation_that_is_none_of_the_examples_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="unknown: wave; there are poisson"):
        printed_by(EXAMPLES / "pinns.py", tmp_path, "wave")


def test_regressions_find_the_certified_digits(tmp_path):
    digits = re.findall(r"start \d: (\S+) certified digits", printed_by(EXAMPLES / "nist_regression.py", tmp_path))
    assert len(digits) == 4
    assert min(map(float, digits)) > 6
    assert (tmp_path / "nist.png").exists()


def test_an_equation_of_state_is_fitted_between_its_points_too(tmp_path):
    text = printed_by(EXAMPLES / "equation_of_state.py", tmp_path)
    errors = re.findall(r"root mean square (\S+), largest (\S+)", text)
    assert len(errors) == 2
    assert all(float(mean) < 1e-5 and float(largest) < 1e-3 for mean, largest in errors)
    assert (tmp_path / "equation_of_state.png").exists()


def test_images_that_are_missing_are_asked_for(tmp_path):
    with pytest.raises(AssertionError, match=r"absent is no folder; expected one with the idx files"):
        printed_by(EXAMPLES / "fashion_mnist.py", tmp_path, "--quick", "--data", tmp_path / "absent")


@pytest.mark.slow
def test_lenet_is_trained_by_a_flow_and_by_its_peers(tmp_path):
    data = write_folder(tmp_path / "data", 300, 30)
    text = printed_by(EXAMPLES / "fashion_mnist.py", tmp_path, "--quick", "--data", data)
    losses = {name: float(loss) for name, loss in re.findall(r"\| ([\w (-]+\)?) \| (0\.\d+) \|", text)}
    assert set(losses) == {"Adam flow", "adam 1e-02", "L-BFGS (SciPy)"}
    # Ten outputs, all equally probable, are at 0.09: one second may be gone before the first step.
    assert max(losses.values()) < 0.1
    assert (tmp_path / "fashion_mnist.png").stat().st_size > 10_000


@pytest.mark.slow
def test_runges_function_is_fitted_far_better_with_curvature(tmp_path):
    found = dict(re.findall(r"(\w+): mean square (\S+) after", printed_by(EXAMPLES / "runge.py", tmp_path)))
    assert float(found["LevenbergMarquardt"]) <= 1e-14
    assert 1e3 * float(found["QuasiNewton"]) < float(found["Adam"])
    assert (tmp_path / "runge.png").exists()


def test_the_page_on_fits_runs_as_it_stands_there(tmp_path):
    text = (ROOT / "docs" / "curvature.md").read_text(encoding="utf-8")
    file = tmp_path / "page.py"
    file.write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), encoding="utf-8")
    printed = printed_by(file, tmp_path)
    assert "The target loss has been reached." in printed
    assert abs(float(re.search(r"error at 1/2: (\S+)", printed).group(1))) < 1e-4
    assert "The stopping tolerance has been met." in printed
    assert all(int(count) > 0 for count in re.search(r"steps of each: \[(\d+), (\d+)\]", printed).groups())


def test_the_optimizer_of_the_readme_is_declared_and_runs_as_it_stands_there(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    file = tmp_path / "example.py"
    file.write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], encoding="utf-8")
    assert "The stopping tolerance has been met." in printed_by(file, tmp_path)
