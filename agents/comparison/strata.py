"""Statistics over tasks with different numbers of runs: every task counts alike.

The estimators are those of `agents.comparison.statistics` and of rliable (Agarwal et al. 2021,
https://arxiv.org/abs/2108.13264), for which each task needs equally many runs. Here a run weighs
one share of its task; with equally many runs the numbers are the same. A bootstrap sample, drawn
in every task by itself, is then a row of weights, and no sample has to be sorted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.comparison.statistics import Estimate, FloatArray

CONFIDENCE = 0.95


def resampled_weights(n_runs: Sequence[int], reps: int, seed: int) -> FloatArray:
    """Draw runs with replacement, in every task by itself.

    Args:
        n_runs: Runs of every task.
        reps: Bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        (1 + reps, sum of n_runs): what every run weighs, first in the runs as they are, then in
        each sample; a row sums to 1.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for n in n_runs:
        drawn = rng.multinomial(n, np.full(n, 1.0 / n), size=reps)
        parts.append(np.vstack([np.ones((1, n)), drawn]) / (n * len(n_runs)))
    return np.hstack(parts)


def interquartile_means(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the weighted mean of the middle half of all runs, of every row of weights.

    A quarter of the runs, rounded down, is cut off at either end, as rliable does.

    Args:
        values: (n_runs,) scores.
        weights: (n_rows, n_runs), see `resampled_weights`.
    """
    order = np.argsort(values, kind="stable")
    cut = (len(values) // 4) / len(values)
    inner = np.cumsum(weights[:, order], axis=1)
    np.clip(inner, cut, 1.0 - cut, out=inner)
    inner[:, -1] = 1.0 - cut  # whatever the sum was rounded to
    return np.diff(inner, axis=1, prepend=cut) @ values[order] / (1.0 - 2.0 * cut)


def interquartile_mean_of(values: FloatArray, weights: FloatArray) -> Estimate:
    """Return the interquartile mean and its interval; the arguments are those of the plural."""
    return as_estimate(interquartile_means(values, weights))


def as_estimate(numbers: FloatArray) -> Estimate:
    """Return the first number with the percentile interval of the others, its bootstrap samples."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(numbers[1:], [tail, 1.0 - tail])
    return Estimate(float(numbers[0]), float(low), float(high))


def performance_profile(
    values: FloatArray, weights: FloatArray, thresholds: FloatArray
) -> FloatArray:
    """Return which share of runs scores at least each threshold, tasks alike (Dolan and More 2002).

    Args:
        values: (n_runs,) scores.
        weights: (1 + reps, n_runs), see `resampled_weights`.
        thresholds: (n_thresholds,).

    Returns:
        (3, n_thresholds): the shares, and the ends of their intervals, threshold by threshold.
    """
    reached = (values[:, None] >= thresholds[None]).astype(np.float64)
    shares = weights @ reached
    tail = (1.0 - CONFIDENCE) / 2.0
    return np.vstack([shares[:1], np.quantile(shares[1:], [tail, 1.0 - tail], axis=0)])


def curve_of(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the interquartile mean at every point of a curve.

    Args:
        values: (n_runs, n_points) scores.
        weights: (1 + reps, n_runs), see `resampled_weights`.

    Returns:
        (3, n_points): the means, and the ends of their intervals, point by point.
    """
    points = [interquartile_mean_of(column, weights) for column in values.T]
    found: FloatArray = np.array(points).T
    return found
