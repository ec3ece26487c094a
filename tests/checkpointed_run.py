"""A run that is to be killed: python checkpointed_run.py FOLDER OUT TRIALS DELAY.

Resumes from the checkpoints in FOLDER, waits DELAY seconds after every block, and writes all that the run has led to
into OUT, a file of NumPy. Without FOLDER ("-") it runs in one piece.
"""

import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import odeopt


def loss(model, batch):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def main(folder: str, out: str, trials: str, delay: str) -> None:
    x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    model = eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=jax.random.key(0), dtype=jnp.float32)
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
        odeopt.Solver(odeopt.Adam()),
        stop=odeopt.Stop(gradient_norm=0.0),
        max_steps=int(trials),
        callbacks=[after_block],
        progress=False,
        checkpoints=checkpoints,
        resume=checkpoints is not None,
    )
    print("ended", solution.result, flush=True)
    everything = jax.tree.leaves(eqx.filter((model, solution.history, solution.state), eqx.is_array))
    np.savez(out, *everything, np.asarray(list(solution.stats.values())))


if __name__ == "__main__":
    main(*sys.argv[1:])
