"""Whether compaction is right for a network: removal held against masking, on probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.compact import compact, dropped
from prune_gym.pruning.copying import own_tensors, rebuild
from prune_gym.pruning.groups import FilterGroup
from prune_gym.pruning.masks import Mask
from prune_gym.pruning.trace import output_tensors, own_randomness
from prune_gym.utils.devices import tf32
from prune_gym.utils.words import message


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
    masks = half_masks(groups)
    for lively in (False, True):
        probe = lively_copy(network) if lively else network
        problem = difference(probe, groups, masks, example)
        if problem is None:
            continue
        pairs = zip(groups, masks, strict=True)
        wrong = [g for g, mask in pairs if difference(probe, [g], [mask], example) is not None]
        layers = list(dict.fromkeys(name for group in wrong or groups for name in group.producers))
        raise UnsupportedNetworkError(
            f"{type(network).__name__}: {problem}, as what follows {', '.join(map(repr, layers))} "
            "needs all of its channels (a size fixed in forward()? view() instead of flatten(1)? "
            "an operation across channels?). Mend it, or keep the layers whole: "
            f"ignore={layers}."
        )


def check_smallest(network: nn.Module, smallest: nn.Module, example: torch.Tensor) -> None:
    """Raise unless the smallest compact network runs, and gives outputs of the same shape.

    Args:
        network: the unpruned network.
        smallest: its compact network of one filter per group.
        example: one input batch of both.

    Raises:
        UnsupportedNetworkError: says to protect layers.
    """
    name = type(network).__name__
    try:
        with torch.no_grad():
            shape = smallest(example.clone()).shape
            expected = network(example.clone()).shape
    except Exception as error:  # a network may raise anything
        raise UnsupportedNetworkError(
            f"{name} does not run with one filter per group: {message(error)}. Protect layers with "
            "ignore=[...]."
        ) from error
    if shape != expected:
        raise UnsupportedNetworkError(
            f"{name}: removing filters changes the output from {tuple(expected)} to "
            f"{tuple(shape)}; protect the last layers with ignore=[...]."
        )


def lively_copy(network: nn.Module) -> nn.Module:
    """A copy in which no tensor is constant, so that no wrong cut can hide.

    Norms of an untrained network treat all channels alike; some branches start at (almost) zero.
    """
    generator = torch.Generator().manual_seed(0)
    drawn: dict[str, torch.Tensor] = {}
    for name, tensor in own_tensors(network).items():
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


def half_masks(groups: Sequence[FilterGroup]) -> list[Mask]:
    """A random half of every group, the same every time."""
    generator = np.random.default_rng(0)
    return [generator.permutation(g.n_filters) >= g.n_filters // 2 for g in groups]


def masked_copy(
    network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask]
) -> nn.Module:
    """A copy, for a look, in which all that belongs to the removed filters is zero."""
    tensors = dict(network.named_parameters(remove_duplicate=False))
    zeroed: dict[str, torch.Tensor] = {}
    for name, axis, positions in dropped(groups, masks):
        if name in tensors:
            tensor = zeroed.get(name, tensors[name]).detach()
            zeroed[name] = tensor.index_fill(axis, torch.from_numpy(positions).to(tensor.device), 0)
    return _variant(network, zeroed)


def difference(
    network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask], example: torch.Tensor
) -> str | None:
    """What is wrong with the compact network of the masks; None if nothing is."""
    expected = outputs_of(masked_copy(network, groups, masks).eval(), example)
    try:
        found = outputs_of(compact(network, groups, masks).eval(), example)
    except Exception as error:  # a network may raise anything
        return f"it does not run once filters are removed ({message(error)})"
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            shapes = f"{tuple(other.shape)} to {tuple(one.shape)}"
            return f"removing filters changes the output from {shapes}"
    return None if agree(found, expected) else "removing filters is not the same as masking them"


def agree(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    """Whether outputs are the same but for rounding (numbers beyond finite ones are left out)."""
    if [one.shape for one in found] != [other.shape for other in expected]:
        return False
    for one, other in zip(found, expected, strict=True):
        finite = one.isfinite() & other.isfinite()
        if one.is_floating_point() and bool(finite.any()):
            atol = _tolerance(one) * float(other[finite].abs().max())
            if not torch.allclose(one[finite], other[finite], rtol=0.0, atol=atol):
                return False
    return True


def _tolerance(outputs: torch.Tensor) -> float:
    """How far rounding may drive outputs apart, as a fraction of their largest."""
    coarsest = max(torch.finfo(outputs.dtype).eps, torch.finfo(torch.float32).eps)
    rounding = float(coarsest)  # a float64 output may have come from float32 layers
    if outputs.device.type not in ("cpu", "cuda"):
        rounding = max(rounding, 2.0**-10)  # other accelerators may multiply as coarsely
    return min(1000.0 * rounding, 3.0 * math.sqrt(rounding))


def outputs_of(network: nn.Module, example: torch.Tensor) -> list[torch.Tensor]:
    """What a network gives out, from the same random state every time."""
    with own_randomness(example.device), tf32(example.device, False), torch.no_grad():
        return output_tensors(network(example.clone()))  # it may work in place
