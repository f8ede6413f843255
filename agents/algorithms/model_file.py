"""Where a saved model comes from: which algorithm may load it, and in which format it is."""

from __future__ import annotations

import io
import json
import pathlib
import zipfile
from typing import TypeAlias

from stable_baselines3.common.save_util import open_path

from agents.errors import MissingFileError, ModelFileError

FORMAT = 1  # of saved models; a larger one was written by a later version of this package
SavedModel: TypeAlias = str | pathlib.Path | io.BufferedIOBase


def read_origin(path: str | pathlib.Path | io.BufferedIOBase) -> tuple[str, int]:
    """Return what made a saved model (empty for models of others) and its format.

    Raises:
        ModelFileError: If the file is not a saved model of Stable-Baselines3.
        MissingFileError: If there is none.
    """
    try:
        file = open_path(path, "r", suffix="zip")
    except FileNotFoundError as error:
        raise MissingFileError(f"path={str(path)!r}: there is no such file.") from error
    try:
        with zipfile.ZipFile(file) as archive:
            data = dict(json.loads(archive.read("data")))
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"path={str(path)!r} is no saved model ({error}). Pass a file written by save()."
        ) from error
    finally:
        if file is path:  # the caller's own file stays open, and is read again
            file.seek(0)
        else:
            file.close()
    return str(data.get("_made_by", "")), int(data.get("_format", 0))


def check_origin(path: SavedModel, made_by: str) -> None:
    """Raise a ModelFileError unless a model was made by ``made_by``, in a format known here."""
    origin, version = read_origin(path)
    if origin != made_by:
        whose = f"it was made by {origin}; load it with that" if origin else "it is not ours"
        raise ModelFileError(f"path={str(path)!r} cannot be loaded by {made_by}: {whose}.")
    if version > FORMAT:
        raise ModelFileError(
            f"path={str(path)!r} has format {version}; this version knows up to {FORMAT}. "
            "Upgrade the package to load it."
        )
