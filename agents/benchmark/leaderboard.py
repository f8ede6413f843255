"""The leaderboard: what the runs of every algorithm say, and what they do not.

`agents.leaderboard` reads the rows that the package ships and those that are added, and returns
numbers; `agents.benchmark.leaderboard_report` prints and draws them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from agents.arguments import MOST_REPS, MOST_SEED, whole_number
from agents.benchmark.leaderboard_files import check_unpublished, published_rows, read_rows
from agents.benchmark.leaderboard_rows import ScoredRun
from agents.benchmark.suite import DEFAULT_SUITE, Suite, load_suite
from agents.comparison.pairwise import (
    Pair,
    PairTests,
    detectable_probability,
    rank_intervals,
    shift_of,
)
from agents.comparison.statistics import ALL_TASKS, Estimate, FloatArray
from agents.comparison.strata import (
    curve_of,
    interquartile_mean_of,
    performance_profile,
    resampled_weights,
)
from agents.errors import BenchmarkError
from agents.files import in_words

BUT_POLICY = "all tasks but those of a policy"  # what algorithms without one can be ranked on
OPTIMUM = "optimum"  # looked up: the end of the scale, no algorithm, and neither ranked nor tested
CURVE_REPS = 200  # bootstrap samples behind the band of a curve, which is drawn only
CURVE_POINTS = np.geomspace(0.01, 1.0, 25)  # shares of the evaluations that a task allows


@dataclass(frozen=True)
class Detectable:
    """The least difference that a ranking finds four times out of five.

    Attributes:
        probability: Of improvement; None where there are too few runs to find any.
        deviations: The shift, in standard deviations of a run, that it is for normal scores.
        score: The same in units of score, for the median standard deviation of a run (of algorithms
            whose runs differ); None where all runs are equal.
    """

    probability: float | None
    deviations: float | None
    score: float | None


@dataclass(frozen=True)
class Standing:
    """One algorithm in a ranking; means are over runs, and tasks count alike.

    Attributes:
        algorithm: Its name.
        runs: How many there are, over all tasks.
        missing: How many runs the suite asks for beyond these; it is ranked where there are none,
            unless it is the exact optimum.
        score: Interquartile mean of the normalised scores; None where a task has no run.
        ranks: The lowest and the highest place that it may have; None where it is not ranked.
        regret: Mean of what the best networks lack of the optimum; None where none is known.
        found_nothing: Share of runs that lack a network within the limits, for a part at least.
        violation_rate: Share of the networks judged in training that were above the limit.
        cumulative_violation: Sum of what they were above it, a run.
        final_violation_rate: Share of episodes of the final policy, sampled, that end above the
            limit; None where there is no policy.
        final_infeasible: Share of runs whose final policy, not sampled, ends above the limit.
        wall_s: Seconds a run.
    """

    algorithm: str
    runs: int
    missing: int
    score: Estimate | None
    ranks: tuple[int, int] | None
    regret: float | None
    found_nothing: float
    violation_rate: float
    cumulative_violation: float
    final_violation_rate: float | None
    final_infeasible: float | None
    wall_s: float


@dataclass(frozen=True)
class Ranking:
    """Algorithms on some of the tasks.

    Attributes:
        name: ``"all tasks"``, `BUT_POLICY`, or the name of a category or of a task.
        tasks: Names of the tasks.
        standings: First the ranked algorithms, the best interquartile mean first; then the others.
        pairs: Of the ranked algorithms, tested; see `agents.comparison.pairwise`.
        detectable: What the tests would find.
    """

    name: str
    tasks: tuple[str, ...]
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    detectable: Detectable

    @property
    def ranked(self) -> tuple[str, ...]:
        """Names of the ranked algorithms, the best interquartile mean first."""
        return tuple(one.algorithm for one in self.standings if one.ranks is not None)

    @property
    def unranked_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs that cannot be told apart, the one with the better interquartile mean first."""
        place = {name: index for index, name in enumerate(self.ranked)}
        pairs = [
            sorted((pair.algorithm, pair.other), key=place.__getitem__)
            for pair in self.pairs
            if not pair.differs
        ]
        ordered = sorted(pairs, key=lambda pair: [place[name] for name in pair])
        return tuple((one, other) for one, other in ordered)


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """What `leaderboard` returns.

    Attributes:
        suite: The version of the benchmark.
        rankings: Of all tasks, of those that need no policy, of each category, and of each task.
        rows: The runs.
        added: Algorithms that are not of the package.
        settings: ``reps`` and ``seed`` of the bootstrap.
        without_score: Tasks that were asked for, but have no reference values yet.
    """

    suite: Suite
    rankings: tuple[Ranking, ...]
    rows: tuple[ScoredRun, ...] = field(repr=False)
    added: tuple[str, ...]
    settings: Mapping[str, int]
    without_score: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        rows: Sequence[ScoredRun],
        suite: Suite,
        *,
        tasks: str | Iterable[str] | None = None,
        added: Sequence[str] = (),
        reps: int = 2000,
        seed: int = 0,
    ) -> Leaderboard:
        """Rank what rows say; the arguments are those of `leaderboard`."""
        whole_number("reps", reps, 20, MOST_REPS)
        whole_number("seed", seed, 0, MOST_SEED)
        asked = choose_tasks(tasks, suite)
        chosen = [name for name in asked if suite.tasks[name].references]
        if not chosen:
            raise BenchmarkError(
                f"{suite.protocol} has no reference values for {in_words(asked)}, so that there is "
                "no score; choose other tasks."
            )
        kept = [row for row in rows if row.task in chosen]
        if not kept:
            raise BenchmarkError(
                f"there are no rows of {in_words(chosen)}; run an algorithm, and add what it wrote."
            )
        rankings = _Ranker(kept, suite, reps, seed).all(chosen)
        settings = {"reps": reps, "seed": seed}
        bare = tuple(name for name in asked if name not in chosen)
        return cls(suite, rankings, tuple(kept), tuple(added), settings, bare)

    def __getitem__(self, name: str) -> Ranking:
        """Return the ranking of a name; see `Ranking`."""
        for one in self.rankings:
            if one.name == name:
                return one
        raise BenchmarkError(
            f"there is no ranking {name!r}; there are "
            f"{', '.join(one.name for one in self.rankings) or 'none'}."
        )

    def profiles(self, ranking: Ranking, thresholds: FloatArray) -> dict[str, FloatArray]:
        """Share of runs that score at least each threshold, by ranked algorithm.

        Returns:
            (3, n_thresholds) each: the share, and the ends of its interval.
        """
        return {
            name: performance_profile(*self._ranker.scores(name, ranking.tasks), thresholds)
            for name in ranking.ranked
        }

    def curves(self, ranking: Ranking) -> dict[str, FloatArray]:
        """Interquartile mean of scores at `CURVE_POINTS` of the evaluations, by ranked algorithm.

        Tasks that score the final policy have no curve, and are left out.

        Returns:
            (3, n_points) each: the mean, and the ends of its interval.
        """
        tasks = [task for task in ranking.tasks if not self.suite.tasks[task].by_policy]
        return {name: self._ranker.curve(name, tasks) for name in ranking.ranked if tasks}

    @cached_property
    def _ranker(self) -> _Ranker:
        return _Ranker(self.rows, self.suite, **self.settings)


