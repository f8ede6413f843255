"""Pure compaction: keep masks in, a physically smaller network out.

The network handed in is never changed and its weights are never copied whole: parameters are
sliced by keep masks, and the module tree is copied around the slices. A filter is removed with its
BatchNorm; zeroing convolution weights alone would leave BatchNorm's shift acting.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.pruning.groups import FilterGroup
from prune_gym.pruning.layers import fit
from prune_gym.pruning.masks import Mask
from prune_gym.pruning.trace import (
    UnsupportedNetworkError,
    bare_copy,
    output_tensors,
    own_randomness,
)


def compact(network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask]) -> nn.Module:
    """A new, physically smaller network, equal in function to the masked one.

    Args:
        network: the unpruned network; left untouched.
        groups: its filter groups.
        masks: one keep mask per group, (n_filters,) bool, True = stays.
    """
    tensors = _own_tensors(network)
    sliced: dict[str, torch.Tensor] = {}
    for (name, axis), positions in _dropped(groups, masks).items():
        tensor = sliced.get(name, tensors[name]).detach()
        keep = np.ones(tensor.shape[axis], dtype=np.bool_)
        keep[positions] = False
        index = torch.from_numpy(np.flatnonzero(keep)).to(tensor.device)
        sliced[name] = tensor.index_select(axis, index)
    return rebuild(network, sliced)


def check_compaction(
    network: nn.Module, groups: Sequence[FilterGroup], example: torch.Tensor
) -> None:
    """Raise unless half of the filters can go and leave what masking them leaves.

    Groups are read off a trace, which cannot see everything: a size written into ``forward()``, or
    an operation that mixes channels (softmax, shuffle, mean). So one random removal is held against
    the network in which all that belongs to the removed filters is zero.

    Args:
        network: the unpruned network; left untouched.
        groups: its filter groups.
        example: one input batch, on the network's device.

    Raises:
        UnsupportedNetworkError: names the groups that go wrong.
    """
    generator = np.random.default_rng(0)
    masks = [generator.permutation(g.n_filters) >= g.n_filters // 2 for g in groups]
    for lively in (False, True):
        probe = _lively(network) if lively else network
        problem = _difference(probe, groups, masks, example)
        if problem is None:
            continue
        pairs = zip(groups, masks, strict=True)
        wrong = [g for g, mask in pairs if _difference(probe, [g], [mask], example) is not None]
        layers = list(dict.fromkeys(name for group in wrong or groups for name in group.producers))
        raise UnsupportedNetworkError(
            f"{type(network).__name__}: {problem}, as what follows {', '.join(map(repr, layers))} "
            "needs all of its channels (a size fixed in forward()? view() instead of flatten(1)? "
            "an operation across channels?). Mend it, or keep the layers whole: "
            f"ignore={layers}."
        )


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
    Hooks and gradients stay behind; modes and ``requires_grad`` come along.

    Args:
        network: the template; left untouched.
        tensors: new values by their name in ``network.state_dict()``.

    Raises:
        UnsupportedNetworkError: the network cannot be copied; names what is in the way.
    """
    memo: dict[int, Any] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if id(parameter) not in memo:
            value = tensors[name] if name in tensors else parameter.detach().clone()
            memo[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    for name, buffer in network.named_buffers(remove_duplicate=False):
        memo.setdefault(id(buffer), tensors[name] if name in tensors else buffer.detach().clone())
    smaller = bare_copy(network, memo)
    for module in smaller.modules():
        fit(module)
    return smaller


def _own_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by every name that they go by."""
    parameters = network.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(network.named_buffers(remove_duplicate=False))}


def _dropped(
    groups: Sequence[FilterGroup], masks: Sequence[Mask]
) -> dict[tuple[str, int], NDArray[np.int64]]:
    """Positions that go, by (tensor, axis)."""
    dropped: dict[tuple[str, int], list[NDArray[np.int64]]] = defaultdict(list)
    for group, mask in zip(groups, masks, strict=True):
        if not mask.all():
            for cut in group.slices:
                dropped[cut.tensor, cut.axis].append(cut.dropped(mask))
    return {place: np.concatenate(positions) for place, positions in dropped.items()}


def _lively(network: nn.Module) -> nn.Module:
    """A copy in which no tensor is constant, so that no wrong cut can hide.

    Norms of an untrained network treat all channels alike; some branches start at (almost) zero.
    """
    generator = torch.Generator().manual_seed(0)
    drawn: dict[str, torch.Tensor] = {}
    for name, tensor in _own_tensors(network).items():
        layer, _, kind = name.rpartition(".")
        weighs = isinstance(network.get_submodule(layer), nn.Linear | nn.modules.conv._ConvNd)
        known = isinstance(tensor, nn.Parameter) or kind in ("running_mean", "running_var")
        if known and tensor.is_floating_point() and not (weighs and bool(tensor.any())):
            spread = torch.rand(tensor.shape, generator=generator) + 0.5
            spread /= tensor[0].numel() if weighs and tensor.ndim > 1 else 1
            drawn[name] = spread.to(tensor)
    return _variant(network, drawn)


def _variant(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy with other values in the named tensors, for a look: it shares the other parameters."""
    parameters = dict(network.named_parameters())
    return rebuild(network, {**parameters, **tensors})


def _difference(
    network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask], example: torch.Tensor
) -> str | None:
    """What is wrong with the compact network of the masks; None if nothing is."""
    tensors = dict(network.named_parameters(remove_duplicate=False))
    zeroed: dict[str, torch.Tensor] = {}
    for (name, axis), positions in _dropped(groups, masks).items():
        if name in tensors:
            tensor = zeroed.get(name, tensors[name]).detach()
            zeroed[name] = tensor.index_fill(axis, torch.from_numpy(positions).to(tensor.device), 0)
    expected = _outputs(_variant(network, zeroed).eval(), example)
    try:
        found = _outputs(compact(network, groups, masks).eval(), example)
    except (RuntimeError, IndexError, ValueError) as error:
        return f"it does not run once filters are removed ({error})"
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            shapes = f"{tuple(other.shape)} to {tuple(one.shape)}"
            return f"removing filters changes the output from {shapes}"
        if one.is_floating_point() and bool(other.isfinite().all()):
            tolerance = _tolerance(one) * float(other.abs().max())
            if not torch.allclose(one, other, rtol=0.0, atol=tolerance):
                return "removing filters is not the same as masking them"
    return None


def _tolerance(outputs: torch.Tensor) -> float:
    """How far rounding may drive outputs apart, as a fraction of their largest."""
    rounding = float(torch.finfo(outputs.dtype).eps)
    if outputs.device.type != "cpu":
        rounding = max(rounding, 2.0**-10)  # accelerators may multiply in TF32
    return min(1000.0 * rounding, 3.0 * math.sqrt(rounding))


def _outputs(network: nn.Module, example: torch.Tensor) -> list[torch.Tensor]:
    """What a network gives out, from the same random state every time."""
    with own_randomness(example.device), torch.no_grad():
        return output_tensors(network(example.clone()))  # it may work in place
