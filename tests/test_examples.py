"""The examples run as a user runs them, and print what their texts promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def printed_by(name, folder) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    command = [sys.executable, EXAMPLES / name]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_digits_are_learnt_by_every_flow(tmp_path):
    accuracies = re.findall(r"(\w+): test accuracy (\d\.\d+)\. (.*)", printed_by("train_digits.py", tmp_path))
    assert [name for name, _, _ in accuracies] == ["Adam", "HeavyBall", "GradientFlow"]
    for _, accuracy, reason in accuracies:
        assert float(accuracy) > 0.93
        assert reason.startswith("The stopping tolerance has been met.")


def test_declared_flow_minimises_and_trains_with_an_energy_that_falls(tmp_path):
    text = printed_by("declare_a_flow.py", tmp_path)
    assert text.count("the energy fell at every step") == 2
    found = re.search(r"minimum found at \[(\S+)\s+(\S+)\]", text)
    assert [float(value) for value in found.groups()] == pytest.approx([1, 1], abs=1e-5)
    assert "The target loss has been reached." in text
