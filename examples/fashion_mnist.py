"""LeNet-1 on Fashion-MNIST, full batch: flows without a learning rate, Adam at seven learning rates, and L-BFGS.

The setting is that of Bensaid, Poëtte, Turpault, 2023, Deterministic neural networks optimization from a continuous and
energy point of view: tanh, Glorot's uniform start, and the mean squared error of the softmax. Every method gets the
same time, compilation included, in a process of its own.

python examples/fashion_mnist.py                 # 10 000 images, 150 seconds for each of 12 methods: half an hour
python examples/fashion_mnist.py --seconds 20    # a first impression
python examples/fashion_mnist.py --data FOLDER   # MNIST, or other images of 28 by 28 pixels, in idx files

It prints a table, draws fashion_mnist.png and writes fashion_mnist.json. The images are those of Debian's package
dataset-fashion-mnist, or a download through scikit-learn.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import scipy.optimize
from jax.flatten_util import ravel_pytree

import odeopt

FLOWS = {
    "Adam flow": odeopt.Adam,
    "heavy ball": odeopt.HeavyBall,
    "gradient flow": odeopt.GradientFlow,
    "quasi-Newton flow": odeopt.QuasiNewton,
}
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LBFGS = "L-BFGS (SciPy)"
METHODS = (*FLOWS, *(f"adam {rate:.0e}" for rate in RATES), LBFGS)
QUICK = ("Adam flow", "adam 1e-02", LBFGS)
# Images at a time. Larger chunks leave the cache: a gradient takes a fourth longer with 100, and half as long again
# with 500.
CHUNK = 50


@dataclass(frozen=True)
class Row:
    """What a method has reached: the course of its loss, and at the end test accuracy and memory.

    **Attributes:** `processor_seconds`: of all cores together, beside `seconds`: what a busy machine leaves as it is.
    """

    name: str
    seconds: list[float]
    processor_seconds: list[float]
    losses: list[float]
    best: float
    accuracy: float
    megabytes: float


def squares(network, batch):
    """For each image the mean square of what the softmax is off by."""
    images, labels = batch
    # The images stay bytes until they are needed: a fourth of the memory.
    probabilities = jax.nn.softmax(network.of_batch(images.astype(jnp.float32) / 255))
    return jnp.mean((probabilities - jax.nn.one_hot(labels, probabilities.shape[1])) ** 2, axis=1)


def mean_square(network, batch):
    """Over the data set, chunk by chunk; value and gradient of a chunk come from one pass."""
    return odeopt.FiniteSum(squares, batch, chunk_size=min(CHUNK, len(batch[1]))).value(network)


@eqx.filter_jit
def accuracy(network, batch):
    images, labels = batch
    return jnp.mean(jnp.argmax(network.of_batch(images.astype(jnp.float32) / 255), axis=1) == labels)


def follow(flow, network, data, seconds, tell):
    """The flow at its defaults, steps chosen by its controller."""
    network, _ = odeopt.train(
        network,
        mean_square,
        data,
        odeopt.Solver(flow()),
        stop=odeopt.Stop(gradient_norm=None, loss_change=None),
        max_steps=1_000_000,
        callbacks=[lambda progress: tell(progress.loss, progress.best)],
        time_limit=seconds,
        progress=False,
    )
    return network


def adam(rate, network, data, seconds, tell):
    method = optax.adam(rate)

    @eqx.filter_jit
    def step(network, memory, data):
        value, gradient = eqx.filter_value_and_grad(mean_square)(network, data)
        change, memory = method.update(gradient, memory)
        return eqx.apply_updates(network, change), memory, value

    memory = method.init(eqx.filter(network, eqx.is_array))
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        before = network
        network, memory, value = step(network, memory, data)
        # The loss is that before the step.
        tell(float(value), lambda before=before: before)
    return network


def lbfgs(network, data, seconds, tell):
    arrays, fixed = eqx.partition(network, eqx.is_array)
    start, unravel = ravel_pytree(arrays)
    rebuilt = lambda flat: eqx.combine(unravel(flat), fixed)  # noqa: E731

    @jax.jit
    def value_and_gradient(flat, data):
        return jax.value_and_grad(lambda flat: mean_square(rebuilt(flat), data))(flat)

    deadline = time.monotonic() + seconds

    def fn(flat):
        if time.monotonic() > deadline:
            raise TimeoutError
        single = jnp.asarray(flat, jnp.float32)
        value, gradient = value_and_gradient(single, data)
        tell(float(value), lambda: rebuilt(single))
        return float(value), np.asarray(gradient, np.float64)

    point = np.asarray(start, np.float64)
    try:
        while True:
            # It ends where the line search fails, as it does in single precision, and begins again from there.
            endless = {"ftol": 0, "gtol": 0, "maxiter": 10**6, "maxfun": 10**6}
            point = scipy.optimize.minimize(fn, point, jac=True, method="L-BFGS-B", options=endless).x
    except TimeoutError:
        return network


def method_of(name: str) -> Callable:
    if name in FLOWS:
        return partial(follow, FLOWS[name])
    return lbfgs if name == LBFGS else partial(adam, float(name.split()[1]))


def run(name: str, source: str, count: int, seconds: float) -> Row:
    (images, labels), test = odeopt.load_images(source)
    data, test = ((jnp.asarray(x), jnp.asarray(y, jnp.int32)) for x, y in ((images[:count], labels[:count]), test))
    network = odeopt.LeNet1(10, key=jax.random.key(0))
    course: list[tuple[float, float, float]] = []
    best = [float("inf"), lambda: network]
    began, processor_began = time.monotonic(), time.process_time()

    def tell(loss, model):
        course.append((time.monotonic() - began, time.process_time() - processor_began, loss))
        if loss < best[0]:
            best[:] = loss, model

    method_of(name)(network, data, seconds, tell)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Row(
        name,
        *map(list, zip(*course, strict=True)),
        best=best[0],
        accuracy=float(accuracy(best[1](), test)),
        megabytes=peak / (1024 if sys.platform == "linux" else 1024**2),
    )


def draw(rows: list[Row]):
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    greys = plt.colormaps["Greys"](np.linspace(0.35, 0.9, len(RATES)))
    colours = {f"adam {rate:.0e}": grey for rate, grey in zip(RATES, greys, strict=True)}
    for row in rows:
        loss = np.minimum.accumulate(row.losses)
        style = {"color": colours[row.name], "linewidth": 1} if row.name in colours else {"linewidth": 2}
        axes.semilogy(row.seconds, loss, label=row.name, **style)
    axes.set(xlabel="seconds", ylabel="best mean squared error", title="LeNet-1 on Fashion-MNIST, full batch")
    axes.legend(ncols=2, fontsize=8)
    figure.savefig("fashion_mnist.png", dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", metavar="FOLDER", help="with idx files")
    parser.add_argument("--images", type=int, default=10_000, help="to train on")
    parser.add_argument("--seconds", type=float, default=150, help="for each method")
    parser.add_argument("--quick", action="store_true", help="300 images, 1 second, 3 methods")
    arguments = parser.parse_args()
    try:
        odeopt.load_images(arguments.data)
    except ValueError as error:
        sys.exit(str(error))
    count, seconds = (300, 1.0) if arguments.quick else (arguments.images, arguments.seconds)
    # A fresh process for each method, so that the memory of one is not counted for another.
    fresh = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    rows = []
    print(f"| method, {count} images, {seconds:g} s | training loss | test accuracy | processor s | MB |")
    print("|---|---|---|---|---|")
    with fresh:
        for name in QUICK if arguments.quick else METHODS:
            row = fresh.submit(run, name, arguments.data, count, seconds).result()
            cells = f"{row.best:.5f} | {row.accuracy:.4f} | {row.processor_seconds[-1]:.0f} | {row.megabytes:.0f}"
            print(f"| {name} | {cells} |", flush=True)
            rows.append(row)
    draw(rows)
    Path("fashion_mnist.json").write_text(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
