"""Checkpoints: a store of trees on disk, and when to write them; it knows nothing of runs.

It holds data and no code: nothing in it is executed, and no name in it is imported, when it is read.
"""

from .autosave import Autosave as Autosave
from .autosave import autosaved as autosaved
from .description import described as described
from .description import described_leaves as described_leaves
from .description import first_difference as first_difference
from .errors import CheckpointError as CheckpointError
from .errors import NotSavedError as NotSavedError
from .leaves import Rows as Rows
from .settings import Checkpoints as Checkpoints
from .store import Store as Store
