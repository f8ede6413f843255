"""Files that are whole or not there, and logs that can be cut back."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what becomes ``path`` once the block has ended, in one step.

    Args:
        path: The file to make or replace; if the block raises, it stays as it is.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON; numbers that it has no name for (infinite ones) become null."""
    with replacing(path) as partial:
        text = json.dumps(_finite(content), indent=2, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
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
