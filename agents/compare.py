"""Which algorithm is better, over seeds: interquartile means with intervals, a table, plots.

``python -m agents.compare RUN... [--out FOLDER]`` compares folders that ``python -m agents.train``
wrote. Scores from elsewhere, such as those of a baseline, go in by hand:

>>> from agents import compare_scores
>>> scores = {"ppo_lag": [0.7, 0.8, 0.9, 0.8], "random": [0.2, 0.4, 0.3, 0.3]}
>>> comparison = compare_scores(scores)
>>> print(comparison.table())
| algorithm | seeds | IQM (95 % interval)  | median |
| --------- | ----- | -------------------- | ------ |
| ppo_lag   | 4     | 0.800 [0.725, 0.875] | 0.800  |
| random    | 4     | 0.300 [0.225, 0.375] | 0.300  |
<BLANKLINE>
A run of ppo_lag scores higher than one of
- random: with probability 1.00 [1.00, 1.00]
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from agents.run_folders import Run, check_lengths, read_runs, task_names
from agents.score_statistics import (
    Estimate,
    FloatArray,
    interquartile_mean,
    probability_of_improvement,
)

ALL_TASKS = "all tasks"
SCORES = ("best_feasible", "final")
FEW = 3  # seeds below which an interval says little

Scores = Mapping[str, Mapping[str, FloatArray]]  # task -> algorithm -> (n_runs, n_tasks)


@dataclass(frozen=True)
class Row:
    """One algorithm on one task, or on all of them.

    Attributes:
        task: Name of the task.
        algorithm: Name of the algorithm.
        seeds: Number of runs.
        score: Interquartile mean of their scores.
        median: Median of their scores.
        feasible_runs: In how many runs the scored policy was feasible; None if not known.
        violation_rate: Mean violation rate of the final policies; None if not known.
        episodes_to_feasible: Median number of episodes until a policy was feasible, infinite where
            that is never; None if not known.
        wall_s: Mean duration in seconds; None if not known.
    """

    task: str
    algorithm: str
    seeds: int
    score: Estimate
    median: float
    feasible_runs: int | None = None
    violation_rate: float | None = None
    episodes_to_feasible: float | None = None
    wall_s: float | None = None


@dataclass(frozen=True)
class Improvement:
    """How probably a run of ``algorithm`` scores higher than one of ``other``."""

    task: str
    algorithm: str
    other: str
    probability: Estimate


@dataclass(frozen=True)
class Comparison:
    """Result of `compare` and `compare_scores`.

    Attributes:
        rows: Task by task, the best interquartile mean first.
        improvements: Every ordered pair of algorithms, task by task.
        scores: Scores of the runs, by task and algorithm.
        runs: The runs; none if scores were handed in.
        tasks: The task of every run.
        settings: How it was computed.
    """

    rows: tuple[Row, ...]
    improvements: tuple[Improvement, ...]
    scores: Mapping[str, Mapping[str, tuple[float, ...]]]
    runs: tuple[Run, ...]
    tasks: tuple[str, ...]
    settings: Mapping[str, Any]

    def table(self) -> str:
        """Return the rows as a table in Markdown, and what to bear in mind with it."""
        from agents.compare_report import markdown

        return markdown(self)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write table (Markdown, CSV), everything as JSON, and the plots.

        Returns:
            The files: ``comparison.md``, ``comparison.csv``, ``comparison.json``,
            ``intervals.png``, and ``return_cost.png`` if there are runs.
        """
        from agents.compare_report import save

        return save(self, Path(folder))


