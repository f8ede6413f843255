"""Files of numbers: JSON and arrays in one zip, read without running anything.

A file holds ``data``, which is JSON, arrays as ``NAME.npy``, and perhaps other files as they are.
``numpy.load`` reads it, too. Nothing is compressed and nothing is unpickled, so that reading a
file takes no more memory than the file is long, whatever it says of itself.

>>> import io
>>> file = io.BytesIO()
>>> write_archive(file, {"steps": 3}, {"0": np.zeros(2)})
>>> with open_archive(file) as archive:
...     archive.json(), archive.array("0")
({'steps': 3}, array([0., 0.]))
"""

from __future__ import annotations

import io
import json
import math
import pathlib
import tokenize
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from agents.errors import FileError, MissingFileError

Array: TypeAlias = npt.NDArray[Any]
Source: TypeAlias = str | pathlib.Path | IO[bytes]
DATA = "data"
_KINDS = "biufc"  # booleans and numbers: what an array of a file may hold
_HEADER = (SyntaxError, tokenize.TokenError, TypeError, RecursionError, MemoryError, OverflowError)


class DamageError(ValueError):
    """What is wrong with a file, for those who know its name and its cure."""


class Archive:
    """An archive that is open for reading; see `open_archive`."""

    def __init__(self, file: zipfile.ZipFile, n_bytes: int) -> None:
        members = file.infolist()
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise DamageError(f"{member.filename} in it is compressed or encrypted")
        if sum(member.file_size for member in members) > n_bytes:
            raise DamageError("it says that it holds more than it is long")
        if len({member.filename for member in members}) < len(members):
            raise DamageError("it holds a name twice")
        self._file = file
        self.names = tuple(member.filename for member in members)

    def read(self, name: str) -> bytes:
        """Return a file of it.

        Raises:
            DamageError: If it is not there, or damaged.
        """
        with self.open(name) as file:
            try:
                return file.read()
            except (zipfile.BadZipFile, EOFError, OSError) as error:
                raise DamageError(f"{name} in it is damaged ({error})") from error

    def open(self, name: str) -> IO[bytes]:
        """Open a file of it, as `read`."""
        if name not in self.names:
            raise DamageError(f"{name} is missing in it")
        try:
            return self._file.open(name)
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
            raise DamageError(f"{name} in it is damaged ({error})") from error

    def json(self, name: str = DATA) -> dict[str, Any]:
        """Return the JSON of it, which is an object.

        Raises:
            DamageError: If it is missing, no JSON, or holds no keys.
        """
        try:
            content = json.loads(self.read(name).decode("utf-8"))
        except DamageError:
            raise
        except (ValueError, RecursionError) as error:
            raise DamageError(f"{name} in it is no JSON ({error})") from error
        if not isinstance(content, dict):
            raise DamageError(f"{name} in it holds no keys")
        return content

    def array(self, name: str) -> Array:
        """Return an array of booleans or numbers, ``NAME.npy``.

        Raises:
            DamageError: If it is missing, damaged, or holds anything else.
        """
        content = self.read(f"{name}.npy")
        stream = io.BytesIO(content)
        try:
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError("its version is unknown")
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
        except (ValueError, *_HEADER) as error:
            raise DamageError(f"{name}.npy in it is no array ({error})") from error
        values = content[stream.tell() :]
        if dtype.kind not in _KINDS or not dtype.isnative or any(length < 0 for length in shape):
            raise DamageError(f"{name}.npy in it holds {dtype}, shape {shape}: no numbers")
        if math.prod(shape) * dtype.itemsize != len(values) or max(shape, default=0) >= 2**48:
            raise DamageError(
                f"{name}.npy in it is of shape {shape}, {dtype}, but holds {len(values)} bytes"
            )
        order: Any = "F" if by_column else "C"
        array: Array = np.frombuffer(values, dtype).reshape(shape, order=order).copy()
        return array


@contextmanager
def open_archive(source: Source) -> Iterator[Archive]:
    """Open an archive; a file that was handed in stays open, and is read again from its beginning.

    Args:
        source: A path or an open file.

    Raises:
        DamageError: If it is no archive, or one that `write_archive` does not write.
        MissingFileError: If there is none.
        FileError: If it cannot be read.
    """
    if not isinstance(source, str | pathlib.Path):
        try:
            yield _archive(source)
        finally:
            source.seek(0)
        return
    if pathlib.Path(source).exists() and not pathlib.Path(source).is_file():
        raise FileError(f"{source} cannot be read: it is no file.")  # a pipe would wait for ever
    try:
        file = pathlib.Path(source).open("rb")  # noqa: SIM115 - what the block raises is not ours
    except FileNotFoundError as error:
        raise MissingFileError(f"path={str(source)!r}: there is no such file.") from error
    except OSError as error:
        raise FileError(f"{source} cannot be read ({error.strerror or error}).") from error
    with file:
        yield _archive(file)


def _archive(file: IO[bytes]) -> Archive:
    n_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        return Archive(zipfile.ZipFile(file), n_bytes)
    except DamageError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        raise DamageError(str(error)) from error


def write_archive(
    file: pathlib.Path | IO[bytes],
    data: Any,
    arrays: Mapping[str, Array],
    files: Mapping[str, pathlib.Path | bytes] | None = None,
) -> None:
    """Write an archive.

    Args:
        file: Where to; an open file may be one that can only be written.
        data: Its JSON.
        arrays: Its arrays, by name.
        files: Other files, by name: their content or where they are.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(DATA, json.dumps(data, allow_nan=False))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
        for name, content in (files or {}).items():
            if isinstance(content, bytes):
                archive.writestr(name, content)
            else:
                archive.write(content, name)