def leaderboard(
    add: Iterable[str | os.PathLike[str]] = (),
    *,
    suite: str | Path | Suite = DEFAULT_SUITE,
    tasks: str | Iterable[str] | None = None,
    published: bool = True,
    reps: int = 2000,
    seed: int = 0,
) -> Leaderboard:
    """Rank the algorithms of the package, and those that are added.

    An algorithm is ranked on tasks on which it has a row for every seed of the suite; others are
    listed after them, with what is missing. Rows that are published are never replaced.

    Args:
        add: Folders that ``python -m agents.benchmark --out`` wrote, or packed files.
        suite: Name of the suite, or the file of one.
        tasks: By name, by category, or by a pattern such as ``"table-*"``; all if left out.
        published: Whether the rows of the package count, too.
        reps: Bootstrap samples behind an interval.
        seed: Seed of the bootstrap.

    Raises:
        BenchmarkError: If a row is not possible (names file, field and value), or has the name
            of a published algorithm.
        MissingFileError: If a folder is not there, or holds no rows.
    """
    suite = load_suite(suite)
    choose_tasks(tasks, suite)  # what was asked for is checked before thousands of rows are read
    added = read_rows(add, suite)
    of_package = published_rows(suite) if published else []
    check_unpublished(added, of_package, ", or leave the published ones out: --no-published")
    names = tuple(dict.fromkeys(row.algorithm for row in added))
    rows = [*of_package, *added]
    return Leaderboard.of(rows, suite, tasks=tasks, added=names, reps=reps, seed=seed)


