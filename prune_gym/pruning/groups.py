"""Filter groups of any network, and the tensors that their filters run along.

A filter group is a set of filters that can be kept or dropped one by one, across all the tensors
that share them: the producing convolutions, their BatchNorms, the input channels of every consumer.

A filter is one output channel where nothing says otherwise. Where layers tie channels together, it
is the smallest set of them that can go alone: one channel of every group of a grouped convolution,
the channels that a GroupNorm normalises together, the two halves of a gate.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.errors import InvalidValueError, LayerError, UnsupportedNetworkError
from prune_gym.pruning.layer_rules import axes, blocks
from prune_gym.pruning.masks import Mask
from prune_gym.pruning.trace import Reach, Traced, trace
from prune_gym.utils.registry import suggest

__all__ = [
    "FilterGroup",
    "Slice",
    "UnsupportedNetworkError",
    "find_filter_groups",
    "find_weight_groups",
]


@dataclass(frozen=True)
class Slice:
    """One axis of one tensor that a filter group runs along.

    Attributes:
        tensor: name in ``network.state_dict()``.
        axis: the axis along which filters are laid out.
        positions: (n_filters, width) int64; row i holds the positions that belong to filter i
            (``width`` is above 1 where a flattened feature map feeds a linear layer, or where a
            filter is a set of channels).
    """

    tensor: str
    axis: int
    positions: NDArray[np.int64]

    def dropped(self, mask: Mask) -> NDArray[np.int64]:
        """Positions along the axis that go when the filters outside ``mask`` go."""
        return self.positions[~mask].ravel()


@dataclass(frozen=True)
class FilterGroup:
    """Filters that stay or go one by one, each in all the tensors that share it.

    Attributes:
        name: the first layer that produces them, e.g. ``"features.0"``; where a layer's filters
            fall into several groups, the later ones are ``"features.0:2"``, ``"features.0:3"``, ...
        n_filters: how many there are (for ``structure="weight"``: single weights of the layer).
        producers: all the layers whose output channels they are.
        slices: every tensor axis they run along; empty for ``structure="weight"``.
    """

    name: str
    n_filters: int
    producers: tuple[str, ...]
    slices: tuple[Slice, ...] = ()


def find_filter_groups(
    network: nn.Module, example: Any, ignore: Collection[str] = ()
) -> tuple[FilterGroup, ...]:
    """All prunable filter groups of a network, in the order of its layers.

    The network is traced as a copy and comes back untouched. Kept whole are filters that reach an
    output of the network or a layer named in ``ignore``, and those that are tied into one, as all
    the channels that a LayerNorm normalises together are.

    Args:
        network: any module that Torch-Pruning can trace, in any mode, frozen or not.
        example: one input batch, (n, ...), on the network's device.
        ignore: names of layers whose outputs must stay whole; a container stands for every layer
            in it.

    Raises:
        UnsupportedNetworkError: nothing prunable, or layers that cannot be followed, by name.
        ValueError: ``ignore`` names no layer of the network.
    """
    order = {name: index for index, (name, _) in enumerate(network.named_modules())}
    protected = _protected(network, ignore)
    kind = type(network).__name__
    found: list[FilterGroup] = []
    problems: list[str] = []
    feeding: set[str] = set()
    tied: list[str] = []
    for traced in trace(network, example):
        if traced.is_output or not protected.isdisjoint(traced.layers):
            continue
        try:
            groups = list(_groups_of(traced, order))
        except LayerError as error:
            problems.append(str(error))
            feeding |= traced.producers
        else:
            found += groups
            tied += [] if groups else sorted(traced.producers, key=order.__getitem__)
    if problems:
        raise UnsupportedNetworkError(
            f"{kind}: {'; '.join(dict.fromkeys(problems))}. Keep the layers that this concerns "
            f"whole: ignore={sorted(feeding, key=order.__getitem__)}."
        )
    if not found:
        hint = f" The filters of {', '.join(map(repr, tied))} hang together as one." if tied else ""
        raise UnsupportedNetworkError(
            f"{kind} has no prunable layer: no convolution or linear layer whose output is not the "
            f"network's own output (or all are in `ignore`).{hint}"
        )
    _check_shared(network, found)
    return _named_apart(sorted(found, key=lambda group: order[group.name]))


def find_weight_groups(network: nn.Module, ignore: Collection[str] = ()) -> tuple[FilterGroup, ...]:
    """One group per convolution, of its single weights: the paper's unstructured variant.

    Args:
        network: any module; only read.
        ignore: names of layers, or of containers of layers, to leave as they are.

    Raises:
        UnsupportedNetworkError: no convolution is left.
        ValueError: ``ignore`` names no layer of the network.
    """
    protected = _protected(network, ignore)
    groups = tuple(
        FilterGroup(name=name, n_filters=module.weight.numel(), producers=(name,))
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
        and name not in protected
        and "weight" in module._parameters  # and not computed, by parametrize for one
    )
    if not groups:
        raise UnsupportedNetworkError(
            f"{type(network).__name__} has no convolution whose weights could be pruned."
        )
    return groups


def _protected(network: nn.Module, ignore: Collection[str]) -> set[str]:
    """Names of all the layers that ``ignore`` stands for."""
    known = dict(network.named_modules())
    protected: set[str] = set()
    for name in ignore:
        if name not in known:
            raise InvalidValueError(
                f"ignore: the network has no layer {name!r}.{suggest(str(name), list(known))} See "
                "the names with `[name for name, _ in network.named_modules()]`."
            )
        inside = set(known[name].modules())
        if not any(True for module in inside for _ in module.parameters(recurse=False)):
            raise InvalidValueError(
                f"ignore: {name!r} ({type(known[name]).__name__}) has no weights to keep whole; "
                "name the layer that feeds it."
            )
        protected.update(other for other, module in known.items() if module in inside)
    return protected


def _named_apart(groups: Sequence[FilterGroup]) -> tuple[FilterGroup, ...]:
    """The groups; the second and later ones of a name become ``"name:2"``, ``"name:3"``, ..."""
    seen: Counter[str] = Counter()
    named = []
    for group in groups:
        seen[group.name] += 1
        count = seen[group.name]
        named.append(group if count == 1 else replace(group, name=f"{group.name}:{count}"))
    return tuple(named)


def _check_shared(network: nn.Module, groups: Sequence[FilterGroup]) -> None:
    """Layers that share a tensor must lose the same positions of it."""
    layers = {name for name, _ in network.named_modules()}  # of a shared layer: its first name
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if name.rpartition(".")[0] in layers:
            names[id(parameter)].append(name)
    cuts: dict[str, list[tuple[int, int, list[int]]]] = defaultdict(list)
    shared = {name for twins in names.values() if len(twins) > 1 for name in twins}
    for index, group in enumerate(groups if shared else ()):
        for cut in group.slices:
            if cut.tensor in shared:
                cuts[cut.tensor].append((cut.axis, index, cut.positions.ravel().tolist()))
    for first, *others in names.values():
        for other in others:
            if sorted(cuts[first]) != sorted(cuts[other]):
                raise UnsupportedNetworkError(
                    f"{first!r} and {other!r} are one tensor, of which their layers would lose "
                    "different filters; keep the layers that feed them, or one of them, whole with "
                    "ignore=[...]."
                )


# -- from what hangs together to filters that can go one by one ------------------------------------


def _groups_of(traced: Traced, order: dict[str, int]) -> Iterator[FilterGroup]:
    """Split what hangs together into groups whose filters all weigh the same.

    Filters that reach other layers than their neighbours do (a shortcut into one half of a
    concatenation) make a group of their own. Single filters, which could never go, are left out.
    """
    if traced.is_lost:
        layer = min(traced.producers, key=order.__getitem__)
        raise LayerError(f"what comes after layer {layer!r} cannot be followed")
    for reach in traced.reaches:
        first: dict[int, int] = {}
        for position, block in blocks(reach.module, reach.to_output, reach.roots).items():
            root = reach.roots[position]
            traced.sets.join(first.setdefault(block, root), root)
    number = traced.sets.numbered()  # filter by root
    n_filters = max(number.values()) + 1
    placed = [_by_filter(reach, number) for reach in traced.reaches]
    widths = np.array([np.bincount(filters, minlength=n_filters) for _, filters in placed])
    alike, kinds = np.unique(widths, axis=1, return_inverse=True)  # (n_reaches, n_kinds)
    for kind in range(alike.shape[1]):
        inside = kinds.ravel() == kind  # (n_filters,)
        if inside.sum() == 1:
            continue
        slices: list[Slice] = []
        producers: set[str] = set()
        for reach, (positions, filters) in zip(traced.reaches, placed, strict=True):
            table = positions[inside[filters]].reshape(inside.sum(), -1)
            if table.size:
                cuts = axes(reach.name, reach.module, reach.to_output, table)
                slices += [Slice(*cut) for cut in cuts]
                producers |= traced.producers & {reach.name} if reach.to_output else set()
        names = tuple(sorted(producers, key=order.__getitem__))  # the root may be a later layer
        yield FilterGroup(names[0], len(slices[0].positions), names, tuple(slices))


def _by_filter(reach: Reach, number: dict[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions that are reached and the filters that they belong to, in the order of filters."""
    positions = np.fromiter(reach.roots.keys(), dtype=np.int64)
    filters = np.array([number[root] for root in reach.roots.values()], dtype=np.int64)
    sequence = np.lexsort((positions, filters))
    return positions[sequence], filters[sequence]
