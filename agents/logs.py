"""Logs: files that grow line by line, each line whole or not there, and can be cut back."""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import suppress
from pathlib import Path

from agents.errors import FileError
from agents.files import replacing, shown, unwritable


class LineLog:
    """A file to which whole lines are added: each is there, or nothing of it.

    What is a link, or shares its content with another file (a hard link), becomes a file of its own
    first.

    Args:
        path: The file; made where it is missing.
        kind: The error to raise where it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with LineLog(Path(folder) / "x.txt") as log:
    ...         log.add("first")
    ...         log.add("second")
    ...     (Path(folder) / "x.txt").read_text().split()
    ['first', 'second']
    """

    def __init__(self, path: Path | str, kind: type[OSError] = FileError) -> None:
        self.path, self.kind = Path(path), kind
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # none of them is everywhere
            flags |= getattr(os, name, 0)
        own_file(self.path, kind)
        try:
            self._file = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise unwritable(self.path, error, kind) from error
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            self.close()
            raise kind(f"{self.path} cannot be written: it is no file; move it away.")

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing yet."""
        return os.fstat(self._file).st_size == 0

    def add(self, lines: str) -> None:
        """Add a line, or several; after one that was cut off, e.g. by a power cut, on a new line.

        Raises:
            FileError: If it cannot be written; the file is as before then.
        """
        lines = lines if lines.endswith("\n") else lines + "\n"
        content = lines.encode(errors="surrogateescape")  # as names of files are
        size = os.fstat(self._file).st_size
        if size:
            os.lseek(self._file, size - 1, os.SEEK_SET)
            content = content if os.read(self._file, 1) == b"\n" else b"\n" + content
        try:
            while content:
                content = content[os.write(self._file, content) :]
        except BaseException as error:
            with suppress(OSError):
                os.ftruncate(self._file, size)
            if isinstance(error, OSError):
                raise unwritable(self.path, error, self.kind) from error
            raise

    def close(self) -> None:
        """Close the file; more than once does no harm."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> LineLog:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def own_file(path: Path, kind: type[OSError] = FileError) -> None:
    """Turn what would be written elsewhere, too, into a file of its own, with the same content.

    Args:
        path: A link, a file with other names (hard links), or anything else, which stays.
        kind: The error to raise where that cannot be done.
    """
    try:
        if not path.is_symlink() and (not path.exists() or path.stat().st_nlink == 1):
            return
        content = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise unwritable(path, error, kind) from error
    with replacing(path, kind) as partial:
        partial.write_bytes(content or b"")


def count_lines(path: Path) -> int:
    """Return how many whole lines a file has; 0 if there is none (FileError: it is no file)."""
    if not os.path.lexists(path):
        return 0
    if not path.is_file():
        raise FileError(
            f"{shown(path)} is no file, but a folder, a pipe or a device; move it away."
        )
    with path.open("rb") as file:
        return sum(line.endswith(b"\n") for line in file)


def keep_lines(path: Path, n_lines: int) -> None:
    """Cut a file back to its first lines; with 0 of them it is removed."""
    if n_lines == 0:
        return path.unlink(missing_ok=True)
    with path.open("rb") as file:
        lines = list(itertools.islice(file, n_lines))
    with replacing(path) as partial:
        partial.write_bytes(b"".join(lines))
