"""Criteria: scores of filters; higher = more important.

The agent decides how many filters stay, the criterion which. A criterion is a function
``(weights, generator) -> scores``: ``weights`` is (n_filters, k) float64, everything that produces
filter i in row i (all producers of its group); scores are (n_filters,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.pruning.groups import FilterGroup
from prune_gym.registry import Registry

Weights: TypeAlias = NDArray[np.float64]  # (n_filters, k)
Scores: TypeAlias = NDArray[np.float64]  # (n_filters,)
Criterion: TypeAlias = Callable[[Weights, np.random.Generator], Scores]

CRITERIA: Registry[Criterion] = Registry("criterion")


@CRITERIA.register
def l1(weights: Weights, generator: np.random.Generator) -> Scores:
    """Sum of absolute weights (Li et al., "Pruning Filters for Efficient ConvNets", 1608.08710)."""
    return np.asarray(np.abs(weights).sum(axis=1))


@CRITERIA.register
def l2(weights: Weights, generator: np.random.Generator) -> Scores:
    """Euclidean norm of the weights."""
    return np.asarray(np.linalg.norm(weights, axis=1))


@CRITERIA.register
def random(weights: Weights, generator: np.random.Generator) -> Scores:
    """Uniform random scores: the control for every other criterion."""
    return np.asarray(generator.random(weights.shape[0]))


def score_groups(
    network: nn.Module, groups: Sequence[FilterGroup], criterion: Criterion, seed: int
) -> tuple[Scores, ...]:
    """Scores of every filter of every group, computed once per problem.

    Args:
        network: the unpruned network; only read.
        groups: its filter groups.
        criterion: what to score by.
        seed: of the generator that the criterion may draw from.

    Raises:
        ValueError: the criterion returned a wrong shape or values that are not finite.
    """
    generator = np.random.default_rng(seed)
    scores = []
    for group in groups:
        found = np.asarray(criterion(_rows(network, group), generator), dtype=np.float64)
        if found.shape != (group.n_filters,) or not np.isfinite(found).all():
            raise ValueError(
                f"criterion {getattr(criterion, '__name__', criterion)!r} gave scores of shape "
                f"{found.shape} for group {group.name!r}; expected {group.n_filters} of them."
            )
        scores.append(found)
    return tuple(scores)


def _rows(network: nn.Module, group: FilterGroup) -> Weights:
    """Weights that produce each filter of a group, (n_filters, k)."""
    tensors = network.state_dict()
    if not group.slices:  # single weights: each is its own filter
        single = tensors[f"{group.name}.weight"].double().cpu().numpy()
        return np.asarray(single.reshape(group.n_filters, 1))
    parts = []
    for cut in group.slices:
        layer, _, kind = cut.tensor.rpartition(".")
        outputs = 1 if isinstance(network.get_submodule(layer), nn.ConvTranspose2d) else 0
        if layer in group.producers and kind == "weight" and cut.axis == outputs:
            weight = tensors[cut.tensor].double().cpu().numpy()
            rows = np.moveaxis(weight, cut.axis, 0).reshape(weight.shape[cut.axis], -1)
            parts.append(rows[cut.positions].reshape(group.n_filters, -1))
    return np.concatenate(parts, axis=1)
