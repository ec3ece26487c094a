"""LeNet-1 against the same network made of Equinox's layers, and the losses of networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import odeopt
from odeopt._lenet import PIECE
from odeopt._losses import LOSSES
from odeopt._networks import on_bytes, outputs_of

RANDOM = np.random.default_rng(0)


def by_layers(network, image):
    """The same function, image by image, of Equinox's own layers."""
    halved = eqx.nn.AvgPool2d(2, 2)
    features = halved(jnp.tanh(network.first(image.reshape(1, 28, 28))))
    features = halved(jnp.tanh(network.second(features)))
    return network.last(features.ravel())


def lenet(dtype="float64", outputs=10):
    network = odeopt.LeNet1(outputs, key=jax.random.key(1), dtype=dtype)
    # Biases start from 0, and an error in them would not be seen.
    return jax.tree.map(lambda leaf: leaf + 0.1 * jnp.arange(leaf.size).reshape(leaf.shape) / leaf.size, network)


# Less than a piece, a piece, and pieces with a rest.
@pytest.mark.parametrize("count", [3, PIECE, 2 * PIECE + 3])
@pytest.mark.parametrize("shape", [(784,), (28, 28)])
def test_lenet_is_the_network_of_its_layers(count, shape):
    network, images = lenet(), jnp.asarray(RANDOM.uniform(0, 1, (count, *shape)))
    expected = jax.vmap(lambda image: by_layers(network, image))(images)
    assert expected.shape == (count, 10)
    assert np.allclose(network.of_batch(images), expected, rtol=0, atol=1e-13)
    assert np.allclose(network(images[0]), expected[0], rtol=0, atol=1e-13)


def test_gradient_of_lenet_is_that_of_its_layers():
    network, images = lenet(), jnp.asarray(RANDOM.uniform(0, 1, (PIECE + 3, 784)))
    weights = jnp.asarray(RANDOM.normal(size=(len(images), 10)))
    own = eqx.filter_grad(lambda network: jnp.sum(weights * network.of_batch(images)))(network)
    layers = lambda network: jax.vmap(lambda image: by_layers(network, image))(images)  # noqa: E731
    expected = eqx.filter_grad(lambda network: jnp.sum(weights * layers(network)))(network)
    largest = jnp.max(jnp.abs(ravel_pytree(expected)[0]))
    for found, wanted in zip(jax.tree.leaves(own), jax.tree.leaves(expected), strict=True):
        assert np.allclose(found, wanted, rtol=0, atol=1e-12 * largest)


def test_lenet_starts_from_the_uniform_distribution_of_glorot_with_biases_of_zero():
    network = odeopt.LeNet1(10, key=jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_array))) == 104 + 1212 + 1930
    for layer, sizes in ((network.first, (25, 100)), (network.second, (100, 300)), (network.last, (192, 10))):
        bound = np.sqrt(6 / sum(sizes))
        assert not np.any(layer.bias)
        assert 0.9 * bound < np.max(np.abs(layer.weight)) <= bound
        assert layer.weight.dtype == np.float32
    assert not np.array_equal(network.first.weight, odeopt.LeNet1(10, key=jax.random.key(1)).first.weight)


def test_batch_network_is_not_mapped_over_its_examples():
    network, images = lenet("float32", outputs=3), jnp.asarray(RANDOM.uniform(0, 1, (4, 784)), jnp.float32)
    assert np.array_equal(outputs_of(network, images), network.of_batch(images))
    assert np.array_equal(outputs_of(lambda image: 2 * image, images), 2 * images)


SCORES = RANDOM.normal(size=(6, 4))
CLASSES = np.array([0, 1, 2, 3, 0, 1], np.int32)


@pytest.mark.parametrize(("task", "name"), LOSSES)
def test_loss_of_a_batch_is_the_mean_of_those_of_its_examples_and_none_is_negative(task, name):
    targets = CLASSES if task == "classification" else RANDOM.normal(size=(6, 4))
    loss = LOSSES[task, name]
    each = loss.each(lambda x: x, (SCORES, targets))
    assert each.shape == (6,)
    assert np.all(each >= 0)
    assert np.mean(each) == pytest.approx(float(loss.mean(lambda x: x, (SCORES, targets))), rel=1e-12)


def test_squared_loss_of_classes_is_that_of_the_softmax():
    probabilities = np.exp(SCORES) / np.sum(np.exp(SCORES), axis=1, keepdims=True)
    expected = np.mean((probabilities - np.eye(4)[CLASSES]) ** 2)
    assert LOSSES["classification", "squared"].mean(lambda x: x, (SCORES, CLASSES)) == pytest.approx(expected, rel=1e-6)


def test_images_reach_a_loss_between_zero_and_one_in_the_type_asked_for():
    images = np.array([[0, 51, 255]], np.uint8)
    seen = on_bytes(lambda network, batch: batch[0], jnp.float32)(None, (images, None))
    assert seen.dtype == np.float32
    assert np.array_equal(seen, np.array([[0, 0.2, 1]], np.float32))
