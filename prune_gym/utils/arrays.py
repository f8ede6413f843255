"""Arrays of an ``.npz`` file, read without trusting what their headers say."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from prune_gym.errors import InvalidValueError
from prune_gym.utils.records import in_one_line, read_bytes

_KINDS = "biufU"  # of numbers and texts; objects are pickles


def read_arrays(
    path: Path, names: Iterable[str], kind: type[Exception], most: int
) -> dict[str, NDArray[Any]]:
    """The arrays of a file that `numpy.savez` wrote.

    No array takes more memory than the file has bytes: what is compressed, or claims to be larger
    than it is, is refused before room is made for it.

    Args:
        path: the file.
        names: of the arrays that it must hold, and no others.
        kind: raised where it cannot be read.
        most: bytes that it may have.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    content = read_bytes(path, kind, most)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if sorted(members) != sorted(names) or len(archive.infolist()) != len(members):
                raise InvalidValueError(f"it must hold {', '.join(names)}, each once")
            return {name: _array(name, archive, info) for name, info in members.items()}
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, MemoryError) as error:
        raise InvalidValueError(f"{type(error).__name__}: {in_one_line(error)}") from error


def _array(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    if info.compress_type != zipfile.ZIP_STORED:
        raise InvalidValueError(f"{name} is compressed")
    held = io.BytesIO(archive.read(info))
    if npy.read_magic(held) != (1, 0):
        raise InvalidValueError(f"{name} is of another version of the format")
    shape, by_columns, dtype = npy.read_array_header_1_0(held)
    if dtype.kind not in _KINDS or dtype.hasobject or (by_columns and len(shape) > 1):
        raise InvalidValueError(f"{name} is of type {dtype}")
    content = held.read()
    if math.prod(shape) * dtype.itemsize != len(content) or not all(n >= 0 for n in shape):
        raise InvalidValueError(f"{name} claims the shape {shape} and has {len(content):,} bytes")
    if not content:
        if 0 not in shape:
            raise InvalidValueError(f"{name} claims the shape {shape} and has no bytes")
        return np.zeros(shape, dtype)
    return np.frombuffer(content, dtype).reshape(shape)
