"""LeNet-1 on Fashion-MNIST, 60 000 images: a gradient by patches and by convolutions, its memory, and early rejection.

Every function returns rows for a table. Times are of processes of their own, so that the memory is that of one way.
"""

import json
import subprocess
import sys
from pathlib import Path

# Ways to compute the scores of a batch.
PATCHES, CONVOLUTIONS = "patches", "Equinox Conv2d under vmap"
# Images at a time, for each way what was fastest for it in `table_piece`.
CHUNKS = {PATCHES: 50, CONVOLUTIONS: 250}
ROUNDS = 3
# Of early rejection: with this growth (that of the published method) nearly all trials are rejected.
GROWTH = 1e4
TRIALS = 30
REJECTED_IMAGES = 2_000


def table_gradient(images: int = 60_000) -> dict[str, dict]:
    """Seconds for value and gradient of the mean square over so many images, the smallest of some alternating rounds,
    and the peak of the memory of the process; the ratio of the two ways."""
    rows: dict[str, dict] = {way: {"seconds": float("inf"), "megabytes": 0} for way in CHUNKS}
    for _ in range(ROUNDS):
        for way, row in rows.items():
            found = _apart("gradient", way, images)
            row["seconds"] = min(row["seconds"], round(found["seconds"], 3))
            row["megabytes"] = max(row["megabytes"], round(found["megabytes"]))
    ratio = rows[PATCHES]["seconds"] / rows[CONVOLUTIONS]["seconds"]
    return rows | {"ratio": {"seconds": round(ratio, 3)}}


def table_piece(images: int = 10_000) -> dict[str, dict]:
    """Seconds for value and gradient, by the number of images that are evaluated at a time."""
    rows = {}
    for way in CHUNKS:
        for chunk in (25, 50, 100, 250, 1000):
            rows[f"{way}, {chunk}"] = {"seconds": round(_apart("gradient", way, images, chunk)["seconds"], 3)}
    return rows


def table_early_rejection() -> dict[str, dict]:
    """Chunks evaluated in the value passes of rejected trials, with and without early rejection, where a step grows by
    1e4 after each success; all decisions are the same."""
    counts = {
        name: _chunks_in_rejected_trials(nonnegative) for name, nonnegative in (("early", True), ("whole", False))
    }
    ratio = counts["whole"]["chunks"] / max(counts["early"]["chunks"], 1)
    return counts | {"ratio": {"chunks": round(ratio, 2)}}


def _apart(*arguments) -> dict:
    """What `_gradient` finds in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _gradient(way: str, images: int, chunk: int) -> dict[str, float]:
    import resource
    import time

    import equinox as eqx
    import jax

    import odeopt

    network, objective = odeopt.LeNet1(10, key=jax.random.key(0)), _objective(way, images, chunk, nonnegative=True)
    gradient = eqx.filter_jit(lambda network, objective: eqx.filter_value_and_grad(objective.value)(network))
    jax.block_until_ready(gradient(network, objective))
    seconds = []
    for _ in range(ROUNDS):
        tick = time.perf_counter()
        jax.block_until_ready(gradient(network, objective))
        seconds.append(time.perf_counter() - tick)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(seconds), "megabytes": kilobytes / 1024}


def _objective(way: str, images: int, chunk: int, nonnegative: bool, seen=None):
    """The mean square of the softmax, whose images stay bytes until they are needed."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from _ten import FASHION

    import odeopt

    halved = eqx.nn.AvgPool2d(2, 2)

    def by_layers(network, image):
        features = halved(jnp.tanh(network.first(image.reshape(1, 28, 28))))
        return network.last(halved(jnp.tanh(network.second(features))).ravel())

    def losses(network, batch):
        bytes_, labels = batch
        scaled = bytes_.astype(jnp.float32) / 255
        scores = network.of_batch(scaled) if way == PATCHES else jax.vmap(lambda x: by_layers(network, x))(scaled)
        if seen is not None:
            # A number that depends on the chunk, so that the call is not moved out of the loop.
            jax.debug.callback(seen, scores[0, 0])
        return jnp.mean((jax.nn.softmax(scores) - jax.nn.one_hot(labels, 10)) ** 2, axis=1)

    (x, y), _ = odeopt.load_images(FASHION)
    data = jnp.asarray(x[:images].reshape(-1, 784)), jnp.asarray(y[:images], jnp.int32)
    return odeopt.FiniteSum(losses, data, chunk_size=chunk, nonnegative=nonnegative)


def _chunks_in_rejected_trials(nonnegative: bool) -> dict[str, float]:
    import jax

    import odeopt

    count = 0

    def seen(_):
        nonlocal count
        count += 1

    chunk = CHUNKS[PATCHES]
    objective = _objective(PATCHES, REJECTED_IMAGES, chunk, nonnegative, seen)
    control = odeopt.LyapunovControl(decrease=0.5, shrink=2, grow=GROWTH, initial_step_size=0.1, hold_growth=False)
    solution = odeopt.minimise(
        objective,
        odeopt.Solver(odeopt.GradientFlow(), controller=control),
        odeopt.LeNet1(10, key=jax.random.key(0)),
        stop=odeopt.Stop(gradient_norm=None),
        max_steps=TRIALS,
        throw=False,
    )
    jax.effects_barrier()
    accepted, rejected = int(solution.stats["accepted"]), int(solution.stats["rejected"])
    # Besides rejected trials: value and gradient at the start, trial and gradient of every step that is kept.
    whole = -(-REJECTED_IMAGES // chunk)
    spent = int(solution.stats["values"]) - rejected
    return {"accepted": accepted, "rejected": rejected, "chunks": count - spent * whole, "loss": float(solution.loss)}


if __name__ == "__main__":
    # Called by `_apart`.
    chosen = sys.argv[2]
    number = int(sys.argv[4]) if len(sys.argv) > 4 else CHUNKS[chosen]
    sys.path.insert(0, str(Path(__file__).parent))
    print(json.dumps(_gradient(chosen, int(sys.argv[3]), number)))
