"""What the user says about checkpoints."""

import os
from dataclasses import dataclass
from pathlib import Path

# A minute of work is what a crash may cost, and writing goes on beside the run: 1e7 parameters take about a second
# (benchmarks/_checkpointing.py).
SECONDS = 60.0


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often `train` writes checkpoints, and which of them are kept.

    **Arguments:**

    - `folder`: made if it does not exist; of this run alone.
    - `every_steps`: trials, accepted or rejected, between two checkpoints.
    - `every_seconds`: between two checkpoints; with `every_steps` too, whichever comes first. Default: 60 if
        `every_steps` is not given either. A checkpoint that is due while the one before is still being written comes
        after it: the run never waits.
    - `keep`: how many of the newest are kept.
    - `keep_best`: whether the one with the lowest loss is kept as well.

    **Raises:** `ValueError` for numbers that are not positive.

    !!! example

        ```python
        checkpoints = odeopt.Checkpoints("runs/first/checkpoints", every_seconds=30)
        model, solution = odeopt.train(jnp.ones(2), lambda y, x: jnp.mean((x @ y) ** 2), jnp.eye(2), max_steps=50,
                                       checkpoints=checkpoints, resume=True)
        ```
    """

    folder: Path
    every_steps: int | None
    every_seconds: float | None
    keep: int
    keep_best: bool

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_seconds: float | int | None = None,
        keep: int = 3,
        keep_best: bool = True,
    ):
        for name, value in (("every_steps", every_steps), ("every_seconds", every_seconds), ("keep", keep)):
            if value is not None and not value > 0:
                raise ValueError(f"Checkpoints({name}={value!r}): expected a number > 0.")
        if every_steps is None and every_seconds is None:
            every_seconds = SECONDS
        values = {"folder": Path(folder), "every_steps": every_steps, "every_seconds": every_seconds}
        for name, value in (values | {"keep": keep, "keep_best": keep_best}).items():
            object.__setattr__(self, name, value)
