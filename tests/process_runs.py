"""Run by test_processes.py, once in each of two processes: `process_runs.py NUMBER ADDRESS`.

Prints what the tests compare, as one line of JSON, and then trains until it is ended, with a line READY once it does.
"""

import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import odeopt

COUNT = 103
X = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
# Short, so that the tests are: what is stopped is noticed after so many seconds.
HEARTBEAT_SECONDS = 8


def loss(model, batch):
    x, target = batch
    return (jax.vmap(model)(x) - target) ** 2


def network():
    return eqx.nn.MLP(3, "scalar", 8, 1, activation=jnp.tanh, key=jax.random.key(1))


def run(model, share, mesh, **options):
    data = (X[share], X[share, 0] ** 2)
    objective = odeopt.FiniteSum(loss, data, chunk_size=10, nonnegative=True, mesh=mesh)
    solver = odeopt.Solver(odeopt.HeavyBall())
    return odeopt.train(model, objective, None, solver, progress=False, **options)


def summary(model, solution):
    return {
        "decisions": [solution.stats["accepted"], solution.stats["rejected"]],
        "loss": np.asarray(solution.history.loss, float).tolist(),
        "prediction": float(model(X[0])),
        "metric": None if solution.metrics is None else solution.metrics["validation/mean"].tolist(),
        "result": str(solution.result),
    }


def refused(function):
    try:
        function()
    except RuntimeError as error:
        return str(error)
    return None


def compared(number, mesh):
    mine = odeopt.share_of(COUNT)
    mean = {"mean": lambda model, batch: jnp.mean(loss(model, batch))}
    whole = (X, X[:, 0] ** 2)
    results = {"run": summary(*run(network(), mine, mesh, max_steps=40, validation=whole, metrics=mean))}

    def second_wants_to_end(progress):
        return number == 1 and progress.trials >= 3

    results["ended"] = summary(*run(network(), mine, mesh, max_steps=10**6, callbacks=[second_wants_to_end]))
    other = eqx.tree_at(lambda model: model.layers[0].bias, network(), replace_fn=lambda bias: bias + number)
    results["refused"] = refused(lambda: run(other, mine, mesh, max_steps=3))
    return results


def main(number, address, compares):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, number, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    mesh = odeopt.device_mesh()
    if compares:
        print(json.dumps(compared(number, mesh)), flush=True)

    def tell(progress):
        if progress.trials < 200:
            print("READY", flush=True)

    objective = odeopt.FiniteSum(lambda y, x: (x @ y - 1) ** 2, X[odeopt.share_of(COUNT)], mesh=mesh)
    never, solver = odeopt.Stop(target_loss=-1.0), odeopt.Solver(odeopt.GradientFlow(), odeopt.Euler())
    odeopt.train(
        jnp.zeros(3),
        objective,
        None,
        solver,
        stop=never,
        max_steps=10**9,
        history=None,
        callbacks=[tell],
        progress=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "compare")
