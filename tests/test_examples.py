"""The examples run as a user runs them, and print what their texts promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def printed_by(file, folder) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    command = [sys.executable, file]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
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


def test_the_optimizer_of_the_readme_is_declared_and_runs_as_it_stands_there(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    file = tmp_path / "example.py"
    file.write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], encoding="utf-8")
    assert "The stopping tolerance has been met." in printed_by(file, tmp_path)
