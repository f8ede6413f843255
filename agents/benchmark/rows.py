"""Rows of the benchmark: one JSON file a run, ``OUT/ALGORITHM/TASK/SEED.json``, and their checks.

A row holds

* ``format``: 2; ``protocol``, ``suite_hash``: the rules, and what stands for the tasks'
  definitions;
* ``task``, ``algorithm``, ``seed``: whose run it is;
* ``budget``, ``evaluations``: how many networks it was allowed to judge, and judged;
* ``parts``: the best network within the limits of each part: ``accuracy``, ``test_accuracy``,
  ``costs`` by budget, ``counts`` (kept filters of each group) and ``evaluation``, its number; null
  for a part without one; ``best``: means of these, and the last evaluation, null where one is null;
* ``score``: normalised, null without references; ``regret``: what is lacking to the exact optimum,
  null where that is not known;
* ``curve``: ``[evaluations, accuracy]`` wherever the best grew, with an accuracy for each part, 0
  where it has no network yet (empty where the final policy is what is scored);
* ``infeasible_evaluations``, ``given_up_episodes``, ``cumulative_violation`` (sum of
  ``max(0, cost - limit)``);
* ``policy``: null, or what the final policy does, ``deterministic`` (one episode a part, whose
  networks are its ``parts``) and ``sampled`` (``policy_episodes`` a part);
* ``wall_s``, ``versions``, ``code``: the function that trained, and a hash of its source file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agents.arguments import shown
from agents.benchmark.leaderboard_rows import NAME, check_protocol, check_row
from agents.benchmark.run import Row
from agents.benchmark.suite import Suite
from agents.errors import BenchmarkError
from agents.files import is_partial, read_json, write_json


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
    checked = check_row(row, suite, str(path))
    where = (row["algorithm"], row["task"], f"{row['seed']}.json")
    if path.parts[-3:] != where:
        raise BenchmarkError(f"{path} holds the row of {'/'.join(where)}; put it there.")
    score = None if math.isnan(checked.score) else checked.score  # by the references of today
    return {**row, "score": score, "regret": checked.regret}


def read_rows(out: Path, suite: Suite) -> list[Row]:
    """All rows in a folder, checked, in the order of their paths."""
    return [read_row(path, suite) for path in row_paths(out)]


def row_paths(out: Path) -> Iterator[Path]:
    """Files that may be rows: JSON, three levels down."""
    for path in sorted(out.glob("*/*/*.json")):
        if not is_partial(path.name):
            yield path


def check_out(out: Path, suite: Suite, algorithm: str, code: Mapping[str, Any]) -> None:
    """Check the rows that lie in a folder already.

    Args:
        out: The folder.
        suite: Of the run.
        algorithm: Whose rows are to come.
        code: As `agents.benchmark.entries.code_of` gives it.

    Raises:
        BenchmarkError: They are of another protocol or suite, or of other code under that name.
    """
    for path in row_paths(out):
        row = read_json(path, BenchmarkError)
        try:
            check_protocol(row, suite, str(path))
        except BenchmarkError as error:
            raise BenchmarkError(f"out: {error} Or choose another --out.") from error
        if row.get("algorithm") == algorithm and row.get("code") != code:
            raise BenchmarkError(
                f"out: {path} is of other code ({_in_words(row.get('code'))}) than this run's "
                f"({_in_words(code)}), so that one name would stand for two algorithms; choose "
                "another --name or --out."
            )


def _in_words(code: Any) -> str:
    if not isinstance(code, Mapping):
        return shown(code)
    return f"{code.get('train')}, source {code.get('sha256') or 'of the package, or unknown'}"


def check_algorithm_name(name: Any) -> str:
    """The name of an algorithm, which becomes a folder's.

    Raises:
        BenchmarkError: It cannot be one.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BenchmarkError(
            f"name is {shown(name)}; it must be letters, digits and . _ + -, 64 at most, as it is "
            "the name of a folder. Give one: name=..., --name ..."
        )
    return name
