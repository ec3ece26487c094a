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
UNDELAYED, SLOW = 0.0, 0.03  # seconds after each block of ten trials


class Processes:
    """Starts the processes of `checkpointed_run.py`."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Compiled fast, because each process does so anew.
            env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        )
        self._pieces = {}

    def start(self, folder, out, trials, delay):
        self._server.stdin.write(f"{folder} {out} {trials} {delay}\n")
        self._server.stdin.flush()
        return self.next("pid")

    def next(self, word):
        """The number behind the next line with a word; lines with others before it are passed over."""
        while True:
            said, number = self._server.stdout.readline().split()
            if said == word:
                return int(number)
            assert said != "over", f"the process ended with {number}"

    def result(self, folder, out, trials):
        """What the run leads to when nothing comes in between."""
        self.start(folder, out, trials, UNDELAYED)
        assert self.next("over") == 0
        return dict(np.load(out))

    def close(self):
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()


@pytest.fixture(scope="module")
def processes():
    processes = Processes()
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def whole(processes, tmp_path_factory):
    """What a run in one piece leads to by its number of trials, computed once."""
    folder, found = tmp_path_factory.mktemp("whole"), {}

    def of(trials):
        if trials not in found:
            found[trials] = processes.result("-", folder / f"{trials}.npz", trials)
        return found[trials]

    return of


def killed(processes, folder, trials, draw):
    """Lets a process work on the run and kills it somewhere; where it had begun, or `None` where it had not."""
    process = processes.start(folder, folder.with_name("never.npz"), trials, SLOW)
    began = None
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 2))  # while it reads or compiles
    else:
        began = processes.next("began")
        time.sleep(draw.uniform(0, 1.5))
    os.kill(process, signal.SIGKILL)
    assert processes.next("over") == -signal.SIGKILL
    return began


@pytest.mark.parametrize(
    ("kills", "trials"), [pytest.param(4, 1500, id="some"), pytest.param(50, 30_000, id="many", marks=pytest.mark.slow)]
)
def test_a_run_that_is_killed_at_any_moment_is_the_same_run_in_the_end(kills, trials, processes, whole, tmp_path):
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    draw, folder = random.Random(seed), tmp_path / "checkpoints"
    began = [killed(processes, folder, trials, draw) for _ in range(kills)]
    print(f"seed {seed}: {kills} processes were killed, which began at {began}")
    assert not (tmp_path / "never.npz").exists()
    found, expected = processes.result(folder, tmp_path / "resumed.npz", trials), whole(trials)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=f"seed {seed}")


def test_a_process_that_is_asked_to_end_saves_the_run_first(processes, whole, tmp_path):
    folder, part = tmp_path / "checkpoints", tmp_path / "part.npz"
    process = processes.start(folder, part, 1500, SLOW)
    processes.next("began")
    time.sleep(0.3)
    os.kill(process, signal.SIGTERM)
    assert processes.next("over") == 0
    accepted, rejected, *_ = list(np.load(part).values())[-1]
    # Of the very trial at which it was interrupted.
    assert accepted + rejected < 1500
    assert (folder / f"{accepted + rejected:010d}").is_dir()
    found = processes.result(folder, tmp_path / "resumed.npz", 1500)
    for name, array in whole(1500).items():
        np.testing.assert_array_equal(found[name], array)
