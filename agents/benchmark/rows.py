"""Rows of the benchmark: one JSON file a run, ``OUT/ALGORITHM/TASK/SEED.json``, and their checks.

A row holds

* ``protocol``, ``suite_hash``: the rules, and what stands for the tasks' definitions;
* ``task``, ``algorithm``, ``seed``: whose run it is;
* ``budget``, ``evaluations``: how many networks it was allowed to judge, and judged;
* ``best``: ``accuracy``, ``test_accuracy``, ``cost`` and ``evaluation`` of the best network within
  the limits (of a task with several parts the means, and the last evaluation); null where one part
  has none; ``parts``: the same for each part, with ``costs`` by budget;
* ``score``: normalised, null without references; ``regret``: what is lacking to the exact optimum,
  null where that is not known;
* ``curve``: ``[evaluations, accuracy]`` wherever the best grew (empty where the final policy is
  what is scored);
* ``infeasible_evaluations``, ``given_up_episodes``, ``cumulative_violation`` (sum of
  ``max(0, cost - limit)``);
* ``policy``: null, or what the final policy does, ``deterministic`` (one episode a part) and
  ``sampled`` (``policy_episodes`` a part);
* ``wall_s``, ``versions``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.arguments import shown
from agents.benchmark.leaderboard_rows import check_row
from agents.benchmark.run import Row
from agents.benchmark.suite import Suite
from agents.errors import BenchmarkError
from agents.files import is_partial, read_json, write_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def row_path(out: Path, algorithm: str, task: str, seed: int) -> Path:
    """Where a row lies."""
    return out / algorithm / task / f"{seed}.json"


def write_row(out: Path, row: Row) -> Path:
    """Write a row; one that is there already stays.

    Raises:
        BenchmarkError: There is one.
        FileError: It cannot be written.
    """
    path = row_path(out, row["algorithm"], row["task"], row["seed"])
    if path.exists():
        raise BenchmarkError(f"{path} is there already; rows are never overwritten.")
    write_json(path, row, indent=1)
    return path


def read_row(path: Path, suite: Suite) -> Row:
    """Read a row and check it against a suite.

    Raises:
        BenchmarkError: It is damaged, or of another protocol, version or count.
    """
    row = read_json(path, BenchmarkError)
    check_row(row, suite, str(path))
    where = (row["algorithm"], row["task"], f"{row['seed']}.json")
    if path.parts[-3:] != where:
        raise BenchmarkError(f"{path} holds the row of {'/'.join(where)}; put it there.")
    return row


def read_rows(out: Path, suite: Suite) -> list[Row]:
    """All rows in a folder, checked, in the order of their paths."""
    return [read_row(path, suite) for path in row_paths(out)]


def row_paths(out: Path) -> Iterator[Path]:
    """Files that may be rows: JSON, three levels down."""
    for path in sorted(out.glob("*/*/*.json")):
        if not is_partial(path.name):
            yield path


def check_out(out: Path, suite: Suite) -> None:
    """Raise a BenchmarkError where a folder holds rows of another protocol or suite."""
    for path in row_paths(out):
        row = read_json(path, BenchmarkError)
        for name, wanted in (("protocol", suite.protocol), ("suite_hash", suite.hash)):
            if row.get(name) != wanted:
                raise BenchmarkError(
                    f"out: {path} is of another {name}, {shown(row.get(name))} in place of "
                    f"{wanted!r}; choose another --out."
                )


def check_algorithm_name(name: Any) -> str:
    """The name of an algorithm, which becomes a folder's.

    Raises:
        BenchmarkError: It cannot be one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BenchmarkError(
            f"name is {shown(name)}; it must be letters, digits and . _ + -, 64 at most, as it is "
            "the name of a folder. Give one: name=..., --name ..."
        )
    return name
