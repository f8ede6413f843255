"""Which algorithm is better, over seeds: interquartile means with intervals, a table, plots.

``python -m agents.compare RUN... [--out FOLDER]`` compares folders that ``python -m agents.train``
wrote. Scores from elsewhere, such as those of a baseline, go in by hand:

>>> from agents.compare import compare_scores, table
>>> scores = {"ppo_lag": [0.7, 0.8, 0.9, 0.8], "random": [0.2, 0.4, 0.3, 0.3]}
>>> comparison = compare_scores(scores)
>>> print(table(comparison))
| algorithm | seeds | IQM (95 % interval)  | median |
| --------- | ----- | -------------------- | ------ |
| ppo_lag   | 4     | 0.800 [0.700, 0.900] | 0.800  |
| random    | 4     | 0.300 [0.200, 0.400] | 0.300  |
<BLANKLINE>
A run of ppo_lag scores higher than one of
- random: with probability 1.00 [1.00, 1.00]
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from warnings import warn

import numpy as np
import typer

from agents.arguments import MOST_REPS, MOST_SEED
from agents.comparison.finished_runs import Run, check_lengths, read_runs, task_names
from agents.comparison.report import save, table
from agents.comparison.statistics import ALL_TASKS, Comparison, FloatArray, compare_columns
from agents.console import errors, plain_warnings, say, user_errors
from agents.errors import AgentsError, InvalidValueError
from agents.files import check_folder, user_path
from agents.options import Command, Version, command_app, name_option, number_option, whole_option

SCORES = ("best_feasible", "final")


def compare(
    runs: Iterable[str | os.PathLike[str]] | Mapping[str, Sequence[str | os.PathLike[str]]],
    *,
    score: str = "best_feasible",
    infeasible_score: float = 0.0,
    reps: int = 2000,
    seed: int = 0,
    report: Callable[[str], None] = warn,
) -> Comparison:
    """Compare finished trainings.

    Runs belong to one task if they share environment, its arguments and limit; several tasks are
    reported one by one, and together for algorithms with equally many runs on all of them. That
    takes returns on one scale, such as accuracies.

    Args:
        runs: Folders of runs, or folders of such folders; or a mapping from names, which replace
            those of the algorithms, to folders.
        score: A run is scored by the best return it had within the limit, ``"best_feasible"``, or
            by the mean return of its final policy if that is feasible, ``"final"``: if it kept the
            limit in every episode of the evaluation.
        infeasible_score: Score of a run without such a return: one that no feasible one is below.
        reps: Number of bootstrap samples behind an interval.
        seed: Seed of the bootstrap.
        report: Called with a line that names folders of ``prune-gym prune``, which are left out; a
            warning if left out.

    Raises:
        InvalidValueError: If a folder is none of a finished run, a seed occurs twice, runs of one
            algorithm differ in settings or those on one task in length, or a feasible return is
            below ``infeasible_score``.
        MissingLibraryError: If rliable is not installed (says how to install it).
    """
    if score not in SCORES:
        raise InvalidValueError(f"score is {score!r}; it must be one of {', '.join(SCORES)}.")
    found = read_runs(runs, report)
    tasks = task_names(found)
    check_lengths(found, tasks)
    values: dict[str, dict[str, list[float]]] = {}
    members: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run, task in zip(found, tasks, strict=True):
        value = run.feasible_return(score)
        if value is not None and value < infeasible_score:
            raise InvalidValueError(
                f"run {run.folder} has a feasible return of {value:g}, below infeasible_score="
                f"{infeasible_score:g}: finding nothing feasible would be the better score. Pass "
                "an infeasible_score that is not above any feasible return."
            )
        chosen = infeasible_score if value is None else value
        values.setdefault(task, {}).setdefault(run.algorithm, []).append(chosen)
        members[task, run.algorithm].append(run)
    columns = {
        task: {name: np.array(numbers)[:, None] for name, numbers in of_task.items()}
        for task, of_task in sorted(values.items())
    }
    settings = {"score": score, "infeasible_score": infeasible_score, "reps": reps, "seed": seed}
    result = compare_columns(columns, settings)
    rows = []
    for row in result.rows:
        wanted = values if row.task == ALL_TASKS else [row.task]
        group = [run for task in wanted for run in members[task, row.algorithm]]
        rows.append(replace(row, **_facts(group, score)))
    return replace(result, rows=tuple(rows), runs=tuple(found), tasks=tuple(tasks))


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
        InvalidValueError: If there are no scores, or not numbers of the same tasks.
        MissingLibraryError: If rliable is not installed (says how to install it).
    """
    if not scores:
        raise InvalidValueError("scores is empty; pass {'algorithm': [score of every run], ...}.")
    matrices = {name: _matrix(name, values) for name, values in scores.items()}
    widths = {name: matrix.shape[1] for name, matrix in matrices.items()}
    n_tasks = len(tasks) if tasks is not None else next(iter(widths.values()))
    if any(width != n_tasks for width in widths.values()):
        raise InvalidValueError(
            f"scores have columns for {widths} tasks, expected {n_tasks}: all algorithms need a "
            "column for every task."
        )
    names = list(tasks or [f"task {index + 1}" for index in range(n_tasks)])
    columns = {
        task: {name: matrix[:, [index]] for name, matrix in matrices.items()}
        for index, task in enumerate(names)
    }
    settings = {"score": "given", "reps": reps, "seed": seed}
    return compare_columns(columns, settings)


def _matrix(name: str, values: Any) -> FloatArray:
    try:
        matrix = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"scores[{name!r}] are no numbers of equally long rows: {error}"
        ) from error
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise InvalidValueError(
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


app = command_app(add_completion=False)


@app.command(cls=Command, no_args_is_help=True)
def main(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folder that python -m agents.train wrote, or a folder of such folders.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For table, CSV, JSON and plots.")
    ] = None,
    score: Annotated[
        str, name_option(lambda: SCORES, help="What a run is scored by: {names}.")
    ] = SCORES[0],
    infeasible_score: Annotated[
        float,
        number_option(least=-1e12, most=1e12, help="Score of a run without a feasible return."),
    ] = 0.0,
    reps: Annotated[int, whole_option(least=1, most=MOST_REPS, help="Bootstrap samples.")] = 2000,
    seed: Annotated[int, whole_option(least=0, most=MOST_SEED, help="Seed of the bootstrap.")] = 0,
    version: Version = False,
) -> None:
    """Compare finished trainings over their seeds."""
    with user_errors(AgentsError):
        if out is not None:
            check_folder(user_path(out))
        comparison = compare(
            [*map(user_path, runs)],
            score=score,
            infeasible_score=infeasible_score,
            reps=reps,
            seed=seed,
            report=partial(say, to=errors),
        )
        files = [] if out is None else save(comparison, user_path(out))
        say(table(comparison))
        for file in files:
            say(f"wrote {file}")


if __name__ == "__main__":
    plain_warnings()
    app(prog_name="python -m agents.compare")