def choose_tasks(tasks: str | Iterable[str] | None, suite: Suite) -> list[str]:
    """Return the names of the judged tasks that are meant, in the order of the suite."""
    if tasks is None:
        return list(suite.tasks)
    meant = {task.name for task in suite.choose(tasks)}
    chosen = [name for name in suite.tasks if name in meant]
    if not chosen:
        categories = dict.fromkeys(task.category for task in suite.tasks.values())
        raise BenchmarkError(
            f"tasks are {', '.join(sorted(meant))}; the leaderboard has no tasks for tuning. "
            f"Choose some of {', '.join([*categories, *suite.tasks])}."
        )
    return chosen


class _Ranker:
    """Runs by algorithm and task, and the bootstrap samples that algorithms share."""

    def __init__(self, rows: Sequence[ScoredRun], suite: Suite, reps: int, seed: int) -> None:
        self.suite, self.reps, self.seed = suite, reps, seed
        self.runs: dict[str, dict[str, list[ScoredRun]]] = defaultdict(lambda: defaultdict(list))
        for row in sorted(rows, key=lambda one: one.seed):
            self.runs[row.algorithm][row.task].append(row)
        by_task: dict[str, dict[str, FloatArray]] = defaultdict(dict)
        for name, of_tasks in self.runs.items():
            for task, own in of_tasks.items():
                by_task[task][name] = np.array([row.score for row in own])
        self.tests = PairTests(by_task)
        self._weights: dict[tuple[int, ...], FloatArray] = {}

    def all(self, tasks: Sequence[str]) -> tuple[Ranking, ...]:
        """Return the rankings of all tasks, categories and tasks; none without an algorithm."""
        categories: dict[str, list[str]] = {}
        for task in tasks:
            categories.setdefault(self.suite.tasks[task].category, []).append(task)
        groups: dict[str, list[str]] = {}
        if len(categories) > 1:
            groups[ALL_TASKS] = list(tasks)
            groups[BUT_POLICY] = [task for task in tasks if not self.suite.tasks[task].by_policy]
        if len(groups.get(BUT_POLICY, ())) in (0, len(tasks)):
            groups.pop(BUT_POLICY, None)
        groups |= categories | {task: [task] for task in tasks}
        rankings = [self.ranking(name, tuple(own)) for name, own in groups.items()]
        return tuple(one for one in rankings if one.standings)

    def ranking(self, name: str, tasks: tuple[str, ...]) -> Ranking:
        """Rank the algorithms that are complete on some tasks."""
        missing = {
            algorithm: sum(
                len(self.suite.tasks[task].seeds) - len(of_tasks.get(task, ())) for task in tasks
            )
            for algorithm, of_tasks in self.runs.items()
            if any(task in of_tasks for task in tasks)
        }
        complete = sorted(name for name, n in missing.items() if n == 0 and name != OPTIMUM)
        pairs = self.tests.compare(complete, tasks)
        ranks = rank_intervals(complete, pairs)
        standings = [
            self._standing(algorithm, tasks, n, ranks.get(algorithm))
            for algorithm, n in missing.items()
        ]
        standings.sort(key=_place)
        found = self._detectable(complete, tasks, len(pairs))
        return Ranking(name, tasks, tuple(standings), pairs, found)

    def scores(self, algorithm: str, tasks: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        """Return the scores of an algorithm's runs, task by task, and their weights."""
        parts = [self.tests.scores[task][algorithm] for task in tasks]
        return np.concatenate(parts), self.weights(parts)

    def weights(self, parts: Sequence[Sequence[Any] | FloatArray]) -> FloatArray:
        """Return the runs' weights in the bootstrap samples; see `resampled_weights`."""
        sizes = tuple(map(len, parts))
        if sizes not in self._weights:
            self._weights[sizes] = resampled_weights(sizes, self.reps, self.seed)
        return self._weights[sizes]

    def curve(self, algorithm: str, tasks: Sequence[str]) -> FloatArray:
        """Return the interquartile mean at each of `CURVE_POINTS`, and its interval."""
        parts = [self.runs[algorithm][task] for task in tasks]
        values = np.array([self._course(row) for own in parts for row in own])
        return curve_of(values, self.weights(parts)[: 1 + CURVE_REPS])

    def _course(self, row: ScoredRun) -> list[float]:
        """Scores of the best network until each of `CURVE_POINTS`."""
        task = self.suite.tasks[row.task]
        steps = [evaluations for evaluations, _ in row.curve]
        found = [(0.0,) * len(task.judged), *(accuracies for _, accuracies in row.curve)]
        scores = [task.score(accuracies) or 0.0 for accuracies in found]
        done = np.searchsorted(steps, CURVE_POINTS * task.evaluations + 1e-9, side="right")
        return [scores[index] for index in done]

    def _standing(
        self, name: str, tasks: Sequence[str], missing: int, ranks: tuple[int, int] | None
    ) -> Standing:
        parts = [own for task in tasks if (own := self.runs[name].get(task))]
        rows = [row for own in parts for row in own]
        score = None
        if len(parts) == len(tasks):
            score = interquartile_mean_of(*self.scores(name, tasks))
        finals = [[row.policy for row in own if row.policy is not None] for own in parts]
        return Standing(
            algorithm=name,
            runs=len(rows),
            missing=missing,
            score=score,
            ranks=ranks,
            regret=_mean([[row.regret for row in own] for own in parts]),
            found_nothing=_mean([[row.accuracy is None for row in own] for own in parts]) or 0.0,
            violation_rate=_mean([[row.violation_rate for row in own] for own in parts]) or 0.0,
            cumulative_violation=_mean([[row.cumulative_violation for row in own] for own in parts])
            or 0.0,
            final_violation_rate=_mean([[one.violation_rate for one in own] for own in finals]),
            final_infeasible=_mean([[not one.feasible for one in own] for own in finals]),
            wall_s=_mean([[row.wall_s for row in own] for own in parts]) or 0.0,
        )

    def _detectable(self, names: Sequence[str], tasks: Sequence[str], n_pairs: int) -> Detectable:
        n_runs = [len(self.suite.tasks[task].seeds) for task in tasks]
        probability = detectable_probability(n_runs, n_pairs) if n_pairs else None
        if probability is None:
            return Detectable(None, None, None)
        found = [self.tests.scores[task][name] for task in tasks for name in names]
        spreads = [float(own.std(ddof=1)) for own in found if np.ptp(own) > 0.0]
        deviations = shift_of(probability)
        score = deviations * float(np.median(spreads)) if spreads else None
        return Detectable(probability, deviations, score)


def _place(standing: Standing) -> tuple[bool, bool, float, str]:
    score = standing.score.value if standing.score is not None else 0.0
    return (standing.ranks is None, standing.score is None, -score, standing.algorithm)


def _mean(parts: Sequence[Sequence[float | None]]) -> float | None:
    """Mean over tasks of the means over their runs; of those with a number."""
    means = [
        float(np.mean(numbers))
        for own in parts
        if (numbers := [number for number in own if number is not None])
    ]
    return float(np.mean(means)) if means else None
