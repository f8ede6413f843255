"""Wrappers around environments: actions, records, and limits kept for certain."""

from __future__ import annotations

from prune_gym.wrappers.actions import BinaryFilters, BinaryToBox, DiscreteRatios
from prune_gym.wrappers.projection import ProjectionWrapper
from prune_gym.wrappers.records import RecordBest, RecordEpisodeCost, RecordEpisodeCostVector

__all__ = [
    "BinaryFilters",
    "BinaryToBox",
    "DiscreteRatios",
    "ProjectionWrapper",
    "RecordBest",
    "RecordEpisodeCost",
    "RecordEpisodeCostVector",
]
