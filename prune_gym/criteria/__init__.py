"""Criteria: scores of filters; see `prune_gym.criteria.base` for the contract."""

from __future__ import annotations

from prune_gym.criteria import activity as activity
from prune_gym.criteria import curvature as curvature
from prune_gym.criteria import gradients as gradients
from prune_gym.criteria import learning as learning
from prune_gym.criteria import weights as weights
from prune_gym.criteria.base import CRITERIA, Criterion, Evidence, Scores
from prune_gym.criteria.score import score_groups
from prune_gym.errors import CriterionError

__all__ = ["CRITERIA", "Criterion", "CriterionError", "Evidence", "Scores", "score_groups"]
