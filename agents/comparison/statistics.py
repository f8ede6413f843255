"""Statistics over few seeds, and what a comparison of algorithms consists of.

The estimators are those of rliable (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264). The
stratified bootstrap is written here: rliable 1.2 draws from NumPy's global generator whatever seed
it is given, so that its intervals cannot be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agents.arguments import MOST_REPS, MOST_SEED, shown, whole_number
from agents.comparison.finished_runs import Run
from agents.errors import InvalidValueError, MissingLibraryError

ALL_TASKS = "all tasks"

FloatArray = npt.NDArray[np.float64]
Scores = Mapping[str, Mapping[str, FloatArray]]  # task -> algorithm -> (n_runs, n_tasks)


class Estimate(NamedTuple):
    """A number and its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One algorithm on one task, or on all of them.

    Attributes:
        task: Name of the task.
        algorithm: Name of the algorithm.
        seeds: Number of runs.
        score: Interquartile mean of their scores.
        median: Median of their scores.
        feasible_runs: In how many runs there was a feasible return to score; None if not known.
        violation_rate: Mean violation rate of the final policies; None if not known.
        episodes_to_feasible: Median number of episodes until the first within the limit, infinite
            where there never is one; None if not known.
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
        settings: How it was computed.
        runs: The runs; none if scores were handed in.
        tasks: The task of every run.
    """

    rows: tuple[Row, ...]
    improvements: tuple[Improvement, ...]
    scores: Mapping[str, Mapping[str, tuple[float, ...]]]
    settings: Mapping[str, Any]
    runs: tuple[Run, ...] = ()
    tasks: tuple[str, ...] = ()


def compare_columns(columns: Scores, settings: Mapping[str, Any]) -> Comparison:
    """Compare algorithms task by task, and on all tasks together.

    Args:
        columns: Scores of shape (n_runs, 1), by task and algorithm.
        settings: ``reps`` and ``seed`` of the bootstrap, and what else is to be recorded.

    Raises:
        InvalidValueError: If ``reps`` or ``seed`` is not possible.
        MissingLibraryError: If rliable is not installed (says how to install it).
    """
    bootstrap = {"reps": settings["reps"], "seed": settings["seed"]}
    if not isinstance(bootstrap["reps"], int) or not 1 <= bootstrap["reps"] <= MOST_REPS:
        raise InvalidValueError(
            f"reps is {shown(bootstrap['reps'])}; it must be an integer >= 1 and at most "
            f"{MOST_REPS:,}. Try 2000."
        )
    whole_number("seed", bootstrap["seed"], 0, MOST_SEED)
    rows: list[Row] = []
    improvements: list[Improvement] = []
    for task, of_task in {**columns, **_all_tasks(columns)}.items():
        of_this = [
            Row(
                task,
                name,
                seeds=len(matrix),
                score=interquartile_mean(matrix, **bootstrap),
                median=float(np.median(matrix)),
            )
            for name, matrix in of_task.items()
        ]
        rows += sorted(of_this, key=lambda row: (-row.score.value, row.algorithm))
        for one, other in combinations(of_task, 2):
            wins = probability_of_improvement(of_task[one], of_task[other], **bootstrap)
            losses = Estimate(1.0 - wins.value, 1.0 - wins.high, 1.0 - wins.low)
            improvements.append(Improvement(task, one, other, wins))
            improvements.append(Improvement(task, other, one, losses))
    scores = {
        task: {name: tuple(map(float, matrix[:, 0])) for name, matrix in of_task.items()}
        for task, of_task in columns.items()
    }
    return Comparison(tuple(rows), tuple(improvements), scores, settings)


def _all_tasks(columns: Scores) -> dict[str, dict[str, FloatArray]]:
    """Return (n_runs, n_tasks) of every algorithm with equally many runs on all of many tasks."""
    if len(columns) < 2:
        return {}
    matrices = {}
    for name in next(iter(columns.values())):
        stack = [of_task[name] for of_task in columns.values() if name in of_task]
        if len(stack) == len(columns) and len({len(column) for column in stack}) == 1:
            matrices[name] = np.hstack(stack)
    return {ALL_TASKS: matrices} if matrices else {}


def interquartile_mean(
    scores: FloatArray, *, reps: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Return the mean of the middle half of all scores.

    Args:
        scores: Scores, shape (n_runs, n_tasks).
        reps: Number of bootstrap samples.
        confidence: Coverage of the interval.
        seed: Seed of the bootstrap, which draws runs with replacement, in every task by itself.

    Raises:
        MissingLibraryError: If rliable is not installed (says how to install it).
    """
    value = _metric("aggregate_iqm")(scores)
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(scores), size=(reps, *scores.shape))
    samples = np.take_along_axis(scores[None], rows, axis=1).reshape(reps, -1)
    cut = scores.size // 4  # as rliable does, for all samples at once
    means = np.sort(samples, axis=1)[:, cut : scores.size - cut].mean(axis=1)
    return _estimate(float(value), means, confidence)


def probability_of_improvement(
    scores: FloatArray,
    others: FloatArray,
    *,
    reps: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Return how probably a run of one algorithm scores higher than one of another.

    A tie counts one half; tasks count alike.

    Args:
        scores: Scores of the one, shape (n_runs, n_tasks).
        others: Scores of the other, shape (n_other_runs, n_tasks).
        reps: As in `interquartile_mean`.
        confidence: As in `interquartile_mean`.
        seed: As in `interquartile_mean`.

    Raises:
        MissingLibraryError: If rliable is not installed (says how to install it).
    """
    value = _metric("probability_of_improvement")(scores, others)
    # What rliable computes, without its p-values, which are most of the time it takes: the share
    # of pairs that is won, every run weighted by how often the bootstrap draws it.
    wins = (np.sign(scores[:, None] - others[None]) + 1.0) / 2.0  # (n_runs, n_other_runs, n_tasks)
    rng = np.random.default_rng(seed)
    ours, theirs = (_weights(len(one), scores.shape[1], reps, rng) for one in (scores, others))
    samples = np.einsum("btn,btm,nmt->bt", ours, theirs, wins, optimize=True).mean(axis=1)
    return _estimate(float(value), samples, confidence)


def _metric(name: str) -> Callable[..., Any]:
    try:
        metric: Callable[..., Any] = getattr(import_module("rliable.metrics"), name)
    except ImportError as error:
        raise MissingLibraryError(
            f'rliable cannot be imported ({error}). Install it: pip install "prune-gym[agents]".'
        ) from error
    return metric


def _weights(n_runs: int, n_tasks: int, reps: int, rng: np.random.Generator) -> FloatArray:
    """Return the share of every run in bootstrap samples, shape (reps, n_tasks, n_runs)."""
    return rng.multinomial(n_runs, [1.0 / n_runs] * n_runs, size=(reps, n_tasks)) / n_runs


def _estimate(value: float, samples: FloatArray, confidence: float) -> Estimate:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(samples, [tail, 1.0 - tail])
    return Estimate(value, float(low), float(high))
