"""The examples and the metrics of `train`, checked before anything is compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._check import restated

KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating, jax.dtypes.prng_key)


def as_examples(name: str, given: PyTree) -> PyTree:
    """A pytree as JAX arrays that share their leading axis.

    **Raises:** `TypeError` or `ValueError` that calls the pytree by `name`.
    """
    expected = "expected a pytree of arrays with the examples along the leading axis"
    leaves = jax.tree_util.tree_leaves_with_path(given)
    if not leaves:
        raise TypeError(f"{name} holds no array; {expected}.")
    for path, leaf in leaves:
        place = name + jax.tree_util.keystr(path)
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(f"{place} is a Python {type(leaf).__name__}; {expected}. Convert it with numpy.asarray.")
        if _kind(leaf) is None:
            raise TypeError(f"{place} has dtype {leaf.dtype}; expected numbers. Encode classes as integers, say.")
    lengths = {leaf.shape[0] if leaf.shape else None for _, leaf in leaves}
    if len(lengths) != 1 or lengths & {None, 0}:
        shapes = ", ".join(str(leaf.shape) for _, leaf in leaves)
        raise ValueError(f"{name}: the arrays must have the same leading axis, of length > 0; got shapes {shapes}.")
    return jax.tree.map(jnp.asarray, given)


def as_validation(given: PyTree, data: PyTree) -> PyTree:
    """Examples like those of `data` in everything but their number; `data` is `None` where an objective holds them.

    **Raises:** `TypeError` or `ValueError` that names the first array that differs.
    """
    validation = as_examples("validation", given)
    if data is None:
        return validation
    structures = jax.tree.structure(validation), jax.tree.structure(data)
    if structures[0] != structures[1]:
        raise ValueError(f"validation has the structure {structures[0]}; expected that of data, {structures[1]}.")
    leaves = jax.tree_util.tree_leaves_with_path(validation)
    for (path, leaf), like in zip(leaves, jax.tree.leaves(data), strict=True):
        where = jax.tree_util.keystr(path)
        if leaf.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"validation{where} has examples of shape {leaf.shape[1:]}; expected {like.shape[1:]}, as in "
                f"data{where}. The first axis counts the examples."
            )
        if _kind(leaf) != _kind(like):
            raise TypeError(
                f"validation{where} has dtype {leaf.dtype}; data{where} has {like.dtype}. Convert one of them with "
                ".astype."
            )
    return validation


def check_metrics(metrics: Any, validation: PyTree, data: PyTree) -> None:
    """Refuse metrics that are no functions by name, and metrics or validation data that would be ignored."""
    if metrics is not None and not (
        isinstance(metrics, Mapping) and all(isinstance(key, str) and callable(metrics[key]) for key in metrics)
    ):
        raise TypeError(f'metrics must be a dict of functions by name, such as {{"loss": loss}}; got {metrics!r}.')
    if validation is not None and not metrics:
        raise ValueError(
            'validation serves the metrics, and there are none. Pass metrics={"name": function} with '
            "function(model, batch) -> scalar, or leave validation out."
        )
    if metrics and data is None and validation is None:
        raise ValueError(
            "metrics have no data to be evaluated on, because the objective keeps its own. Pass a batch as validation."
        )


def callable_metrics(
    metrics: Mapping[str, Callable], sets: dict[str, PyTree], model: PyTree
) -> dict[str, tuple[Callable, PyTree]]:
    """Every metric on every set that is not `None`, as "set/name": what to call, and the batch to call it with.

    **Raises:** `TypeError` or `ValueError` for a metric that fails, or that returns something else than a real number.
    """
    return {
        f"{set_name}/{name}": (_as_called(f"{set_name}/{name}", metric, model, batch), batch)
        for set_name, batch in sets.items()
        if batch is not None
        for name, metric in metrics.items()
    }


def _as_called(name: str, metric: Callable, model: PyTree, batch: PyTree) -> Callable:
    try:
        returned = eqx.filter_eval_shape(metric, model, batch)
    except Exception:
        # One that needs numbers (written with scikit-learn, say) cannot be traced, and is called as it is.
        _check_number(name, _called(name, metric, model, batch))
        return metric
    _check_number(name, returned)
    return eqx.filter_jit(metric)


def _called(name: str, metric: Callable, model: PyTree, batch: PyTree):
    try:
        return metric(model, batch)
    except Exception as error:
        raise restated(error, f"the metric {name!r} failed") from error


def _check_number(name: str, returned) -> None:
    if isinstance(returned, (bool, int, float)):
        return
    if not (hasattr(returned, "shape") and hasattr(returned, "dtype")):
        raise TypeError(f"the metric {name!r} returned {type(returned).__name__}; expected a scalar.")
    if returned.shape != ():
        raise ValueError(
            f"the metric {name!r} returned an array of shape {returned.shape}; expected a scalar. Reduce it with "
            "jnp.mean or jnp.max."
        )
    if _kind(returned) not in (jnp.bool_, jnp.integer, jnp.floating):
        raise TypeError(f"the metric {name!r} returned dtype {returned.dtype}; expected a real number.")


def _kind(array) -> Any:
    """Which of `KINDS` an array is of, or `None`."""
    return next((kind for kind in KINDS if jnp.issubdtype(array.dtype, kind)), None)
