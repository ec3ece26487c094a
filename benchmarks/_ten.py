"""The ten problems that optimizers are compared on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _problems import digits, digits_network

import odeopt

# Where the files of Fashion-MNIST in their original format are looked for; the default is where Debian's package
# dataset-fashion-mnist puts them.
FASHION = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


@dataclass(frozen=True)
class Benchmark:
    """A problem, how much may be spent on it, and what counts as solved.

    **Attributes:** `make`: `make(seed, dtype) -> (fn, y0, args)`; `budget`: cost units, forward 1, backward 2; `seeds`:
    how many starts there are where the start is random; `lanes`: whether `y0` holds many starts along its first axis;
    `network`: whether the objective is the loss of a network, which is solved at a tenth of the first loss at most.
    """

    make: Callable[[int, Any], tuple[Callable, Any, Any]]
    budget: int
    seeds: int = 5
    lanes: bool = False
    network: bool = False

    def ceiling(self, first):
        """The largest loss at which the problem counts as solved, from the one at the start."""
        return jnp.where(self.network, first / 10, jnp.inf)


POLYNOMIALS = {
    "two": lambda z: z**2 - 1,
    "three": lambda z: 2 * z**3 - 3 * z**2 + 5,
    "four": lambda z: z**4 - 2 * z**2 + 3,
    "five": lambda z: z**5 - 4 * z**4 + 2 * z**3 + 8 * z**2 - 11 * z - 12,
}
STARTS = 2000


def _polynomial(name):
    def fn(y, _):
        g = POLYNOMIALS[name]
        return 0.25 * (g(y[1]) ** 2 + g(y[0] + y[1]) ** 2)

    def make(seed, dtype):
        half_width = 5.0 if name == "five" else 3.0
        starts = np.random.default_rng(seed).uniform(-half_width, half_width, (STARTS, 2))
        return fn, jnp.asarray(starts, dtype), None

    return Benchmark(make, budget=12_000, seeds=1, lanes=True)


def _quadratic(seed, dtype):
    """Turned out of its axes by two reflections: for methods that scale every coordinate a diagonal one is trivial."""
    random, size = np.random.default_rng(0), 1000
    mirrors = [jnp.asarray(v / np.linalg.norm(v), dtype) for v in random.normal(size=(2, size))]

    def fn(x, batch):
        curvatures, mirrors = batch
        for mirror in mirrors:
            x = x - 2 * mirror * (mirror @ x)
        return 0.5 * jnp.sum(curvatures * x**2)

    return fn, jnp.ones(size, dtype), (jnp.asarray(np.logspace(-4, 0, size), dtype), mirrors)


def _rosenbrock(size):
    def fn(y, _):
        return jnp.sum((1 - y[:-1]) ** 2 + 100 * (y[1:] - y[:-1] ** 2) ** 2)

    return lambda seed, dtype: (fn, jnp.asarray(np.tile([-1.2, 1.0], size // 2), dtype), None)


def _logistic(seed, dtype):
    """Breast cancer, standardised, with an intercept and the smallest ridge that makes the minimum unique."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    x = jnp.asarray(np.column_stack([x, np.ones(len(x))]), dtype)
    signs = jnp.asarray(2.0 * data.target - 1, dtype)

    def fn(w, batch):
        x, signs = batch
        return jnp.mean(jnp.logaddexp(0, -signs * (x @ w))) + 0.5 * RIDGE * jnp.sum(w**2)

    return fn, jnp.zeros(x.shape[1], dtype), (x, signs)


RIDGE = 1e-4


def _digits(loss):
    return lambda seed, dtype: (loss, digits_network(seed, dtype), digits(dtype))


def _cross_entropy(model, batch):
    x, y = batch
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(jax.vmap(model)(x)), y[:, None], 1))


def _softmax_mean_square(model, batch):
    x, y = batch
    return jnp.mean((jax.nn.softmax(jax.vmap(model)(x)) - jax.nn.one_hot(y, 10, dtype=x.dtype)) ** 2)


def _mean_square(model, batch):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def _network(sizes, seed, dtype):
    inputs, width, depth, outputs = sizes
    return eqx.nn.MLP(inputs, outputs, width, depth, jnp.tanh, key=jax.random.key(seed), dtype=dtype)


def _runge(seed, dtype):
    x = np.linspace(-1, 1, 200)[:, None]
    batch = jnp.asarray(x, dtype), jnp.asarray(1 / (1 + 25 * x**2), dtype)
    return _mean_square, _network((1, 30, 2, 1), seed, dtype), batch


