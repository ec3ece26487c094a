"""LeNet-1 for images of 28 by 28 pixels, on whole batches."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._networks import AbstractBatchNetwork

SIDE = 28
# Of the second feature maps, 12 of 4 by 4 pixels.
FEATURES = 192
# Images at a time: their patches stay in the cache of a core. Measured by benchmarks/_lenet.py, table "piece".
PIECE = 50


class LeNet1(AbstractBatchNetwork):
    r"""Two convolutions with average pooling and a dense layer, with tanh between them.

    28 x 28 pixels; 4 maps of 5 x 5 weights, halved to 12 x 12; 12 maps of 5 x 5 weights, halved to 4 x 4; dense. It
    starts from Glorot and Bengio's uniform distribution, with biases of 0. (LeCun, Boser, Denker, Henderson, Howard,
    Hubbard, Jackel, 1989, Backpropagation applied to handwritten zip code recognition; 1990, Handwritten digit
    recognition with a back-propagation network.)

    **Arguments:** `outputs`: how many classes there are; `key`: of the weights at the start; `dtype`: of the weights.

    Called with one image, shape (784,) or (28, 28), it returns its scores, shape (outputs,). Many are faster together:
    `network.of_batch(images)` takes the shape (n, 784) or (n, 28, 28), and returns (n, outputs).

    !!! example

        ```python
        network = odeopt.LeNet1(10, key=jax.random.key(0))
        images, labels = jnp.zeros((200, 28, 28), jnp.uint8), jnp.zeros(200, int)

        def losses(network, batch):
            images, labels = batch
            scores = network.of_batch(images / 255)  # bytes until here, a fourth of the memory
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels)

        objective = odeopt.FiniteSum(losses, (images, labels), chunk_size=50, nonnegative=True)
        network, solution = odeopt.train(network, objective, None, max_steps=3)
        ```
    """

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    last: eqx.nn.Linear

    def __init__(self, outputs: int, *, key: Array, dtype=jnp.float32):
        keys = jax.random.split(key, 3)
        self.first = _started(eqx.nn.Conv2d(1, 4, 5, key=keys[0], dtype=dtype), keys[0])
        self.second = _started(eqx.nn.Conv2d(4, 12, 5, key=keys[1], dtype=dtype), keys[1])
        self.last = _started(eqx.nn.Linear(FEATURES, outputs, key=keys[2], dtype=dtype), keys[2])

    def __call__(self, image: Array) -> Array:
        return self.of_columns(image.reshape(SIDE, SIDE, 1))[:, 0]

    def of_batch(self, images: Array | np.ndarray) -> Array:
        """Of images, shape (n, 784) or (n, 28, 28), the scores, shape (n, outputs)."""
        images = jnp.asarray(images)
        whole, rest = divmod(len(images), PIECE)
        pieces = images[: whole * PIECE].reshape(whole, PIECE, SIDE, SIDE)
        scores = jax.lax.map(self._of_piece, pieces).reshape(whole * PIECE, self.last.weight.shape[0])
        if not rest:
            return scores
        last = self._of_piece(images[whole * PIECE :].reshape(rest, SIDE, SIDE))
        return jnp.concatenate([scores, last]) if whole else last

    def of_columns(self, images: Array) -> Array:
        """Of images along the last axis, shape (28, 28, n), the scores, shape (outputs, n)."""
        features = _halved(jnp.tanh(_convolved(self.first, images[None])))
        features = _halved(jnp.tanh(_convolved(self.second, features)))
        return self.last.weight @ features.reshape(FEATURES, -1) + self.last.bias[:, None]  # pyright: ignore[reportOptionalSubscript]

    def _of_piece(self, images: Array) -> Array:
        return _scores(self, images.transpose(1, 2, 0)).T


# Products are kept for the backward pass, patches are not: there are twenty times as many numbers in them.
@partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
def _scores(network: LeNet1, images: Array) -> Array:
    return network.of_columns(images)


def _started(layer, key: Array):
    """The layer with Glorot and Bengio's weights and biases of 0."""
    draw = jax.nn.initializers.glorot_uniform(in_axis=1, out_axis=0)
    weight, bias = layer.weight, layer.bias
    started = draw(key, weight.shape, weight.dtype), jnp.zeros_like(bias)
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, started)


def _convolved(layer: eqx.nn.Conv2d, images: Array) -> Array:
    """A convolution as one product with the patches; with the images along the last axis this takes a third of the
    time of a convolution on a CPU."""
    (outputs, inputs, width, _), (_, rows, columns, count) = layer.weight.shape, images.shape
    height, breadth = rows - width + 1, columns - width + 1
    # Shifted along one axis, then along the other: 10 slices to be compiled, where all at once would be 25.
    shifted = jnp.stack([images[:, :, j : breadth + j] for j in range(width)], axis=1)
    patches = jnp.stack([shifted[:, :, i : height + i] for i in range(width)], axis=1)
    product = layer.weight.reshape(outputs, -1) @ patches.reshape(inputs * width**2, height * breadth * count)
    return product.reshape(outputs, height, breadth, count) + layer.bias[..., None]  # pyright: ignore[reportOptionalSubscript]


def _halved(images: Array) -> Array:
    """Means of 2 by 2 pixels."""
    pairs = images[:, ::2] + images[:, 1::2]
    return (pairs[:, :, ::2] + pairs[:, :, 1::2]) / 4
