"""The examples of `odeopt train` and the mean loss over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._lenet import PIECE, LeNet1
from ._networks import on_bytes
from ._objective import FiniteSum, device_mesh, share_of

if TYPE_CHECKING:
    from ._experiment import Experiment


def examples_of(experiment: Experiment, x: np.ndarray, y: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Inputs and targets as `of_examples` takes them; images stay bytes."""
    preprocessing, dtype = experiment.data_set.preprocessing, experiment.options.dtype
    inputs = x if preprocessing.image_shape is not None else preprocessing.inputs(x, dtype)
    return jnp.asarray(inputs), jnp.asarray(preprocessing.targets(y, dtype))


def of_examples(experiment: Experiment, function: Callable) -> Callable:
    """A loss or a metric on `examples_of`."""
    are_images = experiment.data_set.preprocessing.image_shape is not None
    return on_bytes(function, experiment.options.dtype) if are_images else function


def objective_of(experiment: Experiment, data: PyTree) -> tuple[Any, PyTree]:
    """What `odeopt.train` takes as loss and data.

    No loss of the command line is negative: a pass over chunks may end where a trial is sure to be rejected.
    """
    if experiment.options.batch is not None:
        return of_examples(experiment, experiment.loss.mean), data
    size, network = experiment.options.chunk_size, experiment.network
    if size is None and isinstance(network, LeNet1):
        size = PIECE
    each = of_examples(experiment, experiment.loss.each)
    if jax.process_count() > 1:
        share = share_of(len(data[0]))
        # Copied, so that the rest can go.
        own = jax.tree.map(lambda leaf: np.asarray(leaf)[share].copy(), data)
        return FiniteSum(each, own, chunk_size=size, nonnegative=True, mesh=device_mesh()), None
    return FiniteSum(each, data, chunk_size=size, nonnegative=True), None
