"""Files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Where to write what shall become ``path``.

    What lies at ``path`` stays as it is until the block has ended. Where the block raises (a full
    disk, Ctrl-C, a check that failed), ``path`` is untouched and the partial file is removed.

    Args:
        path: the file to make or to replace; its folder exists.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "x.txt") as partial:
    ...         size = partial.write_text("whole")
    ...     print((Path(folder) / "x.txt").read_text(), partial.exists())
    whole False
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)
        raise
