"""Two processes on this machine against one; what happens when one of them dies or stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from process_runs import COUNT, HEARTBEAT_SECONDS, network, run, summary

from odeopt._agreement import NAMES, STUCK, _check_equal

SCRIPT = Path(__file__).parent / "process_runs.py"
# Beside the heartbeat: what a loaded machine takes to print and to end.
SLACK = 30


def started(what, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    files = [folder / f"{what}{number}" for number in (0, 1)]
    members = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(number), address, what], stdout=file.open("w"), stderr=subprocess.STDOUT
        )
        for number, file in enumerate(files)
    ]
    return members, files


def wait_until(happened, members, files, seconds=300):
    deadline = time.monotonic() + seconds
    while not happened():
        ended = [member.poll() for member in members]
        assert ended == [None, None], [file.read_text() for file in files]
        assert time.monotonic() < deadline, [file.read_text() for file in files]
        time.sleep(0.1)


def end_of_the_other(members, files, number, how):
    """Exit code and words of the other process, and after how many seconds it ended, when one is killed or stopped."""
    wait_until(lambda: all("READY" in file.read_text() for file in files), members, files)
    began = time.monotonic()
    members[number].send_signal(how)
    code = members[1 - number].wait(timeout=HEARTBEAT_SECONDS + SLACK)
    return code, files[1 - number].read_text(), time.monotonic() - began


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes found, and how process 0 ended when process 1 was killed."""
    members, files = started("compare", tmp_path_factory.mktemp("processes"))
    try:
        ending = end_of_the_other(members, files, 1, signal.SIGKILL)
    finally:
        for member in members:
            member.kill()
            member.wait()
    told = [next(json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")) for file in files]
    return told, ending


@pytest.fixture(scope="module")
def alone():
    # As the two processes, which have not switched double precision on.
    with jax.enable_x64(False):
        return summary(*run(network(), slice(0, COUNT), None, max_steps=40))


def test_two_processes_decide_and_move_as_one_does(found, alone):
    first = found[0][0]["run"]
    assert alone["decisions"][1] > 3
    assert first["decisions"] == alone["decisions"]
    # The sums differ by their order: some units of rounding of the gradient at each of 40 steps.
    np.testing.assert_allclose(first["loss"], alone["loss"], rtol=1e-4)
    np.testing.assert_allclose(first["prediction"], alone["prediction"], rtol=1e-3)


def test_both_processes_find_the_same_to_the_last_bit(found):
    first, second = found[0]
    assert first["run"] == second["run"]


def test_metrics_are_evaluated_in_every_process(found):
    run = found[0][1]["run"]
    np.testing.assert_allclose(run["metric"][-1], min(run["loss"]), rtol=1e-5)


def test_a_callback_of_one_process_ends_the_run_of_all(found):
    first, second = (told["ended"] for told in found[0])
    assert "interrupted" in first["result"].lower()
    assert first == second


def test_other_parameters_in_one_process_are_refused_in_both(found):
    for told in found[0]:
        assert "process 1 begins with other parameters than process 0" in told["refused"]


def test_when_a_process_is_killed_the_other_ends_and_names_it(found):
    code, words, seconds = found[1]
    assert code != 0
    assert seconds < HEARTBEAT_SECONDS + SLACK
    assert "process 0 of 2: a reduction over all processes failed" in words
    assert "The following tasks are unhealthy (stopped sending heartbeats):\n1" in words


def test_when_a_process_is_stopped_the_other_ends_and_names_it(tmp_path):
    members, files = started("train", tmp_path)
    try:
        code, words, _ = end_of_the_other(members, files, 1, signal.SIGSTOP)
    finally:
        for member in members:
            member.kill()
            member.wait()
    assert code != 0
    assert "The following tasks are unhealthy (stopped sending heartbeats):\n1" in words


def test_a_wait_without_end_ends_with_a_code_of_its_own():
    code = (
        "import time; from odeopt._agreement import Watchdog\n"
        "with Watchdog() as watchdog:\n"
        "    watchdog.begin(30.0, 'nothing'); watchdog.begin(0.3, 'a block of steps'); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == STUCK
    assert "has waited 0.3 s for a block of steps" in done.stderr


def test_scalars_that_differ_are_named():
    rows = np.ones((3, len(NAMES)))
    rows[:, 1] = np.nan
    _check_equal(rows)
    rows[2, 0] = 1 + 2e-16
    with pytest.raises(
        RuntimeError, match=r"process 2 disagrees with process 0: loss 1.0000000000000002 against 1.0\."
    ):
        _check_equal(rows)


def command(folder, *options):
    np.savez(folder / "data.npz", x=np.random.default_rng(0).normal(size=(41, 2)), y=np.arange(41) % 2)
    line = [sys.executable, "-m", "odeopt", "train", "--processes", "2", "--data", str(folder / "data.npz"), *options]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def members_of(launcher, count=2):
    """The processes that a launcher has started, in order."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    deadline = time.monotonic() + 60
    while len(children.read_text().split()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return sorted(map(int, children.read_text().split()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_the_launcher_says_which_process_was_killed(tmp_path):
    launcher = command(tmp_path, "--out", str(tmp_path / "run"))
    _, second = members_of(launcher)
    os.kill(second, signal.SIGKILL)
    _, words = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGKILL
    assert "process 1 of 2 was ended by SIGKILL, exit code 137" in words
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_leave_one_run_folder(tmp_path):
    launcher = command(tmp_path, "--out", str(tmp_path / "run"), "--quiet", "--max-steps", "5", "--hidden", "4")
    shown, words = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, words
    assert shown.splitlines()[-1] == str(tmp_path / "run")
    history = (tmp_path / "run" / "history.csv").read_text()
    assert len(history.splitlines()) > 1


@pytest.mark.slow
def test_what_all_processes_refuse_is_said_once(tmp_path):
    launcher = command(tmp_path, "--flow", "no-such-flow")
    _, words = launcher.communicate(timeout=120)
    assert launcher.returncode == 2
    assert words.count("no-such-flow") == 1
