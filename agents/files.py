"""Files that are whole or not there, logs of whole lines, and places that are looked at first.

Nothing is written through a link: where a file is to be written and a link lies there, the link is
replaced. A folder that the user names may be a link.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agents.errors import FileError, InvalidTypeError

_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]+)-[0-9a-f]{8}\.partial")
_MOST_JSON = 16 * 2**20  # bytes of a file of settings or results
_NAMED = 100  # bytes of a file's name in that of its partial file; a name has 255 at most
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
LOCK = ".lock"  # of `agents.locking`, in a folder that is worked in; who holds it: .lock.json
# locks, and what file managers leave behind
_NO_CONTENT = (LOCK, f"{LOCK}.json", ".DS_Store", "Thumbs.db", "desktop.ini")


# -- whole files -----------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path | str, kind: type[OSError] = FileError) -> Iterator[Path]:
    """Where to write what shall become ``path``.

    What lies at ``path`` stays as it is until the block has ended. Where the block raises (a full
    disk, Ctrl-C, a check that failed), ``path`` is untouched and the partial file is removed.
    The partial file's name is nobody else's, so that processes which write the same file at the
    same time do not meet: the last one to end is the one that stays. What a process that was killed
    leaves behind is known by its name, see `remove_partials`.

    Args:
        path: The file to make or to replace; its folder is made where it is missing. A link is
            replaced, not followed.
        kind: The error to raise where the file cannot be written.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "x.txt") as partial:
    ...         size = partial.write_text("whole")
    ...     print((Path(folder) / "x.txt").read_text(), partial.exists())
    whole False
    """
    path = Path(path)
    start = os.fsdecode(os.fsencode(path.name)[:_NAMED])
    partial = path.with_name(f".{start}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # never another's
        yield partial
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, kind):
            raise unwritable(path, error, kind) from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full, a quota used up, or a file as large as allowed."""
    return isinstance(error, OSError) and error.errno in _FULL


def unwritable(path: Path, error: OSError, kind: type[OSError]) -> OSError:
    """Return the error, of ``kind``, that says that a file cannot be written, and what to do."""
    while found := _PARTIAL.fullmatch(path.name):  # one within another: the user knows the last
        path = path.with_name(found["name"])
    words = f"{path} cannot be written: {error.strerror or error}."
    if is_full(error):
        words += " What was written before is whole; free space and go on."
    return kind(error.errno, words)


def is_partial(name: str) -> bool:
    """Whether a file's name is that of one which `replacing` writes, or was killed while writing.

    >>> is_partial(".model.zip.4711-00ff00ff.partial"), is_partial("model.zip")
    (True, False)
    """
    return _PARTIAL.fullmatch(name) is not None


def remove_partials(folder: Path, name: str | None = None) -> None:
    """Remove the partial files of processes that were killed, not of those that are alive.

    Args:
        folder: Where they lie; it may be missing.
        name: Of the file that they were to become; any if left out.
    """
    start = None if name is None else "." + os.fsdecode(os.fsencode(name)[:_NAMED]) + "."
    with suppress(OSError):  # a folder that cannot be listed is told by whoever writes into it
        for entry in os.listdir(folder):
            found = _PARTIAL.fullmatch(entry)
            if found is None or (start is not None and not entry.startswith(start)):
                continue
            if not _is_at_work(int(found["pid"])):
                with suppress(OSError):
                    Path(folder, entry).unlink()


def _is_at_work(pid: int) -> bool:
    if pid == os.getpid() or os.name == "nt":  # Windows keeps a file that somebody writes
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # of another user
        return True
    except (OSError, OverflowError):
        return False
    return True


