"""Criteria that look at the weights alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.criteria.base import CRITERIA, Evidence, Scores
from prune_gym.errors import CriterionError
from prune_gym.pruning.groups import FilterGroup


@CRITERIA.register
def l1(evidence: Evidence) -> Scores:
    """Sum of absolute weights (Li et al., "Pruning Filters for Efficient ConvNets", 1608.08710).

    Score of filter i: sum over the weights w that produce it, of |w|. Where several layers produce
    a filter (residual additions), over all of them.
    """
    return [np.abs(rows).sum(axis=1) for rows in evidence.weights]


@CRITERIA.register
def l2(evidence: Evidence) -> Scores:
    """Euclidean norm of the weights."""
    return [np.linalg.norm(rows, axis=1) for rows in evidence.weights]


@CRITERIA.register
def random(evidence: Evidence) -> Scores:
    """Uniform random scores: the control for every other criterion."""
    return [evidence.generator.random(group.n_filters) for group in evidence.groups]


def has_norm_scales(network: nn.Module, groups: Sequence[FilterGroup]) -> bool:
    """Whether every filter group runs through a BatchNorm with a scale, which `bn_scale` needs."""
    return all(group.slices and norms_behind(network, group) for group in groups)


def norms_behind(
    network: nn.Module, group: FilterGroup
) -> list[tuple[nn.modules.batchnorm._BatchNorm, NDArray[np.int64]]]:
    """The BatchNorms with a scale that a group's filters run through.

    Returns:
        each with the positions, (n_filters, n_channels), of every filter's channels in it.
    """
    found: list[tuple[nn.modules.batchnorm._BatchNorm, NDArray[np.int64]]] = []
    for cut in group.slices:
        layer, _, kind = cut.tensor.rpartition(".")
        norm = network.get_submodule(layer) if kind == "weight" else None
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            found.append((norm, cut.positions))
    return found


@CRITERIA.register
def bn_scale(evidence: Evidence) -> Scores:
    """Scale of the BatchNorm behind the filter (Liu et al., network slimming, 1708.06519).

    Paper: |gamma| of the channel's BatchNorm, after training with an L1 penalty on all gammas.

    Here: the sum of |gamma| over all BatchNorms that the filter runs through (several in a residual
    network), and over all channels of the filter. The network is taken as it is: whether it was
    trained with the penalty is up to whoever trained it.

    Raises:
        CriterionError: a group without a BatchNorm that has a scale; ``structure="weight"``.
    """
    evidence.need_filters()
    scores = []
    for group in evidence.groups:
        total, norms = np.zeros(group.n_filters), norms_behind(evidence.network, group)
        for norm, positions in norms:
            gamma = norm.weight.detach().double().cpu().numpy()
            total += np.abs(gamma[positions]).sum(axis=1)
        if not norms:
            raise CriterionError(
                f"criterion 'bn_scale': no BatchNorm with a scale is behind the filters of layer "
                f"{group.name!r}. Keep the layer whole with ignore=[{group.name!r}], or choose a "
                "criterion that needs no BatchNorm, such as 'l1' or 'taylor'."
            )
        scores.append(total)
    return scores


@CRITERIA.register
def fpgm(evidence: Evidence) -> Scores:
    """Distance to all other filters (He et al., geometric median, 1811.00250).

    Paper: filters near the geometric median of their layer can be replaced by the others; those
    with the smallest sum over j of ||w_i - w_j|| go first.

    Here: that sum is the score, of everything that produces a filter in one vector. A filter of
    zeros is not the least important one by this logic, unless the others lie around it.

    Raises:
        CriterionError: ``structure="weight"``: single weights have no geometry worth the name.
    """
    evidence.need_filters()
    scores = []
    for rows in evidence.weights:
        # centring changes no distance, and keeps the rounding of the products below small
        centred = rows - rows.mean(axis=0)
        squares = (centred**2).sum(axis=1)
        between = squares[:, None] + squares[None, :] - 2.0 * centred @ centred.T
        np.fill_diagonal(between, 0.0)
        scores.append(np.sqrt(np.maximum(between, 0.0)).sum(axis=1))
    return scores


@CRITERIA.register
def lamp(evidence: Evidence) -> Scores:
    """Squared weight as a share of all larger ones (Lee et al., LAMP, 2010.07611).

    Paper: w_u^2 / sum of w_v^2 over all v of the layer with w_v^2 >= w_u^2, for single weights;
    scores are then comparable across layers and pruned by one global threshold.

    Here: for filters, w^2 is the squared norm of everything that produces the filter (with
    ``structure="weight"`` it is the paper's own). Where the agent decides how many filters of each
    group stay, only the order within a group counts, and that is the order of the squared
    magnitude, so of `l2`: LAMP's strength, the comparison across layers, is the agent's task here.
    """
    scores = []
    for rows in evidence.weights:
        squares = (rows**2).sum(axis=1)
        ascending = np.sort(squares)
        sums = np.cumsum(ascending[::-1])[::-1]  # of all from here on
        larger = sums[np.searchsorted(ascending, squares, side="left")]
        scores.append(np.divide(squares, larger, out=np.zeros_like(squares), where=larger > 0))
    return scores
