"""Which algorithms differ: a test for every pair, corrected for how many pairs there are.

Runs are *not* paired: two algorithms that are given the same seed share nothing but the task, so
that a run of the one is compared with every run of the other. What is tested is the probability of
improvement, averaged over tasks: a run of the one scores higher than a run of the other. It asks
nothing of the scores but their order, and counts a tie one half.

A pair is told apart only if two tests say so, that is, its p-value is the larger one of

- Mann and Whitney's (1947) with ties and the correction for continuity, summed over tasks as van
  Elteren (1960) does: right where both algorithms' runs have the same distribution, for few runs
  too;
- Brunner and Munzel's (2000), summed
  alike: right where one varies more than the other, if there are more than a few runs.

The p-values of all pairs of a table are corrected together by Holm (1979): the chance that even one
of the pairs that are said to differ does not is at most `ALPHA`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from statistics import NormalDist

import numpy as np

from agents.comparison.statistics import Estimate, FloatArray

ALPHA = 0.05  # of all pairs of a table together
POWER = 0.8  # of `detectable_probability`


@dataclass(frozen=True)
class Pair:
    """What the runs say about two algorithms.

    Attributes:
        algorithm: The one.
        other: The other.
        probability: That a run of the one scores higher than a run of the other, mean over tasks,
            and its interval, which has no width where every run of the one is above the other's.
        p_value: Of the test that it is one half.
        p_holm: The same, corrected for all pairs of the table.
    """

    algorithm: str
    other: str
    probability: Estimate
    p_value: float
    p_holm: float

    @property
    def differs(self) -> bool:
        """Whether the two can be ranked."""
        return self.p_holm <= ALPHA

    @property
    def better(self) -> str | None:
        """The one that is better; None where the two cannot be ranked."""
        if not self.differs:
            return None
        return self.algorithm if self.probability.value > 0.5 else self.other


class PairTests:
    """Tests every pair of algorithms on any of the tasks, and corrects for the number of pairs.

    >>> rng = np.random.default_rng(0)
    >>> means = {"a": 0, "b": 0, "c": 5}
    >>> scores = {name: rng.normal(mean, size=20) for name, mean in means.items()}
    >>> [pair.better for pair in PairTests({"task": scores}).compare(["a", "b", "c"], ["task"])]
    [None, 'c', 'c']

    Args:
        scores: By task and algorithm the scores of the runs, (n_runs,); numbers of runs may differ.
    """

    def __init__(self, scores: Mapping[str, Mapping[str, FloatArray]]) -> None:
        self.scores = scores
        self._parts: dict[tuple[str, str, str], _Part] = {}

    def compare(self, names: Sequence[str], tasks: Sequence[str]) -> tuple[Pair, ...]:
        """Return every pair of ``names``, in their order; each has runs on all of ``tasks``."""
        pairs = list(combinations(names, 2))
        tests = [_test([self._part(task, *pair) for task in tasks]) for pair in pairs]
        corrected = holm([p_value for _, p_value in tests])
        return tuple(
            Pair(*pair, *test, p_holm)
            for pair, test, p_holm in zip(pairs, tests, corrected, strict=True)
        )

    def _part(self, task: str, one: str, other: str) -> _Part:
        key = (task, one, other)
        if key not in self._parts:
            self._parts[key] = _one_task(self.scores[task][one], self.scores[task][other])
        return self._parts[key]


def improvement_test(
    ones: Sequence[FloatArray], others: Sequence[FloatArray]
) -> tuple[Estimate, float]:
    """Return the probability of improvement, and the p-value of its being one half (two-sided).

    >>> low, high = np.arange(5.0), np.arange(5.0) + 10
    >>> probability, p_value = improvement_test([high], [low])
    >>> print(probability.value, round(p_value, 4))
    1.0 0.0122

    Args:
        ones: Scores of the one algorithm, (n_runs,) for every task.
        others: Those of the other, for the same tasks.
    """
    return _test([_one_task(one, other) for one, other in zip(ones, others, strict=True)])


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, step down (Holm 1979).

    >>> holm([0.01, 0.04, 0.03, 0.005])
    [0.03, 0.06, 0.06, 0.02]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def rank_intervals(names: Sequence[str], pairs: Sequence[Pair]) -> dict[str, tuple[int, int]]:
    """Return between which ranks every algorithm may be; all at once with confidence 1 - `ALPHA`.

    As many are better as were told apart as better, and at most so many as were not told apart as
    worse (Mogstad, Romano, Shaikh and Wilhelm 2024, Inference for Ranks).
    """
    better = dict.fromkeys(names, 0)
    worse = dict.fromkeys(names, 0)
    for pair in pairs:
        if (winner := pair.better) is not None:
            better[pair.other if winner == pair.algorithm else pair.algorithm] += 1
            worse[winner] += 1
    return {name: (1 + better[name], len(names) - worse[name]) for name in names}


def detectable_probability(
    n_runs: Sequence[int], n_pairs: int, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """Return the probability of improvement that is found with a probability of ``power``.

    By the normal approximation of Mann and Whitney's test, at the level that Holm's correction
    begins with, ``alpha / n_pairs``.

    >>> print(f"{detectable_probability([50], 1):.2f}, {detectable_probability([5], 10)}")
    0.66, None

    Args:
        n_runs: Runs of each of two algorithms, for every task.
        n_pairs: How many pairs are corrected for.
        alpha: Of all pairs together.
        power: How probably it is found.

    Returns:
        In (0.5, 1]; None where there are too few runs to find any.
    """
    spread = math.sqrt(sum((2 * n + 1) / (12 * n * n) for n in n_runs)) / len(n_runs)
    level = NormalDist().inv_cdf(1.0 - alpha / (2 * n_pairs))
    probability = 0.5 + (level + NormalDist().inv_cdf(power)) * spread
    return probability if probability <= 1.0 else None


def shift_of(probability: float) -> float:
    """Return the shift, in standard deviations of a run, that a probability of improvement is.

    For normal scores that vary alike; infinite for a probability of 1.

    >>> round(shift_of(0.76), 2)
    1.0
    """
    if probability >= 1.0:
        return math.inf
    return math.sqrt(2.0) * NormalDist().inv_cdf(probability)


# -- one task --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """What one task adds to the tests of a pair.

    Attributes:
        probability: Of improvement.
        exchangeable: Its variance where all runs have one distribution.
        variances: What the runs of the one and of the other add to its variance where they have
            not; None where there is a single run.
        freedom: Degrees of freedom of the two.
        n_pairs: Pairs of runs.
        log_orders: Logarithm of how many orders of the two algorithms' runs there are.
    """

    probability: float
    exchangeable: float
    variances: tuple[float, float] | None
    freedom: tuple[int, int]
    n_pairs: int
    log_orders: float


def _one_task(one: FloatArray, other: FloatArray) -> _Part:
    wins = (np.sign(one[:, None] - other[None]) + 1.0) / 2.0  # (n_runs, n_other_runs)
    n, m = wins.shape
    _, ties = np.unique(np.concatenate([one, other]), return_counts=True)
    total = n + m
    untied = 1.0 - float((ties**3.0 - ties).sum()) / (total**3 - total)
    variances = None
    if min(n, m) > 1:
        of_one = float(wins.mean(axis=1).var(ddof=1)) / n
        variances = (of_one, float(wins.mean(axis=0).var(ddof=1)) / m)
    exchangeable = (total + 1) / (12 * n * m) * untied
    orders = math.lgamma(total + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
    return _Part(float(wins.mean()), exchangeable, variances, (n - 1, m - 1), n * m, orders)


def _test(parts: Sequence[_Part]) -> tuple[Estimate, float]:
    value = float(np.mean([part.probability for part in parts]))
    spread = math.sqrt(sum(part.exchangeable for part in parts)) / len(parts)
    step = 0.5 / min(part.n_pairs for part in parts) / len(parts)  # half of the largest step
    off = max(0.0, abs(value - 0.5) - step)
    mann_whitney = 2.0 * NormalDist().cdf(-off / spread) if spread > 0.0 else 1.0
    brunner_munzel, probability = _brunner_munzel(value, parts)
    # that one of all orders of so few runs comes about, at either end
    least = 2.0 * math.exp(-sum(part.log_orders for part in parts))
    return probability, min(1.0, max(mann_whitney, brunner_munzel, least))


def _brunner_munzel(value: float, parts: Sequence[_Part]) -> tuple[float, Estimate]:
    """Return the p-value by Student's t, with degrees of freedom after Satterthwaite; interval."""
    total, weighted = 0.0, 0.0
    for part in parts:
        if part.variances is None:  # no spread can be told from one run: the other test decides
            return 0.0, Estimate(value, 0.0, 1.0)
        total += sum(part.variances)
        weighted += sum(v * v / df for v, df in zip(part.variances, part.freedom, strict=True))
    if total == 0.0:
        return float(value == 0.5), Estimate(value, value, value)
    student = import_module("scipy.special")
    freedom, spread = total * total / weighted, math.sqrt(total) / len(parts)
    p_value = 2.0 * student.stdtr(freedom, -abs(value - 0.5) / spread)
    width = float(student.stdtrit(freedom, 1.0 - ALPHA / 2.0)) * spread
    return float(p_value), Estimate(value, max(0.0, value - width), min(1.0, value + width))
