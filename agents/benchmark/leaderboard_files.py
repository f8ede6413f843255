"""Where rows of a leaderboard lie: a file each in folders, or many in one packed file.

A packed file is what the package ships and what a submission may be: JSON lines, compressed by
gzip. A line holds all runs of one algorithm on one task, field by field, so that they compress to
some 50 bytes a run; what follows from the suite (scores, regrets) is left out, and computed again.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from agents.benchmark.leaderboard_fields import AGAIN
from agents.benchmark.leaderboard_rows import (
    FORMAT,
    ScoredRun,
    check_protocol,
    check_row,
    regret_of,
)
from agents.benchmark.networks import means_of
from agents.benchmark.suite import DATA, Suite
from agents.errors import BenchmarkError, MissingFileError
from agents.files import check_place, is_partial, read_json, replacing, user_path

PACKED = ".jsonl.gz"
LEADERBOARD = "leaderboard.json"  # what `agents.benchmark.leaderboard_report.save` wrote: no row
DIGITS = 12  # of numbers in a packed file
_MOST_BYTES = 256 * 2**20  # of a packed file, unpacked
_NAMED = ("algorithm", "task", "versions", "code")  # of all runs in a line
_FIELDS = (
    "seed",
    "evaluations",
    "infeasible_evaluations",
    "given_up_episodes",
    "cumulative_violation",
    "parts",
    "curve",
    "policy",
    "wall_s",
)
_NETWORK = ("accuracy", "test_accuracy", "costs", "counts")
_PART = (*_NETWORK, "evaluation")
_SAMPLED = ("accuracy", "test_accuracy", "violation_rate", "episodes")
_FEW = {"cumulative_violation": 5, "wall_s": 3}  # digits that say something


def published_file(suite: Suite) -> Path:
    """Return where the package has the rows of a suite; it need not be there."""
    return DATA / f"{suite.protocol}-rows{PACKED}"


def published_rows(suite: Suite) -> list[ScoredRun]:
    """Return the rows of the package; none where it has none for this suite."""
    path = published_file(suite)
    if not path.exists():
        return []
    return [check_row(content, suite, source) for source, content in _unpacked(path, suite)]


def read_rows(places: Iterable[str | os.PathLike[str]], suite: Suite) -> list[ScoredRun]:
    """Read and check rows.

    Args:
        places: Folders, in which every JSON file at any depth is a row and every ``.jsonl.gz`` file
            is a packed one, or such files.
        suite: The version of the benchmark.

    Raises:
        BenchmarkError: If a row is not possible (says which and why), or occurs twice.
        MissingFileError: If a place is not there, or holds no rows.
    """
    if isinstance(places, str | os.PathLike):
        raise BenchmarkError(
            f"add is {os.fspath(places)!r}; it must be a list of folders: [{os.fspath(places)!r}]."
        )
    rows: dict[tuple[str, str, int], ScoredRun] = {}
    codes: dict[str, tuple[Any, str]] = {}  # of each algorithm, and a row that says so
    for place in places:
        for path in _files(user_path(place)):
            for source, content in _contents(path, suite):
                row = check_row(content, suite, source)
                if row.task not in suite.tasks:
                    continue  # of a task for tuning
                code, first = codes.setdefault(row.algorithm, (content["code"], source))
                if code != content["code"]:
                    raise BenchmarkError(
                        f"{source}: code is {content['code']}, but {first} of {row.algorithm}, too,"
                        f" is of {code}; one name stands for one algorithm. Leave one out, or run "
                        "it again under another name."
                    )
                other = rows.setdefault((row.algorithm, row.task, row.seed), row)
                if other is not row:
                    raise BenchmarkError(
                        f"{source}: seed {row.seed} of {row.algorithm} on {row.task} is in "
                        f"{other.source} too; a seed counts once. Leave one out."
                    )
    return list(rows.values())


def check_unpublished(
    rows: Iterable[ScoredRun], published: Iterable[ScoredRun], otherwise: str
) -> None:
    """Check that no row has the name of a published algorithm.

    Args:
        rows: That are added.
        published: Those of the package.
        otherwise: What one may do instead of giving another name, for the error.

    Raises:
        BenchmarkError: One has.
    """
    taken = {row.algorithm for row in published}
    for row in rows:
        if row.algorithm in taken:
            raise BenchmarkError(
                f"{row.source}: algorithm is {row.algorithm!r}, a published one, whose rows are "
                f"never replaced. Run yours under another name{otherwise}."
            )


def pack(
    places: Iterable[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    suite: Suite,
    tasks: Collection[str] | None = None,
) -> Path:
    """Check rows, and write them into one packed file: a submission.

    Args:
        places: As for `read_rows`.
        path: The file to make, ``NAME.jsonl.gz``; one that is there is not replaced.
        suite: The version of the benchmark.
        tasks: Names of those whose rows are packed; all if left out.

    Raises:
        BenchmarkError: If a row is not possible, or has the name of a published algorithm, or the
            file is there.
        MissingFileError: If a place is not there, or holds no rows.
    """
    path, places = check_packed(path), list(places)
    rows = read_rows(places, suite)
    check_unpublished(rows, published_rows(suite), "")
    wanted = {
        (row.algorithm, row.task, row.seed) for row in rows if tasks is None or row.task in tasks
    }
    files = [one for place in places for one in _files(user_path(place))]
    found = [content for one in files for _, content in _contents(one, suite)]
    found = [one for one in found if _key(one) in wanted]
    found.sort(key=_key)
    head = {"format": FORMAT, "protocol": suite.protocol, "suite_hash": suite.hash}
    lines: list[dict[str, Any]] = [head]
    for named, group in groupby(found, key=lambda one: {name: one[name] for name in _NAMED}):
        lines.append({**named, **_columns(list(group))})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    with replacing(path) as partial:
        partial.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    return path


def check_packed(path: str | os.PathLike[str]) -> Path:
    """Return where a packed file is to be made, after a check that nothing is there."""
    path = user_path(path)
    if not path.name.endswith(PACKED):
        raise BenchmarkError(f"{path} is no name of a packed file; give NAME{PACKED}.")
    if os.path.lexists(path):
        raise BenchmarkError(f"{path} is there already; rows are never overwritten: give another.")
    check_place(path)
    return path


def _key(content: Mapping[str, Any]) -> tuple[str, str, int]:
    return content["algorithm"], content["task"], content["seed"]


# -- files -----------------------------------------------------------------------------------------


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise MissingFileError(f"{place} is not there. Pass the folder that the benchmark wrote.")
    names = (path for path in place.rglob("*") if path.is_file())
    files = sorted(
        path
        for path in names
        if path.name.endswith((".json", PACKED))
        and path.name != LEADERBOARD
        and not is_partial(path.name)
    )
    if not files:
        raise MissingFileError(
            f"{place} holds no rows, which are files ALGORITHM/TASK/SEED.json. Pass the folder "
            "that python -m agents.benchmark --out wrote."
        )
    return files


def _contents(path: Path, suite: Suite) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.name.endswith(PACKED):
        yield from _unpacked(path, suite)
    else:
        yield str(path), read_json(path, BenchmarkError)


def _unpacked(path: Path, suite: Suite) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of a packed file, and its place: the file, algorithm, task and seed."""
    head, *lines = _lines(path)
    check_protocol(head, suite, str(path))
    for number, line in enumerate(lines, start=2):
        try:
            columns = [line[key] for key in _FIELDS]
            for values in zip(*columns, strict=True):
                row = {key: _full(key, one) for key, one in zip(_FIELDS, values, strict=True)}
                named = {key: line[key] for key in _NAMED}
                source = f"{path}, {line['algorithm']}/{line['task']}/{row['seed']}"
                yield source, {**head, **named, **row, **_computed(row, suite, line["task"])}
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, BenchmarkError):
                raise
            raise BenchmarkError(
                f"{path}: line {number} holds no packed runs ({error}). {AGAIN}"
            ) from error


