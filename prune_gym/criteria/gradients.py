"""Criteria that look at the gradients of the loss, too."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from prune_gym.criteria.base import CRITERIA, Evidence, Scores
from prune_gym.criteria.connectivity import LAYERS, connections
from prune_gym.criteria.masking import FilterMasking, use_batch_statistics

STAGES = 3  # of `sbp`


@CRITERIA.register
def gradient(evidence: Evidence) -> Scores:
    """Sum of absolute gradients of the loss by the filter's weights.

    The plain gradient magnitude, e.g. in Blalock et al., "What is the State of Neural Network
    Pruning?" (2003.03033). Score: sum over the weights w that produce the filter, of |dL/dw|, L
    being the mean cross-entropy over the calibration batch.

    Raises:
        CriterionError: no parameter of the network can be trained.
    """
    return [np.abs(rows).sum(axis=1) for rows in evidence.gradients]


@CRITERIA.register
def taylor(evidence: Evidence) -> Scores:
    """First-order change of the loss without the filter (Molchanov et al. 2019, 1906.10771).

    Paper: (sum of w * dL/dw over the filter's weights)^2, averaged over batches of a training; in
    its best form through a gate behind the BatchNorm.

    Here: the same average over parts of the calibration batch, 32 images each. The square is taken
    before the average because at a minimum of the loss the mean gradient is 0. The gate is at the
    producing layers, before the norm, so that it exists in every network.

    Raises:
        CriterionError: no parameter of the network can be trained.
    """
    scores = [np.zeros(group.n_filters) for group in evidence.groups]
    for size, batch in evidence.batch_gradients():
        for score, weights, gradients in zip(scores, evidence.weights, batch, strict=True):
            score += (weights * gradients).sum(axis=1) ** 2 * (size / evidence.n_calibration)
    return scores


@CRITERIA.register
def sbp(evidence: Evidence) -> Scores:
    """Sensitivity with every layer on the edge of chaos (Hayou et al., 2002.08797).

    Paper: pruning at initialisation by the sensitivity |w dL/dw| (SNIP, 1810.02340). It is
    reliable only on the edge of chaos, where signals neither vanish nor explode with depth: for
    ReLU networks, weights of variance 2 / fan-in and no biases. Pruning leaves it; the rescaling
    trick puts the pruned layer back, multiplying its weights by 1 / sqrt(E[fan-in w^2 m] / 2) with
    the mask m.

    Here: there is nothing to learn about trained filters from a fresh initialisation, so the
    trained weights themselves take its place: each convolution and linear layer is rescaled to a
    mean squared weight of 2 / fan-in, biases are zero, BatchNorms use the statistics of the batch
    with scale 1 and shift 0. Then, three times: sensitivities, summed over the filter's weights;
    the less sensitive half of each group goes; the rest is put back on the edge. Filters of a later
    stage rank before those of an earlier one, within a stage by sensitivity. Behind a BatchNorm
    the scale of weights changes nothing, so that there only the repeated pruning remains.

    Raises:
        CriterionError: no parameter of the network can be trained; filters that no layer takes in.
    """
    evidence.need_gradients()
    masking = FilterMasking(evidence)
    _reset(evidence)
    on = [np.ones(group.n_filters) for group in evidence.groups]
    scores = [np.zeros(group.n_filters) for group in evidence.groups]
    for stage in range(STAGES):
        factors = masking.factors(on)
        masking.apply(factors)
        _to_the_edge(evidence.network)
        pairs = zip(evidence.rows(evidence.parameters), evidence.gradients_now(), strict=True)
        for index, (weights, gradients) in enumerate(pairs):
            sensitivity = np.abs(weights * gradients).sum(axis=1)
            share = sensitivity / max(float(sensitivity.max()), np.finfo(float).tiny)
            alive = on[index] > 0
            scores[index][alive] = stage + 0.5 * share[alive]
            order = np.argsort(np.where(alive, -share, np.inf), kind="stable")
            on[index][order[max(1, -(-int(alive.sum()) // 2)) :]] = 0.0
    return scores


def _reset(evidence: Evidence) -> None:
    """Norms and biases as they are before any training."""
    use_batch_statistics(evidence)
    with torch.no_grad():
        for module in evidence.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
                module.weight.fill_(1.0)
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                bias.zero_()


def _to_the_edge(network: nn.Module) -> None:
    """Rescale each layer so that fan-in * mean of w^2 is 2; weights of zero count, as pruned."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, LAYERS):
                n_outputs = connections(module, module.weight).shape[1]
                groups = getattr(module, "groups", 1)
                fan_in = module.weight.numel() / (n_outputs * groups)
                variance = float(fan_in * (module.weight.double() ** 2).mean())
                if variance > 0.0:
                    module.weight.mul_((2.0 / variance) ** 0.5)
