"""Wrappers around environments: actions, records, limits kept for certain, penalties."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.wrappers.actions import BinaryFilters, BinaryToBox, DiscreteRatios
    from prune_gym.wrappers.penalties import FixedPenalty, SauteBudget
    from prune_gym.wrappers.projection import ProjectionWrapper
    from prune_gym.wrappers.records import RecordBest, RecordEpisodeCost, RecordEpisodeCostVector

__all__ = [
    "BinaryFilters",
    "BinaryToBox",
    "DiscreteRatios",
    "FixedPenalty",
    "ProjectionWrapper",
    "RecordBest",
    "RecordEpisodeCost",
    "RecordEpisodeCostVector",
    "SauteBudget",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BinaryFilters": ".actions",
        "BinaryToBox": ".actions",
        "DiscreteRatios": ".actions",
        "FixedPenalty": ".penalties",
        "ProjectionWrapper": ".projection",
        "RecordBest": ".records",
        "RecordEpisodeCost": ".records",
        "RecordEpisodeCostVector": ".records",
        "SauteBudget": ".penalties",
    },
)
