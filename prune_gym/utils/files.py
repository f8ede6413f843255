"""Files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prune_gym.errors import FileError, FolderInPlaceError, NoFolderError


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Where to write what shall become ``path``.

    What lies at ``path`` stays as it is until the block has ended. Where the block raises (a full
    disk, Ctrl-C, a check that failed), ``path`` is untouched and the partial file is removed.
    The partial file's name is nobody else's, so that processes which write the same file at the
    same time do not meet: the last one to end is the one that stays.

    Args:
        path: the file to make or to replace; its folder is made where it is missing.

    Raises:
        FileError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "x.txt") as partial:
    ...         size = partial.write_text("whole")
    ...     print((Path(folder) / "x.txt").read_text(), partial.exists())
    whole False
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileError):
            message = f"{path} cannot be written: {error.strerror or error}."
            raise FileError(error.errno, message) from error
        raise


def check_writable(path: Path | str) -> None:
    """Find out, before hours of work, whether ``path`` can be written; nothing is left behind.

    Args:
        path: the file to make or to replace; its folder may be missing.

    Raises:
        FileError: it is a folder, or its folder is no folder, cannot be made or takes no file.
    """
    path = Path(path)
    if path.is_dir():
        raise FolderInPlaceError(f"{path} is a folder; give a file, e.g. {path / 'network'}.")
    folder = path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NoFolderError(f"{path} cannot be written: {folder} is no folder; give another.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise FileError(
            error.errno, f"{path} cannot be written: {folder} takes no file ({why}); give another."
        ) from error


def fact_in(path: Path | str, name: str) -> Any:
    """An entry of a JSON file; None where there is no such file, or no such entry."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def reading(path: Path | str, kind: type[Exception]) -> Iterator[None]:
    """What goes wrong while the content of a file is taken up is the file's fault.

    Args:
        path: the file.
        kind: the error to raise, with what to do.
    """
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise kind(
            f"{path} is damaged or of another version ({error}); delete it to start anew."
        ) from error
