"""Datasets by name; images stay in memory, normalised, in three fixed splits."""

from __future__ import annotations

from prune_gym.datasets.base import DATASETS, Dataset, Split, as_split
from prune_gym.datasets.digits import digits

__all__ = ["DATASETS", "Dataset", "Split", "as_split", "digits"]