def _spirals(seed, dtype):
    """Two spirals of 97 points each (Lang and Witbrock, 1988)."""
    k = np.arange(97)
    radius, angle = 6.5 * (104 - k) / 104, k * np.pi / 16
    one = np.column_stack([radius * np.sin(angle), radius * np.cos(angle)])
    signs = np.concatenate([np.ones(97), -np.ones(97)])

    def fn(model, batch):
        x, signs = batch
        return jnp.mean(jnp.logaddexp(0, -signs * jax.vmap(model)(x)[:, 0]))

    batch = jnp.asarray(np.concatenate([one, -one]), dtype), jnp.asarray(signs, dtype)
    return fn, _network((2, 20, 2, 1), seed, dtype), batch


def _equation_of_state(seed, dtype):
    """Water as a stiffened gas: logarithms of density and temperature to pressure and energy, standardised."""
    random = np.random.default_rng(0)
    density, temperature = 10 ** random.uniform([1, 2], [3.2, 3.5], (2000, 2)).T
    heat, exponent, stiffness = 1816.0, 2.35, 1e9  # J/(kg K), -, Pa (Le Métayer, Massoni, Saurel, 2004)
    pressure = (exponent - 1) * density * heat * temperature - stiffness
    energy = heat * temperature + stiffness / density
    standardised = [
        (columns - columns.mean(0)) / columns.std(0)
        for columns in (np.log(np.column_stack([density, temperature])), np.column_stack([pressure, energy]))
    ]
    x, y = (jnp.asarray(columns, dtype) for columns in standardised)
    return _mean_square, _network((2, 50, 1, 2), seed, dtype), (x, y)


def _lenet(seed, dtype):
    """LeNet-1 from the weights that Equinox draws, with which the tables were measured."""
    keys = jax.random.split(jax.random.key(seed), 3)
    layers = (
        eqx.nn.Conv2d(1, 4, 5, key=keys[0], dtype=dtype),
        eqx.nn.Conv2d(4, 12, 5, key=keys[1], dtype=dtype),
        eqx.nn.Linear(192, 10, key=keys[2], dtype=dtype),
    )
    network = odeopt.LeNet1(10, key=keys[0], dtype=dtype)
    return eqx.tree_at(lambda network: (network.first, network.second, network.last), network, layers)


@cache
def _fashion_images():
    (x, y), _ = odeopt.load_images(FASHION)
    return x[:10_000] / 255, y[:10_000].astype(int)


# Images at a time, whose patches stay in the cache.
CHUNK = 50


def _fashion(seed, dtype):
    # Products are kept for the backward pass, patches are not: there are twenty times as many numbers in them.
    @partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
    def squares(model, images, labels):
        wanted = jax.nn.one_hot(labels, 10, dtype=dtype, axis=0)
        return jnp.sum((jax.nn.softmax(model.of_columns(images), axis=0) - wanted) ** 2)

    def fn(model, batch):
        def add(total, chunk):
            return total + squares(model, *chunk), None

        total, _ = jax.lax.scan(add, jnp.zeros((), dtype), batch)
        return total / (10 * CHUNK * len(batch[1]))

    x, y = _fashion_images()
    x, y = x.reshape(-1, CHUNK, 28, 28).transpose(0, 2, 3, 1), y.reshape(-1, CHUNK)
    return fn, _lenet(seed, dtype), (jnp.asarray(x, dtype), jnp.asarray(y))


BENCHMARKS: dict[str, Benchmark] = {
    **{f"polynomial {name}": _polynomial(name) for name in POLYNOMIALS},
    "quadratic, condition 1e4": Benchmark(_quadratic, 36_000, seeds=1),
    "Rosenbrock, 2": Benchmark(_rosenbrock(2), 36_000, seeds=1),
    "Rosenbrock, 100": Benchmark(_rosenbrock(100), 36_000, seeds=1),
    "logistic regression": Benchmark(_logistic, 12_000, seeds=1),
    "digits, cross-entropy": Benchmark(_digits(_cross_entropy), 12_000, network=True),
    "digits, mean square": Benchmark(_digits(_softmax_mean_square), 12_000, network=True),
    "Runge": Benchmark(_runge, 36_000, network=True),
    "two spirals": Benchmark(_spirals, 36_000, network=True),
    "equation of state": Benchmark(_equation_of_state, 36_000, network=True),
    "Fashion-MNIST": Benchmark(_fashion, 1500, network=True),
}


def available(name: str) -> bool:
    """Whether the data of a problem are on this machine."""
    return name != "Fashion-MNIST" or (FASHION / "train-images-idx3-ubyte.gz").exists()
