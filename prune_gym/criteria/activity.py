"""Criteria that look at what filters do on the calibration batch; they need no gradients.

Activity is taken where it is used: at the inputs of the layers that take the filters in, thus
behind norm, nonlinearity and pooling, and behind the addition in a residual network.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray

from prune_gym.criteria.base import CRITERIA, Evidence, Scores
from prune_gym.criteria.connectivity import (
    LAYERS,
    LayerSide,
    by_filter,
    connections,
    consumers,
    like_weight,
)
from prune_gym.criteria.hooks import channels_first, input_sums, recorded_layers
from prune_gym.errors import CriterionError


@CRITERIA.register
def activation(evidence: Evidence) -> Scores:
    """How often the filter is active (Hu et al., average percentage of zeros, 1607.03250).

    Paper: APoZ, the share of zeros among the filter's outputs behind the ReLU, over validation
    examples and places; filters of a high APoZ go first.

    Here: 1 - APoZ, the share of values above 0, on the calibration batch, at the inputs of all
    layers that take the filter in, so behind a pooling as well. "Above 0" is the same as "not 0"
    behind a ReLU, and still tells filters apart behind other nonlinearities.

    Raises:
        CriterionError: ``structure="weight"``; filters that no layer takes in.
    """
    evidence.need_filters()
    sides = [_consumers(evidence, index) for index in range(len(evidence.groups))]
    active: dict[str, NDArray[np.float64]] = {}  # per input channel of each layer
    places: dict[str, int] = defaultdict(int)
    layers = {side.layer for own in sides for side in own}
    for images, _ in evidence.chunks():
        with torch.no_grad(), recorded_layers(evidence.network, layers) as records:
            evidence.outputs(images)
        for layer, record in records.items():
            module = evidence.network.get_submodule(layer)
            for values in record.inputs:
                values = channels_first(module, values)
                count = (values > 0).sum(dim=(0, 2)).double().cpu().numpy()
                active[layer] = active.get(layer, 0.0) + count
                places[layer] += values.shape[0] * values.shape[2]
    scores = []
    for own in sides:
        counts = sum(active[side.layer][side.channels].sum(axis=1) for side in own)
        scores.append(counts / sum(places[side.layer] * side.channels.shape[1] for side in own))
    return scores


@CRITERIA.register
def relief(evidence: Evidence) -> Scores:
    """Share of the filter in the activity of the neurons it feeds (Dekhovich et al., 2109.10795).

    Paper: a connection from input j to neuron i matters by its share of the neuron's activity,
    s_ij = mean|w_ij x_j| / (sum over k of mean|w_ik x_k| + |b_i|), means over examples, and of a
    kernel summed over its places. The smallest connections that a neuron can do without go, again
    and again; a neuron goes when all its outgoing connections are gone.

    Here: the shares are the paper's, on the calibration batch, once. A filter's score is the sum of
    the shares of its outgoing connections, over all layers that take it in, which is 0 where the
    paper drops a neuron. With ``structure="weight"`` a weight's score is its own share (of a
    convolution: w's place in the kernel counts as a connection of its own).

    Raises:
        CriterionError: filters that no layer takes in.
    """
    if evidence.structure == "weight":
        layers = [group.name for group in evidence.groups]
        shares = _shares(evidence, layers)
        return [shares[layer].numpy().ravel() for layer in layers]
    sides = [_consumers(evidence, index) for index in range(len(evidence.groups))]
    shares = _shares(evidence, sorted({side.layer for own in sides for side in own}))
    scores = []
    for own in sides:
        parts = [by_filter(shares[side.layer], side.cut).sum(axis=1) for side in own]
        scores.append(np.sum(parts, axis=0))
    return scores


def _consumers(evidence: Evidence, index: int) -> tuple[LayerSide, ...]:
    group = evidence.groups[index]
    found = consumers(evidence.network, group)
    if not found:
        raise CriterionError(
            f"criterion {evidence.criterion!r}: no convolution or linear layer takes in the "
            f"filters of layer {group.name!r}, so that their activity cannot be seen. Keep the "
            f"layer whole with ignore=[{group.name!r}], or choose a criterion such as 'l1'."
        )
    return found


def _shares(evidence: Evidence, layers: list[str]) -> dict[str, torch.Tensor]:
    """Per layer, each weight's share of its neuron's activity, in the shape of the weight."""
    network = evidence.network
    flows: dict[str, torch.Tensor] = {}
    places: dict[str, int] = defaultdict(int)
    for images, _ in evidence.chunks():
        with torch.no_grad(), recorded_layers(network, layers) as records:
            evidence.outputs(images)
        for layer, record in records.items():
            module = network.get_submodule(layer)
            for values, made in zip(record.inputs, record.outputs, strict=True):
                flow = input_sums(module, values.abs()).double().cpu()
                flows[layer] = flows.get(layer, 0.0) + flow
                made = channels_first(module, made)
                places[layer] += made.shape[0] * made.shape[2]
    shares = {}
    for layer in layers:
        module = network.get_submodule(layer)
        if not isinstance(module, LAYERS) or layer not in flows:
            raise CriterionError(
                f"criterion {evidence.criterion!r}: layer {layer!r} did not run on the calibration "
                f"batch. Keep it whole with ignore=[{layer!r}]."
            )
        weight = module.weight
        parts = connections(module, weight.detach().double().cpu().abs() * flows[layer])
        totals = parts.sum(axis=(2, 3), keepdims=True)  # of each neuron
        if module.bias is not None:
            bias = module.bias.detach().double().abs().cpu().numpy() * places[layer]
            totals += bias.reshape(totals.shape)
        share = np.divide(parts, totals, out=np.zeros_like(parts), where=totals > 0)
        shares[layer] = like_weight(module, share, weight)
    return shares
