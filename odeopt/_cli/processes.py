"""Several processes on this machine that run one command together: `odeopt train --processes N`."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import jax

from .messages import FAILED, INTERRUPTED, USAGE_ERROR, err_console

# A process that has died is noticed by its launcher at once; one that was stopped, or that is alone without a launcher,
# by its missing heartbeats after so many seconds. Less would end runs on machines that pause for a moment.
HEARTBEAT_SECONDS = 30
# Time for the others to say what they saw before they are ended.
GRACE_SECONDS = 5.0
# How often the launcher looks.
POLL_SECONDS = 0.1

NUMBER, COUNT, COORDINATOR, LIFELINE = (
    f"ODEOPT_{name}" for name in ("PROCESS", "PROCESSES", "COORDINATOR", "LIFELINE")
)


def is_member() -> bool:
    """Whether this process has been started by `run_together`."""
    return NUMBER in os.environ


def join() -> None:
    """Become a member of the group that the launcher has described in the environment."""
    number, count = int(os.environ[NUMBER]), int(os.environ[COUNT])
    # What is wrong with an option process 0 says for all of them.
    err_console.quiet = number > 0
    threading.Thread(target=_end_with_launcher, args=(int(os.environ[LIFELINE]),), daemon=True).start()
    _keep_own_processors(number, count)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its answer to SIGTERM is to go on.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(os.environ[COORDINATOR], count, number, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)


def run_together(count: int) -> int:
    """Run the command of this process in `count` processes, and wait for them.

    **Returns:** the exit code: that of process 0; where a process fails, that of the first that did. The others are
    then ended, and a message says which one it was.
    """
    lifeline, write_end = os.pipe()
    environment = os.environ | {
        COUNT: str(count), COORDINATOR: f"127.0.0.1:{_free_port()}", LIFELINE: str(lifeline)
    }  # fmt: skip
    command = [sys.executable, "-m", "odeopt", *sys.argv[1:]]
    # In sessions of their own, so that Ctrl-C reaches them through the launcher only.
    members = [
        subprocess.Popen(
            command,
            env=environment | {NUMBER: str(number)},
            pass_fds=[lifeline],
            start_new_session=True,
            stdout=None if number == 0 else subprocess.DEVNULL,
        )
        for number in range(count)
    ]
    os.close(lifeline)
    interrupted = threading.Event()

    def on_ctrl_c(number, frame):
        # Process 0 ends the run for all of them after the block, and writes the run folder.
        interrupted.set()
        members[0].send_signal(signal.SIGINT)

    def on_termination(number, frame):
        _end(members)
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGINT, on_ctrl_c), signal.signal(signal.SIGTERM, on_termination)
    try:
        return _watched(members, interrupted)
    finally:
        _end(members)
        os.close(write_end)
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _watched(members: list[subprocess.Popen], interrupted: threading.Event) -> int:
    while True:
        codes = [member.poll() for member in members]
        failed = next((number for number, code in enumerate(codes) if code not in (None, 0)), None)
        if failed is not None:
            return _after_failure(members, failed, interrupted.is_set())
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_SECONDS)


def _after_failure(members: list[subprocess.Popen], failed: int, interrupted: bool) -> int:
    code = members[failed].returncode
    shown = 128 - code if code < 0 else code
    if interrupted:
        return INTERRUPTED
    if failed == 0 and code in (FAILED, USAGE_ERROR, INTERRUPTED):
        # It has said why.
        return code
    deadline = time.monotonic() + GRACE_SECONDS
    while any(member.poll() is None for member in members) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if members[0].returncode == USAGE_ERROR:
        # All refuse the same option, and one of the others did so first.
        return USAGE_ERROR
    how = (
        f"was ended by {signal.Signals(-code).name}, exit code {shown}" if code < 0 else f"ended with exit code {code}"
    )
    text = f"odeopt: process {failed} of {len(members)} {how}. The others have been ended."
    err_console.print(text, soft_wrap=True, markup=False)
    return shown


def _end(members: list[subprocess.Popen]) -> None:
    for member in members:
        if member.poll() is None:
            member.kill()
    for member in members:
        member.wait()


def _end_with_launcher(lifeline: int) -> None:
    # Nothing is ever written: the end of the file is the end of the launcher.
    os.read(lifeline, 1)
    os._exit(FAILED)


def _keep_own_processors(number: int, count: int) -> None:
    """XLA starts a thread for each processor that the process may use."""
    if not hasattr(os, "sched_setaffinity"):
        return
    processors = sorted(os.sched_getaffinity(0))
    own = processors[number::count] or [processors[number % len(processors)]]
    os.sched_setaffinity(0, own)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
