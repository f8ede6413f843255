"""Files that are whole or not there, and logs that can be cut back."""

from __future__ import annotations

import json
import math
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agents.errors import FileError


@contextmanager
def replacing(path: Path | str, kind: type[OSError] = FileError) -> Iterator[Path]:
    """Where to write what shall become ``path``.

    What lies at ``path`` stays as it is until the block has ended. Where the block raises (a full
    disk, Ctrl-C, a check that failed), ``path`` is untouched and the partial file is removed.
    The partial file's name is nobody else's, so that processes which write the same file at the
    same time do not meet: the last one to end is the one that stays.

    Args:
        path: The file to make or to replace; its folder is made where it is missing.
        kind: The error to raise where the file cannot be written.

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
        with suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, kind):
            message = f"{path} cannot be written: {error.strerror or error}."
            raise kind(error.errno, message) from error
        raise


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
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise kind(f"{path} cannot be read ({error.strerror or error}).") from error
    except ValueError as error:  # of JSON, or of its encoding
        raise kind(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise kind(f"{path} holds no keys.")
    return content


def count_lines(path: Path) -> int:
    """Return how many whole lines a file has; 0 if there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(line.endswith(b"\n") for line in file)


def keep_lines(path: Path, n_lines: int) -> None:
    """Cut a file back to its first lines; with 0 of them it is removed."""
    if n_lines == 0:
        path.unlink(missing_ok=True)
        return
    with path.open("rb") as file:
        lines = [line for _, line in zip(range(n_lines), file, strict=False)]
    with replacing(path) as partial:
        partial.write_bytes(b"".join(lines))
