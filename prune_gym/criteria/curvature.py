"""Criteria that look at curvature: of the loss, and of the network as a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.criteria.base import CRITERIA, Evidence, Scores
from prune_gym.criteria.connectivity import connections, consumers, like_weight, producers
from prune_gym.criteria.hooks import channels_first, input_sums, recorded_layers
from prune_gym.errors import CriterionError
from prune_gym.tasks.losses import cross_entropy
from prune_gym.tasks.matching import only_tensor
from prune_gym.utils.trees import leaves

FAINT = 0.01  # edges below this share of a layer's mean strength are none


@CRITERIA.register
def kfac(evidence: Evidence) -> Scores:
    """Rise of the loss without the filter, by Kronecker-factored curvature (2111.08577).

    Paper (Ebrahimi and Klabjan 2021): trains and prunes neurons at once, led to flat minima by the
    spectral radius of a Hessian that is approximated by Kronecker factors (K-FAC, Martens and
    Grosse, 1503.05671). Only the abstract and introduction were at hand, so the score is ours:

    Here: the rise of the loss to second order, as Optimal Brain Damage has it, with K-FAC's
    curvature. The block of filter i in G (x) A, A = E[a a'] of the layer's inputs and G = E[g g']
    of its output gradients, gives 1/2 G_ii w_i' A w_i, and w_i' A w_i is E[z_i^2] of the outputs
    z_i (bias included), so that no factor is ever built: 1/2 E[g_i^2] E[z_i^2]. In convolutions
    E[z^2] sums and E[g^2] averages over places (KFC, 1602.01407). Labels are drawn from the
    network's own predictions, which makes it the Fisher matrix. Layers that produce a filter
    together, and its channels, add up. With ``structure="weight"`` a weight has
    1/2 w_ij^2 G_ii A_jj. Where the outputs are no classes of an example, the targets themselves
    take the place of what is drawn (the empirical Fisher matrix).

    Raises:
        CriterionError: no parameter of the network can be trained.
    """
    evidence.need_gradients()
    sides = [producers(evidence.network, group) for group in evidence.groups]
    single = evidence.structure == "weight"
    names = [group.name for group in evidence.groups]
    layers = sorted(set(names) if single else {side.layer for own in sides for side in own})
    outputs, gradients, inputs = _moments(evidence, layers, with_inputs=single)
    if single:
        return [_single(evidence.network.get_submodule(n), gradients[n], inputs[n]) for n in names]
    rise = {layer: 0.5 * outputs[layer] * gradients[layer] for layer in layers}
    return [
        np.sum([rise[side.layer][side.channels].sum(axis=1) for side in own], axis=0)
        for own in sides
    ]


def _single(
    module: nn.Module, gradients: NDArray[np.float64], inputs: torch.Tensor
) -> NDArray[np.float64]:
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    table = connections(module, weight.detach().double().cpu() ** 2 * inputs)
    table = 0.5 * table * gradients.reshape(table.shape[0], table.shape[1], 1, 1)
    return np.asarray(like_weight(module, table, weight).numpy().ravel())


def _moments(
    evidence: Evidence, layers: list[str], *, with_inputs: bool
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]], dict[str, torch.Tensor]]:
    """E[z^2] and E[g^2] per output channel of each layer, and E[a^2] per weight if wanted."""
    outputs: dict[str, NDArray[np.float64]] = {}
    gradients: dict[str, NDArray[np.float64]] = {}
    inputs: dict[str, torch.Tensor] = {}
    n_images = evidence.n_calibration
    for images, targets in evidence.chunks():
        with recorded_layers(evidence.network, layers) as records:
            outputs_now = evidence.outputs(images)
        _summed_loss(evidence, outputs_now, targets).backward()  # type: ignore[no-untyped-call]
        for layer, record in records.items():
            module = evidence.network.get_submodule(layer)
            for given, made in zip(record.inputs, record.outputs, strict=True):
                values = channels_first(module, made.detach()).double()
                slopes = torch.zeros_like(made) if made.grad is None else made.grad
                slopes = channels_first(module, slopes).double()
                z = (values**2).sum(dim=(0, 2)) / n_images
                g = (slopes**2).sum(dim=(0, 2)) / (n_images * slopes.shape[2])
                outputs[layer] = outputs.get(layer, 0.0) + z.cpu().numpy()
                gradients[layer] = gradients.get(layer, 0.0) + g.cpu().numpy()
                if with_inputs:
                    squares = input_sums(module, given**2).double().cpu() / n_images
                    inputs[layer] = inputs.get(layer, 0.0) + squares
    for layer in layers:
        if layer not in outputs:
            raise CriterionError(
                f"criterion {evidence.criterion!r}: layer {layer!r} did not run on the calibration "
                f"batch. Keep it whole with ignore=[{layer!r}]."
            )
    evidence.network.zero_grad(set_to_none=True)
    return outputs, gradients, inputs


def _summed_loss(evidence: Evidence, outputs: Any, targets: Any) -> torch.Tensor:
    """Loss of a chunk, summed over examples: by labels that the network draws, or by its own."""
    scores = only_tensor(outputs) if evidence.task.loss is cross_entropy else None
    if scores is None or scores.ndim != 2:
        return evidence.task.loss_of(outputs, targets) * len(leaves(targets)[0])
    logits = scores.float()
    chances = logits.detach().double().softmax(dim=1).cumsum(dim=1)
    draw = torch.from_numpy(evidence.generator.random(len(logits))).to(chances.device)
    labels = (chances < draw[:, None] * chances[:, -1:]).sum(dim=1)
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


@CRITERIA.register
def ricci(evidence: Evidence) -> Scores:
    """How negatively curved the filter's edges are in the network's graph (RicciNets, 2007.04216).

    Paper (Glass et al. 2020): prunes the edges of randomly wired networks before training, by a
    flow of Ollivier's Ricci curvature whose node masses a learned controller weighs. Negatively
    curved edges are bridges that the flow of data cannot do without; positively curved ones have
    detours. Only the abstract and introduction were at hand; a trained network of filters is
    another graph, and an optimal transport per edge costs too much, so the score is ours:

    Here: nodes are channels, edges join a layer's inputs and outputs, an edge's weight s is the
    sum of |w| over its kernel, divided by the layer's mean (edges below 1 % of it are none).
    Forman's curvature with weights on the edges (Sreejith et al., 1603.00386) is
    F(e) = 2 - sum over the edges e' that touch e of sqrt(s_e / s_e'): strong edges among weak ones
    are the most negative. A filter's score is the sum over its edges, in and out, of 2 - F(e): 0
    for a filter without edges. Of the edges at the far end of e, those in the same layer count.
    With ``structure="weight"`` each weight is an edge, and 2 - F(e) its score.
    """
    if evidence.structure == "weight":
        return [_edge_scores(evidence.network.get_submodule(g.name)) for g in evidence.groups]
    known: dict[tuple[str, bool], NDArray[np.float64]] = {}  # by layer and side
    scores = []
    for group in evidence.groups:
        # per filter: sums over its edges of sqrt(s), 1 / sqrt(s), sqrt(s) * far end, 1
        sums = np.zeros((4, group.n_filters))
        for to_output, sides in (
            (True, producers(evidence.network, group)),
            (False, consumers(evidence.network, group)),
        ):
            for side in sides:
                key = side.layer, to_output
                if key not in known:
                    known[key] = _node_sums(evidence.network.get_submodule(side.layer), to_output)
                sums += known[key][:, side.channels].sum(axis=2)
        roots, inverse, far, count = sums
        scores.append(roots * inverse + far - 2.0 * count)
    return scores


def _roots(module: nn.Module, *, by_place: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """sqrt(s) and 1 / sqrt(s) of a layer's edges, 0 where there is none; see `connections`."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    strength = np.abs(connections(module, weight))
    if not by_place:
        strength = strength.sum(axis=3, keepdims=True)
    mean = strength.mean()
    strength = strength / mean if mean > 0 else strength
    roots = np.sqrt(np.where(strength >= FAINT, strength, 0.0))
    return roots, np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > 0)


def _node_sums(module: nn.Module, to_output: bool) -> NDArray[np.float64]:
    """Sums over the edges of each output (or input) channel, (4, channels); see `ricci`."""
    roots, inverse = _roots(module, by_place=False)
    along, across = (2, 1) if to_output else (1, 2)  # edges of a channel; edges of its far ends
    far = roots * inverse.sum(axis=across, keepdims=True)
    parts = [roots, inverse, far, (roots > 0).astype(np.float64)]
    return np.stack([part.sum(axis=(along, 3)).ravel() for part in parts])


def _edge_scores(module: nn.Module) -> NDArray[np.float64]:
    roots, inverse = _roots(module, by_place=True)
    ends = inverse.sum(axis=(2, 3), keepdims=True) + inverse.sum(axis=(1, 3), keepdims=True)
    table = np.where(roots > 0, roots * ends - 2.0, 0.0)
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return np.asarray(like_weight(module, table, weight).numpy().ravel())
