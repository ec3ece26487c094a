"""When a checkpoint is written, and what is said where it cannot be."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import PyTree

from .errors import NotSavedError
from .settings import Checkpoints
from .store import Store

# What `Store.save` takes after the step: made only when it is needed, because a history may be long.
Contents = Callable[[], tuple[PyTree, dict[str, Any], float]]


class Autosave:
    """Writes checkpoints of a trainer that asks it after every block of steps.

    A checkpoint that cannot be written is a warning, and the run goes on: what was saved before is still there.
    """

    def __init__(self, settings: Checkpoints, store: Store):
        self.store = store
        self._settings = settings
        self._attempt: tuple[int, float] = (0, time.monotonic())
        self._pending: int | None = None
        self._saved: int | None = None

    @property
    def where(self) -> str:
        """What messages call the checkpoints."""
        return f"The checkpoint in {self._settings.folder}"

    def begin(self, step: int, is_saved: bool) -> None:
        """The trainer begins at `step`, whose checkpoint `is_saved` already where it has been resumed from it."""
        self._attempt = (step, time.monotonic())
        self._saved = step if is_saved else None

    def room(self, step: int) -> float:
        """How many steps are left until a checkpoint is due; infinite where the clock decides.

        One that is overdue, because the one before is still being written, is asked for again as many steps later.
        """
        every = self._settings.every_steps
        if every is None:
            return math.inf
        left = self._attempt[0] + every - step
        return float(left if left > 0 else every)

    def due(self, step: int, now: float) -> bool:
        """Whether a checkpoint should be written; several processes have to agree on it."""
        every_steps, every_seconds = self._settings.every_steps, self._settings.every_seconds
        then, when = self._attempt
        by_steps = every_steps is not None and step - then >= every_steps
        by_clock = every_seconds is not None and now - when >= every_seconds
        return step > then and (by_steps or by_clock) and not self.store.busy

    def save(self, step: int, contents: Contents) -> None:
        """Begin to write a checkpoint, and tell if the one before could not be written."""
        self._attempt = (step, time.monotonic())
        self._settle()
        try:
            self.store.save(step, *contents())
        except Exception as error:  # disks, file systems and orbax raise errors of any kind
            self._tell(step, error)
            return
        self._pending = step

    def finish(self, step: int, contents: Contents) -> None:
        """The last checkpoint, written before this returns.

        **Raises:** `NotSavedError` if it cannot be.
        """
        self._settle()
        if self._saved == step:
            return
        self.save(step, contents)
        self._settle()
        if self._saved != step:
            newest = "there is none" if self._saved is None else f"the newest is of step {self._saved}"
            raise NotSavedError(
                f"The checkpoint at the end of the run, step {step}, could not be written (see the warnings); "
                f"{newest}. The outcome is in the attribute `solution` of this error."
            )

    def close(self) -> None:
        """Wait for what is being written."""
        self._settle()
        self.store.close()

    def _settle(self) -> None:
        """Wait for the checkpoint that was begun last, and tell if it could not be written."""
        step, self._pending = self._pending, None
        if step is None:
            return
        try:
            self.store.wait()
        except Exception as error:
            self._tell(step, error)
        else:
            self._saved = step

    def _tell(self, step: int, error: Exception) -> None:
        newest = "There is none yet" if self._saved is None else f"The one of step {self._saved} is as it was"
        warnings.warn(
            f"The checkpoint of step {step} could not be written ({type(error).__name__}: {error}). {newest}; the run "
            "goes on.",
            stacklevel=3,
        )


@contextmanager
def autosaved(settings: Checkpoints | None, resume: bool) -> Iterator[Autosave | None]:
    """Checkpoints are written inside of the block; `None` where there are no settings.

    **Raises:** as `Store.open`.
    """
    if settings is None:
        yield None
        return
    store = Store(settings.folder, keep=settings.keep, keep_best=settings.keep_best)
    store.open(resume)
    autosave = Autosave(settings, store)
    try:
        yield autosave
    finally:
        autosave.close()
