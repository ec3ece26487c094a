r"""Examples and parameters spread over the devices of a mesh, and sums over all of them with one reduction each.

Every device adds up its own examples; then the sums of the devices are joined. A sum that is left to the compiler is
joined after every chunk instead. (Parameters that are spread too: Rajbhandari, Rasley, Ruwase, He, 2020, ZeRO: memory
optimizations toward training trillion parameter models; Zhao et al., 2023, PyTorch FSDP.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from .accurate_sum import accurate_sum, nothing_yet

# Into how many parts a pass is divided between which the devices ask each other whether to go on: more would save less
# than an eighth of a rejected pass, and a reduction of one number costs up to a millisecond between machines.
ROUNDS = 8


@dataclass(frozen=True)
class Layout:
    """How the trained parameters lie on a mesh: along which axis each leaf is divided, `None` for a whole leaf."""

    mesh: Mesh
    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[int | None, ...]

    @property
    def specs(self) -> PyTree:
        return jax.tree.unflatten(self.structure, [_spec(self.mesh, axis) for axis in self.axes])

    def gathered(self, parts: PyTree) -> PyTree:
        """The whole parameters, on a device that holds a part; inside of `shard_map`."""

        def gather(leaf, axis):
            return leaf if axis is None else jax.lax.all_gather(leaf, _names(self.mesh), axis=axis, tiled=True)

        return self._mapped(gather, parts)

    def reduced(self, wholes: PyTree) -> PyTree:
        """The sum over all devices, each of which keeps its part of it; inside of `shard_map`."""

        def reduce(leaf, axis):
            if axis is None:
                return jax.lax.psum(leaf, _names(self.mesh))
            return jax.lax.psum_scatter(leaf, _names(self.mesh), scatter_dimension=axis, tiled=True)

        return self._mapped(reduce, wholes)

    def placed(self, tree: PyTree) -> PyTree:
        """A tree in which everything that is made like the parameters is divided as they are.

        Memory that begins with zeros depends on no parameter, and the compiler would keep all of it on every device.
        """
        if all(axis is None for axis in self.axes):
            return tree
        return jax.tree.map(self._as_parameters, tree, is_leaf=self._is_like_parameters)

    def _is_like_parameters(self, node: PyTree) -> bool:
        leaves, structure = jax.tree.flatten(node)
        return structure == self.structure and all(
            eqx.is_array(leaf) and leaf.shape[max(leaf.ndim - len(shape), 0) :] == shape
            for leaf, shape in zip(leaves, self.shapes, strict=True)
        )

    def _as_parameters(self, node: PyTree) -> PyTree:
        if not self._is_like_parameters(node):
            return node

        def constrained(leaf, axis, shape):
            if axis is None:
                return leaf
            # A memory of several gradients counts them along axes before those of the parameters.
            spec = _spec(self.mesh, axis + leaf.ndim - len(shape))
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))

        leaves = map(constrained, jax.tree.leaves(node), self.axes, self.shapes)
        return jax.tree.unflatten(self.structure, list(leaves))

    def _mapped(self, function: Callable, tree: PyTree) -> PyTree:
        return jax.tree.unflatten(self.structure, list(map(function, jax.tree.leaves(tree), self.axes)))


def layout_of(trained: PyTree, mesh: Mesh) -> Layout:
    """How parameters lie; those that are being traced count as whole.

    **Raises:** `ValueError` for parameters that are divided in another way than `shard_parameters` does.
    """
    leaves, structure = jax.tree.flatten(trained)
    axes = tuple(_axis_of(leaf, mesh) for leaf in leaves)
    return Layout(mesh, structure, tuple(leaf.shape for leaf in leaves), axes)


def shard_parameters(model: PyTree, mesh: Mesh) -> PyTree:
    """Divide the parameters of a model among the devices of a mesh, for an `odeopt.FiniteSum` over the same mesh.

    Each array is divided along its longest axis whose length the number of devices divides; one without such an axis
    is kept whole on every device. Gradient and memory of the flow are then divided in the same way.

    **Arguments:**

    - `model`: an Equinox model or any pytree of parameters. With several processes every one passes the same.
    - `mesh`: a mesh in Auto mode, as `odeopt.device_mesh()` makes it.

    **Returns:** the model with its arrays on the mesh.

    **Raises:** `TypeError` or `ValueError` for what is no mesh in Auto mode.

    !!! example

        ```python
        mesh = odeopt.device_mesh()
        model = eqx.nn.MLP(3, "scalar", 64, 2, key=jax.random.key(0))
        model = odeopt.shard_parameters(model, mesh)
        ```
    """
    check_mesh("shard_parameters", mesh)

    def place(leaf):
        if not eqx.is_inexact_array(leaf):
            return leaf
        lengths = [length if length % mesh.size == 0 else 0 for length in leaf.shape]
        axis = int(np.argmax(lengths)) if any(lengths) else None
        return jax.device_put(leaf, NamedSharding(mesh, _spec(mesh, axis)))

    return jax.tree.map(place, model)


def device_mesh(devices: Any = None) -> Mesh:
    """A mesh of one axis, in Auto mode, over all devices of all processes.

    **Arguments:** `devices`: a list of devices; `None` (default): all of them.

    **Returns:** a `jax.sharding.Mesh` for `odeopt.FiniteSum(..., mesh=mesh)`.

    !!! example

        ```python
        mesh = odeopt.device_mesh()
        print(mesh.size)
        ```
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("devices",), axis_types=(AxisType.Auto,))


