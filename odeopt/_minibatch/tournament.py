"""A run on mini-batches: windows of steps that are kept if the energy on the probe has not risen."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._objective import FiniteSum, Oracle, PartialObjective, Tally
from .._results import RESULTS, RUNNING, code
from .._tree import cast_floating
from .contest import ARM_STEPS, BATCH, contest
from .costs import Costs
from .examples import Examples
from .order import CONTEST, EPOCHS, PROBE, BatchOrder, permutation
from .place import Place
from .settings import EnergyTournament
from .steps import KeyedLoss, Point, Stepper, advance, at_rest, begin

# Windows in a row that may be rolled back: the step size is then a millionth of what it was.
ROLLED_BACK = 20
# The energy is measured with a key that no step has.
ENERGY_KEY = 2**32 - 1


@dataclass
class Tournament:
    """The parts of a run on mini-batches; what it costs is counted as it goes.

    **Arguments:** `loss`, `frozen`: as in `Stepper`; `position`: the trained leaves at the start.
    """

    settings: EnergyTournament
    loss: Callable
    frozen: PyTree
    examples: Examples
    position: PyTree
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self):
        settings, count = self.settings, self.examples.count
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(self.position))
        key = jax.random.key(settings.seed)
        flow, scheme = cast_floating((settings.flow, settings.scheme), dtype)
        stepper = Stepper(flow, scheme, self.loss, self.frozen, key, settings.keyed)
        self._order = permutation(count, settings.seed, PROBE, 0)
        wanted = count if settings.probe == "all" else min(int(settings.probe), count)
        self._probe = self.examples.all if wanted == count else self.examples.at(self._order[:wanted])
        self._probe_size = wanted
        batch = self.examples.at(self._order[: min(BATCH, count)])
        self.stepper, self.start, self._unit = begin(stepper, self.position, batch)
        self._passes = _passes_of_a_step(self.stepper, self.start, batch)
        self.costs.count(min(BATCH, count), *self._passes)

    @property
    def key(self) -> Array | None:
        """What the energy is measured with, of a loss that takes a key."""
        return _energy_key(self.stepper)

    @property
    def window_steps(self) -> int:
        return self.settings.window

    def begun(self) -> tuple[Place, int]:
        """The place before the first step, and a code of `RESULTS` where no run is possible, or `RUNNING`."""
        energy = self.energy(self.start)
        place = replace(Place.blank(self.start), energy=energy)
        if not bool(jnp.isfinite(energy)):
            return place, code(RESULTS.nonfinite_start)
        step_size = self.settings.step_size
        if step_size is None:
            step_size = contest(self, float(self._unit), self.settings.batch)
        if step_size is None:
            return place, code(RESULTS.step_underflow)
        return replace(place, step_size=jnp.asarray(step_size, self.start.t.dtype)), RUNNING

    def window(self, place: Place, steps: int) -> tuple[Place, float, bool]:
        """The place after a window, the energy behind its steps, and whether they were kept."""
        settings = self.settings
        order = BatchOrder(self.examples.count, settings.batch, settings.seed, EPOCHS)
        indices = order.indices(place.step, steps)
        point = self.advanced(place.point, place.step_size, indices, place.step, settings.window)
        energy, step = self.energy(point), place.step + steps
        # Not (energy > before): it may be NaN.
        if bool(energy <= place.energy):
            return Place(point, place.step_size, energy, step), float(energy), True
        back = Place(at_rest(self.stepper, place.point), place.step_size / 2, place.energy, step, place.rolled_back + 1)
        return back, float(energy), False

    def stats(self) -> dict[str, float]:
        """What has been evaluated, in passes over the data set."""
        return self.costs.passes(self.examples.count)

    def energy(self, point: Point, count: int | None = None) -> Array:
        """The mean loss over the probe, or over its first `count` examples."""
        sized = self._probe_size if count is None else min(count, self._probe_size)
        probe = self._probe
        if sized < self._probe_size:
            probe = self._small_probe(sized)
        self.costs.count(sized, 1, 0)
        return _energy(self.stepper, point.state.position, probe).astype(point.t.dtype)

    def _small_probe(self, count: int) -> PyTree:
        if self._probe is self.examples.all:
            return self.examples.at(self._order[:count])
        return jax.tree.map(lambda leaf: leaf[:count], self._probe)

    def runner(self, step_size: float) -> "_Runner":
        """A run from the start on small batches, for the contest."""
        return _Runner(self, jnp.asarray(step_size, self.start.t.dtype))

    def advanced(self, point: Point, step_size: Array, indices: np.ndarray, first: int, room: int) -> Point:
        """`point` after steps on the given examples; programs are compiled for `room` of them."""
        self.costs.count(indices.size, *self._passes)
        for data, places, steps in self.examples.parts(indices, room):
            numbers = (jnp.asarray(first, jnp.uint32), jnp.asarray(steps, jnp.int32))
            point = advance(self.stepper, point, step_size, data, jnp.asarray(places), *numbers)
            first += steps
        return point


class _Runner:
    """A contestant, whose batches are the same for all."""

    def __init__(self, tournament: Tournament, step_size: Array):
        self._tournament, self._step_size = tournament, step_size
        self._point, self._step = tournament.start, 0
        count = tournament.examples.count
        self._order = BatchOrder(count, min(BATCH, count), tournament.settings.seed, CONTEST)

    def advance(self, steps: int) -> None:
        indices = self._order.indices(self._step, steps)
        # Compiled once for the steps of scan and arms.
        room = max(ARM_STEPS, steps)
        self._point = self._tournament.advanced(self._point, self._step_size, indices, self._step, room)
        self._step += steps

    def energy(self, examples: int) -> float:
        energy = float(self._tournament.energy(self._point, examples))
        return energy if math.isfinite(energy) else math.inf


@eqx.filter_jit
def _energy(stepper: Stepper, position: PyTree, probe: PyTree) -> Array:
    loss = KeyedLoss(stepper.loss, _energy_key(stepper))
    return PartialObjective(FiniteSum(loss, probe), stepper.frozen).value(position)


def _energy_key(stepper: Stepper) -> Array | None:
    return jax.random.fold_in(stepper.key, jnp.asarray(ENERGY_KEY, jnp.uint32)) if stepper.keyed else None


def _passes_of_a_step(stepper: Stepper, point: Point, batch: PyTree) -> tuple[int, int]:
    """How many forward and backward passes a step makes over its batch."""
    tally = Tally()

    def step(point, batch):
        oracle = Oracle(stepper.objective(batch, 0), point.state.position, tally)
        return stepper.scheme.step(stepper.flow, point.t, jnp.ones_like(point.t), point.state, oracle).state

    eqx.filter_eval_shape(step, point, batch)
    return tally.values, tally.gradients
