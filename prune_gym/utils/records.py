"""Files that are data: read in bounds, and checked field by field before anything uses them.

Whatever lies in a file's place, damaged, cut off, or made by somebody who means harm, ends in an
error of one line that names the file, the field and what to do.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import from_json

MOST_BYTES = 16 * 2**20  # of a JSON file
_SHOWN = 60  # characters of a value that an error shows
# what moves a terminal's cursor, breaks a line or turns the direction of writing around
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_CURE = "Put the file back as it was"


def is_visible(text: str) -> bool:
    """Whether a text can be shown on a terminal and does nothing else there."""
    return _CONTROLS.search(text) is None


def _visible(text: str) -> str:
    if not is_visible(text):
        raise ValueError("it holds control characters")
    return text


Text = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_visible)]
Script = Annotated[str, StringConstraints(max_length=2**16)]  # shown as Python writes it
Whole = Annotated[int, Field(ge=0, le=10**15)]
Count = Annotated[int, Field(ge=1, le=10**15)]
Amount = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Record(BaseModel):
    """What a JSON object must hold: these keys and no others, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def is_there(path: Path, kind: type[Exception]) -> bool:
    """Whether there is such a file; ``kind`` where something else has its name."""
    if not os.path.lexists(path):
        return False
    if not os.path.isfile(path):
        raise kind(
            f"{path} is no file, but a folder, a pipe, a device, or a link to nothing; remove it, "
            "or put the file back."
        )
    return True


def read_bytes(path: Path, kind: type[Exception], most: int = MOST_BYTES) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        kind: raised where there is none, where it cannot be read, or where it is too large.
        most: bytes that it may have.
    """
    if not is_there(path, kind):
        raise kind(f"there is no file {path}.")
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise kind(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) > most:
        raise kind(f"{path} is damaged: it has more than {most:,} bytes. {_CURE}.")
    return content


def read_object(path: Path, kind: type[Exception]) -> dict[str, Any]:
    """The object that a JSON file holds; ``kind`` where it holds something else."""
    content = read_bytes(path, kind)
    try:
        found = from_json(content)
    except ValueError as error:
        raise kind(f"{path} is damaged: it is no JSON ({in_one_line(error)}). {_CURE}.") from error
    if not isinstance(found, dict):
        raise kind(f"{path} is damaged: it holds no JSON object. {_CURE}.")
    return found


def check(path: Path, content: dict[str, Any], record: type[Record], kind: type[Exception]) -> None:
    """Raise ``kind`` unless ``content`` is what a record must hold.

    Args:
        path: of the file that it was read from.
        content: of `read_object`.
        record: what it must hold.
        kind: raised with the first field that is wrong.
    """
    try:
        record.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise kind(f"{path} is damaged: {_in_words(first, content)}. {_CURE}.") from error


def read_record(path: Path, record: type[Record], kind: type[Exception]) -> dict[str, Any]:
    """`read_object`, checked."""
    content = read_object(path, kind)
    check(path, content, record, kind)
    return content


def _in_words(error: Any, content: Any) -> str:
    """``groups[2].filters is -1: it should be greater than or equal to 1``."""
    field, held = "", content
    *_, last = error["loc"] or ("",)
    for key in error["loc"]:  # kinds of a union are among the keys
        is_missing = error["type"] == "missing" and key == last
        if isinstance(held, dict) and (key in held or is_missing):
            field, held = f"{field}.{key}" if field else str(key), held.get(key)
        elif isinstance(held, list) and isinstance(key, int) and key < len(held):
            field, held = f"{field}[{key}]", held[key]
    field = shortened(field)[1:-1]
    if error["type"] == "missing":
        return f"{field} is missing"
    if error["type"] == "extra_forbidden":
        return f"{field} is a key that does not belong there"
    why = error["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{field} is {shortened(held)}: {why}" if field else why


def in_one_line(error: Exception) -> str:
    """What another library says of a file, without what the file could put into it."""
    text = _CONTROLS.sub("?", str(error))
    return text if len(text) <= 4 * _SHOWN else f"{text[: 4 * _SHOWN - 3]}..."


def shortened(value: Any) -> str:
    """A value for people, in one line that is not too long."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
