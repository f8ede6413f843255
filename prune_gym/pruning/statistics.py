"""Statistics over channels, such as those of norms: after a cut they are over the channels left.

What is zero would count in a mean, so that masking alone is no reference where channels are divided
by their mean, or centred by it. There, a masked network takes its statistics over what stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.pruning.groups import FilterGroup
from prune_gym.pruning.labels import STATISTICS
from prune_gym.pruning.layer_operations import operation_name
from prune_gym.pruning.masks import Mask


class KeptStatistics(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it lasts, statistics of a masked network are over the channels that stay.

    It counts operations, so that each forward needs one of its own.

    Args:
        groups: the unpruned network's filter groups.
        masks: the keep masks.
    """

    def __init__(self, groups: Sequence[FilterGroup], masks: Sequence[Mask]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._keep: dict[int, dict[int, torch.Tensor]] = {}  # by operation, by axis
        self._n_seen = 0
        for group, mask in zip(groups, masks, strict=True):
            for statistic in group.statistics:
                is_own = torch.from_numpy(statistic.filters >= 0)
                axes = self._keep.setdefault(statistic.operation, {})
                keep = axes.setdefault(statistic.axis, torch.ones_like(is_own))
                keep[is_own] &= torch.from_numpy(mask[statistic.filters])[is_own]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = operation_name(func), kwargs or {}
        if name not in STATISTICS:
            return func(*args, **kwargs)
        keep = self._keep.get(self._n_seen, {})
        self._n_seen += 1
        shape = args[0].shape
        for axis, kept in keep.items():  # on other ways other operations may have the number
            if axis >= len(shape) or len(kept) != shape[axis] or not kept.any():
                return func(*args, **kwargs)
        rows = {axis: kept.nonzero().flatten().to(args[0].device) for axis, kept in keep.items()}
        if not rows:
            return func(*args, **kwargs)
        if "norm" not in name:
            return func(_selected(args[0], rows), *args[1:], **kwargs)
        return _norm(name, func, args, rows)


def _selected(tensor: torch.Tensor, rows: Mapping[int, torch.Tensor]) -> torch.Tensor:
    for axis, kept in rows.items():
        tensor = tensor.index_select(axis, kept)
    return tensor


def _norm(name: str, func: Any, args: Sequence[Any], rows: Mapping[int, torch.Tensor]) -> Any:
    """A norm of some channels; all others are zero."""
    source = args[0]
    kept = _selected(source, rows).contiguous()
    first = 1 if name == "native_group_norm" else source.ndim - len(args[1])
    own = {axis - first: kept_rows for axis, kept_rows in rows.items()}
    rest = [_selected(a, own) if isinstance(a, torch.Tensor) else a for a in args[1:]]
    if name == "native_group_norm":
        rest[3] = kept.shape[1]
    else:
        rest[0] = list(kept.shape[first:])
    normed, *others = func(kept, *rest)
    for axis, kept_rows in rows.items():
        shape = list(normed.shape)
        shape[axis] = source.shape[axis]
        normed = normed.new_zeros(shape).index_copy(axis, kept_rows, normed)
    return (normed, *others)
