"""`odeopt train --batch`, `--checkpoint` and `--resume`, and `odeopt resume`."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

import odeopt
from odeopt.cli import app


def run(*arguments):
    """The outcome of a command in this process."""
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome


def train(folder, *arguments, steps=12):
    return run("train", "--hidden", "6", "--max-steps", steps, "--out", folder, "--quiet", *arguments)


def contents(folder: Path) -> tuple[bytes, str]:
    return (folder / "model.eqx").read_bytes(), (folder / "history.csv").read_text()


@pytest.mark.parametrize("method", [(), ("--batch", "100")], ids=["all examples", "mini-batches"])
def test_a_run_that_is_resumed_is_the_same_run(tmp_path, method):
    steps = 256 if method else 6
    assert train(tmp_path / "whole", *method, steps=2 * steps).exit_code == 0
    assert train(tmp_path / "parts", *method, "--checkpoint", "1000", steps=steps).exit_code == 0
    assert contents(tmp_path / "parts") != contents(tmp_path / "whole")
    outcome = run("resume", tmp_path / "parts", "--max-steps", 2 * steps, "--quiet")
    assert outcome.exit_code == 0, outcome.output
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    # The option begins where there is nothing yet, goes on where there is something, and is the same run again.
    assert train(tmp_path / "again", *method, "--resume", steps=steps).exit_code == 0
    assert train(tmp_path / "again", *method, "--resume", steps=2 * steps).exit_code == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_run_on_mini_batches_leaves_a_folder_that_loads(tmp_path):
    outcome = run("train", "--hidden", "6", "--batch", "50", "--max-steps", "300", "--out", tmp_path / "run")
    assert outcome.exit_code == 0, outcome.output
    assert "EnergyTournament" in outcome.output
    assert "2 kept, 0 rolled back" in outcome.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["solver"]["flow"].startswith("ScheduleFreeAdam(interpolation=0.9, ")
    assert config["solver"]["scheme"] == "ScheduleFreeStep()"
    with (tmp_path / "run" / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["steps"]) for row in rows] == [256, 300]
    assert float(rows[-1]["energy"]) == config["result"]["loss"]
    predictor = odeopt.load(tmp_path / "run")
    assert predictor(np.zeros((2, 64))).shape == (2, 10)
    assert imread(tmp_path / "run" / "picture.png").ndim == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch", "1401"), "--batch 1401: there are 1400 examples"),
        (("--batch", "10", "--controller", "LyapunovControl"), "--controller LyapunovControl is for all examples"),
        (("--batch", "10", "--chunk-size", "5"), "--chunk-size 5 is for all examples"),
        (("--batch", "10", "--flow", "QuasiNewton"), "which mini-batches do not give"),
        (("--checkpoint", "0"), "--checkpoint 0.0: expected seconds > 0"),
    ],
)
def test_options_that_do_not_go_together_leave_nothing_behind(tmp_path, arguments, words):
    outcome = train(tmp_path / "run", *arguments)
    assert outcome.exit_code == 2
    assert words in outcome.stderr.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_resume_says_what_it_needs(tmp_path):
    assert "say which run is meant" in run("train", "--resume").stderr.replace("\n", " ")
    outcome = run("resume", tmp_path / "none")
    assert outcome.exit_code == 2
    assert "holds no run that can be taken up" in outcome.stderr.replace("\n", " ")


def test_another_option_than_the_run_was_begun_with_is_refused(tmp_path):
    assert train(tmp_path / "run", "--resume", steps=3).exit_code == 0
    before = contents(tmp_path / "run")
    outcome = train(tmp_path / "run", "--resume", "--seed", "5", steps=6)
    assert outcome.exit_code == 2
    assert "--seed 5: the run in" in outcome.stderr.replace("\n", " ")
    assert contents(tmp_path / "run") == before


def test_damaged_options_of_a_run_are_named(tmp_path):
    assert train(tmp_path / "run", "--resume", steps=3).exit_code == 0
    (tmp_path / "run" / "options.json").write_text("{")
    outcome = run("resume", tmp_path / "run")
    assert outcome.exit_code == 2
    assert "options.json is damaged" in outcome.stderr.replace("\n", " ")


def test_a_run_of_two_processes_goes_on_in_one(tmp_path):
    """Sums are made in another order: the same decisions, and the same numbers up to rounding."""

    # In processes of their own: this one has switched double precision on, which is another run.
    def odeopt_train(*arguments):
        command = [sys.executable, "-m", "odeopt", *arguments, "--quiet"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr

    odeopt_train("train", "--hidden", "6", "--max-steps", "16", "--out", "one")
    saved = ("--checkpoint", "1000", "--processes", "2")
    odeopt_train("train", "--hidden", "6", "--max-steps", "8", "--out", "two", *saved)
    odeopt_train("resume", "two", "--max-steps", "16")
    one, two = (json.loads((tmp_path / name / "config.json").read_text())["result"] for name in ("one", "two"))
    # Values are more: over several processes nothing of the forward pass of a trial is kept.
    for name in ("accepted", "rejected", "gradients"):
        assert one["stats"][name] == two["stats"][name]
    # float32: 2^-23 for each of some hundred operations that follow one another in sixteen steps.
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-4)
