"""Pure compaction: keep masks in, a physically smaller network out.

The network handed in is never changed and its weights are never copied whole: a plan, made once per
network, knows which positions of which tensors belong to which filter; an episode only slices. A
filter is removed with its BatchNorm; zeroing convolution weights alone would leave BatchNorm's
shift acting. A residual block one of whose groups keeps none goes with all that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.pruning.blocks import replace_modules
from prune_gym.pruning.copying import CopyPlan, own_tensors, rebuild
from prune_gym.pruning.groups import FilterGroup, blocks_gone
from prune_gym.pruning.masks import Mask
from prune_gym.pruning.numbers import read_number, write_number


def compact(network: nn.Module, groups: Sequence[FilterGroup], masks: Sequence[Mask]) -> nn.Module:
    """A new, physically smaller network, equal in function to the masked one.

    Args:
        network: the unpruned network; left untouched.
        groups: its filter groups.
        masks: one keep mask per group, (n_filters,) bool, True = stays.
    """
    return Compaction(network, groups).network(masks)


class CompactionPlan(Protocol):
    """How one network is compacted, again and again."""

    def network(self, masks: Sequence[Mask]) -> nn.Module:
        """The compact network of valid keep masks, one per group; a new one at every call."""


class Compaction:
    """The plan that removes filters.

    Args:
        network: the unpruned network; left untouched, and not to be changed while the plan is used.
        groups: its filter groups.
        training: mode of the compact networks; None = that of the network, module by module.
    """

    def __init__(
        self, network: nn.Module, groups: Sequence[FilterGroup], training: bool | None = None
    ) -> None:
        self._copy_plan = CopyPlan(network, training)
        self._groups = tuple(groups)
        self._counts = [(i, c) for i, group in enumerate(groups) for c in group.counts]
        tensors = own_tensors(network)
        cuts: dict[tuple[str, int], list[tuple[int, NDArray[np.int64]]]] = {}
        for index, group in enumerate(groups):
            for cut in group.slices:
                cuts.setdefault((cut.tensor, cut.axis), []).append((index, cut.positions))
        numbers: dict[tuple[object, ...], int] = {}
        self._axes: list[_Axis] = []  # tensors share them: a convolution, its norm, its bias
        self._slices: dict[str, list[tuple[int, int]]] = {}  # tensor -> (axis, which of _axes)
        self._unpruned: dict[str, torch.Tensor] = {}
        for name, axis in sorted(cuts):  # axis 0 first: it copies long runs
            axis_cuts, length = cuts[name, axis], tensors[name].shape[axis]
            key = (length, *((index, positions.tobytes()) for index, positions in axis_cuts))
            if key not in numbers:
                numbers[key] = len(self._axes)
                self._axes.append(_Axis(length, axis_cuts))
            self._slices.setdefault(name, []).append((axis, numbers[key]))
            self._unpruned[name] = tensors[name].detach()

    def network(self, masks: Sequence[Mask]) -> nn.Module:
        """The compact network of keep masks, one per group, (n_filters,) bool, True = stays."""
        gone = blocks_gone(self._groups, masks)
        pairs = zip(self._groups, masks, strict=True)
        masks = [np.ones_like(m) if g.block in gone else m for g, m in pairs]  # it goes as it is
        kept = [axis.kept(masks) for axis in self._axes]
        sliced: dict[str, torch.Tensor] = {}
        for name, slices in self._slices.items():
            tensor = self._unpruned[name]
            for axis, number in slices:
                rows = kept[number]
                if rows is not None:
                    tensor = tensor.index_select(axis, rows.to(tensor.device))
            if tensor is not self._unpruned[name]:
                sliced[name] = tensor
        made = self._copy_plan.build(sliced)
        for index, count in self._counts:
            module, n_dropped = made.get_submodule(count.module), int((~masks[index]).sum())
            number = read_number(module, count.attribute) or 0
            write_number(module, count.attribute, number - count.per_filter * n_dropped)
        for block in gone:
            replace_modules(made, dict(block.replaced))
        return made


class _Axis:
    """An axis of some tensors, and the filters that lie along it."""

    def __init__(self, length: int, cuts: list[tuple[int, NDArray[np.int64]]]) -> None:
        self._length, self._cuts = length, cuts

    def kept(self, masks: Sequence[Mask]) -> torch.Tensor | None:
        """Positions that stay, int64, ascending; None where all do."""
        keep = np.ones(self._length, dtype=np.bool_)
        for index, positions in self._cuts:
            keep[positions[~masks[index]]] = False
        return None if keep.all() else torch.from_numpy(np.flatnonzero(keep))


class WeightZeroing:
    """The plan that sets single weights to zero (``structure="weight"``).

    Args:
        network: the unpruned network; left untouched.
        groups: one group per layer, as `find_weight_groups` gives them; a keep mask is over the
            layer's flattened weight.
    """

    def __init__(self, network: nn.Module, groups: Sequence[FilterGroup]) -> None:
        self._network, self._groups = network, groups

    def network(self, masks: Sequence[Mask]) -> nn.Module:
        """A copy of the network, in evaluation mode, without the weights outside the masks."""
        tensors = self._network.state_dict()
        zeroed = {}
        for group, mask in zip(self._groups, masks, strict=True):
            name = f"{group.name}.weight"
            keep = torch.from_numpy(mask).to(tensors[name].device).view(tensors[name].shape)
            zeroed[name] = tensors[name] * keep
        return rebuild(self._network, zeroed).eval()


def dropped(
    groups: Sequence[FilterGroup], masks: Sequence[Mask]
) -> Iterator[tuple[str, int, NDArray[np.int64]]]:
    """Everything that masks remove: tensor name, axis, positions along it."""
    for group, mask in zip(groups, masks, strict=True):
        for cut in group.slices:
            yield cut.tensor, cut.axis, cut.dropped(mask)
