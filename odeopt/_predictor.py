"""A trained network together with its preprocessing: raw inputs in, answers out."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._data import Preprocessing
from ._networks import outputs_of

# Examples at a time: what a network of images computes on the way takes many times the memory of the images.
AT_ONCE = 1000


class Predictor(eqx.Module):
    """A trained model that works on raw inputs, as they stand in the data file.

    `predictor(x)` takes an array of shape `(..., inputs)`, images also as `(..., rows, columns)`, and returns, for
    classification, the probabilities of the classes, shape `(..., classes)`, in the order of `predictor.classes`; for
    regression the predicted values in the unit of the targets, shape `(...)`, or `(..., outputs)` if the targets have a
    second axis. `predictor.labels(x)` gives the most probable classes themselves. It is an Equinox module: `jit`,
    `vmap` and `grad` work on it.

    **Attributes:** `network`: the Equinox network on standardised inputs, to be trained further or looked into;
    `input_mean`, `input_scale`, `target_mean`, `target_scale`: the preprocessing; `classes`: a tuple, `None` for
    regression; `input_names`: the columns of the training file, `None` where they had no names;
    `image_shape`: rows and columns of images, `None` for other inputs.

    **Raises:** `ValueError` if the last axis of `x` is not the number of inputs; `TypeError` where labels are asked of
    a regression.

    !!! example

        ```python
        predictor = odeopt.load("runs/digits")
        probabilities = predictor(images)        # raw pixels, shape (N, 64)
        ```
    """

    network: Any
    input_mean: Array | np.ndarray
    input_scale: Array | np.ndarray
    target_mean: Array | np.ndarray | None
    target_scale: Array | np.ndarray | None
    classes: tuple | None = eqx.field(static=True)
    scalar_target: bool = eqx.field(static=True)
    input_names: tuple[str, ...] | None = eqx.field(static=True)
    image_shape: tuple[int, int] | None = eqx.field(static=True)

    def __init__(self, network: Any, preprocessing: Preprocessing):
        self.network = network
        self.input_mean = preprocessing.input_mean
        self.input_scale = preprocessing.input_scale
        self.target_mean = preprocessing.target_mean
        self.target_scale = preprocessing.target_scale
        self.classes = preprocessing.classes
        self.scalar_target = preprocessing.scalar_target
        self.input_names = preprocessing.input_names
        self.image_shape = preprocessing.image_shape

    @property
    def dtype(self) -> np.dtype:
        """Of the parameters of the network."""
        return next(leaf.dtype for leaf in jax.tree.leaves(self.network) if eqx.is_inexact_array(leaf))

    def __call__(self, x) -> Array:
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        inputs = self.input_mean.size
        if self.image_shape is not None and x.shape[-2:] == self.image_shape:
            x = x.reshape(*x.shape[:-2], inputs)
        if x.ndim == 0 or x.shape[-1] != inputs:
            images = "" if self.image_shape is None else f" or (..., {self.image_shape[0]}, {self.image_shape[1]})"
            raise ValueError(
                f"x has shape {x.shape}; this model takes {inputs} inputs along the last axis: (..., {inputs}){images}."
            )
        rows = x.reshape(-1, inputs)
        parts = [self._outputs(rows[start : start + AT_ONCE]) for start in range(0, max(len(rows), 1), AT_ONCE)]
        outputs = (parts[0] if len(parts) == 1 else jnp.concatenate(parts)).reshape(*x.shape[:-1], -1)
        if self.classes is not None:
            return jax.nn.softmax(outputs, axis=-1)
        values = jnp.asarray(self.target_mean) + jnp.asarray(self.target_scale) * outputs
        return values[..., 0] if self.scalar_target else values

    def _outputs(self, rows) -> Array:
        # Data from files are standardised in float64, before they are rounded to the type of the network.
        rows = rows if isinstance(rows, jax.Array) else np.asarray(rows, np.float64)
        return outputs_of(self.network, jnp.asarray((rows - self.input_mean) / self.input_scale, self.dtype))

    def labels(self, x) -> np.ndarray:
        """The most probable class of each example."""
        if self.classes is None:
            raise TypeError("labels: this model was trained for regression and has no classes; call predictor(x).")
        return np.asarray(self.classes)[np.argmax(self(x), axis=-1)]


def scores(predictor: Predictor, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """How well the targets `y` are met: `accuracy`, or `rmse` and `r2` (NaN where the targets do not vary)."""
    if predictor.classes is not None:
        return {"accuracy": float(np.mean(predictor.labels(x) == y))}
    residual = np.asarray(predictor(x), np.float64) - y
    variance = np.mean((y - np.mean(y, axis=0)) ** 2)
    square = np.mean(residual**2)
    return {"rmse": float(np.sqrt(square)), "r2": float(1 - square / variance) if variance > 0 else float("nan")}
