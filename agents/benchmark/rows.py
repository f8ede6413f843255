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

import math
import re
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

from agents.arguments import shown
from agents.benchmark.run import Row
from agents.benchmark.suite import Suite
from agents.errors import BenchmarkError
from agents.files import is_partial, read_json, write_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_ROUNDING = 1e-9


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
    problem = complaint(row, suite)
    if problem is not None:
        raise BenchmarkError(f"{path}: {problem}")
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
        found = _other_suite(row, suite)
        if found is not None:
            raise BenchmarkError(f"out: {path}: {found} Choose another --out.")


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


# -- checks ----------------------------------------------------------------------------------------


def complaint(row: Row, suite: Suite) -> str | None:
    """What is wrong with a row, in one sentence; None where nothing is."""
    found = _other_suite(row, suite)
    if found is not None:
        return found
    every = {**suite.tasks, **suite.tuning_tasks}
    task = every.get(str(row.get("task")))
    if task is None:
        return f"task {shown(row.get('task'))} is none of {suite.protocol}."
    seed: Any = row.get("seed")
    spent: Any = row.get("evaluations")
    if not _whole(seed) or seed not in task.seeds:
        span = f"{task.seeds.start} to {task.seeds.stop - 1}"
        return f"seed {shown(seed)} is none of task {task.name!r}, which has {span}."
    if row.get("budget") != task.evaluations:
        return f"budget {shown(row.get('budget'))}: task {task.name!r} has {task.evaluations}."
    if not _whole(spent) or not 0 <= spent <= task.evaluations:
        allowed = f"task {task.name!r} allows {task.evaluations}"
        return f"evaluations {shown(spent)}: {allowed}."
    if not isinstance(row.get("algorithm"), str) or not _NAME.fullmatch(row["algorithm"]):
        return f"algorithm {shown(row.get('algorithm'))} is no name."
    return _wrong_best(row, suite, spent) or _wrong_rest(row, spent)


def _other_suite(row: Row, suite: Suite) -> str | None:
    protocol, other = row.get("protocol"), row.get("suite_hash")
    if protocol != suite.protocol:
        return f"protocol {shown(protocol)}: expected {suite.protocol!r}."
    if other != suite.hash:
        return (
            f"suite_hash {shown(other)}: expected {suite.hash!r}, that of the {suite.protocol} "
            "installed here; its tasks are others."
        )
    return None


def _wrong_best(row: Row, suite: Suite, spent: int) -> str | None:
    task = {**suite.tasks, **suite.tuning_tasks}[row["task"]]
    parts = row.get("parts")
    if not isinstance(parts, list) or len(parts) != len(task.judged):
        return f"parts: expected {len(task.judged)}, one for each judged part."
    most = 1 + suite.policy_episodes if task.by_policy else spent
    for index, part in enumerate(parts):
        if part is None:
            continue
        if not isinstance(part, dict) or not _share(part.get("accuracy")):
            return f"parts[{index}] has no accuracy in [0, 1]."
        if not _whole(part.get("evaluation")) or not 1 <= part["evaluation"] <= most:
            return f"parts[{index}] was found at evaluation {shown(part.get('evaluation'))}."
        reference = task.references[index] if task.references else None
        if reference and reference.optimum and part["accuracy"] > reference.best + _ROUNDING:
            return (
                f"parts[{index}] has an accuracy of {part['accuracy']:g}, above the exact optimum "
                f"of {reference.best:g}."
            )
    known = [part for part in parts if part is not None]
    best: Any = row.get("best")
    wanted = len(known) == len(parts)
    if (best is not None) != wanted or (wanted and not isinstance(best, dict)):
        return "best does not follow from parts."
    if wanted:
        mean = sum(part["accuracy"] for part in known) / len(known)
        if not _share(best.get("accuracy")) or abs(best["accuracy"] - mean) > _ROUNDING:
            return f"best has an accuracy of {shown(best.get('accuracy'))}; parts say {mean:g}."
    return None


def _wrong_rest(row: Row, spent: int) -> str | None:
    curve = row.get("curve")
    if not isinstance(curve, list):
        return "curve is no list."
    before: tuple[int, float] = (0, -1.0)
    for point in curve:
        fits = isinstance(point, list) and len(point) == 2 and _whole(point[0])
        if not fits or not _share(point[1]) or not before[0] < point[0] <= spent:
            return f"curve holds {shown(point)}, no [evaluations, accuracy] that follows the last."
        if point[1] < before[1]:
            return f"curve falls at {shown(point)}."
        before = (point[0], point[1])
    for name in ("infeasible_evaluations", "given_up_episodes"):
        if not _whole(row.get(name)) or not 0 <= row[name] <= spent:
            return f"{name} {shown(row.get(name))}: expected 0 to {spent}."
    violation: Any = row.get("cumulative_violation")
    if not _number(violation) or violation < 0.0:
        return f"cumulative_violation {shown(violation)}: expected a number of at least 0."
    if row.get("policy") is not None and not isinstance(row["policy"], dict):
        return "policy is neither null nor an object."
    return None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _share(value: Any) -> bool:
    return _number(value) and 0.0 <= value <= 1.0
