"""Tensor sizes as a function of kept filters: counting budgets without building a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.pruning.groups import FilterGroup


@dataclass(frozen=True, eq=False)
class TensorSizes:
    """Elements of every tensor of the compact network, by kept filters per group.

    A tensor has ``fixed * product over its sliced axes (length - width * dropped)`` elements, and
    none where it lies in a residual block one of whose groups keeps none.

    Attributes:
        names: tensor names, as in ``network.state_dict()``.
        is_parameter: (n_tensors,) whether the tensor is a parameter.
        n_filters: (n_groups,) filters per group.
        fixed: (n_tensors,) product of the axes that no group slices.
        lengths: (n_axes, n_tensors) length of each sliced axis, 1 where there is none.
        width: (n_axes, n_tensors, n_groups) positions along the axis per filter of the group.
        single: (n_tensors, n_groups) 1 where the group is of the tensor's single weights.
        block_groups: (n_blocks, n_groups) 1 where the group lies in a block that can go whole.
        block_tensors: (n_blocks, n_tensors) 1 where the tensor does.
    """

    names: tuple[str, ...]
    is_parameter: NDArray[np.float64]
    n_filters: NDArray[np.int64]
    fixed: NDArray[np.float64]
    lengths: NDArray[np.float64]
    width: NDArray[np.float64]
    single: NDArray[np.float64]
    block_groups: NDArray[np.float64]
    block_tensors: NDArray[np.float64]

    @classmethod
    def of(cls, network: nn.Module, groups: Sequence[FilterGroup]) -> TensorSizes:
        """Read the sizes of a network off its tensors and filter groups."""
        state = network.state_dict().items()  # holds more than tensors where modules add to it
        tensors = {name: value for name, value in state if isinstance(value, torch.Tensor)}
        names = tuple(tensors)
        axes: dict[str, list[int]] = {name: [] for name in names}
        for group in groups:
            for cut in group.slices:
                if cut.tensor in axes and cut.axis not in axes[cut.tensor]:
                    axes[cut.tensor].append(cut.axis)
        depth = max([1, *(len(found) for found in axes.values())])
        lengths = np.ones((depth, len(names)))
        width = np.zeros((depth, len(names), len(groups)))
        single = np.zeros((len(names), len(groups)))
        row = {name: index for index, name in enumerate(names)}
        for name, found in axes.items():
            for place, axis in enumerate(found):
                lengths[place, row[name]] = tensors[name].shape[axis]
        for column, group in enumerate(groups):
            for cut in (cut for cut in group.slices if cut.tensor in axes):  # a state holds them
                place = axes[cut.tensor].index(cut.axis)
                width[place, row[cut.tensor], column] += cut.positions.shape[1]
            if not group.slices:
                single[row[f"{group.name}.weight"], column] = 1.0
        elements = np.array([tensors[name].numel() for name in names], dtype=np.float64)
        own = {name for name, _ in network.named_parameters()}
        blocks = list(dict.fromkeys(group.block for group in groups if group.block is not None))
        return cls(
            names=names,
            is_parameter=np.array([name in own for name in names], dtype=np.float64),
            n_filters=np.array([group.n_filters for group in groups], dtype=np.int64),
            fixed=elements / lengths.prod(axis=0),
            lengths=lengths,
            width=width,
            single=single,
            block_groups=_table([[group.block == b for group in groups] for b in blocks]),
            block_tensors=_table([[name in b.tensors for name in names] for b in blocks]),
        )

    @cached_property
    def _along(self) -> NDArray[np.float64]:
        """(n_groups, n_axes * n_tensors) positions along each axis per filter."""
        return np.ascontiguousarray(self.width.reshape(-1, len(self.n_filters)).T)

    @cached_property
    def _has_single(self) -> bool:
        return bool(self.single.any())

    def count(self, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """Elements per tensor, (..., n_tensors), when so many filters stay, (..., n_groups)."""
        dropped = (self.n_filters - kept).astype(np.float64)
        gone_along = dropped @ self._along  # whole numbers: sums are exact
        left = self.lengths - gone_along.reshape(*dropped.shape[:-1], *self.lengths.shape)
        counted = self.fixed * left[..., 0, :]
        for axis in range(1, len(self.lengths)):
            counted *= left[..., axis, :]
        if self._has_single:
            counted -= dropped @ self.single.T
        if len(self.block_groups):
            empty = (kept == 0).astype(np.float64)
            gone = (empty @ self.block_groups.T > 0.0).astype(np.float64)  # (..., n_blocks)
            counted = counted * (gone @ self.block_tensors == 0.0)
        return counted

    def share(self, counted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Parameters of ``counted`` elements per tensor / parameters of the unpruned network."""
        unpruned = self.count(self.n_filters)
        return np.asarray(counted @ self.is_parameter / (unpruned @ self.is_parameter))

    def weights(self, by_name: Mapping[str, float]) -> NDArray[np.float64]:
        """A vector (n_tensors,) from weights by tensor name; tensors not named weigh nothing."""
        return np.array([by_name.get(name, 0.0) for name in self.names])


def _table(rows: Sequence[Sequence[bool]]) -> NDArray[np.float64]:
    """(n_rows, n_columns) of zeros and ones; (0,) without rows."""
    return np.array(rows, dtype=np.float64)
