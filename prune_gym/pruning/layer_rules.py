"""Kinds of layers: which channels they tie together, and where their tensors hold them.

Everything that depends on the kind of a layer is here; to support another kind, change this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.errors import LayerError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.PReLU,
)
_KNOWN_TENSORS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def blocks(
    module: nn.Module | nn.Parameter, to_output: bool, positions: Iterable[int]
) -> dict[int, int]:
    """Which channels a layer lets go only together: block by position; empty where none.

    Args:
        module: a layer.
        to_output: whether positions are of its output channels, or of its input channels.
        positions: channels.
    """
    if isinstance(module, nn.LayerNorm):  # statistics over all channels
        return dict.fromkeys(positions, 0)
    if isinstance(module, nn.GroupNorm):  # statistics over so many neighbours
        size = module.num_channels // module.num_groups
        return {position: position // size for position in positions}
    if _is_grouped(module):  # every group must lose as many, at the same places
        size = _group_size(module, to_output)
        return {position: position % size for position in positions}
    return {}


def axes(
    name: str, module: nn.Module | nn.Parameter, to_output: bool, table: NDArray[np.int64]
) -> Iterator[tuple[str, int, NDArray[np.int64]]]:
    """The tensor axes along which a layer holds channels: (tensor name, axis, positions).

    Args:
        name: of the layer.
        module: the layer, or a parameter that belongs to no layer.
        to_output: whether ``table`` is of its output channels, or of its input channels.
        table: (n_filters, width) the channels of each filter.

    Yields:
        Positions are (n_filters, width); a convolution in groups holds its input channels by their
        place in the group, so that ``width`` is smaller there.

    Raises:
        LayerError: filters cannot be removed from such a layer, or not in such sets.
    """
    if isinstance(module, nn.Parameter):
        yield name, _only_axis(name, module), _within(name, table, module.numel())
        return
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return  # one slope for all channels
    tensors = _own_tensors(name, module)
    prefix = f"{name}." if name else ""
    if isinstance(module, _NORMS):
        if isinstance(module, nn.GroupNorm):
            size = module.num_channels // module.num_groups
            _complete_sets(name, table // size, size)
        for key, tensor in tensors.items():
            if tensor.ndim:
                yield prefix + key, 0, _within(name, table, len(tensor))
        return
    n_groups: int = getattr(module, "groups", 1)
    axis = 1 if to_output == bool(getattr(module, "transposed", False)) else 0
    held = table
    if _is_grouped(module):
        inside = _complete_sets(name, table % _group_size(module, to_output), n_groups)
        held = table if axis == 0 else inside
    elif n_groups > 1:  # depthwise: input channels are output channels
        axis = 0
    yield prefix + "weight", axis, _within(name, held, tensors["weight"].shape[axis])
    if to_output and "bias" in tensors:
        yield prefix + "bias", 0, table


def fit(module: nn.Module) -> None:
    """Set a layer's channel counts to what its tensors say."""
    if isinstance(module, nn.modules.conv._ConvNd):
        first, second = module.weight.shape[:2]
        if module.groups > 1 and not _is_grouped(module):  # depthwise
            module.groups = module.in_channels = module.out_channels = first
        else:
            others = second * module.groups
            pair = (first, others) if module.transposed else (others, first)
            module.in_channels, module.out_channels = pair
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        size = module.num_channels // module.num_groups
        module.num_channels = len(module.weight)
        module.num_groups = module.num_channels // size
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        sized = module.weight if module.weight is not None else module.running_mean
        if sized is not None:
            module.num_features = len(sized)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


def _is_grouped(module: object) -> bool:
    """Whether a layer is a convolution in groups, and not depthwise."""
    return isinstance(module, nn.modules.conv._ConvNd) and not (
        module.groups == 1 or module.groups == module.in_channels == module.out_channels
    )


def _group_size(module: Any, to_output: bool) -> int:
    """Channels in each group of a convolution."""
    return int(module.out_channels if to_output else module.in_channels) // int(module.groups)


def _complete_sets(name: str, labels: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """The labels of every row, sorted, once each, where each must be there so many times."""
    labels = np.sort(labels, axis=1)
    once = labels[:, ::times]
    if labels.shape[1] % times or (np.repeat(once, times, axis=1) != labels).any():
        raise LayerError(f"layer {name!r} mixes channels of several filter groups in its groups")
    return once


def _within(name: str, table: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    if table.max() >= length:
        raise LayerError(f"what comes before layer {name!r} cannot be followed")
    return table


def _only_axis(name: str, parameter: nn.Parameter) -> int:
    """The one axis of a parameter that is longer than 1."""
    long = [axis for axis, length in enumerate(parameter.shape) if length > 1]
    if len(long) != 1:
        raise LayerError(
            f"parameter {name!r} belongs to no layer; with shape {tuple(parameter.shape)} it is "
            "unknown which axis holds the filters"
        )
    return long[0]


def _own_tensors(name: str, module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a layer, which must be those that its kind has."""
    kind = type(module).__name__
    if not isinstance(module, (*_CONVOLUTIONS, *_NORMS, nn.Linear)):
        raise LayerError(f"layer {name!r} ({kind}) cannot be pruned")
    own: dict[str, torch.Tensor | None] = {**module._parameters, **module._buffers}
    if own.keys() - _KNOWN_TENSORS or "weight" not in own:
        raise LayerError(
            f"layer {name!r} ({kind}) computes its weight, or holds tensors of its own; undo "
            "weight_norm, spectral_norm, torch.nn.utils.prune or parametrize first"
        )
    tensors = {key: tensor for key, tensor in own.items() if tensor is not None}
    if not tensors and not isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise LayerError(
            f"layer {name!r} ({kind}) has no tensor that tells its width; give it affine=True"
        )
    groups = getattr(module, "groups", 1)
    if groups > 1 and groups == module.out_channels != module.in_channels:
        raise LayerError(
            f"layer {name!r} ({kind}) has groups={groups} and as many output channels, but "
            f"{module.in_channels} input channels, which cannot be followed"
        )
    return tensors
