"""Runs of the package whose rows hold no networks; to be deleted once they are made anew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agents.benchmark.leaderboard_rows import FinalPolicy, ScoredRun, regret_of
from agents.benchmark.suite import Suite

_COLUMNS = (
    *("seed", "evaluations", "infeasible_evaluations", "given_up_episodes"),
    *("cumulative_violation", "parts", "curve", "policy", "wall_s"),
)


def older_runs(lines: Iterable[Mapping[str, Any]], suite: Suite, source: str) -> list[ScoredRun]:
    """Return what the lines of an older packed file say, unchecked."""
    return [run for line in lines for run in _runs(line, suite, source)]


def _runs(line: Mapping[str, Any], suite: Suite, source: str) -> Iterator[ScoredRun]:
    task = suite.tasks[line["task"]]
    for values in zip(*(line[name] for name in _COLUMNS), strict=True):
        seed, evaluations, over, given_up, violation, parts, curve, policy, wall_s = values
        accuracies = [0.0 if part is None else part[0] for part in parts]
        tests = [0.0 if part is None else part[1] for part in parts]
        found, score = None not in parts, task.score(accuracies)
        yield ScoredRun(
            algorithm=line["algorithm"],
            task=task.name,
            seed=seed,
            evaluations=evaluations,
            score=math.nan if score is None else score,
            accuracy=sum(accuracies) / len(parts) if found else None,
            test_accuracy=sum(tests) / len(parts) if found else None,
            regret=regret_of(task, accuracies),
            # of several parts there is a mean only
            curve=tuple((at, (value,)) for at, value in curve) if len(parts) == 1 else (),
            infeasible_evaluations=over,
            given_up_episodes=given_up,
            cumulative_violation=violation,
            policy=policy and FinalPolicy(policy[0][0], policy[0][1], policy[0][3], policy[1][3]),
            wall_s=wall_s,
            source=source,
        )