def _computed(row: Mapping[str, Any], suite: Suite, name: Any) -> dict[str, Any]:
    """What follows from the task, of a task that there is."""
    task = {**suite.tasks, **suite.tuning_tasks}.get(str(name))
    parts = row["parts"]
    if task is None or len(parts) != len(task.judged):
        return {"budget": None, "score": None, "regret": None, "best": None}
    accuracies = [0.0 if part is None else float(part["accuracy"]) for part in parts]
    best = None
    if None not in parts:
        best = {**_means(parts), "evaluation": max(part["evaluation"] for part in parts)}
    score, regret = task.score(accuracies), regret_of(task, accuracies)
    return {"budget": task.evaluations, "score": score, "regret": regret, "best": best}


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes")
        lines = [json.loads(line) for line in text.decode("utf-8").splitlines()]
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise BenchmarkError(f"{path} is no packed file of rows ({error}). {AGAIN}") from error
    if len(lines) < 2 or not all(isinstance(line, dict) for line in lines):
        raise BenchmarkError(f"{path} is no packed file of rows: it holds none. {AGAIN}")
    return lines


# -- columns ---------------------------------------------------------------------------------------


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Every field as the list of its values, run by run, without names that repeat."""
    return {
        key: [_rounded(_bare(key, row[key]), _FEW.get(key, DIGITS)) for row in rows]
        for key in _FIELDS
    }


def _bare(key: str, value: Any) -> Any:
    if value is None:
        return None
    if key == "parts":
        return [part and [part[name] for name in _PART] for part in value]
    if key == "policy":
        fixed, sampled = value["deterministic"], [value["sampled"][name] for name in _SAMPLED]
        networks = [[part[name] for name in _NETWORK] for part in fixed["parts"]]
        return [fixed["feasible"], networks, sampled]
    return value


def _full(key: str, value: Any) -> Any:
    """The reverse of `_bare`."""
    if value is None:
        return None
    if key == "parts":
        return [part and dict(zip(_PART, part, strict=True)) for part in value]
    if key == "policy":
        feasible, networks, sampled = value
        parts = [dict(zip(_NETWORK, part, strict=True)) for part in networks]
        return {
            "deterministic": {**_means(parts), "feasible": feasible, "parts": parts},
            "sampled": dict(zip(_SAMPLED, sampled, strict=True)),
        }
    return value


def _means(networks: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    return means_of([(one["accuracy"], one["test_accuracy"]) for one in networks])


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one, digits) for one in value]
    return value
