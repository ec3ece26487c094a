"""The networks that `odeopt train` builds and `load` builds again: by name, or by a function of the user's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._lenet import SIDE, LeNet1
from ._named import describe, file_of
from ._networks import multilayer_perceptron
from ._tree import cast_floating

MLP, LENET1 = "mlp", "lenet1"
# The kinds of numbers that model.eqx keeps.
NUMBERS = "biuf"


class ArchitectureError(ValueError):
    """A network that cannot be built; the message says what was given, what is expected and what to do."""


@dataclass(frozen=True)
class Architecture:
    """What a network is built from.

    **Attributes:** `model`: `"mlp"`, `"lenet1"` or `FILE.py:FUNCTION`; `inputs`, `outputs`: how many there are;
    `hidden`: the widths of the hidden layers of an `mlp`; `dtype`: of the parameters.
    """

    model: str
    inputs: int
    outputs: int
    hidden: tuple[int, ...]
    dtype: str

    @property
    def is_own(self) -> bool:
        """Whether a function of the user's builds it."""
        return self.model not in (MLP, LENET1)

    def config(self) -> dict[str, Any]:
        """As `config.json` has it; an `mlp` as in the folders of the first version."""
        sizes: dict[str, Any] = {"inputs": self.inputs, "outputs": self.outputs}
        if self.model == MLP:
            sizes |= {"hidden": list(self.hidden), "activation": "tanh"}
        else:
            sizes = {"model": self.model} | sizes
        return sizes | {"dtype": self.dtype}

    def describe(self) -> str:
        """In a few words."""
        return "-".join(map(str, (self.inputs, *self.hidden, self.outputs))) if self.model == MLP else self.model


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The inverse of `Architecture.config`.

    **Raises:** `KeyError`, `TypeError` or `ValueError` for what describes no network.
    """
    model = config.get("model", MLP)
    hidden = ()
    if model == MLP:
        hidden = tuple(int(width) for width in config["hidden"])
        if config["activation"] != "tanh":
            raise ValueError(f"the activation {config['activation']!r} is unknown")
    return Architecture(str(model), int(config["inputs"]), int(config["outputs"]), hidden, str(config["dtype"]))


def built(architecture: Architecture, build: Callable | None, dtype, seed: int) -> PyTree:
    """The network at its start.

    **Arguments:** `build`: the function of the user's, called as `build(inputs, outputs, key)`; `dtype`: of the
    parameters; `seed`: of their initial values.

    **Raises:** `ArchitectureError` if it cannot be built, or does not turn `inputs` numbers into `outputs` numbers.
    """
    inputs, outputs = architecture.inputs, architecture.outputs
    if build is not None:
        return _own(architecture, build, dtype, seed)
    if architecture.model == MLP:
        return multilayer_perceptron(inputs, outputs, architecture.hidden, dtype, seed)
    if inputs != SIDE**2:
        raise ArchitectureError(
            f"lenet1 takes images of {SIDE} by {SIDE} pixels, {SIDE**2} inputs; the examples have {inputs}. Choose "
            "another model, or bring the images to that size."
        )
    return LeNet1(outputs, key=jax.random.key(seed), dtype=dtype)


def _own(architecture: Architecture, build: Callable, dtype, seed: int) -> PyTree:
    name, inputs, outputs = architecture.model, architecture.inputs, architecture.outputs
    expected = (
        f"Expected build(inputs, outputs, key) -> an Equinox model that is called with one example, {inputs} numbers "
        f"in an array of shape ({inputs},), and returns {outputs}, shape ({outputs},)."
    )
    try:
        network = cast_floating(build(inputs, outputs, jax.random.key(seed)), dtype)
    except Exception as error:  # of the user's own code, of any kind
        raise ArchitectureError(f"{name} cannot be built ({describe(error, file_of(name))}). {expected}") from error
    for leaf in filter(eqx.is_array, jax.tree.leaves(network)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or leaf.dtype.kind not in NUMBERS:
            raise ArchitectureError(f"{name}: the model holds an array of {leaf.dtype}, which is not kept in a run.")
    if not callable(network) or not any(map(eqx.is_inexact_array, jax.tree.leaves(network))):
        raise ArchitectureError(f"{name} returned a {type(network).__name__} without parameters. {expected}")
    try:
        answer = eqx.filter_eval_shape(network, jax.ShapeDtypeStruct((inputs,), dtype))
    except Exception as error:  # of the user's own code, of any kind
        raise ArchitectureError(f"{name} cannot be called ({describe(error, file_of(name))}). {expected}") from error
    shape, kind = getattr(answer, "shape", None), getattr(answer, "dtype", None)
    if shape != (outputs,) or kind is None or not jnp.issubdtype(kind, jnp.floating):
        found = type(answer).__name__ if shape is None else f"shape {shape} and dtype {kind}"
        raise ArchitectureError(f"{name}: the model returned {found}. {expected}")
    return network
