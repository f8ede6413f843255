"""Statistics over few seeds: interquartile means, probabilities of improvement, their intervals.

The estimators are those of rliable (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264). The
stratified bootstrap is written here: rliable 1.2 draws from NumPy's global generator whatever seed
it is given, so that its intervals cannot be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and its bootstrap interval."""

    value: float
    low: float
    high: float


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
        ImportError: If rliable is not installed (says how to install it).
    """
    iqm = _metric("aggregate_iqm")
    rng = np.random.default_rng(seed)
    samples = [iqm(_resample(scores, rng)) for _ in range(reps)]
    return _estimate(float(iqm(scores)), samples, confidence)


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
        ImportError: If rliable is not installed (says how to install it).
    """
    value = _metric("probability_of_improvement")(scores, others)
    rng = np.random.default_rng(seed)
    samples = [_win_rate(_resample(scores, rng), _resample(others, rng)) for _ in range(reps)]
    return _estimate(float(value), samples, confidence)


def _metric(name: str) -> Callable[..., Any]:
    try:
        metric: Callable[..., Any] = getattr(import_module("rliable.metrics"), name)
    except ImportError as error:
        raise ImportError(
            f'rliable cannot be imported ({error}). Install it: pip install "prune-gym[agents]".'
        ) from error
    return metric


def _resample(scores: FloatArray, rng: np.random.Generator) -> FloatArray:
    rows = rng.integers(len(scores), size=scores.shape)
    return np.take_along_axis(scores, rows, axis=0)


def _win_rate(scores: FloatArray, others: FloatArray) -> float:
    """Fraction of pairs of runs that the first wins: what rliable computes, without its p-values.

    Those are most of the time it takes, and a bootstrap has thousands of samples.
    """
    difference = scores[:, None] - others[None]  # (n_runs, n_other_runs, n_tasks)
    return float((np.sign(difference) + 1.0).mean() / 2.0)


def _estimate(value: float, samples: list[float], confidence: float) -> Estimate:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(samples, [tail, 1.0 - tail])
    return Estimate(value, float(low), float(high))
