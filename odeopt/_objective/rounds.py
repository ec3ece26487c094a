"""The cost of a loop whose number of rounds is decided while it runs."""

import jax.numpy as jnp
from jaxtyping import Array

from .oracle import Oracle, Tally


class Rounds:
    """What one round of a loop asks of the objective: noted while it is traced, counted when their number is known.

    A trace sees the body of a loop once or more often, and a program runs it as often as its condition says.

    **Arguments:** `oracle`: the books in which the rounds are counted, outside of the loop.
    """

    def __init__(self, oracle: Oracle):
        self._oracle = oracle
        self._tally = Tally()

    def begin(self) -> Oracle:
        """The oracle for one round; to be called at its beginning."""
        # Anew every time, because JAX may trace the same body twice.
        self._tally = Tally()
        return self._oracle.fork(self._tally)

    def count(self, rounds: Array | int) -> None:
        """Count that many rounds; to be called after the loop."""
        if not isinstance(rounds, int):
            # The counts of a run are of this type, whatever type a loop of a library counts in.
            rounds = rounds.astype(jnp.int32)
        self._oracle.count(rounds * self._tally.values, rounds * self._tally.gradients)
