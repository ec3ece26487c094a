"""Training on mini-batches of Fashion-MNIST: the energy tournament, nothing tuned, beside optimizers of optax.

Losses over all 60 000 images and accuracies on the test images, after so many epochs: one epoch costs three passes over
the data, and every probe, scan and lost window is charged. Medians over seeds, and the worst.
"""

import time
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

import odeopt
from odeopt._minibatch.order import BatchOrder

EPOCHS = (1, 3, 10)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
BATCH, BATCHES = 128, (32, 512, 2048)
SEEDS, FEW_SEEDS, THREE_SEEDS, MANY_SEEDS = range(5), range(2), range(3), range(20)
# Passes over the data that an epoch costs.
EPOCH = 3.0


def minibatch() -> Iterator[tuple[str, dict[str, object]]]:
    """Rows of the table, as they are done."""
    images = Images("standardised, tanh", (784, 64, 32, 10), jnp.tanh, lambda x: (x / 255 - 0.286) / 0.353)
    ours = [images.tournament(BATCH, seed) for seed in SEEDS]
    peers = [images.optax_run(contrib.schedule_free_adamw(), seed, averaged=True) for seed in SEEDS]
    yield f"{images.name}: EnergyTournament()", summary(ours)
    yield f"{images.name}: schedule-free AdamW, default", summary(peers)
    for rate in RATES:
        yield f"{images.name}: adam {rate:g}", summary([images.optax_run(optax.adam(rate), seed) for seed in FEW_SEEDS])
    for batch in BATCHES:
        yield f"{images.name}: batches of {batch}", summary([images.tournament(batch, seed) for seed in FEW_SEEDS])
    raw = Images("bytes, ReLU", (784, 128, 64, 10), jax.nn.relu, lambda x: x, epochs=(1, 3, 6))
    yield f"{raw.name}: EnergyTournament()", summary([raw.tournament(BATCH, seed) for seed in MANY_SEEDS])
    runs = [raw.optax_run(contrib.schedule_free_adamw(), seed, averaged=True) for seed in SEEDS]
    yield f"{raw.name}: schedule-free AdamW, default", summary(runs)
    lenet = LeNet("LeNet-1, standardised", (), None, lambda x: (x / 255 - 0.286) / 0.353, epochs=(1, 3))
    yield f"{lenet.name}: EnergyTournament()", summary([lenet.tournament(BATCH, seed) for seed in THREE_SEEDS])
    runs = [lenet.optax_run(contrib.schedule_free_adamw(), seed, averaged=True) for seed in THREE_SEEDS]
    yield f"{lenet.name}: schedule-free AdamW, default", summary(runs)
    # Behind everything has been compiled, and alternating.
    pairs = [
        (images.tournament(BATCH, 0)["seconds"], images.optax_run(contrib.schedule_free_adamw(), 0, True)["seconds"])
        for _ in range(7)
    ]
    yield "seconds per epoch over those of optax", {"ratio": round(float(np.median([a / b for a, b in pairs])), 3)}


def summary(runs: list[dict]) -> dict[str, object]:
    """Medians over the seeds, and the worst of them in the end."""
    finals = [run["losses"][-1] for run in runs]
    losses = np.median([run["losses"] for run in runs], axis=0)
    return {
        "losses": " / ".join(f"{loss:.4f}" for loss in losses),
        "worst": f"{np.max(finals):.4f}",
        "accuracy": f"{np.median([run['accuracy'] for run in runs]):.4f}",
        "seeds": len(runs),
    }


