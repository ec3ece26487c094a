"""What can go wrong with checkpoints, for the one who calls the trainer."""

from typing import Any


class CheckpointError(ValueError):
    """Checkpoints that cannot be read, or a folder that cannot take any; the message names it."""


class NotSavedError(OSError):
    """A run has ended well, but its last checkpoint could not be written, so that it cannot be resumed from its end.

    **Attributes:** `solution`: what `train` would have returned as its second value, so that nothing is lost;
    `solution.value` is the model.
    """

    def __init__(self, message: str, solution: Any = None):
        super().__init__(message)
        self.solution = solution
