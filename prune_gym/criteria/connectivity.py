"""The two sides of a filter: the layers that produce it and the layers that take it in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.pruning.groups import FilterGroup, Slice

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class LayerSide:
    """One side of one convolution or linear layer that a group's filters reach.

    Attributes:
        layer: name of the layer.
        cut: where the layer's weight holds the filters.
        channels: (n_filters, width) int64 output channels of a producer, input channels of a
            consumer; in a convolution with groups, a filter has several of them.
    """

    layer: str
    cut: Slice
    channels: NDArray[np.int64]


def producers(network: nn.Module, group: FilterGroup) -> tuple[LayerSide, ...]:
    """The layers whose output channels the filters are (none for ``structure="weight"``)."""
    return tuple(_sides(network, group, to_output=True))


def consumers(network: nn.Module, group: FilterGroup) -> tuple[LayerSide, ...]:
    """The layers that take the filters in, after norm, nonlinearity and pooling.

    A depthwise convolution produces as many filters as it takes in; it counts as a producer only.
    """
    return tuple(_sides(network, group, to_output=False))


def _sides(network: nn.Module, group: FilterGroup, *, to_output: bool) -> Iterator[LayerSide]:
    for cut in group.slices:
        layer, _, kind = cut.tensor.rpartition(".")
        module = network.get_submodule(layer) if kind in ("weight", "in_proj_weight") else None
        if not isinstance(module, (*LAYERS, nn.MultiheadAttention)):
            continue
        output_axis = int(bool(getattr(module, "transposed", False)))
        is_output = layer in group.producers and cut.axis == output_axis
        if is_output == to_output:
            yield LayerSide(layer, cut, _channels(module, cut))


def _channels(module: nn.Module, cut: Slice) -> NDArray[np.int64]:
    """Channels of each filter; along axis 1, weights with groups hold places in the group."""
    n_groups: int = getattr(module, "groups", 1)
    if cut.axis == 0 or n_groups == 1:
        return cut.positions
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    size = int(weight.shape[1])
    spread = cut.positions[:, :, None] + size * np.arange(n_groups)
    return np.asarray(spread.reshape(len(cut.positions), -1))


def by_filter(tensor: torch.Tensor, cut: Slice) -> NDArray[np.float64]:
    """The part of a tensor that belongs to each filter, (n_filters, k)."""
    values = np.moveaxis(tensor.detach().double().cpu().numpy(), cut.axis, 0)
    rows = values.reshape(values.shape[0], -1)
    return np.asarray(rows[cut.positions].reshape(len(cut.positions), -1))


def connections(module: nn.Module, weight: torch.Tensor) -> NDArray[np.float64]:
    """Values that lie like a layer's weight, as (groups, outputs, inputs, kernel places).

    Outputs and inputs are counted within each group of the convolution; channel c is output (or
    input) c modulo so many, of group c divided by so many.
    """
    values = weight.detach().double().cpu().numpy()
    n_groups: int = getattr(module, "groups", 1)
    flat = values.reshape(*values.shape[:2], -1)
    grouped = flat.reshape(n_groups, -1, *flat.shape[1:])
    return np.swapaxes(grouped, 1, 2) if getattr(module, "transposed", False) else grouped


def like_weight(
    module: nn.Module, table: NDArray[np.float64], weight: torch.Tensor
) -> torch.Tensor:
    """The way back from `connections`: a tensor in the shape of the layer's weight."""
    if getattr(module, "transposed", False):
        table = np.swapaxes(table, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(table).reshape(tuple(weight.shape)))
