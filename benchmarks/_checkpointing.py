"""Table of checkpoints: what saving a run costs it, at 1e7 parameters.

python benchmarks/_checkpointing.py          # about five minutes on 2 cores
"""

import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import odeopt
from odeopt._checkpoint import Store

# 512 - 2800 - 2800 - 10: 1e7 parameters, of which a step takes .2 to .5 seconds on 2 cores with such a batch.
WIDTHS, BATCH = (512, 2800, 10), 256
EVERY, STEPS, REPEATS = 50, 100, 3


def _problem():
    inputs, width, outputs = WIDTHS
    keys = jax.random.split(jax.random.key(0), 3)
    model = eqx.nn.MLP(inputs, outputs, width, 2, jnp.tanh, key=keys[0], dtype=jnp.float32)
    data = (
        jax.random.normal(keys[1], (BATCH, inputs), jnp.float32),
        jax.random.normal(keys[2], (BATCH, outputs), jnp.float32),
    )
    return model, lambda model, batch: jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2), data


def _steps(problem, solver, checkpoints):
    """Seconds per trial, of the clock and of all cores, without those of the compilation; and the state at the end."""
    model, loss, data = problem
    seconds, trials = [], []

    def note(progress):
        seconds.append((time.monotonic(), time.process_time()))
        trials.append(progress.trials)

    _, solution = odeopt.train(
        model,
        loss,
        data,
        solver,
        stop=odeopt.Stop(gradient_norm=0.0),
        max_steps=STEPS + EVERY,
        history="scalars",
        callbacks=[note],
        progress=False,
        checkpoints=checkpoints,
    )
    first = next(index for index, count in enumerate(trials) if count >= EVERY // 2)
    return (np.asarray(seconds[-1]) - seconds[first]) / (trials[-1] - trials[first]), solution.state


def _save(state):
    """Seconds that a save blocks the run, seconds that it takes, and its size; the best of some, on a quiet machine."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), keep=1, keep_best=False)
        store.open(resume=False)
        for step in range(REPEATS):
            began = time.monotonic()
            store.save(step, state, {}, 0.0)
            blocked = time.monotonic() - began
            store.wait()
            rows.append((blocked, time.monotonic() - began))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        store.close()
    return np.median([row[0] for row in rows]), np.median([row[1] for row in rows]), size


def table_checkpointing():
    """A checkpoint every 50 trials, 1e7 parameters: seconds of a save, and of a trial with and without."""
    rows, problem = {}, _problem()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(problem[0], eqx.is_array)))
    for flow in (odeopt.HeavyBall(), odeopt.Adam()):
        solver, without, saving = odeopt.Solver(flow), [], []
        for _ in range(REPEATS):
            seconds, state = _steps(problem, solver, None)
            without.append(seconds)
            with tempfile.TemporaryDirectory() as folder:
                saving.append(_steps(problem, solver, odeopt.Checkpoints(folder, every_steps=EVERY))[0])
        blocked, total, size = _save(state)
        clock = [float(np.median([row[0] for row in measured])) for measured in (without, saving)]
        shares = np.median(np.asarray(saving) / np.asarray(without), axis=0) - 1
        rows[type(flow).__name__] = {
            "parameters": parameters,
            "seconds_per_trial": clock[0],
            "seconds_per_trial_with_checkpoints": clock[1],
            # Pairs that were run one after the other, because the speed of a machine drifts.
            "share": float(shares[0]),
            # Of the work of all cores, which other programs on the machine change less.
            "share_of_work": float(shares[1]),
            "seconds_blocking": float(blocked),
            "seconds_total": float(total),
            "megabytes": size / 1e6,
        }
    return rows


if __name__ == "__main__":
    for name, row in table_checkpointing().items():
        print(name, row)
