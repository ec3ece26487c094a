r"""The mean of a loss over a data set, in the memory of some of its examples.

\[ f(y) = \frac{\sum_i w_i\, \ell(y, \text{example}_i)}{\sum_i w_i} \]
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from .._tree import cast_floating
from .accurate_sum import Sum, accurate_sum, nothing_yet
from .chunked import check_samples
from .losses import check_losses, check_weights
from .noise import relative_noise
from .objective import AbstractObjective
from .sharded import (
    Layout,
    check_mesh,
    layout_of,
    placed_examples,
    summed,
    summed_trees,
    summed_until,
    summed_with_gradient,
)
from .streamed import Streamed

# What the backward pass of a chunk may keep, in bytes: some chunks of it fit into the memory of any machine, and
# a chunk of a small network is large enough for its matrix products to run at full speed.
MEMORY = 2**26


class FiniteSum(AbstractObjective):
    r"""The mean of a loss over a data set, full batch, evaluated in chunks.

    \[ f(y) = \frac1N \sum_{i=1}^N \ell(y, \text{example}_i) \qquad \text{or, with weights,} \qquad
       f(y) = \frac{\sum_i w_i\, \ell_i(y)}{\sum_i w_i} \]

    A pass over the data takes one chunk after the other, so that memory does not grow with the number of examples, and
    sums are made so that they lose no more in float32 than a single rounding of what the chunks return. A gradient
    takes one forward and one backward pass over the data. The loss must be one of the examples, each for itself:
    batch normalisation, say, sees the chunk and not the data set.

    **Arguments:**

    - `loss`: `loss(y, batch)`, the losses of the examples in a batch, shape (n,), or their mean, a scalar; with
        `per_example` `loss(y, example)`, a scalar.
    - `data`: a pytree of arrays with the \(N\) examples along their first axis; or an `odeopt.Streamed`, data that
        are read chunk by chunk and need not fit into memory.
    - `weights`: \(w_i \ge 0\), shape (N,), not all 0; `None` (default): all 1. Not for a loss that returns the mean of
        a batch.
    - `per_example`: whether `loss` is for one example.
    - `chunk_size`: how many examples are evaluated at a time; the last chunk may be shorter, and a size beyond
        \(N\) means all at once. `None` (default): as many as keep the backward pass within `memory`.
    - `memory`: in bytes, beside data, parameters and gradient; for `chunk_size=None`. The two chunks in which
        streamed data are held count too.
    - `nonnegative`: that no loss of any example is negative. The pass over the data for a trial then ends where what
        has been added up is enough to reject it; all decisions are the same, where the controller does not ask by how
        much a trial fails. (A negative loss that is met all the same makes the pass go through to the end.)
    - `has_aux`: whether `loss` returns `(loss, aux)`, with `aux` a pytree of numbers such as an accuracy, each the mean
        of the batch or one for every example; their means over the data are `solution.aux`.
    - `mesh`: devices to divide the examples among, such as `odeopt.device_mesh()`. The sum is the same, whatever the
        number of examples (those that are missing at the last device are filled up with weight 0). With several
        processes `data` and `weights` are the examples of this process, and N those of all. Parameters are whole on
        every device, or divided among them by `odeopt.shard_parameters`.

    - `compute_dtype`: mixed precision, such as `jnp.bfloat16`: parameters and examples are rounded to it for the loss,
        and losses are added up in float32; the parameters that are trained, gradients and memory keep their own type.
        How much of a value is rounding is then measured when a run begins, and decisions allow for it. Not for a loss
        that returns the mean of a batch.

    **Raises:** `ValueError` or `TypeError` for arguments that do not go together, and when a run begins for a loss that
    returns something else.

    !!! example "Logistic regression"

        ```python
        x = jax.random.normal(jax.random.key(0), (1000, 3))
        labels = x @ jnp.array([1.0, -2.0, 0.5]) > 0
        def loss(y, batch):
            x, labels = batch
            return jnp.logaddexp(0, jnp.where(labels, -1, 1) * (x @ y)) + 1e-3 * jnp.sum(y**2)
        objective = odeopt.FiniteSum(loss, (x, labels), chunk_size=256)
        solution = odeopt.minimise(objective, odeopt.Solver(odeopt.HeavyBall()), jnp.zeros(3))
        ```
    """

    loss: Callable[[Any, Any], Any]
    data: PyTree
    weights: Array | None = None
    per_example: bool = eqx.field(static=True, default=False)
    chunk_size: int | None = eqx.field(static=True, default=None)
    memory: int = eqx.field(static=True, default=MEMORY)
    nonnegative: bool = eqx.field(static=True, default=False)
    has_aux: bool = eqx.field(static=True, default=False)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    compute_dtype: Any = eqx.field(static=True, default=None)
    noise: Array | None = None  # relative, of `compute_dtype`, measured when a run begins
    layout: Layout | None = eqx.field(static=True, default=None)  # of the parameters, when a run begins

    def __post_init__(self):
        if self.mesh is not None:
            check_mesh("FiniteSum(mesh=...)", self.mesh)
            if isinstance(self.data, Streamed):
                raise TypeError(
                    "FiniteSum(mesh=...): streamed data are read by one host for all of its devices. With a mesh pass "
                    "the examples of this process in memory (odeopt.share_of says which), or leave the mesh out."
                )
            self.__check_init__()
            self.data, self.weights = placed_examples(self.data, self.weights, self.mesh)

    def __check_init__(self):
        if not callable(self.loss):
            raise TypeError(f"FiniteSum(loss={self.loss!r}): expected a function loss(y, batch).")
        if not isinstance(self.data, Streamed):
            check_samples("FiniteSum(...): data", self.data)
        check_weights(self.weights, self.count)
        if self.compute_dtype is not None and not jnp.issubdtype(self.compute_dtype, jnp.floating):
            raise ValueError(f"FiniteSum(compute_dtype={self.compute_dtype!r}): expected jnp.bfloat16, say.")
        for name in ("chunk_size", "memory"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1) and not (name == "chunk_size" and value is None):
                raise ValueError(f"FiniteSum({name}={value!r}): expected a whole number >= 1.")

    @property
    def count(self) -> int:
        """The number of examples, N."""
        return self.data.count if isinstance(self.data, Streamed) else jax.tree.leaves(self.data)[0].shape[0]

    @property
    def real_count(self) -> int:
        """Without those that devices are filled up with."""
        if self.mesh is None or self.weights is None:
            return self.count
        return int(jnp.sum(self.weights != 0))

    @property
    def _each(self) -> int:
        """The number of examples of every device."""
        return self.count if self.mesh is None else self.count // self.mesh.size

    @property
    def evaluation(self) -> str:
        # Devices join finished sums only, and no forward pass.
        if self.mesh is not None:
            return "lazy"
        # The forward pass of a trial is not kept in chunks: that is what makes their memory constant.
        return "linearised" if self.chunk_size is not None and self.chunk_size >= self.count else "lazy"

    def fitted(self, parameters: PyTree) -> "FiniteSum":
        fitted = replace(self, chunk_size=self._chunk_size(parameters), layout=self._layout(parameters))
        if self.compute_dtype is None:
            return fitted
        spacing = float(jnp.finfo(self.compute_dtype).eps)
        return replace(fitted, noise=relative_noise(fitted.value, parameters, spacing))

    @property
    def rounding(self) -> Array | None:
        return self.noise

    def placed(self, tree: PyTree) -> PyTree:
        return tree if self.layout is None else self.layout.placed(tree)

    def value(self, parameters: PyTree) -> Array:
        size = self._chunk_size(parameters)
        if self.mesh is None and size >= self.count:
            return accurate_sum(self._losses(parameters, self._examples(0, self.count), self.weights)) / self._total()
        return _summed(*self._of_chunk(parameters), size) / self._total()

    @property
    def stops_early(self) -> bool:
        return self.nonnegative and self.evaluation == "lazy"

    def value_until(self, parameters: PyTree, hopeless: Callable[[Array], Array]) -> Array:
        size, total = self._chunk_size(parameters), self._total()
        if self.mesh is not None:
            trained, of_chunk = self._of_chunk(parameters)
            assert of_chunk.layout is not None

            def too_much(part: Array) -> Array:
                return hopeless(part / total)

            return summed_until(of_chunk.losses_of, too_much, trained, self._shards, of_chunk.layout, size) / total
        whole, rest = divmod(self.count, size)

        def losses(start: Array | int, length: int) -> Array:
            return self._losses(parameters, self._examples(start, length), self._weights(start, length))

        def open_still(found: Sum, honest: Array) -> Array:
            return ~(honest & hopeless(found.rounded() / total))

        def going_on(carry) -> Array:
            index, found, honest = carry
            return (index < whole) & open_still(found, honest)

        def add(carry):
            index, found, honest = carry
            chunk = losses(index * size, size)
            return index + 1, found.add(accurate_sum(chunk)), honest & jnp.all(chunk >= 0)

        nothing = nothing_yet(jax.eval_shape(lambda: accurate_sum(losses(0, size))))
        first = jnp.asarray(0, jnp.int32), nothing, jnp.asarray(True)
        index, found, honest = jax.lax.while_loop(going_on, add, first)
        if rest:
            last = lambda: found.add(accurate_sum(losses(index * size, rest)))  # noqa: E731
            found = jax.lax.cond(open_still(found, honest), last, lambda: found)
        return found.rounded() / total

    def auxiliary(self, parameters: PyTree) -> PyTree:
        if not self.has_aux:
            return None
        if self.mesh is not None:
            trained, of_chunk = self._of_chunk(parameters)
            assert of_chunk.layout is not None
            found = summed_trees(of_chunk.auxiliary_of, trained, self._shards, of_chunk.layout)
            return jax.tree.map(lambda leaf: leaf / self._total(), found)
        found = self._summed_auxiliary(parameters)
        return jax.tree.map(lambda leaf: leaf / self._total(), found)

    def _summed_auxiliary(self, parameters: PyTree) -> PyTree:
        def of_chunk(start: Array | int, length: int) -> PyTree:
            weights = self._weights(start, length)
            aux = self._call(parameters, self._examples(start, length))[1]
            return jax.tree.map(lambda leaf: _weighted_sum(jnp.asarray(leaf), weights, length), aux)

        return _over_chunks(of_chunk, self.count, self._chunk_size(parameters))

    def _total(self) -> Array | int:
        """The sum of the weights."""
        return self.count if self.weights is None else accurate_sum(self.weights)

    def _chunk_size(self, parameters: PyTree) -> int:
        if self.chunk_size is not None:
            return min(self.chunk_size, self._each)
        least = math.ceil(self._each / self._affordable(parameters))
        # A last chunk of another size would be compiled for itself.
        even = next((chunks for chunks in range(least, 2 * least) if self._each % chunks == 0), least)
        return math.ceil(self._each / even)

    def _affordable(self, parameters: PyTree) -> int:
        """How many examples a backward pass may keep."""
        trained, rest = eqx.partition(parameters, eqx.is_inexact_array)
        example = self._example

        def kept(length: int) -> int:
            batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((length, *leaf.shape), leaf.dtype), example)

            def pullback(trained, batch):
                return jax.vjp(lambda y: jnp.sum(self._losses(eqx.combine(y, rest), batch, None)), trained)[1]

            return _bytes(eqx.filter_eval_shape(pullback, trained, batch))

        # What does not grow with the batch (the parameters, say) is there anyway.
        of_one = max(kept(2) - kept(1), 1) + (2 * _bytes(example) if isinstance(self.data, Streamed) else 0)
        return max(1, min(self._each, self.memory // of_one))

    @property
    def _shards(self) -> tuple[PyTree, Array | None]:
        return self.data, self.weights

    def _layout(self, parameters: PyTree) -> Layout | None:
        return None if self.mesh is None else layout_of(eqx.filter(parameters, eqx.is_inexact_array), self.mesh)

    def _of_chunk(self, parameters: PyTree) -> tuple[PyTree, "_OfChunk"]:
        trained, rest = eqx.partition(parameters, eqx.is_inexact_array)
        layout = self._layout(parameters) if self.layout is None else self.layout
        return trained, _OfChunk(replace(self, layout=layout, chunk_size=self._chunk_size(parameters)), rest)

    @property
    def _example(self) -> PyTree:
        """The shapes and dtypes of one example."""
        if isinstance(self.data, Streamed):
            return self.data.example
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.data)

    def _examples(self, start: Array | int, length: int) -> PyTree:
        if isinstance(self.data, Streamed):
            return self.data.chunk(start, length)
        if length == self.count:
            return self.data
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, length), self.data)

    def _weights(self, start: Array | int, length: int) -> Array | None:
        return None if self.weights is None else jax.lax.dynamic_slice_in_dim(self.weights, start, length)

    def _call(self, parameters: PyTree, batch: PyTree):
        if self.compute_dtype is not None:
            parameters, batch = (cast_floating(tree, self.compute_dtype) for tree in (parameters, batch))
        if self.per_example:
            return jax.vmap(lambda example: self.loss(parameters, example))(batch)
        return self.loss(parameters, batch)

    def _losses(self, parameters: PyTree, batch: PyTree, weights: Array | None) -> Array:
        """The weighted losses of a batch, whose sum counts: shape (n,), or (1,) where only the mean is known."""
        returned = self._call(parameters, batch)
        losses = jnp.asarray(returned[0] if self.has_aux else returned)
        length = jax.tree.leaves(batch)[0].shape[0]
        check_losses(losses, length, self.weights is not None, self.per_example)
        if self.compute_dtype is not None and losses.ndim == 0:
            raise ValueError(
                f"FiniteSum(compute_dtype={jnp.dtype(self.compute_dtype).name}): the loss returns the mean of a batch, "
                "which has lost digits already. Return one loss for each example, shape (n,), or pass per_example=True."
            )
        losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
        if losses.ndim == 0:
            return length * losses[None]
        return losses if weights is None else weights.astype(losses.dtype) * losses


class _OfChunk(eqx.Module):
    """The losses of a chunk; a module, because what a differentiation rule is given may hold traced numbers."""

    objective: FiniteSum
    rest: PyTree

    def __call__(self, trained: PyTree, start: Array | int, length: int) -> Array:
        examples = self.objective._examples(start, length)
        return self.objective._losses(eqx.combine(trained, self.rest), examples, self.objective._weights(start, length))

    @property
    def layout(self) -> Layout | None:
        return self.objective.layout

    def of(self, shard: tuple[PyTree, Array | None]) -> "_OfChunk":
        """The same for the examples of one device."""
        data, weights = shard
        alone = replace(self.objective, data=data, weights=weights, mesh=None, layout=None)
        return replace(self, objective=alone)

    def losses_of(self, trained: PyTree, shard) -> Callable[[Array | int, int], Array]:
        return partial(self.of(shard), trained)

    def auxiliary_of(self, trained: PyTree, shard) -> PyTree:
        return self.of(shard).objective._summed_auxiliary(eqx.combine(trained, self.rest))


@eqx.filter_custom_vjp
def _summed(trained: PyTree, of_chunk: _OfChunk, size: int) -> Array:
    """The sum of the losses of all examples, differentiable in the trained parameters."""

    def of_shard(trained, of_chunk):
        add = lambda start, length: accurate_sum(of_chunk(trained, start, length))  # noqa: E731
        return _over_chunks(add, of_chunk.objective.count, size)

    if of_chunk.layout is None:
        return of_shard(trained, of_chunk)
    return summed(
        lambda y, shard: of_shard(y, of_chunk.of(shard)), trained, of_chunk.objective._shards, of_chunk.layout
    )


@_summed.def_fwd
def _forward(perturbed, trained, of_chunk, size):
    # Value and gradient of a chunk together, so that nothing of its forward pass has to be kept for later.
    def of_shard(trained, of_chunk):
        def value_and_gradient(start, length):
            return jax.value_and_grad(lambda trained: accurate_sum(of_chunk(trained, start, length)))(trained)

        return _over_chunks(value_and_gradient, of_chunk.objective.count, size)

    if of_chunk.layout is None:
        return of_shard(trained, of_chunk)
    shards = of_chunk.objective._shards
    return summed_with_gradient(lambda y, shard: of_shard(y, of_chunk.of(shard)), trained, shards, of_chunk.layout)


@_summed.def_bwd
def _backward(gradient, cotangent, perturbed, trained, of_chunk, size):
    return jax.tree.map(lambda leaf: (cotangent * leaf).astype(leaf.dtype), gradient)


def _over_chunks(of_chunk: Callable[[Array | int, int], PyTree], count: int, size: int) -> PyTree:
    """The sum of `of_chunk(start, length)` over all chunks of a data set, the last of which may be shorter."""
    whole, rest = divmod(count, size)
    found = nothing_yet(jax.eval_shape(lambda: of_chunk(0, min(size, count))))

    def add(carry, _):
        found, start = carry
        return (found.add(of_chunk(start, size)), start + size), None

    # Where the next chunk begins goes through the loop, so that no compiler takes the last chunk before the others:
    # data that are streamed are read in their order.
    (found, start), _ = jax.lax.scan(add, (found, jnp.asarray(0, jnp.int32)), None, length=whole)
    return (found.add(of_chunk(start, rest)) if rest else found).rounded()


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _weighted_sum(aux: Array, weights: Array | None, length: int) -> Array:
    """What a batch adds to a mean: of numbers of its examples, shape (n, ...), or of its own mean."""
    # Counts and truth values become numbers of the default precision.
    is_floating = jnp.issubdtype(aux.dtype, jnp.floating)
    aux = aux.astype(jnp.promote_types(aux.dtype, jnp.float32) if is_floating else jnp.result_type(float))
    if aux.ndim == 0:
        return aux * (length if weights is None else jnp.sum(weights))
    return jnp.sum(aux, axis=0) if weights is None else jnp.tensordot(weights, aux, axes=1)
