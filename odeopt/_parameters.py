"""What is trained and what is not: any pytree, any Equinox model, split into parameters and the rest."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def _is_module(node) -> bool:
    return isinstance(node, eqx.Module)


def _split_module(module: eqx.Module) -> tuple[PyTree, PyTree]:
    return eqx.partition(module, lambda leaf: isinstance(leaf, jax.Array) and eqx.is_inexact_array(leaf))


def _as_parameter(path, leaf):
    """A leaf outside every module: a floating-point number or array, or something that is no number at all."""
    name = "y0" + jax.tree_util.keystr(path)
    if not isinstance(leaf, (bool, int, float, complex, np.ndarray, np.generic, jax.Array)):
        return None, leaf
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name} is complex ({dtype}); parameters must be real. Pass the real and imaginary parts as two leaves."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {dtype}; parameters must be floating point, because the flow moves them continuously. "
            "Write 1.0 instead of 1, convert the array with .astype(float), or pass it through `args`."
        )
    # jnp.array, with the dtype that was found: strong, so that the step compiles once.
    return jnp.asarray(leaf, dtype), None


def split_parameters(y0: PyTree) -> tuple[PyTree, PyTree]:
    """Split `y0` into the parameters that are trained and everything else.

    Inside an Equinox module the convention of Equinox holds: JAX arrays of floating point are trained; activation
    functions, integers, Python numbers and NumPy arrays are part of the model. Outside modules every number is a
    parameter.

    **Arguments:** `y0`: any pytree.

    **Returns:** `(parameters, frozen)`, each with `None` where the other has a leaf; `merge_parameters` joins them.

    **Raises:** `TypeError` for integer or complex parameters and for models with a state beside their parameters,
    `ValueError` if nothing is left to train.
    """
    _refuse_state(y0)
    paths, structure = jax.tree_util.tree_flatten_with_path(y0, is_leaf=_is_module)
    halves = [_split_module(leaf) if _is_module(leaf) else _as_parameter(path, leaf) for path, leaf in paths]
    parameters = jax.tree.unflatten(structure, [half[0] for half in halves])
    frozen = jax.tree.unflatten(structure, [half[1] for half in halves])
    if not jax.tree.leaves(parameters):
        raise ValueError("y0 holds no floating-point array, so there is nothing to train.")
    # Strong dtypes: a weakly typed leaf would change its type after the first step.
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), parameters), frozen


def _refuse_state(y0: PyTree) -> None:
    """Running averages are no function of the parameters: the loss would be another one at both ends of a step."""

    def has_state(node) -> bool:
        averaging = isinstance(node, eqx.nn.BatchNorm | eqx.nn.SpectralNorm) and not node.inference
        return averaging or isinstance(node, eqx.nn.State)

    for path, node in jax.tree_util.tree_leaves_with_path(y0, is_leaf=has_state):
        if has_state(node):
            raise TypeError(
                f"y0{jax.tree_util.keystr(path)} is a {type(node).__name__}, whose state changes beside the "
                "parameters: the loss at both ends of a step would not be the same function. Use layer or group "
                "normalisation (eqx.nn.LayerNorm, eqx.nn.GroupNorm), or freeze the averages with "
                "eqx.nn.inference_mode(model) and hold the eqx.nn.State in the loss."
            )


def merge_parameters(parameters: PyTree, frozen: PyTree) -> PyTree:
    """The inverse of `split_parameters`."""
    return eqx.combine(parameters, frozen)
