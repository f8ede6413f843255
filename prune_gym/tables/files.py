"""Tables as files: an ``.npz`` of plain arrays, one of which is JSON; nothing in it is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_core import from_json

from agents.files import user_path
from prune_gym.errors import InvalidTypeError, InvalidValueError, TableError
from prune_gym.tables.counted import Polynomial
from prune_gym.tables.table import PruneTable
from prune_gym.utils.arrays import read_arrays
from prune_gym.utils.files import reading, replacing
from prune_gym.utils.records import Count, Positive, Record, Text, check
from prune_gym.utils.registry import suggest

MOST_BYTES = 2**32  # of a table's file
SHIPPED = Path(__file__).parent / "data"
_FORMAT = 1
_ARRAYS = ("facts", "scores", "right", "constant", "linear", "quadratic", "measured")


class _Group(Record):
    name: Text
    filters: Count
    levels: Annotated[list[Count], Field(min_length=1)]


class _Facts(Record):
    """What the JSON of a table holds."""

    format: Literal[1]
    groups: Annotated[list[_Group], Field(min_length=1, max_length=64)]
    n_examples: Annotated[list[Count], Field(min_length=1, max_length=2)]
    counted: list[Text]
    measured: list[Text]
    unpruned: dict[Text, Positive]
    arguments: dict[str, Any] | None
    digest: Text


def facts_of(table: PruneTable) -> dict[str, Any]:
    """All of a table that is no array."""
    groups = zip(table.groups, table.sizes.tolist(), table.levels, strict=True)
    return {
        "format": _FORMAT,
        "groups": [{"name": a, "filters": b, "levels": list(c)} for a, b, c in groups],
        "n_examples": list(table.n_examples),
        "counted": list(table.counted),
        "measured": list(table.measured),
        "unpruned": dict(table.unpruned),
        "arguments": None if table.arguments is None else dict(table.arguments),
        "digest": table.digest,
    }


def save_table(table: PruneTable, path: Path | str) -> None:
    """Write a table; the old file stays whole until the new one is.

    Raises:
        FileError: it cannot be written.
    """
    n = len(table.groups)
    counted = list(table.counted.values())
    facts = json.dumps(facts_of(table)).encode()
    arrays: dict[str, Any] = {
        "facts": np.frombuffer(facts, dtype=np.uint8),
        "scores": np.concatenate(table.scores),
        "right": table.right,
        "constant": np.array([one.constant for one in counted]),
        "linear": np.array([one.linear for one in counted]).reshape(-1, n),
        "quadratic": np.array([one.quadratic for one in counted]).reshape(-1, n, n),
        "measured": np.array(list(table.measured.values())).reshape(-1, *table.shape),
    }
    plain: dict[str, Any] = {name: np.ascontiguousarray(one) for name, one in arrays.items()}
    with replacing(user_path(path)) as partial, partial.open("wb") as file:
        np.savez(file, **plain)


def load_table(table: Path | str) -> PruneTable:
    """Read a table.

    Args:
        table: a file, or the name of a table that comes with the package.

    Raises:
        TableError: there is none of that name, or the file is damaged.

    >>> table = load_table("tiny_vgg-shapes-taylor")
    >>> table.budgets
    ('params', 'macs', 'size_bytes', 'energy_uj')
    """
    path = find_table(table)
    with reading(path, TableError):
        return _table_of(path, read_arrays(path, _ARRAYS, TableError, MOST_BYTES))


def shipped_tables() -> list[str]:
    """Names of the tables that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.npz"))


def find_table(table: Path | str) -> Path:
    """The file of a table: one of that path, else the shipped one of that name.

    Raises:
        TableError: there is neither.
    """
    if not isinstance(table, str | Path):
        raise InvalidTypeError(f"table={table!r}: expected a name, a file, or a PruneTable.")
    path = user_path(table)
    shipped = SHIPPED / f"{table}.npz"
    if path.suffix == ".npz" or path.is_file():
        return path
    if str(table) in shipped_tables():
        return shipped
    names = shipped_tables()
    raise TableError(
        f"table={str(table)!r}: no file, and no table of the package.{suggest(str(table), names)} "
        f"Those are {', '.join(names)}; python -m prune_gym.tables make makes others."
    )


def _table_of(path: Path, arrays: dict[str, NDArray[Any]]) -> PruneTable:
    content = from_json(arrays["facts"].astype(np.uint8).tobytes())
    if not isinstance(content, dict):
        raise InvalidValueError("its facts are no JSON object")
    check(path, content, _Facts, TableError)
    groups = content["groups"]
    levels = tuple(tuple(group["levels"]) for group in groups)
    sizes = [group["filters"] for group in groups]
    for group in groups:
        own = group["levels"]
        if own != sorted(set(own)) or own[-1] > group["filters"]:
            raise InvalidValueError(f"levels of {group['name']!r} are not ascending filters of it")
    shape, n, n_splits = tuple(map(len, levels)), len(groups), len(content["n_examples"])
    n_counted, n_measured = len(content["counted"]), len(content["measured"])
    _expect("right", arrays, "u2", (*shape, n_splits))
    _expect("scores", arrays, "f8", (sum(sizes),))
    _expect("constant", arrays, "f8", (n_counted,))
    _expect("linear", arrays, "f8", (n_counted, n))
    _expect("quadratic", arrays, "f8", (n_counted, n, n))
    _expect("measured", arrays, "f8", (n_measured, *shape))
    if (arrays["right"].reshape(-1, n_splits).max(axis=0) > content["n_examples"]).any():
        raise InvalidValueError("a network gets more examples right than there are")
    if not (arrays["constant"] > 0).all() or set(content["unpruned"]) != set(content["measured"]):
        raise InvalidValueError("a budget has no value of the unpruned network")
    counted = zip(arrays["constant"].tolist(), arrays["linear"], arrays["quadratic"], strict=True)
    return PruneTable(
        groups=tuple(group["name"] for group in groups),
        sizes=np.array(sizes, dtype=np.int64),
        levels=levels,
        scores=tuple(np.split(arrays["scores"], np.cumsum(sizes)[:-1])),
        right=arrays["right"],
        n_examples=tuple(content["n_examples"]),
        counted=dict(zip(content["counted"], [Polynomial(*own) for own in counted], strict=True)),
        measured=dict(zip(content["measured"], arrays["measured"], strict=True)),
        unpruned=content["unpruned"],
        arguments=content["arguments"],
        digest=content["digest"],
    )


def _expect(name: str, arrays: dict[str, NDArray[Any]], kind: str, shape: tuple[int, ...]) -> None:
    array = arrays[name]
    if array.dtype != np.dtype(f"<{kind}") or array.shape != shape:
        raise InvalidValueError(f"{name} is {array.dtype} of shape {array.shape}, not {shape}")
    if kind == "f8" and not np.isfinite(array).all():
        raise InvalidValueError(f"{name} holds numbers that are not finite")
