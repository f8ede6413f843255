"""Files that are whole or not there, written as `agents.files` writes them."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from agents import files
from prune_gym.errors import FileError, FolderInPlaceError, NoFolderError

replacing = partial(files.replacing, kind=FileError)
make_folder = partial(files.make_folder, kind=FileError)
write_json = partial(files.write_json, indent=1, kind=FileError)


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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
