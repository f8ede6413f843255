"""Files that are whole or not there, written as `agents.files` writes them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from agents import files
from prune_gym.errors import FileError, FolderInPlaceError, InvalidTypeError, NoFolderError
from prune_gym.utils.records import in_one_line
from prune_gym.utils.words import shortened

replacing = partial(files.replacing, kind=FileError)
make_folder = partial(files.make_folder, kind=FileError)
write_json = partial(files.write_json, indent=1, kind=FileError)


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as the user means it, see `agents.files.user_path`, with errors of this package.

    Raises:
        TypeError: it is no text and no path.
        FileError: the system takes no such path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidTypeError(f"{shortened(path)} is no path; give a text or a pathlib.Path.")
    return files.user_path(path, FileError)


def check_place(path: Path | str) -> None:
    """Find out, before hours of work, whether a file or folder can be made; none is left behind.

    Args:
        path: what is to be made or replaced; its folder may be missing.

    Raises:
        FileError: its name cannot be one, or its folder is none, cannot be made or takes no file.
    """
    try:
        files.check_place(path, FileError)
    except FileError as error:
        if error.errno == errno.ENOTDIR:
            raise NoFolderError(error.errno, str(error)) from error
        raise


def check_writable(path: Path | str) -> None:
    """`check_place` for a file; what a process that was killed left of it is removed.

    Raises:
        FileError: it is a folder, or `check_place` refuses it.
    """
    path = Path(path)
    check_place(path)
    if path.is_dir():
        raise FolderInPlaceError(f"{path} is a folder; give a file, e.g. {path / 'network'}.")
    files.remove_partials(path.parent, path.name)


def empty_folder(path: Path) -> None:
    """Remove what lies in a folder, and the folder unless it is a link."""
    for inner in path.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        else:
            inner.unlink()
    if not path.is_symlink():
        path.rmdir()


def inner_folder(path: Path) -> Path:
    """Make a folder within a run; a link in its place, which leads out of the run, is replaced."""
    if path.is_symlink():
        path.unlink()
    return make_folder(path)


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
            f"{path} is damaged or of another version ({in_one_line(error)}); delete it to start "
            "anew."
        ) from error
