"""A run's metric by its name, and its numbers, in words. Old runs are of accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.searches.records import reward_of
from prune_gym.utils.words import score_in_words

SHARES = ("accuracy", "top5", "balanced_accuracy", "pixel_accuracy", "binary_accuracy")  # in %


def metric_of(metrics: Mapping[str, Any]) -> str:
    """Name of the metric of a finished run."""
    return str(metrics.get("metric", {}).get("name", "accuracy"))


def share_or_score(metric: str, value: float | None) -> str:
    """A number of the metric: ``98.50 %`` of accuracy, ``12.3456`` of others.

    >>> share_or_score("accuracy", 0.985), share_or_score("mae", 12.3456)
    ('98.50 %', '12.3456')
    """
    if value is None or metric not in SHARES:
        return score_in_words(value)
    return f"{100 * value:.2f} %"


def rewards_of(rows: list[dict[str, str]]) -> NDArray[np.float64]:
    """The reward of every row of ``episodes.csv``, (n,): the accuracy, where that is the metric."""
    return np.array([reward_of(row) for row in rows])
