"""The losses of the command line, by task and name."""

from collections.abc import Callable
from dataclasses import dataclass

from ._data import CLASSIFICATION, REGRESSION
from ._networks import (
    cross_entropies,
    cross_entropy,
    mean_square,
    mean_squares,
    softmax_square,
    softmax_squares,
)

CROSS_ENTROPY, SQUARED = "cross-entropy", "squared"


@dataclass(frozen=True)
class Loss:
    """A loss that is never negative.

    **Attributes:** `each`: of every example of a batch; `mean`: over a batch.
    """

    each: Callable
    mean: Callable


# None stands for the default.
LOSSES: dict[tuple[str, str | None], Loss] = {
    (CLASSIFICATION, CROSS_ENTROPY): Loss(cross_entropies, cross_entropy),
    (CLASSIFICATION, SQUARED): Loss(softmax_squares, softmax_square),
    (CLASSIFICATION, None): Loss(cross_entropies, cross_entropy),
    (REGRESSION, SQUARED): Loss(mean_squares, mean_square),
    (REGRESSION, None): Loss(mean_squares, mean_square),
}
