"""Scoring: one criterion on one network, once per problem."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.criteria.base import Evidence
from prune_gym.datasets import Examples
from prune_gym.errors import CriterionError, InvalidTypeError, InvalidValueError
from prune_gym.pruning.groups import FilterGroup
from prune_gym.pruning.trace import own_randomness
from prune_gym.tasks.task import CLASSIFICATION, Task
from prune_gym.utils.memory import memory_bound
from prune_gym.utils.onednn import SoundConvolutions
from prune_gym.utils.user_code import user_code


def score_groups(
    network: nn.Module,
    groups: Sequence[FilterGroup],
    criterion: Callable[[Evidence], Any],
    train: Examples,
    seed: int,
    task: Task = CLASSIFICATION,
) -> tuple[NDArray[np.float64], ...]:
    """Scores of every filter of every group, (n_filters,) float64 each, computed once per problem.

    Args:
        network: the unpruned network; only read.
        groups: its filter groups.
        criterion: what to score by.
        train: the training split.
        seed: of the generator that the criterion may draw from.
        task: what is asked of the network.

    Raises:
        CriterionError: the criterion cannot score such a network.
        TypeError: the criterion does not take one argument, the evidence.
        ValueError: the criterion returned wrong shapes or values that are not finite.
    """
    name = str(getattr(criterion, "__name__", criterion))
    _check_signature(name, criterion)
    device = train.device
    with torch.inference_mode(False), torch.enable_grad(), own_randomness(device):
        evidence = Evidence.of(name, network, groups, train, seed, task)
        cure = f"criterion {name!r} needs too much; use 'l1', or a smaller network"
        guarded = user_code(f"criterion {name!r}", CriterionError)
        with guarded, memory_bound(cure), SoundConvolutions():
            found = criterion(evidence)
    return _checked(name, groups, found)


def _check_signature(name: str, criterion: Callable[..., Any]) -> None:
    try:
        inspect.signature(criterion).bind(None)
    except TypeError as error:
        raise InvalidTypeError(
            f"criterion {name!r} must take one argument, the evidence ({error}). Write "
            "`def mine(evidence): return [np.abs(rows).sum(axis=1) for rows in evidence.weights]`."
        ) from error
    except ValueError:  # a builtin that tells nothing about itself
        return


def _checked(
    name: str, groups: Sequence[FilterGroup], found: Any
) -> tuple[NDArray[np.float64], ...]:
    try:
        arrays = [np.asarray(scores, dtype=np.float64) for scores in found]
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"criterion {name!r} gave {type(found).__name__}; expected a list of {len(groups)} "
            "arrays of numbers, one per filter group."
        ) from error
    if len(arrays) != len(groups):
        raise InvalidValueError(
            f"criterion {name!r} gave {len(arrays)} arrays of scores for {len(groups)} filter "
            "groups; expected one per group, in the order of evidence.groups."
        )
    for group, scores in zip(groups, arrays, strict=True):
        if scores.shape != (group.n_filters,):
            raise InvalidValueError(
                f"criterion {name!r} gave scores of shape {scores.shape} for group "
                f"{group.name!r}; expected ({group.n_filters},), one per filter."
            )
        if not np.isfinite(scores).all():
            raise InvalidValueError(
                f"criterion {name!r} gave {np.count_nonzero(~np.isfinite(scores))} scores that are "
                f"not finite for group {group.name!r}. Does the network hold, or compute, numbers "
                "that are not finite?"
            )
    return tuple(arrays)
