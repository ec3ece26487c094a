"""The problems of the benchmarks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def digits(dtype):
    """The first 1400 rows of scikit-learn's digits after a fixed permutation, inputs in [0, 1]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.data))
    x, y = (data.data / 16)[order][:1400], data.target[order][:1400]
    return jnp.asarray(x, dtype), jnp.asarray(y)


def digits_network(seed: int, dtype):
    """MLP 64-32-32-10 with tanh."""
    return eqx.nn.MLP(64, 10, 32, 2, jnp.tanh, key=jax.random.key(seed), dtype=dtype)


def cross_entropy(model, batch):
    """The mean over the batch, times a scale that comes with the data."""
    (x, y), scale = batch
    log_probabilities = jax.nn.log_softmax(jax.vmap(model)(x))
    return -scale * jnp.mean(jnp.take_along_axis(log_probabilities, y[:, None], 1))


def diagonal_quadratic(size: int, dtype):
    """`(loss, diagonal, start)`, condition 1e4."""
    diagonal = jnp.asarray(np.logspace(-4, 0, size), dtype)
    return lambda x, d: 0.5 * jnp.sum(d * x * x), diagonal, jnp.ones(size, dtype)


def wide_network(dtype):
    """`(loss, batch, parameters)` of an MLP with 670k parameters on 64 random examples, mean square."""
    model = eqx.nn.MLP(784, 10, 512, 2, jnp.tanh, key=jax.random.key(0), dtype=dtype)
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    x = jax.random.normal(jax.random.key(1), (64, 784), dtype)
    y = jax.random.normal(jax.random.key(2), (64, 10), dtype)

    def loss(parameters, batch):
        return jnp.mean((jax.vmap(eqx.combine(parameters, rest))(batch[0]) - batch[1]) ** 2)

    return loss, (x, y), parameters


def polynomial_two(y, _):
    """The scalar network whose four minima are 0."""
    g = lambda z: z**2 - 1  # noqa: E731
    return 0.25 * (g(y[1]) ** 2 + g(y[0] + y[1]) ** 2)
