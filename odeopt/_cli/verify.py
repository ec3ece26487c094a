"""What `odeopt verify` tells while it works, and the files that it writes."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from .._controller import AbstractController
from .._experiment import OptionError
from .._flow import AbstractFlow
from .._run_folder import RunFolderError, check_new, new_folder
from .._scheme import AbstractScheme
from .._verify.report import Report
from .._verify.verify import verify

# Of a report in a folder of its own.
REPORT = "report.md"


def verification(
    flow: AbstractFlow,
    scheme: AbstractScheme | None,
    controller: AbstractController | None,
    progress: Callable[[str], None] | None,
) -> Report:
    """The report on a flow.

    **Arguments:** `progress`: as in `odeopt.verify`; called with an empty text at the end.

    **Raises:** `OptionError` if flow, scheme and controller do not fit together.
    """
    try:
        return verify(flow, scheme=scheme, controller=controller, progress=progress)
    except ValueError as error:
        raise OptionError(f"FLOW, --scheme and --controller do not fit together: {error}") from error
    finally:
        if progress is not None:
            progress("")


def telling(console: Console) -> Callable[[str], None]:
    """A function that shows on a terminal what is being checked, on one line that an empty text clears."""

    def tell(title: str) -> None:
        if not console.is_terminal:
            return
        text = f"checking: {title} ..."[: console.width - 1] if title else ""
        console.file.write(f"\r\x1b[K{text}")
        console.file.flush()

    return tell


def check_new_report(out: Path) -> None:
    """Make sure, before the work, that a report can be written; nothing stays behind.

    **Raises:** `RunFolderError` if something is there already, or the place is not writable.
    """
    if not _is_file(out):
        if out.suffix:
            raise RunFolderError(f"{out} is neither FILE.md nor the name of a folder. Choose another name for --out.")
        check_new(out)
        return
    for file in (out, out.with_suffix(".png")):
        if file.exists() or file.is_symlink():
            raise RunFolderError(f"{file} exists already, and is not touched. Choose another name for --out.")
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise RunFolderError(
            f"{out} cannot be written: {out.parent} is no folder that you may write to. Choose another place with "
            "--out."
        )


def write_report(report: Report, out: Path) -> None:
    """The report and its pictures, both or neither.

    **Raises:** `RunFolderError` as above.
    """
    if not _is_file(out):
        with new_folder(out) as unfinished:
            report.save(unfinished / REPORT)
        return
    made: list[Path] = []
    try:
        for file, content in report.files(out).items():
            with file.open("xb") as stream:
                made.append(file)
                stream.write(content)
    except BaseException as error:
        for file in made:
            with suppress(OSError):
                file.unlink()
        if isinstance(error, OSError):
            raise RunFolderError(f"{out} cannot be written ({error}). Choose another place with --out.") from error
        raise


def _is_file(out: Path) -> bool:
    return out.suffix.lower() == ".md"
