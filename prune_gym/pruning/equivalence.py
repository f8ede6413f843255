"""Whether compaction is right for a network: removal held against masking, on probes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.compact import compact, dropped
from prune_gym.pruning.comparison import agree, choices_of, outputs_of, rounding_decides
from prune_gym.pruning.copying import own_tensors, rebuild
from prune_gym.pruning.groups import FilterGroup, blocks_gone
from prune_gym.pruning.layer_rules import output_axes
from prune_gym.pruning.masks import Mask
from prune_gym.pruning.sizes import TensorSizes
from prune_gym.pruning.trace import step_by_step
from prune_gym.utils.trees import call, clone, leaves
from prune_gym.utils.words import message


def check_compaction(
    network: nn.Module, groups: Sequence[FilterGroup], example: Any, ignore: Collection[str] = ()
) -> None:
    """Raise unless half of the filters can go and leave what masking them leaves.

    Groups are read off a trace, which cannot see everything: a size written into ``forward()``, or
    an operation that mixes channels (softmax, shuffle, mean). So one random removal is held against
    the network in which all that belongs to the removed filters is zero.

    Args:
        network: the unpruned network; left untouched.
        groups: its filter groups.
        example: one input batch, on the network's device.
        ignore: what is kept whole already; part of the cure.

    Raises:
        UnsupportedNetworkError: names the layers that must stay whole, and what that leaves.
    """
    masks = half_masks(groups)
    wrong: set[int] = set()
    problems = []
    for lively in (False, True):
        probe = lively_copy(network) if lively else network
        rest = [number for number in range(len(groups)) if number not in wrong]

        def differs(numbers: Sequence[int], probe: nn.Module = probe) -> str | None:
            some = [groups[number] for number in numbers]
            return difference(probe, some, [masks[number] for number in numbers], example)

        problem = differs(rest) if rest else None
        if problem is not None:
            problems.append(problem)
            wrong |= find_wrong(rest, differs)
    if problems:
        why = (
            f"{problems[0]} (a size fixed in forward()? view() instead of flatten(1)? an operation "
        )
        raise UnsupportedNetworkError(
            f"{type(network).__name__}: {why}across channels?). "
            f"{cure(network, groups, sorted(wrong), ignore)}"
        )


def find_wrong(
    numbers: Sequence[int], differs: Callable[[Sequence[int]], object | None]
) -> set[int]:
    """Numbers of groups without which all is right: those wrong alone, and then together.

    Args:
        numbers: of the groups to look among.
        differs: what goes wrong with some of them; None where nothing does.
    """
    wrong = {number for number in numbers if differs([number]) is not None}
    rest = [number for number in numbers if number not in wrong]
    while rest and differs(rest) is not None:
        low, high = 0, len(rest)  # so many of the first are right, so many are wrong
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if differs(rest[:middle]) is not None else (middle, high)
        wrong.add(rest.pop(low))
    return wrong


def cure(
    network: nn.Module,
    groups: Sequence[FilterGroup],
    wrong: Sequence[int],
    ignore: Collection[str] = (),
) -> str:
    """What to do about groups that go wrong, with the whole list to paste, and what it leaves.

    Args:
        network: the unpruned network.
        groups: its filter groups.
        wrong: numbers of those that must stay whole.
        ignore: what is kept whole already.
    """
    layers = dict.fromkeys(groups[number].producers[0] for number in wrong)
    rest = [group for group in groups if not layers.keys() & set(group.producers)]
    if not rest:
        return "Mend it: every layer needs all of its channels, so that nothing could be pruned."
    named = [
        *ignore,
        *(name for name in in_containers(network, layers, rest) if name not in ignore),
    ]
    return (
        "Mend it, or keep the layers whole that need all of their channels, which leaves "
        f"{_floor(network, rest):.0%} of the parameters at least: ignore={named}."
    )


def in_containers(
    network: nn.Module, layers: Collection[str], rest: Sequence[FilterGroup]
) -> list[str]:
    """Layers, or the largest containers of them in which nothing else can be pruned.

    Args:
        network: whose layers they are.
        layers: by name.
        rest: the groups that can still be pruned.
    """
    free: set[str] = set()  # layers with outputs that may go, and all that they are in
    for cut in (cut for group in rest for cut in group.slices):
        layer, _, tensor = cut.tensor.rpartition(".")
        module = network.get_submodule(layer)
        if cut.axis in output_axes(module, tensor, getattr(module, tensor).ndim):
            free.update(_upwards(layer))
    found: dict[str, None] = {}
    for layer in layers:
        path = [name for name in reversed(_upwards(layer)) if name not in free]
        found[path[0] if path else layer] = None
    return list(found)


def _upwards(layer: str) -> list[str]:
    """A layer and the containers that it is in, without the network itself."""
    parts = layer.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _floor(network: nn.Module, groups: Sequence[FilterGroup]) -> float:
    """Share of the parameters that stays where each group keeps one filter."""
    sizes = TensorSizes.of(network, groups)
    return float(sizes.share(sizes.count(np.ones(len(groups), dtype=np.int64))))


def check_smallest(
    network: nn.Module,
    groups: Sequence[FilterGroup],
    masks: Sequence[Mask],
    example: Any,
    ignore: Collection[str] = (),
) -> None:
    """Raise unless the smallest compact network runs, and gives outputs of the same shape.

    Args:
        network: the unpruned network.
        groups: its filter groups.
        masks: keep masks of its smallest compact network.
        example: one input batch of both.
        ignore: what is kept whole already; part of the cure.

    Raises:
        UnsupportedNetworkError: names the layers that must stay whole, and what that leaves.
    """
    expected = _shapes(network, example)
    how_many_depends = any(choice.counts for choice in choices_of(network, example))

    def differs(numbers: Sequence[int]) -> str | None:
        some = [groups[number] for number in numbers]
        try:
            smallest = compact(network, some, [masks[number] for number in numbers])
            shapes = _shapes(smallest, example)
        except Exception as error:  # a network may raise anything
            return f"does not run with one filter per group: {message(error)}"
        if shapes != expected and not how_many_depends:
            changes = f"from {_listed(expected)} to {_listed(shapes)}"
            return f"removing filters changes the output {changes}"
        return None

    everything = range(len(groups))
    problem = differs(everything)
    if problem is not None:
        wrong = find_wrong(everything, differs)
        raise UnsupportedNetworkError(
            f"{type(network).__name__}: {problem}. {cure(network, groups, sorted(wrong), ignore)}"
        )


def _shapes(network: nn.Module, example: Any) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(tensor.shape) for tensor in leaves(call(network, clone(example)))]


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
    smaller = compact(network, groups, masks).eval()
    with step_by_step(), KeptStatistics(masked, groups, masks):
        expected = outputs_of(masked, example)
    try:
        found = outputs_of(smaller, example)
    except Exception as error:  # a network may raise anything
        return f"it does not run once filters are removed ({message(error)})"
    if agree(found, expected):
        return None
    with KeptStatistics(masked, groups, masks):
        wanted = choices_of(masked, example)
    if rounding_decides(choices_of(smaller, example), wanted):
        return None
    shapes, others = ([tuple(tensor.shape) for tensor in made] for made in (expected, found))
    if shapes != others:
        changed = [pair for pair in zip(shapes, others, strict=False) if pair[0] != pair[1]]
        one, other = changed[0] if changed else (len(shapes), len(others))
        return f"removing filters changes the output from {one} to {other}"
    return "removing filters is not the same as masking them"
