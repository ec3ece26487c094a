"""Processes that make a run, and are to be killed: one for each line "FOLDER OUT TRIALS DELAY" of the input.

Each resumes from the checkpoints in FOLDER, waits DELAY seconds after every block, and writes all that the run has led
to into OUT, a file of NumPy. With "-" for FOLDER it runs in one piece. They are forked off before JAX is used, because
imports take most of the time in which a process starts. The output: "pid NUMBER", "began TRIALS" after the first block,
and "over CODE" for each.
"""

import os
import sys
import time
import traceback

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint  # noqa: F401

import odeopt


def loss(model, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ model["inner"]) @ model["outer"] - y) ** 2)


def run(folder: str, out: str, trials: str, delay: str) -> None:
    x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    keys = jax.random.split(jax.random.key(0))
    model = {
        "inner": jax.random.normal(keys[0], (1, 8), jnp.float32),
        "outer": jax.random.normal(keys[1], (8, 1), jnp.float32),
    }
    began = []

    def after_block(progress):
        if not began:
            print("began", progress.trials, flush=True)
            began.append(True)
        time.sleep(float(delay))

    # Checkpoints so often that one is being written nearly all the time.
    checkpoints = None if folder == "-" else odeopt.Checkpoints(folder, every_steps=10)
    model, solution = odeopt.train(
        model,
        loss,
        (x, np.sin(20 * x)),
        odeopt.Solver(odeopt.HeavyBall()),
        stop=odeopt.Stop(gradient_norm=0.0),
        max_steps=int(trials),
        callbacks=[after_block],
        progress=False,
        checkpoints=checkpoints,
        resume=checkpoints is not None,
    )
    everything = jax.tree.leaves(eqx.filter((model, solution.history, solution.state), eqx.is_array))
    np.savez(out, *everything, np.asarray(list(solution.stats.values())))


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                run(*line.split())
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print("pid", child, flush=True)
        print("over", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
