"""Where the command line speaks, how it ends, and what it says where something cannot work."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from .._checkpoint import CheckpointError
from .._experiment import OptionError
from .._named import NamingError
from .._run_folder import RunFolderError
from .._table import DataError

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
FAILED = 1

# No emoji: the text FILE.py:x: is a name with a colon behind it.
out_console = Console(highlight=False, emoji=False)
err_console = Console(stderr=True, highlight=False, emoji=False)


@contextmanager
def messages() -> Iterator[None]:
    """Errors that the user can mend, as one paragraph on stderr and exit code 2."""
    try:
        yield
    except (CheckpointError, DataError, NamingError, OptionError, RunFolderError) as error:
        err_console.print(f"odeopt: {error}", soft_wrap=True, markup=False)
        raise typer.Exit(USAGE_ERROR) from error
