"""What the user says about RAG and RAGL, and their runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow import GradientFlow, State
from .._hyperparameter import concrete, hyperparameter
from .._objective import Streamed
from .._results import RESULTS, RUNNING, code
from .._scheme import Euler
from .._tree import vdot
from .costs import Costs
from .examples import Examples
from .order import EPOCHS, permutation
from .place import Place
from .splitting import Rule, Splitting, begun, epoch, staleness
from .steps import Point, Stepper


class RAG(eqx.Module):
    r"""Rebalanced splitting with aggregated gradients: gradient flow on a finite sum, one batch after the other.

    The mean loss over \(m\) batches that stay the same is \(R = \sum_i R_i\). Each step meets one batch: its gradient
    takes the place of its last one in a table, whose sum \(g\) the parameters follow, \(\theta^+ = \theta - h g\).
    Along \(-\nabla R_i\) the batch looks for an \(h_i\) with
    \(R_i(\theta - h_i \nabla R_i) - R_i(\theta) \le -\lambda h_i |\nabla R_i|^2\), from twice its last one down;
    \(L_i = 2 (1 - \lambda) / h_i\) is then an estimate of how fast its gradient changes, and

    \[ h = s\,\frac{2 (1 - \lambda)}{(2 m - 1) \sum_i L_i}, \qquad s < 1. \]

    The factor \(2m - 1\) is halved after every epoch in which the losses of the batches fall, down to 1, and taken
    whole again where they rise. The run ends where \(|g|\) and the sum of \(L_i\) times the way since batch \(i\) was
    met, which bounds \(|\nabla R - g|\), are both at most `Stop(gradient_norm=...)`.

    The search of a batch says nothing about \(R\): that \(R\) falls follows from the \(L_i\) where they bound the
    gradients' change, and estimates are no bounds. Memory: \(m + 1\) gradients. With many batches steps are short;
    `EnergyTournament` is faster by far on data sets of many thousands.

    **Arguments:**

    - `batches`: \(m\). What fills no batch of `count // m` examples is left out.
    - `decrease`: \(\lambda\), \(0 < \lambda < 1\).
    - `safety`: \(s\), \(0 < s < 1\): with 1 the decrease that is guaranteed is zero.
    - `seed`: of the order of the examples, and with it of the batches.

    **Raises:** `ValueError` for a constant out of range. Source: Bensaid, Poëtte and Turpault, on rebalanced splitting
    of finite sums.

    !!! example

        ```python
        x = jax.random.normal(jax.random.key(0), (400, 3))
        loss = lambda y, batch: jnp.mean((batch @ y - 1) ** 2)
        y, solution = odeopt.train(jnp.zeros(3), loss, x, odeopt.RAG(batches=4), max_steps=400)
        ```
    """

    batches: int = eqx.field(static=True, default=10)
    decrease: Array = eqx.field(converter=hyperparameter, default=0.5)
    safety: Array = eqx.field(converter=hyperparameter, default=0.9)
    seed: int = eqx.field(static=True, default=0)

    keyed: ClassVar[bool] = False
    keeps_table: ClassVar[bool] = True

    def __check_init__(self):
        name = type(self).__name__
        if not (isinstance(self.batches, int) and self.batches >= 1):
            raise ValueError(f"{name}(batches={self.batches!r}): expected a whole number >= 1.")
        for constant in ("decrease", "safety"):
            value = getattr(self, constant)
            if concrete(value) and not 0 < float(value) < 1:
                raise ValueError(f"{name}({constant}={float(value)}): expected a number between 0 and 1.")
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise ValueError(f"{name}(seed={self.seed!r}): expected a whole number >= 0.")

    @property
    def largest_factor(self) -> int:
        return 2 * self.batches - 1

    def batch_of(self, count: int) -> int:
        """How many examples a step sees."""
        return count // self.batches

    def method(self, loss: Callable, frozen: PyTree, examples: Examples, position: PyTree) -> "SplitRun":
        """The run on these examples."""
        return SplitRun(self, loss, frozen, examples, position)


class RAGL(RAG):
    r"""`RAG` without a table of gradients: batches are rebalanced at one stored iterate \(\tilde\theta\).

    Each step follows \(\nabla R(\tilde\theta) + \nabla R_i(\theta) - \nabla R_i(\tilde\theta)\), where
    \(\tilde\theta\) is the point at which the epoch began. In place of \(2m - 1\) stands \(4m - 1\). An epoch costs
    three gradients of all examples, and memory is that of two gradients and the iterate. (That it is stored where an
    epoch begins is odeopt's reading of the method.)

    **Arguments:** as for `RAG`. **Raises:** `ValueError` for a constant out of range. Source: Bensaid, Poëtte and
    Turpault, on rebalanced splitting of finite sums.

    !!! example

        ```python
        x = jax.random.normal(jax.random.key(0), (400, 3))
        loss = lambda y, batch: jnp.mean((batch @ y - 1) ** 2)
        y, solution = odeopt.train(jnp.zeros(3), loss, x, odeopt.RAGL(batches=4), max_steps=400)
        ```
    """

    keeps_table: ClassVar[bool] = False

    @property
    def largest_factor(self) -> int:
        return 4 * self.batches - 1


@dataclass
class SplitRun:
    """A run of RAG or RAGL; its windows are epochs. What it costs is counted as it goes."""

    settings: RAG
    loss: Callable
    frozen: PyTree
    examples: Examples
    position: PyTree
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self):
        settings, count = self.settings, self.examples.count
        if isinstance(self.examples.all, Streamed):
            raise TypeError(
                f"{type(settings).__name__} meets all batches within one compiled program and takes arrays in memory; "
                "got Streamed data. Use EnergyTournament."
            )
        size, key = settings.batch_of(count), jax.random.key(settings.seed)
        self._stepper = Stepper(GradientFlow(), Euler(), self.loss, self.frozen, key, False)
        order = permutation(count, settings.seed, EPOCHS, 0)[: size * settings.batches]
        self._batches = jnp.asarray(order.reshape(settings.batches, size))
        self._rule = Rule(settings.decrease, settings.safety, jnp.asarray(float(settings.largest_factor)))
        memory, searched = begun(
            self._stepper, self._rule, self.position, self.examples.all, self._batches, settings.keeps_table
        )
        self.costs.count(self._batches.size, 1, 1)
        self.costs.count(size, int(searched), 0)
        self.start = Point(State(self.position, memory), jnp.zeros_like(memory.factor))

    @property
    def key(self) -> None:
        """What the loss takes a key from: it takes none."""
        return None

    @property
    def window_steps(self) -> int:
        return self.settings.batches

    def begun(self) -> tuple[Place, int]:
        """The place before the first step, and a code of `RESULTS` where no run is possible, or `RUNNING`."""
        memory = self.start.state.memory
        energy = jnp.sum(memory.values)
        place = eqx.tree_at(lambda place: place.energy, Place.blank(self.start), energy)
        finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(memory.step_sizes))
        return place, RUNNING if bool(finite) else code(RESULTS.nonfinite_start)

    def window(self, place: Place, steps: int) -> tuple[Place, float, bool]:
        """The place after an epoch, the losses that its batches were met with, and that it is kept."""
        here = place.point.state
        position, memory, searched, step_size = epoch(
            self._stepper, self._rule, here.position, here.memory, self.examples.all, self._batches
        )
        gradients = 1 if self.settings.keeps_table else 3
        self.costs.count(self._batches.size, gradients, gradients)
        self.costs.count(self._batches.shape[1], int(searched), 0)
        energy = jnp.sum(memory.values)
        point = Point(State(position, memory), place.point.t + step_size)
        return Place(point, step_size, energy, place.step + self.settings.batches), float(energy), True

    def converged(self, place: Place, tolerance: Array) -> bool:
        """Whether the aggregated gradient, and what it may be off by, are both at most the tolerance."""
        memory: Splitting = place.point.state.memory
        norm = jnp.sqrt(vdot(memory.gradient, memory.gradient))
        return bool(jnp.maximum(norm, staleness(memory, self.settings.decrease)) <= tolerance)

    def stats(self) -> dict[str, float]:
        """What has been evaluated, in passes over the data set."""
        return self.costs.passes(self.examples.count)
