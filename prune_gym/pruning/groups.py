"""Filter groups of any network, and the tensors that their filters run along.

A filter group is a set of filters that can be kept or dropped one by one, across all the tensors
that share them: the producing convolutions, their BatchNorms, the input channels of every consumer.

A filter is one output channel where nothing says otherwise. Where layers tie channels together, it
is the smallest set of them that can go alone: one channel of every group of a grouped convolution,
the channels that a GroupNorm normalises together, the two halves of a gate.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.errors import InvalidValueError, UnsupportedNetworkError
from prune_gym.pruning.blocks import Block
from prune_gym.pruning.copying import own_tensors
from prune_gym.pruning.labels import Reduction, core, is_constant_but_along
from prune_gym.pruning.layer_rules import is_input_first, output_axes
from prune_gym.pruning.masks import Mask, Masks, check_masks
from prune_gym.pruning.numbers import OwnNumber, read_number
from prune_gym.pruning.trace import PRODUCERS, Axis, Trace, trace
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
class Count:
    """A whole number that code of a network holds, and that falls with the filters of a group.

    Attributes:
        module: name of the module that holds it.
        attribute: its name there, e.g. ``"num_heads"``.
        per_filter: how much it falls with each filter.
    """

    module: str
    attribute: str
    per_filter: int


@dataclass(frozen=True)
class Statistic:
    """An operation that takes a statistic over filters of a group, as norms over channels do.

    Attributes:
        operation: which of those of a forward that `labels.STATISTICS` names.
        axis: of its input, along which the filters lie.
        filters: (length,) int64; which filter lies where, -1 = none of the group.
    """

    operation: int
    axis: int
    filters: NDArray[np.int64]


@dataclass(frozen=True)
class FilterGroup:
    """Filters that stay or go one by one, each in all the tensors that share it.

    Attributes:
        name: the first layer that produces them, e.g. ``"features.0"``; where a layer's filters
            fall into several groups, the later ones are ``"features.0:2"``, ``"features.0:3"``, ...
        n_filters: how many there are (for ``structure="weight"``: single weights of the layer).
        producers: all the layers whose output channels they are.
        slices: every tensor axis they run along; empty for ``structure="weight"``.
        counts: numbers in the network's code that follow, such as that of an attention's heads.
        statistics: operations that are over the filters that stay.
        block: the residual block that goes whole where the group keeps none; None = at least one
            filter stays.
    """

    name: str
    n_filters: int
    producers: tuple[str, ...]
    slices: tuple[Slice, ...] = ()
    counts: tuple[Count, ...] = ()
    statistics: tuple[Statistic, ...] = ()
    block: Block | None = None

    @property
    def fewest(self) -> int:
        """How many filters stay at least."""
        return 1 if self.block is None else 0


def blocks_gone(groups: Sequence[FilterGroup], masks: Sequence[Mask]) -> tuple[Block, ...]:
    """The blocks that keep masks leave nothing of: one of their groups keeps none."""
    pairs = zip(groups, masks, strict=True)
    gone = {id(g.block): g.block for g, mask in pairs if g.block is not None and not mask.any()}
    return tuple(gone.values())


def settled(groups: Iterable[FilterGroup], masks: Sequence[Mask]) -> Masks:
    """Keep masks in which all groups of a block keep none where one of them does.

    Args:
        groups: as many as there are masks, or more.
        masks: one per group, from the first.
    """
    decided = [group for group, _ in zip(groups, masks, strict=False)]
    gone = blocks_gone(decided, masks)
    if not gone:
        return tuple(masks)
    pairs = zip(decided, masks, strict=True)
    return tuple(np.zeros_like(mask) if group.block in gone else mask for group, mask in pairs)


def settled_counts(groups: Sequence[FilterGroup], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Filters kept per group, (n_groups,), settled as masks are by `settled`."""
    pairs = zip(groups, counts.tolist(), strict=True)
    gone = {group.block for group, n in pairs if group.block is not None and n == 0}
    if not gone:
        return counts
    return np.where([group.block in gone for group in groups], 0, counts)


def checked_masks(groups: Sequence[FilterGroup], masks: Sequence[Mask]) -> Masks:
    """Keep masks of filter groups, validated by `check_masks`, and `settled`."""
    sizes = [group.n_filters for group in groups]
    return settled(groups, check_masks(masks, sizes, [group.fewest for group in groups]))


def find_filter_groups(
    network: nn.Module, example: Any, ignore: Collection[str] = ()
) -> tuple[FilterGroup, ...]:
    """All prunable filter groups of a network, in the order of its layers.

    The network is traced as a copy and comes back untouched. Kept whole are filters that reach an
    output of the network or a layer named in ``ignore``, those that an operation mixes or counts
    off, and those that are tied into one.

    Args:
        network: any module, in any mode, frozen or not.
        example: one input batch, (n, ...), on the network's device.
        ignore: names of layers whose outputs must stay whole; a container stands for every layer
            in it.

    Raises:
        UnsupportedNetworkError: nothing prunable; says what holds the layers.
        ValueError: ``ignore`` names no layer of the network.
    """
    protected = _protected(network, ignore)
    found = trace(network, example, protected)
    layout = _Layout(network, found)
    groups = layout.groups()
    if not groups:
        raise UnsupportedNetworkError(
            f"{type(network).__name__} has no prunable layer: no convolution or linear layer of "
            "several filters whose output is not the network's own output (or all are in `ignore`)."
            f"{layout.what_holds()}"
        )
    return _named_apart(groups)


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


# -- from labels to filters ------------------------------------------------------------------------