def compare(
    runs: Iterable[str | os.PathLike[str]] | Mapping[str, Sequence[str | os.PathLike[str]]],
    *,
    score: str = "best_feasible",
    infeasible_score: float = 0.0,
    reps: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare finished trainings.

    Runs belong to one task if they share environment, its arguments and limit; several tasks are
    reported one by one, and together for algorithms with equally many runs on all of them. That
    takes returns on one scale, such as accuracies.

    Args:
        runs: Folders of runs, or folders of such folders; or a mapping from names, which replace
            those of the algorithms, to folders.
        score: A run is scored by the return of its best feasible policy, ``"best_feasible"``, or of
            the policy at its end if that is feasible, ``"final"``. Feasible is what kept the limit
            in every episode of an evaluation.
        infeasible_score: Score of a run without such a policy: a return that no feasible one is
            below.
        reps: Number of bootstrap samples behind an interval.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If a folder is none of a finished run, a seed occurs twice, runs on one task
            differ in length, or a feasible return is below ``infeasible_score``.
        ImportError: If rliable is not installed (says how to install it).
    """
    if score not in SCORES:
        raise ValueError(f"score is {score!r}; it must be one of {', '.join(SCORES)}.")
    found = read_runs(runs)
    tasks = task_names(found)
    check_lengths(found, tasks)
    values: dict[str, dict[str, list[float]]] = {}
    members: dict[tuple[str, str], list[Run]] = {}
    for run, task in zip(found, tasks, strict=True):
        value = run.feasible_return(score)
        if value is not None and value < infeasible_score:
            raise ValueError(
                f"run {run.folder} has a feasible return of {value:g}, below infeasible_score="
                f"{infeasible_score:g}: finding nothing feasible would be the better score. Pass "
                "an infeasible_score that is not above any return of a feasible policy."
            )
        chosen = infeasible_score if value is None else value
        values.setdefault(task, {}).setdefault(run.algorithm, []).append(chosen)
        members.setdefault((task, run.algorithm), []).append(run)
    columns = {
        task: {name: np.array(list_)[:, None] for name, list_ in of_task.items()}
        for task, of_task in sorted(values.items())
    }

    def known(task: str, algorithm: str) -> dict[str, Any]:
        whole = task == ALL_TASKS
        group = [run for (t, a), g in members.items() if a == algorithm and (whole or t == task)
                 for run in g]
        return _facts(group, score)

    settings = {"score": score, "infeasible_score": infeasible_score, "reps": reps, "seed": seed}
    return _compare(columns, settings, known, tuple(found), tuple(tasks))


def compare_scores(
    scores: Mapping[str, Any],
    *,
    tasks: Sequence[str] | None = None,
    reps: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare scores that come from elsewhere, by the same statistics as `compare`.

    Args:
        scores: For every algorithm the scores of its runs: a list, or for several tasks an array of
            shape (n_runs, n_tasks). The number of runs may differ between algorithms.
        tasks: Names of the tasks.
        reps: Number of bootstrap samples behind an interval.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If there are no scores, or not numbers of the same tasks.
        ImportError: If rliable is not installed (says how to install it).
    """
    if not scores:
        raise ValueError("scores is empty; pass {'algorithm': [score of every run], ...}.")
    matrices = {name: _matrix(name, values) for name, values in scores.items()}
    widths = {name: matrix.shape[1] for name, matrix in matrices.items()}
    n_tasks = len(tasks) if tasks is not None else next(iter(widths.values()))
    if any(width != n_tasks for width in widths.values()):
        raise ValueError(
            f"scores have columns for {widths} tasks, expected {n_tasks}: all algorithms need a "
            "column for every task."
        )
    names = list(tasks or [f"task {index + 1}" for index in range(n_tasks)])
    columns = {
        task: {name: matrix[:, [index]] for name, matrix in matrices.items()}
        for index, task in enumerate(names)
    }
    settings = {"score": "given", "reps": reps, "seed": seed}
    return _compare(columns, settings, lambda task, algorithm: {}, (), ())


def _matrix(name: str, values: Any) -> FloatArray:
    try:
        matrix = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scores[{name!r}] are no numbers of equally long rows: {error}") from error
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise ValueError(
            f"scores[{name!r}] has shape {np.shape(values)}; it must be finite numbers, a list of "
            "one per run or an array of shape (n_runs, n_tasks)."
        )
    return matrix


def _facts(runs: Sequence[Run], score: str) -> dict[str, Any]:
    """What the table says of runs besides their scores."""
    waits = [run.episodes_to_first_feasible for run in runs]
    return {
        "feasible_runs": sum(run.feasible_return(score) is not None for run in runs),
        "violation_rate": float(np.mean([run.violation_rate for run in runs])),
        "episodes_to_feasible": _median([math.inf if wait is None else wait for wait in waits]),
        "wall_s": float(np.mean([run.wall_s for run in runs])),
    }


def _median(values: Sequence[float]) -> float:
    """Return the median; between a number and infinity it is infinite, without NumPy's warning."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2.0


def _compare(
    columns: Scores,
    settings: Mapping[str, Any],
    known: Callable[[str, str], dict[str, Any]],
    runs: tuple[Run, ...],
    tasks: tuple[str, ...],
) -> Comparison:
    bootstrap = {"reps": settings["reps"], "seed": settings["seed"]}
    whole = dict(columns)
    if len(columns) > 1:
        whole[ALL_TASKS] = _stacked(columns)
    rows: list[Row] = []
    improvements: list[Improvement] = []
    for task, of_task in whole.items():
        of_this = [
            Row(
                task=task,
                algorithm=name,
                seeds=len(matrix),
                score=interquartile_mean(matrix, **bootstrap),
                median=float(np.median(matrix)),
                **known(task, name),
            )
            for name, matrix in of_task.items()
        ]
        rows += sorted(of_this, key=lambda row: (-row.score.value, row.algorithm))
        improvements += [
            Improvement(
                task, one, other, probability_of_improvement(of_task[one], of_task[other], **bootstrap)
            )
            for one, other in permutations(of_task, 2)
        ]
    scores = {
        task: {name: tuple(map(float, matrix[:, 0])) for name, matrix in of_task.items()}
        for task, of_task in columns.items()
    }
    return Comparison(tuple(rows), tuple(improvements), scores, runs, tasks, settings)


def _stacked(columns: Scores) -> dict[str, FloatArray]:
    """Return (n_runs, n_tasks) of every algorithm with equally many runs on all tasks."""
    names = [name for name in next(iter(columns.values())) if all(name in c for c in columns.values())]
    stacks = {name: [of_task[name] for of_task in columns.values()] for name in names}
    return {
        name: np.hstack(stack) for name, stack in stacks.items() if len(set(map(len, stack))) == 1
    }
