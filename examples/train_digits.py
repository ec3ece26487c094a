"""Train a network on handwritten digits, full batch and without a learning rate.

Run it with `python examples/train_digits.py`; it takes some seconds on two cores.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import odeopt


def digits():
    """Images of 8 by 8 pixels and their digits: 1400 to train on, 397 to test."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(images))
    images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def loss(model, batch):
    images, labels = batch
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(images), labels))


def accuracy(model, batch):
    images, labels = batch
    return jnp.mean(jnp.argmax(jax.vmap(model)(images), axis=1) == labels)


def main():
    train, test = digits()
    model = eqx.nn.MLP(in_size=64, out_size=10, width_size=32, depth=2, activation=jnp.tanh, key=jax.random.key(0))
    for flow in (odeopt.Adam(), odeopt.HeavyBall(), odeopt.GradientFlow()):
        trained, solution = odeopt.train(
            model,
            loss,
            train,
            odeopt.Solver(flow),
            stop=odeopt.Stop(gradient_norm=1e-3),
            validation=test,
            metrics={"accuracy": accuracy},
        )
        print(f"{type(flow).__name__}: test accuracy {accuracy(trained, test):.3f}. {solution.describe()}")


if __name__ == "__main__":
    main()