class _Layout:
    """The sets of labels of a network, and where they lie in its tensors."""

    def __init__(self, network: nn.Module, found: Trace) -> None:
        self._network, self._found = network, found
        self._order = {name: index for index, (name, _) in enumerate(network.named_modules())}
        n_labels = max((axis.first + axis.length for axis in found.axes), default=1)
        self._sets = found.labels.sets(np.arange(n_labels))  # (n_labels,) the lowest of its set
        self._names = _names_by_first(network)
        self._statistics = [found_in for r in found.reductions for found_in in self._reduced(r)]

    def groups(self) -> list[FilterGroup]:
        """Filters that lie alike make a group; single ones, which could never go, are left out."""
        kinds: dict[int, list[tuple[int, int]]] = defaultdict(list)  # (axis, how often) by set
        for number, axis in enumerate(self._found.axes):
            sets, times = np.unique(self._sets_of(axis), return_counts=True)
            for label, n in zip(sets.tolist(), times.tolist(), strict=True):
                kinds[label].append((number, n))
        alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for label, kind in kinds.items():
            alike[tuple(kind)].append(label)
        found = []
        for places, labels in alike.items():
            axes = [self._found.axes[number] for number, _ in places]
            producers = self._producers(axes)
            if producers and len(labels) > 1 and labels[0]:
                found.append(self._group(axes, producers, labels))
        return sorted(
            found,
            key=lambda group: (
                self._order[group.name],
                group.slices[0].tensor,
                int(group.slices[0].positions[0, 0]),
            ),
        )

    def _producers(self, axes: Sequence[Axis]) -> tuple[str, ...]:
        """Layers whose outputs lie along some of the axes, in their order."""
        found = {
            name.rpartition(".")[0]
            for axis in axes
            if self._is_output(axis)
            for name in self._names[axis.tensor]
        }
        return tuple(sorted(found, key=self._order.__getitem__))

    def _group(
        self, axes: Sequence[Axis], producers: tuple[str, ...], labels: Sequence[int]
    ) -> FilterGroup:
        rank = np.full(len(self._sets), -1)
        rank[labels] = np.arange(len(labels))
        tables = []
        for axis in axes:
            ranks = rank[self._sets_of(axis)]
            rows = np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :]
            tables.append(rows.reshape(len(labels), -1))
        first = next(
            place
            for place, axis in enumerate(axes)
            if self._is_output(axis) and producers[0] in self._producers([axis])
        )
        order = np.argsort(tables[first].min(axis=1), kind="stable")
        slices = [
            Slice(name, axis.axis, table[order])
            for axis, table in zip(axes, tables, strict=True)
            for name in self._names[axis.tensor]
        ]
        slices.sort(key=lambda cut: cut.tensor.rpartition(".")[0] not in producers)
        counts = tuple(self._counts(set(labels)))
        rank[np.array(labels)[order]] = np.arange(len(labels))
        statistics = tuple(
            Statistic(operation, axis, rank[sets])
            for operation, axis, sets in self._statistics
            if (rank[sets] >= 0).any()
        )
        return FilterGroup(producers[0], len(order), producers, tuple(slices), counts, statistics)

    def _reduced(self, reduction: Reduction) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """An operation, the axis along which its input is cut, and the sets along it."""
        sets = self._sets[core(reduction.facet).numpy()]
        for axis in reduction.dims:
            if sets.shape[axis] > 1 and is_constant_but_along(sets, axis):
                yield (
                    reduction.operation,
                    axis,
                    np.moveaxis(sets, axis, -1).reshape(-1, sets.shape[axis])[0],
                )

    def _sets_of(self, axis: Axis) -> NDArray[np.int64]:
        return self._sets[axis.first : axis.first + axis.length]

    def _is_output(self, axis: Axis) -> bool:
        """Whether a weight's outputs lie along an axis."""
        layer, _, tensor = axis.tensor.rpartition(".")
        module = self._network.get_submodule(layer)
        n_axes = getattr(module, tensor).ndim
        if isinstance(module, nn.MultiheadAttention):
            return tensor == "in_proj_weight" and axis.axis == 0
        is_layer = isinstance(module, PRODUCERS) or is_input_first(module)
        is_weight = is_layer and n_axes > 1
        return is_weight and axis.axis in output_axes(module, tensor, n_axes)

    def _counts(self, sets: set[int]) -> Iterator[Count]:
        """Numbers of the code that lay the filters out."""
        seen: set[tuple[str, str]] = set()
        for rectangle, axis in self._found.blocks:
            number = rectangle.numbers[axis]
            if not isinstance(number, OwnNumber):
                continue
            key = number.module, number.attribute
            lines = np.moveaxis(rectangle.labels, axis, -1).reshape(
                -1, rectangle.labels.shape[axis]
            )
            n_here = sum(label in sets for label in self._sets[lines[0]].tolist())
            held = read_number(self._network.get_submodule(number.module), number.attribute) or 0
            falls = held * n_here
            if n_here and key not in seen and falls % (lines.shape[1] * len(sets)) == 0:
                seen.add(key)
                yield Count(*key, falls // (lines.shape[1] * len(sets)))

    def what_holds(self) -> str:
        """Why layers stay whole, for a message."""
        reasons = dict.fromkeys(
            reason
            for reason in self._found.labels.reasons.values()
            if " at " in reason or reason.endswith("stays whole")
        )
        return f" Channels are held by {', '.join(list(reasons)[:3])}." if reasons else ""


def _names_by_first(network: nn.Module) -> dict[str, list[str]]:
    """Every name of each tensor that a layer holds, by its first one."""
    layers = {name for name, _ in network.named_modules()}  # of a shared layer: its first name
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in own_tensors(network).items():
        if name.rpartition(".")[0] in layers:
            names[id(tensor)].append(name)
    return {found[0]: found for found in names.values()}
