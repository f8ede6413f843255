"""Pure compaction: keep masks in, a physically smaller network out.

The network handed in is never changed and its weights are never copied whole: parameters are
sliced by keep masks, and the module tree is copied around the slices. A filter is removed with its
BatchNorm; zeroing convolution weights alone would leave BatchNorm's shift acting.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from prune_gym.pruning.groups import FilterGroup
from prune_gym.pruning.masks import Mask


def compact(network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask]) -> nn.Module:
    """A new, physically smaller network, equal in function to the masked one.

    Args:
        network: the unpruned network; left untouched.
        groups: its filter groups.
        masks: one keep mask per group, (n_filters,) bool, True = stays.
    """
    dropped: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for group, mask in zip(groups, masks, strict=True):
        if not mask.all():
            for cut in group.slices:
                dropped[cut.tensor, cut.axis].append(cut.dropped(mask))
    tensors = dict(network.state_dict(keep_vars=True))
    sliced: dict[str, torch.Tensor] = {}
    for (name, axis), positions in dropped.items():
        tensor = sliced.get(name, tensors[name]).detach()
        keep = np.ones(tensor.shape[axis], dtype=np.bool_)
        keep[np.concatenate(positions)] = False
        index = torch.from_numpy(np.flatnonzero(keep)).to(tensor.device)
        sliced[name] = tensor.index_select(axis, index)
    return rebuild(network, sliced)


def zero_weights(
    network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask]
) -> nn.Module:
    """A copy of the network with single weights set to zero (``structure="weight"``).

    Args:
        network: the unpruned network; left untouched.
        groups: one group per layer, as `find_weight_groups` gives them.
        masks: one keep mask per layer, over its flattened weight.
    """
    tensors = network.state_dict()
    zeroed = {}
    for group, mask in zip(groups, masks, strict=True):
        name = f"{group.name}.weight"
        keep = torch.from_numpy(mask).to(tensors[name].device).view(tensors[name].shape)
        zeroed[name] = tensors[name] * keep
    return rebuild(network, zeroed)


def rebuild(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of the module tree in which the named tensors are replaced and the rest cloned.

    Channel counts of the layers (``in_channels``, ``num_features``, ...) follow from the shapes.

    Args:
        network: the template; left untouched.
        tensors: new values by their name in ``network.state_dict()``.
    """
    memo: dict[int, Any] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if id(parameter) not in memo:
            value = tensors[name] if name in tensors else parameter.detach().clone()
            memo[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    for name, buffer in network.named_buffers(remove_duplicate=False):
        memo.setdefault(id(buffer), tensors[name] if name in tensors else buffer.detach().clone())
    smaller = copy.deepcopy(network, memo)
    for module in smaller.modules():
        _fit_attributes(module)
    return smaller


def _fit_attributes(module: nn.Module) -> None:
    """Set a layer's channel counts to what its tensors say."""
    if isinstance(module, nn.modules.conv._ConvNd):
        depthwise = module.groups > 1 and module.groups == module.in_channels
        axis_out = 1 if module.transposed and not depthwise else 0
        module.out_channels = module.weight.shape[axis_out]
        if depthwise:
            module.groups = module.in_channels = module.out_channels
        else:
            module.in_channels = module.weight.shape[1 - axis_out] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        sized = module.weight if module.weight is not None else module.running_mean
        if sized is not None:
            module.num_features = sized.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]
