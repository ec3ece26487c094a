"""What dividing a pass over the data among simulated devices costs on one machine, where it can save nothing.

`rows()` starts a process for each number of devices, because XLA fixes their number when it starts.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

COUNT, WIDTH, FEATURES = 16_000, 256, 64
# The least of so many runs: the others were disturbed.
REPEATS = 5
DEVICES = (1, 8)


def rows(devices=DEVICES) -> list[dict]:
    """Milliseconds of a value and of a gradient for each number of devices, and by how much they exceed the first."""
    measured = [_in_a_process(number) for number in devices]
    first = measured[0]
    return [row | {f"{name} / first": row[name] / first[name] for name in ("value", "gradient")} for row in measured]


def _in_a_process(devices: int) -> dict:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), str(devices)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _measured(devices: int) -> dict:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import odeopt

    x = jax.random.normal(jax.random.key(0), (COUNT, FEATURES))
    model = eqx.nn.MLP(FEATURES, "scalar", WIDTH, 2, activation=jnp.tanh, key=jax.random.key(1))
    mesh = odeopt.device_mesh() if devices > 1 else None

    def loss(model, batch):
        return jax.vmap(model)(batch) ** 2

    # The same number of chunks of the same size on all devices together.
    objective = odeopt.FiniteSum(loss, x, chunk_size=1000, mesh=mesh)
    value = eqx.filter_jit(lambda objective, model: objective.value(model))
    gradient = eqx.filter_jit(lambda objective, model: eqx.filter_grad(objective.value)(model))
    return {
        "devices": devices,
        "value": _least(value, objective, model),
        "gradient": _least(gradient, objective, model),
    }


def _least(function, *arguments) -> float:
    import jax

    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(1e3 * (time.perf_counter() - began))
    return min(times)


if __name__ == "__main__":
    print(json.dumps(_measured(int(sys.argv[1]))))
