"""Run by test_devices.py in a process with 8 simulated devices: prints what the tests compare, as JSON."""

import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import odeopt

COUNT = 203  # 25 for each of 8 devices, and 3 left over
RANDOM = np.random.default_rng(0)
X, WEIGHTS = RANDOM.normal(size=(COUNT, 3)), RANDOM.uniform(size=COUNT)
TARGET = X[:, 0] ** 2
Y = np.array([0.3, -1.2, 0.7])


def rough(y, example):
    """A loss whose gradient is no number at an example of zeros, and something beside it."""
    loss = jnp.sqrt(jnp.abs(jnp.vdot(example, y)))
    return loss, {"large": loss > 1}


def of_model(model, batch):
    x, target = batch
    return (jax.vmap(model)(x) - target) ** 2


def evaluations(mesh):
    results = {}
    for name, weights in (("plain", None), ("weighted", jnp.asarray(WEIGHTS))):
        objective = odeopt.FiniteSum(
            rough, X, weights, per_example=True, chunk_size=4, nonnegative=True, has_aux=True, mesh=mesh
        )
        value, gradient = jax.jit(jax.value_and_grad(objective.value))(jnp.asarray(Y))
        product = jax.jit(lambda y, v, f=objective: jax.jvp(jax.grad(f.value), (y,), (v,))[1])
        results[name] = {
            "value": float(value),
            "gradient": gradient.tolist(),
            "product": product(jnp.asarray(Y), jnp.asarray(X[0])).tolist(),
            "large": float(objective.auxiliary(jnp.asarray(Y))["large"]),
            "part": float(jax.jit(lambda y, f=objective: f.value_until(y, lambda bound: bound > 0.1))(jnp.asarray(Y))),
        }
    signed = odeopt.FiniteSum(lambda y, x: y[0] * x[:, 0], X, chunk_size=4, nonnegative=True, mesh=mesh)
    results["signed"] = float(signed.value_until(jnp.asarray(Y), lambda bound: bound > -1e9))
    large = odeopt.FiniteSum(lambda y, x: (x @ y) ** 2, X, chunk_size=1000, nonnegative=True, mesh=mesh)
    results["one chunk"] = float(large.value(jnp.asarray(Y)))
    even = odeopt.FiniteSum(lambda y, x: jnp.mean((x @ y) ** 2), X[:200], chunk_size=4, mesh=mesh)
    results["mean of a batch"] = float(even.value(jnp.asarray(Y)))
    return results


def trained(dtype, mesh, divided, steps=40):
    model = eqx.nn.MLP(3, "scalar", 16, 1, activation=jnp.tanh, key=jax.random.key(1), dtype=dtype)
    if divided:
        model = odeopt.shard_parameters(model, mesh)
    data = (X.astype(dtype), TARGET.astype(dtype))
    objective = odeopt.FiniteSum(of_model, data, chunk_size=4, nonnegative=True, mesh=mesh)
    _, solution = odeopt.train(model, objective, None, max_steps=steps, progress=False)
    here = solution.state.run.snapshot

    def bytes_of_a_device(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    return {
        "decisions": [solution.stats["accepted"], solution.stats["rejected"]],
        "loss": np.asarray(solution.history.loss, float).tolist(),
        "bytes": [bytes_of_a_device(tree) for tree in (here.state.position, here.state.memory, here.gradient)],
    }


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    mesh = odeopt.device_mesh()
    results = {"devices": mesh.size, "evaluations": evaluations(mesh)}
    for name in ("float32", "float64"):
        dtype = np.dtype(name).type
        results[name] = {
            "one": trained(dtype, None, False),
            "eight": trained(dtype, mesh, False),
            "divided": trained(dtype, mesh, True),
        }
    results["start"] = trained(np.float32, mesh, True, steps=0)["bytes"]
    json.dump(results, sys.stdout)