class Images:
    """Fashion-MNIST in some form, a network for it, and runs on both."""

    def __init__(self, name, sizes, activation, prepare, epochs=EPOCHS):
        self.name, self._sizes, self._activation, self._epochs = name, sizes, activation, epochs
        (images, labels), (test_images, test_labels) = odeopt.load_images()
        as_inputs = lambda x: jnp.asarray(prepare(x.reshape(len(x), -1).astype(np.float32)), jnp.float32)  # noqa: E731
        self.data = as_inputs(images), jnp.asarray(labels, jnp.int32)
        self.test = as_inputs(test_images), jnp.asarray(test_labels, jnp.int32)
        self._loss = eqx.filter_jit(self.loss)
        self._hits = eqx.filter_jit(self.hits)

    def start(self, seed: int):
        """Weights of Glorot and Bengio (2010), uniform."""
        random = np.random.default_rng(seed)
        sides = zip(self._sizes, self._sizes[1:], strict=False)
        bounds = [(a, b, np.sqrt(6 / (a + b))) for a, b in sides]
        return [
            (jnp.asarray(random.uniform(-bound, bound, (a, b)), jnp.float32), jnp.zeros(b, jnp.float32))
            for a, b, bound in bounds
        ]

    def scores(self, layers, x):
        for index, (weight, bias) in enumerate(layers):
            x = x @ weight + bias
            x = x if index == len(layers) - 1 else self._activation(x)
        return x

    def loss(self, layers, batch):
        scores = self.scores(layers, batch[0])
        right = jnp.take_along_axis(scores, batch[1][:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(scores, axis=1) - right)

    def hits(self, layers, batch):
        return jnp.mean(jnp.argmax(self.scores(layers, batch[0]), axis=1) == batch[1])

    def tournament(self, batch: int, seed: int) -> dict:
        """A run whose cost ends it; its losses where a window comes nearest to each number of epochs."""
        losses, left, spent = [], list(self._epochs), [0.0]
        # Windows of as many examples, so that large batches are looked at as often.
        window = min(256, max(1, 256 * BATCH // batch))
        half = 0.5 * EPOCH * window * batch / len(self.data[0])

        def look(report):
            began = time.monotonic()
            while left and report.stats["cost"] >= EPOCH * left[0] - half:
                losses.append(float(self._loss(report.best(), self.data)))
                left.pop(0)
            spent[0] += time.monotonic() - began
            return not left

        settings = odeopt.EnergyTournament(batch=batch, window=window, probe=5120, seed=seed)
        began = time.monotonic()
        model, solution = odeopt.train(
            self.start(seed), self.loss, self.data, settings, max_steps=10**9, callbacks=[look]
        )
        seconds = (time.monotonic() - began - spent[0]) / (solution.stats["cost"] / EPOCH)
        return {"losses": losses, "accuracy": float(self._hits(model, self.test)), "seconds": seconds}

    def optax_run(self, optimizer, seed: int, averaged: bool = False) -> dict:
        """The optimizer in a compiled loop of 256 steps at a time."""
        order = BatchOrder(len(self.data[0]), BATCH, seed)
        layers, losses, step, spent = self.start(seed), [], 0, 0.0
        memory = optimizer.init(eqx.filter(layers, eqx.is_array))
        began = time.monotonic()
        for epochs in self._epochs:
            last = epochs * order.steps_per_epoch
            while step < last:
                count = min(256, last - step)
                layers, memory = _steps(
                    self, optimizer, layers, memory, self.data, jnp.asarray(order.indices(step, count))
                )
                step += count
            answer = layers
            if averaged:
                trained, rest = eqx.partition(layers, eqx.is_array)
                answer = eqx.combine(contrib.schedule_free_eval_params(memory, trained), rest)
            paused = time.monotonic()
            losses.append(float(self._loss(answer, self.data)))
            spent += time.monotonic() - paused
        seconds = (time.monotonic() - began - spent) / self._epochs[-1]
        return {"losses": losses, "accuracy": float(self._hits(answer, self.test)), "seconds": seconds}


class LeNet(Images):
    """The same images, and a network with convolutions."""

    def start(self, seed: int):
        return odeopt.LeNet1(10, key=jax.random.key(seed))

    def scores(self, layers, x):
        return layers.of_batch(x)


@eqx.filter_jit
def _steps(images, optimizer, layers, memory, data, indices):
    trained, rest = eqx.partition(layers, eqx.is_array)

    def step(carry, chosen):
        trained, memory = carry
        batch = jax.tree.map(lambda leaf: leaf[chosen], data)
        gradient = jax.grad(lambda trained: images.loss(eqx.combine(trained, rest), batch))(trained)
        updates, memory = optimizer.update(gradient, memory, trained)
        return (optax.apply_updates(trained, updates), memory), None

    trained, memory = jax.lax.scan(step, (trained, memory), indices)[0]
    return eqx.combine(trained, rest), memory
