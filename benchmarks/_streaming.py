"""A pass over data in a file against one over the same data in memory, and the memory that each takes."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import odeopt

# Images of 28 by 28 pixels in ten classes, and a network of the usual size for them.
PIXELS, HIDDEN, CLASSES = 784, (128, 64), 10
# Rows that are made and written at a time.
ROWS = 10_000


def streaming(gigabytes: float = 5.0, rounds: int = 5) -> Iterator[tuple[str, dict[str, object]]]:
    """value and gradient of a network over a file, seconds of a pass (medians, alternating) and peak memory"""
    # As many examples in both: a quarter of the bytes.
    for dtype, part in (("float32", 1.0), ("uint8", 0.25)):
        with tempfile.TemporaryDirectory() as folder:
            count = write(Path(folder), dtype, part * gigabytes)
            chunk, seconds, same = timed(Path(folder), rounds)
            peaks = {place: peak(Path(folder), place) for place in ("file", "nothing")}
            size = (Path(folder) / "x.npy").stat().st_size
            yield (
                f"{dtype}, {size / 1e9:.1f} GB",
                {
                    "examples": count,
                    "chunk": chunk,
                    "seconds in memory": round(seconds["wall memory"], 2),
                    "seconds from file": round(seconds["wall file"], 2),
                    "ratio": round(seconds["wall file"] / seconds["wall memory"], 3),
                    "ratio of processor time": round(seconds["cpu file"] / seconds["cpu memory"], 3),
                    "same bits": same,
                    "peak MB from file": peaks["file"],
                    "peak MB of a pass over one chunk": peaks["nothing"],
                },
            )


def timed(folder: Path, rounds: int) -> tuple[int | None, dict[str, float], bool]:
    """The size of a chunk; medians over alternating passes of the seconds, and of those of all cores; same bits?"""
    network, places = made_network(), ("memory", "file")
    objectives = {place: objective(folder, place) for place in places}
    found = {place: jax.block_until_ready(gradient(network, objectives[place])) for place in places}
    seconds: dict[str, list[float]] = {f"{kind} {place}": [] for place in places for kind in ("wall", "cpu")}
    for _ in range(rounds):
        for place in places:
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(gradient(network, objectives[place]))
            seconds[f"wall {place}"].append(time.perf_counter() - wall)
            seconds[f"cpu {place}"].append(time.process_time() - cpu)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return objectives["file"].chunk_size, medians, bool(eqx.tree_equal(*found.values()))


def write(folder: Path, dtype: str, gigabytes: float) -> int:
    """Random images of that many bytes in `x.npy`, with labels in `y.npy`; how many there are."""
    count = max(ROWS, int(gigabytes * 1e9 / (PIXELS * np.dtype(dtype).itemsize)))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (ROWS, PIXELS), np.uint8)
    images = np.lib.format.open_memmap(folder / "x.npy", "w+", np.dtype(dtype), (count, PIXELS))
    for start in range(0, count, ROWS):
        # Shifted, so that no two blocks of the file are the same.
        block = np.roll(pixels, start // ROWS, axis=1)[: count - start]
        images[start : start + ROWS] = block if dtype == "uint8" else block.astype(np.float32) / 255
    images.flush()
    np.save(folder / "y.npy", random.integers(0, CLASSES, count, np.int32))
    return count


def loss(network, batch):
    images, labels = batch
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    logits = jax.vmap(network)(images)
    return jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def made_network():
    widths = (PIXELS, *HIDDEN, CLASSES)
    keys = jax.random.split(jax.random.key(0), len(widths) - 1)
    layers: list = []
    for width_in, width_out, key in zip(widths[:-1], widths[1:], keys, strict=True):
        layers += [eqx.nn.Linear(width_in, width_out, dtype=jnp.float32, key=key), eqx.nn.Lambda(jnp.tanh)]
    return eqx.nn.Sequential(layers[:-1])


def objective(folder: Path, place: str) -> odeopt.FiniteSum:
    paths = (folder / "x.npy", folder / "y.npy")
    streamed = odeopt.Streamed(paths)
    if place == "file":
        return odeopt.FiniteSum(loss, streamed).fitted(made_network())
    size = odeopt.FiniteSum(loss, streamed).fitted(made_network()).chunk_size
    if place == "nothing":
        return odeopt.FiniteSum(loss, odeopt.Streamed(paths, count=2 * size), chunk_size=size)
    return odeopt.FiniteSum(loss, tuple(jnp.asarray(np.load(path)) for path in paths), chunk_size=size)


@eqx.filter_jit
def gradient(network, objective):
    return eqx.filter_value_and_grad(lambda network: objective.value(network))(network)


def peak(folder: Path, place: str) -> int:
    """The largest resident memory of a process that makes two passes, in MB."""
    command = [sys.executable, __file__, str(folder), place]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    folder, place = sys.argv[1:]
    network, sum_of_losses = made_network(), objective(Path(folder), place)
    for _ in range(2):
        jax.block_until_ready(gradient(network, sum_of_losses))
    # Not ru_maxrss, which begins with that of the process that has started this one.
    status = Path("/proc/self/status").read_text()
    print(round(int(status.split("VmHWM:")[1].split()[0]) / 1000))


if __name__ == "__main__":
    main()
