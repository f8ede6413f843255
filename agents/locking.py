"""Locks: one process at a time works in a run folder, or on the state of a training.

A lock is the system's, taken by the ``filelock`` library: it ends with the process that holds it,
however that ends. A file beside it says who holds it.
"""

from __future__ import annotations

import errno
import os
import shlex
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from agents.errors import FileError, RunFolderError
from agents.files import LOCK, read_json, shown, write_json

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[tuple[str, int]] = set()  # path of the lock, thread


@contextmanager
def locked_folder(
    path: Path | str,
    kind: type[Exception] = RunFolderError,
    unwritable: type[OSError] = FileError,
) -> Iterator[None]:
    """Hold a run folder's lock while the block lasts; see `locked`.

    Args:
        path: The folder; where there is a file, nothing happens: who wants a folder says so.
        kind: The error to raise where somebody else holds it.
        unwritable: The error to raise where the folder takes no file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        yield
        return
    with locked(path / LOCK, str(path), kind, unwritable):
        yield


@contextmanager
def locked(
    lock: Path,
    subject: str,
    kind: type[Exception] = RunFolderError,
    unwritable: type[OSError] = FileError,
) -> Iterator[None]:
    """Hold a lock while the block lasts, or refuse at once.

    Where this thread holds it already, nothing happens. Where the file system has no locks, a
    warning says so and the block runs without one. Folders that are made for the lock's file go
    away with it if nothing else is in them.

    Args:
        lock: Its file; it goes away at the end.
        subject: What it stands for, in the error.
        kind: The error to raise where somebody else holds it.
        unwritable: The error to raise where its file cannot be made.
    """
    key = (os.path.abspath(lock), threading.get_ident())
    if key in _held:
        yield
        return
    made = [folder for folder in lock.parents if not folder.exists()]
    try:
        with _holding(lock, subject, kind, unwritable):
            _held.add(key)
            yield
    finally:
        _held.discard(key)
        with suppress(OSError):  # there is something in it
            for folder in made:
                folder.rmdir()


@contextmanager
def _holding(
    lock: Path, subject: str, kind: type[Exception], unwritable: type[OSError]
) -> Iterator[None]:
    holder = lock.with_name(f"{lock.name}.json")
    file_lock = FileLock(lock, timeout=0)
    is_locked = _acquire(file_lock, lock, holder, subject, kind, unwritable)
    try:
        if is_locked:
            write_json(holder, _this_process(), kind=unwritable)
        yield
    finally:
        if is_locked:
            for file in (holder, lock):  # while it is held, so that nobody else's goes away
                with suppress(OSError):
                    file.unlink(missing_ok=True)
            file_lock.release()


def _acquire(
    file_lock: FileLock,
    lock: Path,
    holder: Path,
    subject: str,
    kind: type[Exception],
    unwritable: type[OSError],
) -> bool:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file_lock.acquire()
    except Timeout as error:
        raise kind(
            f"{subject} is in use{_in_words(holder)}. Wait for its end, or stop it."
        ) from error
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", None)
        if number is not None and number not in _UNSUPPORTED:
            why = getattr(error, "strerror", None) or error
            raise unwritable(
                number, f"{lock.parent} cannot be written ({why}); give another folder."
            ) from error
        warnings.warn(
            f"the file system of {subject} has no locks ({error}): take care that no second "
            "process works on it.",
            RuntimeWarning,
            stacklevel=5,
        )
        return False
    return True


def _this_process() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join([_program(Path(sys.argv[0])), *sys.argv[1:]])[:200],
    }


def _program(path: Path) -> str:
    return path.parent.name if path.name == "__main__.py" else path.name  # of python -m


def _in_words(holder: Path) -> str:
    """Who holds a lock; nothing where that cannot be read."""
    try:
        who = read_json(holder, ValueError)
        pid, host, since, command = (str(who[k])[:300] for k in ("pid", "host", "since", "command"))
    except (ValueError, KeyError):
        return " by another process"
    this = " (this process)" if pid == str(os.getpid()) and host == socket.gethostname() else ""
    command = " ".join(command.split())
    return shown(f" by process {pid}{this} on {host} since {since}: {command}")
