"""Whether compaction is right for a network: removal held against masking, on probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.compact import compact, dropped
from prune_gym.pruning.copying import own_tensors, rebuild
from prune_gym.pruning.groups import FilterGroup, blocks_gone
from prune_gym.pruning.masks import Mask
from prune_gym.pruning.sizes import TensorSizes
from prune_gym.pruning.trace import own_randomness
from prune_gym.utils.devices import tf32
from prune_gym.utils.trees import call, clone, device_of, leaves
from prune_gym.utils.words import message


def check_compaction(network: nn.Module, groups: Sequence[FilterGroup], example: Any) -> None:
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
        if problem is not None:
            wrong = _wrong(probe, groups, masks, example)
            layers = list(dict.fromkeys(groups[number].producers[0] for number in wrong))
            rest = [group for number, group in enumerate(groups) if number not in wrong]
            raise UnsupportedNetworkError(
                f"{type(network).__name__}: {problem}, as what follows "
                f"{', '.join(map(repr, layers[:3]))}{' and others' * (len(layers) > 3)} needs all "
                "of its channels (a size fixed in forward()? view() instead of flatten(1)? an "
                "operation across channels?). Mend it, or keep the layers whole, which leaves "
                f"{_floor(network, rest):.0%} of the parameters at least: ignore={layers}."
            )


def _wrong(
    network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask], example: torch.Tensor
) -> set[int]:
    """Numbers of groups without which removal is masking: those wrong alone, and then together."""

    def is_wrong(numbers: Sequence[int]) -> bool:
        some = [groups[number] for number in numbers]
        return difference(network, some, [masks[n] for n in numbers], example) is not None

    wrong = {number for number in range(len(groups)) if is_wrong([number])}
    rest = [number for number in range(len(groups)) if number not in wrong]
    while rest and is_wrong(rest):
        low, high = 0, len(rest)  # so many of the first are right, so many are wrong
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_wrong(rest[:middle]) else (middle, high)
        wrong.add(rest.pop(low))
    return wrong


def _floor(network: nn.Module, groups: Sequence[FilterGroup]) -> float:
    """Share of the parameters that stays where each group keeps one filter."""
    sizes = TensorSizes.of(network, groups)
    return float(sizes.share(sizes.count(np.ones(len(groups), dtype=np.int64))))


def check_smallest(network: nn.Module, smallest: nn.Module, example: Any) -> None:
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
            shape, expected = (
                [tuple(t.shape) for t in leaves(call(one, clone(example)))]
                for one in (smallest, network)
            )
    except Exception as error:  # a network may raise anything
        raise UnsupportedNetworkError(
            f"{name} does not run with one filter per group: {message(error)}. Protect layers with "
            "ignore=[...]."
        ) from error
    if shape != expected:
        raise UnsupportedNetworkError(
            f"{name}: removing filters changes the output from {_listed(expected)} to "
            f"{_listed(shape)}; protect the last layers with ignore=[...]."
        )


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


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
    """A copy, for a look, in which all that belongs to the removed filters is zero.

    Of a residual block one of whose groups keeps none, that is every parameter.
    """
    tensors = dict(network.named_parameters(remove_duplicate=False))
    zeroed: dict[str, torch.Tensor] = {}
    for name, axis, positions in dropped(groups, masks):
        if name in tensors:
            tensor = zeroed.get(name, tensors[name]).detach()
            zeroed[name] = tensor.index_fill(axis, torch.from_numpy(positions).to(tensor.device), 0)
    for block in blocks_gone(groups, masks):
        zeroed |= {n: torch.zeros_like(tensors[n]) for n in sorted(block.tensors) if n in tensors}
    return _variant(network, zeroed)


class KeptStatistics(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it lasts, layer norms of a masked network are over the channels that stay.

    Norms over all channels are no sums: what is zero would count. So that is what masking means.

    Args:
        network: the masked network.
        groups: the unpruned network's filter groups.
        masks: its keep masks.
    """

    def __init__(
        self, network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        parameters = dict(network.named_parameters(remove_duplicate=False))
        self._keep: dict[int, dict[int, torch.Tensor]] = {}
        for name, axis, positions in dropped(groups, masks):
            if name in parameters:
                weight = parameters[name]
                axes = self._keep.setdefault(id(weight), {})
                keep = axes.setdefault(axis, torch.ones(weight.shape[axis], dtype=torch.bool))
                keep[torch.from_numpy(positions)] = False
        gone = [
            key
            for key, axes in self._keep.items()
            if not all(bool(keep.any()) for keep in axes.values())
        ]
        for key in gone:  # of a block that goes: it gives zeros in any case
            del self._keep[key]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == "aten::native_layer_norm" and id(args[2]) in self._keep:
            return self._layer_norm(func, *args)
        if name == "aten::native_group_norm" and args[6] == 1 and id(args[1]) in self._keep:
            return self._group_norm(func, *args)
        return func(*args, **(kwargs or {}))

    def _layer_norm(
        self, func: Any, source: Any, shape: Any, weight: Any, bias: Any, eps: Any
    ) -> Any:
        made = torch.zeros_like(source)
        kept, scale, shift = source, weight, bias
        places: list[Any] = [slice(None)] * source.ndim
        for axis, keep in self._keep[id(weight)].items():
            rows = keep.nonzero().flatten().to(source.device)
            dim = source.ndim - weight.ndim + axis
            kept, scale = kept.index_select(dim, rows), scale.index_select(axis, rows)
            shift = None if shift is None else shift.index_select(axis, rows)
            places[dim] = rows
        normed, *others = func(kept, list(scale.shape), scale, shift, eps)
        made[tuple(places)] = normed
        return (made, *others)

    def _group_norm(
        self, func: Any, source: Any, weight: Any, bias: Any, n: int, c: int, rest: int, *more: Any
    ) -> Any:
        rows = self._keep[id(weight)][0].nonzero().flatten().to(source.device)
        shift = None if bias is None else bias[rows]
        made = torch.zeros_like(source)
        kept = source.index_select(1, rows).contiguous()
        normed, *others = func(kept, weight[rows], shift, n, len(rows), rest, *more)
        made[:, rows] = normed
        return (made, *others)


def difference(
    network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask], example: Any
) -> str | None:
    """What is wrong with the compact network of the masks; None if nothing is."""
    masked = masked_copy(network, groups, masks).eval()
    with KeptStatistics(masked, groups, masks):
        expected = outputs_of(masked, example)
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


def outputs_of(network: nn.Module, example: Any) -> list[torch.Tensor]:
    """What a network gives out, from the same random state every time."""
    device = device_of(example)
    with own_randomness(device), tf32(device, False), torch.no_grad():
        return leaves(call(network, clone(example)))  # it may work in place
