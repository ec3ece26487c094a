"""Which examples a step sees: random reshuffling that is a function of the seed and the step alone."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# What permutations are drawn for. Streams of their own, so that no choice of one changes another.
EPOCHS, CONTEST, PROBE = range(3)


@dataclass(frozen=True)
class BatchOrder:
    """Batches of a data set in a random order, another one in every epoch.

    An epoch takes every example at most once; the `count % batch` that fill no batch are others each time.

    **Arguments:** `count`: the number of examples; `batch`: how many a step sees; `seed`: of the order; `stream`: one
    of `EPOCHS`, `CONTEST` and `PROBE`.
    """

    count: int
    batch: int
    seed: int
    stream: int = EPOCHS

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.batch

    def indices(self, first: int, steps: int) -> np.ndarray:
        """The examples of the steps from `first` on, shape (steps, batch)."""
        rows = [self._batch(step) for step in range(first, first + steps)]
        return np.stack(rows) if rows else np.zeros((0, self.batch), np.int32)

    def _batch(self, step: int) -> np.ndarray:
        epoch, slot = divmod(step, self.steps_per_epoch)
        order = permutation(self.count, self.seed, self.stream, epoch)
        return order[slot * self.batch : (slot + 1) * self.batch]


@lru_cache(maxsize=4)  # a window of steps may reach over the end of an epoch
def permutation(count: int, seed: int, stream: int, number: int) -> np.ndarray:
    """A random order of the examples, shape (count,)."""
    # Philox is made of its key alone: any permutation can be had without those before it. (Salmon, Moraes, Dror,
    # Shaw, 2011, Parallel random numbers: as easy as 1, 2, 3.)
    key = np.array([seed, stream << 48 | number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(count).astype(np.int32)