def write_json(
    path: Path | str,
    content: Any,
    *,
    indent: int | None = 2,
    kind: type[OSError] = FileError,
) -> None:
    """Write JSON; numbers that it has no name for (infinite ones and NaN) become null.

    Args:
        path: The file to make or to replace; its folder is made where it is missing.
        content: Dicts, lists and tuples of texts, numbers, booleans and None.
        indent: Of each level; None writes one line.
        kind: The error to raise where the file cannot be written.

    Raises:
        TypeError: If there is something in it that JSON cannot hold.
    """
    with replacing(path, kind) as partial:
        text = json.dumps(_finite(content), indent=indent, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def read_json(path: Path | str, kind: type[Exception]) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        kind: The error to raise where it cannot be read, is no JSON, or holds no keys.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise kind(f"{path} cannot be read: it is no file.")  # a pipe would wait for ever
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_JSON + 1)
        if len(text) > _MOST_JSON:
            raise kind(f"{path} is not JSON of ours: it has more than {_MOST_JSON:,} bytes.")
        content = json.loads(text.decode("utf-8"))
    except OSError as error:
        if isinstance(error, kind):
            raise
        raise kind(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:  # of JSON, or of its encoding
        if isinstance(error, kind):
            raise
        raise kind(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise kind(f"{path} holds no keys.")
    return content


# -- places ----------------------------------------------------------------------------------------


def user_path(path: str | os.PathLike[str], kind: type[OSError] = FileError) -> Path:
    """A path as the user means it: ``~`` and ``~name`` are home folders.

    Args:
        path: What was given.
        kind: The error to raise.

    Raises:
        TypeError: If it is no text and no path.
        FileError: If the system takes no such path, whatever there is: it is too long, or has a
            null character in it.

    >>> user_path("runs/x").as_posix(), user_path("~/runs") == Path.home() / "runs"
    ('runs/x', True)
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidTypeError(f"{repr(path)[:80]} is no path; give a text or a pathlib.Path.")
    place = Path(os.path.expanduser(path))
    try:
        place.stat()
    except ValueError as error:
        raise kind(
            f"{shown(place)} cannot be written or read (control characters in its name); give "
            "another one."
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise kind(
                f"{shown(place)[:40]}... cannot be written or read ({error.strerror}: "
                f"{len(str(place))} characters); give a shorter one."
            ) from error
    return place


def make_folder(path: str | os.PathLike[str], kind: type[OSError] = FileError) -> Path:
    """Make a folder, and those above it, where it is not there yet.

    Args:
        path: The folder.
        kind: The error to raise where it cannot be made.

    Raises:
        FileError: If it cannot be made, or takes no file.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise kind(
            f"{path} cannot be written ({error.strerror or error}); give another folder."
        ) from error
    return path


def check_place(
    path: str | os.PathLike[str], kind: type[OSError] = FileError, *, is_folder: bool = False
) -> None:
    """Find out, before hours of work, whether a file or folder can be made; none is left behind.

    Args:
        path: What is to be made or replaced; it need not be there, nor what is above it.
        kind: The error to raise.
        is_folder: Whether it is to be a folder, for the error.

    Raises:
        FileError: If the name cannot be one, or what is above it is no folder or takes no file.
    """
    words, path = shown(path), Path(path)
    folder = path.parent
    try:
        if re.search(r"[\x00-\x1f]", os.fspath(path)):
            raise OSError(errno.EINVAL, "control characters in its name")
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # too long a name, a folder above that may not be entered
        folder = path if path.is_dir() else path.parent
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        said = f" ({why}); give another folder."
        if not is_folder:
            is_none = error.errno == errno.ENOTDIR
            reason = "is no folder" if is_none else f"takes no file ({why})"
            said = f": {shown(folder)} {reason}; give another."
        raise kind(error.errno, f"{words} cannot be written{said}") from error


def check_folder(path: Path, kind: type[OSError] = FileError) -> None:
    """`check_place` for a folder, in whose place no file may lie."""
    check_place(path, kind, is_folder=True)
    if os.path.lexists(path) and not path.is_dir():
        raise kind(errno.ENOTDIR, f"{path} is no folder; give another folder, or move it away.")


def check_new_folder(
    path: Path, run: str, taken: type[Exception], kind: type[OSError] = FileError
) -> None:
    """Find out, before anything is loaded, whether a new run can go to a folder.

    Args:
        path: The folder, which need not be there.
        run: Name of the file that every run has.
        taken: The error to raise where something lies there already.
        kind: The error to raise where it cannot be written.
    """
    check_place(path, kind, is_folder=True)
    if not os.path.lexists(path):
        return
    names = strays(path) if path.is_dir() else [path.name]
    if run in names:
        cure = f"a run already; choose another folder, or continue it: --resume {path}"
        raise taken(f"out={str(path)!r} holds {cure}.")
    if names:
        cure = "other files; choose another folder, or move them away"
        raise taken(f"out={str(path)!r} holds {cure}: {in_words(names)}.")


def strays(folder: Path) -> list[str]:
    """Names of what lies in a folder, but partial files, locks, and what file managers leave."""
    names = os.listdir(folder)
    return sorted(name for name in names if not is_partial(name) and name not in _NO_CONTENT)


def in_words(names: list[str]) -> str:
    """The first few of many names, with what a terminal would not show spelled out.

    >>> in_words(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    said = ", ".join(shown(name) for name in names[:3])
    return said + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path in one line that every terminal can show.

    >>> print(shown("a\nb\udcff.png"))
    a\nb\udcff.png
    """
    letters = os.fspath(path)
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in letters)
