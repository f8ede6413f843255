"""Criteria that look at the gradients of the loss, too."""

from __future__ import annotations

import numpy as np

from prune_gym.criteria.base import CRITERIA, Evidence, Scores


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

    Here: |sum of w * dL/dw|, on the calibration batch, which gives the same order as the square.
    The gate is at the producing layers, before the norm, so that it exists in every network.

    Raises:
        CriterionError: no parameter of the network can be trained.
    """
    pairs = zip(evidence.weights, evidence.gradients, strict=True)
    return [np.abs((weights * gradients).sum(axis=1)) for weights, gradients in pairs]