def share_of(count: int) -> slice:
    """Which of `count` examples belong to this process, where several work together (`jax.distributed`).

    Consecutive shares whose lengths differ by at most one; all examples where there is one process.

    **Arguments:** `count`: the number of examples in all.

    **Returns:** a slice of `range(count)`.

    **Raises:** `ValueError` if there are fewer examples than processes.

    !!! example

        ```python
        images = np.ones((1000, 28, 28))
        mine = images[odeopt.share_of(len(images))]
        ```
    """
    return share(count, jax.process_index(), jax.process_count())


def share(count: int, index: int, parts: int) -> slice:
    """The part `index` of `parts` nearly equal parts of `count` examples."""
    if count < parts:
        raise ValueError(
            f"{count} examples cannot be shared by {parts} processes. Start at most as many processes as there are "
            "examples."
        )
    return slice(count * index // parts, count * (index + 1) // parts)


def check_mesh(name: str, mesh: Any) -> None:
    """**Raises:** `TypeError` or `ValueError` for what is no mesh in Auto mode; `name`: who has been given it."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f"{name}: mesh must be a jax.sharding.Mesh, such as odeopt.device_mesh(); got {mesh!r}.")
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            f"{name}: mesh has axes of the types {[str(kind) for kind in mesh.axis_types]}; expected Auto for all of "
            "them, because parameters and examples are divided over the same axes. Use odeopt.device_mesh(), or "
            "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,))."
        )


def placed_examples(data: PyTree, weights: Any, mesh: Mesh) -> tuple[PyTree, Array | None]:
    """Examples and weights divided among the devices, the same number for each.

    Where they do not divide evenly, copies of the first example are added with weight 0: what is computed for them is
    as finite as for the first example itself. With several processes each passes its own share.
    """
    wanted = NamedSharding(mesh, PartitionSpec(_names(mesh)))
    leaves = jax.tree.leaves((data, weights))
    traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    if not traced and all(isinstance(leaf, jax.Array) and leaf.sharding == wanted for leaf in leaves):
        return data, weights
    count = leaves[0].shape[0]
    here = mesh.size if traced else sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    each, ragged = (math.ceil(count / here), count % here > 0) if traced else _agreed(count, here, weights is not None)
    missing = each * here - count
    if ragged and weights is None:
        weights = np.ones(count, jnp.result_type(float))
    with_copies = jax.tree.map(lambda leaf: _extended(leaf, missing, leaf[:1]), data)
    if weights is not None:
        weights = _extended(weights, missing, np.zeros(1, weights.dtype))

    def place(leaf):
        if isinstance(leaf, Tracer):
            return jax.lax.with_sharding_constraint(leaf, wanted)
        if jax.process_count() == 1:
            return jax.device_put(leaf, wanted)
        return jax.make_array_from_process_local_data(wanted, np.asarray(leaf), (each * mesh.size, *leaf.shape[1:]))

    return jax.tree.map(place, with_copies), None if weights is None else place(weights)


def _agreed(count: int, here: int, weighted: bool) -> tuple[int, bool]:
    """How many examples every device gets, and whether some are copies."""
    told = [(count, here, weighted)]
    if jax.process_count() > 1:
        told = np.asarray(process_allgather(np.asarray(told[0]))).tolist()
    if len({has for _, _, has in told}) > 1:
        raise ValueError("FiniteSum(weights=...): some processes pass weights and some do not. Pass them in all.")
    each = max(math.ceil(examples / devices) for examples, devices, _ in told)
    return each, any(examples != each * devices for examples, devices, _ in told)


def _extended(leaf, missing: int, filling):
    if missing == 0:
        return leaf
    numpy = np if isinstance(leaf, np.ndarray) else jnp
    return numpy.concatenate([leaf, numpy.broadcast_to(filling, (missing, *leaf.shape[1:]))])


def summed(of_shard: Callable[[PyTree, PyTree], Array], trained: PyTree, shards: PyTree, layout: Layout) -> Array:
    """The sum over all devices of `of_shard(trained, shard)`, a number, rounded as often as that of one device."""

    def on_device(trained, shard):
        return _joined(of_shard(layout.gathered(trained), shard), layout.mesh)

    return _on_devices(on_device, layout, PartitionSpec())(trained, shards)


def summed_with_gradient(
    of_shard: Callable[[PyTree, PyTree], tuple[Array, PyTree]], trained: PyTree, shards: PyTree, layout: Layout
) -> tuple[Array, PyTree]:
    """The sums over all devices of a number and of a gradient in the trained parameters, divided as they are."""

    def on_device(trained, shard):
        value, gradient = of_shard(layout.gathered(trained), shard)
        return _joined(value, layout.mesh), layout.reduced(gradient)

    return _on_devices(on_device, layout, (PartitionSpec(), layout.specs))(trained, shards)


def summed_trees(of_shard: Callable[[PyTree, PyTree], PyTree], trained: PyTree, shards: PyTree, layout: Layout):
    """The sum over all devices of trees `of_shard(trained, shard)`."""

    def on_device(trained, shard):
        return jax.lax.psum(of_shard(layout.gathered(trained), shard), _names(layout.mesh))

    return jax.jit(_on_devices(on_device, layout, PartitionSpec()))(trained, shards)


def summed_until(
    losses_of: Callable[[PyTree, PyTree], Callable[[Array | int, int], Array]],
    hopeless: Callable[[Array], Array],
    trained: PyTree,
    shards: PyTree,
    layout: Layout,
    size: int,
) -> Array:
    """The sum over all devices, or any part of it for which `hopeless(part)` is true.

    `losses_of(trained, shard)(start, length)`: the losses of some examples of a device, never negative; if one is, the
    sum is made to its end.
    """
    whole, rest = divmod(jax.tree.leaves(shards)[0].shape[0] // layout.mesh.size, size)
    every = max(1, math.ceil(whole / ROUNDS))

    def on_device(trained, shard):
        losses = losses_of(layout.gathered(trained), shard)

        def add(index, carry):
            found, honest = carry
            chunk = losses(index * size, size)
            return found.add(accurate_sum(chunk)), honest & jnp.all(chunk >= 0)

        # The same on every device, because all decide on the joined sum: none waits for one that has ended.
        def going_on(carry):
            done, _, _, end = carry
            return (done < whole) & ~end

        def one_round(carry):
            done, found, honest, _ = carry
            until = jnp.minimum(done + every, whole)
            found, honest = jax.lax.fori_loop(done, until, add, (found, honest))
            dishonest = jax.lax.psum((~honest).astype(jnp.int32), _names(layout.mesh))
            return until, found, honest, (dishonest == 0) & hopeless(_joined(found.rounded(), layout.mesh))

        nothing = nothing_yet(jax.eval_shape(lambda: accurate_sum(losses(0, min(size, max(whole * size, rest))))))
        first = jnp.asarray(0, jnp.int32), nothing, jnp.asarray(True), jnp.asarray(False)
        _, found, _, _ = jax.lax.while_loop(going_on, one_round, first)
        if rest:
            found = found.add(accurate_sum(losses(whole * size, rest)))
        return _joined(found.rounded(), layout.mesh)

    return _on_devices(on_device, layout, PartitionSpec())(trained, shards)


def _on_devices(on_device: Callable, layout: Layout, out_specs: PyTree) -> Callable:
    # Unchecked, because the loop of a user's loss may begin with a constant: a checked one refuses it.
    specs = layout.specs, PartitionSpec(_names(layout.mesh))
    return jax.shard_map(on_device, mesh=layout.mesh, in_specs=specs, out_specs=out_specs, check_vma=False)


def _joined(part: Array, mesh: Mesh) -> Array:
    """The sum of one number of each device; gathered first, so that its rounding does not hang on their order."""
    return accurate_sum(jax.lax.all_gather(part, _names(mesh)).reshape(-1))


def _names(mesh: Mesh) -> tuple[str, ...]:
    return tuple(mesh.axis_names)


def _spec(mesh: Mesh, axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, _names(mesh))


def _axis_of(leaf: Array, mesh: Mesh) -> int | None:
    sharding = None if isinstance(leaf, Tracer) else leaf.sharding
    if sharding is None or sharding.is_fully_replicated:
        return None
    spec = sharding.spec if isinstance(sharding, NamedSharding) else ()
    divided = [axis for axis, names in enumerate(spec) if names is not None]
    if len(divided) == 1 and sharding == NamedSharding(mesh, _spec(mesh, divided[0])):
        return divided[0]
    raise ValueError(
        f"a parameter of shape {leaf.shape} is divided as {sharding}; expected one axis of it over all devices of the "
        "mesh of the FiniteSum. Use odeopt.shard_parameters(model, mesh)."
    )
