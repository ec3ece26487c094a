"""A run that is killed at any moment, and resumed, leads to what it would have led to."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint")
SCRIPT = Path(__file__).with_name("checkpointed_run.py")
UNDELAYED, SLOW = "0", "0.03"  # seconds after each block of ten trials
PATIENCE = 300.0


def child(folder, out, trials, delay):
    command = [sys.executable, str(SCRIPT), str(folder), str(out), str(trials), delay]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_one_piece(folder, out, trials):
    process = child(folder, out, trials, UNDELAYED)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return dict(np.load(out))


def began(process):
    """Waits for the first block of a process; how many trials the run had made before and in it."""
    line = process.stdout.readline()
    assert line.startswith("began"), line + process.communicate(timeout=PATIENCE)[1]
    return int(line.split()[1])


def killed(folder, out, trials, draw):
    """Lets a process work on the run and kills it somewhere; what it had reached, or `None` where it had not begun."""
    process = child(folder, out, trials, SLOW)
    reached = None
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 8))  # while it starts, reads or compiles
    else:
        reached = began(process)
        time.sleep(draw.uniform(0, 1.5))
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
    process.communicate()
    return reached


@pytest.mark.parametrize(
    ("kills", "trials"), [pytest.param(3, 1500, id="some"), pytest.param(50, 30_000, id="many", marks=pytest.mark.slow)]
)
def test_a_run_that_is_killed_at_any_moment_is_the_same_run_in_the_end(kills, trials, tmp_path):
    expected = in_one_piece("-", tmp_path / "whole.npz", trials)
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    draw, folder = random.Random(seed), tmp_path / "checkpoints"
    reached = [killed(folder, tmp_path / "never.npz", trials, draw) for _ in range(kills)]
    print(f"seed {seed}: the processes began at {reached}")
    assert not (tmp_path / "never.npz").exists()
    assert max(step or 0 for step in reached) > 1, "no process has resumed anything"
    found = in_one_piece(folder, tmp_path / "resumed.npz", trials)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=f"seed {seed}")


def test_a_process_that_is_asked_to_end_saves_the_run_and_says_so(tmp_path):
    folder, process = tmp_path / "checkpoints", child(tmp_path / "checkpoints", tmp_path / "part.npz", 1500, SLOW)
    began(process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "interrupted" in printed) == (0, True), errors
    accepted, rejected, *_ = list(np.load(tmp_path / "part.npz").values())[-1]
    # Of the very trial at which it was interrupted.
    assert (folder / f"{accepted + rejected:010d}").is_dir()
    expected = in_one_piece("-", tmp_path / "whole.npz", 1500)
    found = in_one_piece(folder, tmp_path / "resumed.npz", 1500)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
