"""Keep masks: which filters of each group stay.

A keep mask is a bool array, True = stays, never all False (but for groups inside of residual blocks
that can go whole, `prune_gym.pruning.blocks`). `Masks` holds one per filter group, in the order of
the groups. A prune ratio (fraction *removed*) exists only at the action boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from prune_gym.errors import InvalidValueError

Mask: TypeAlias = NDArray[np.bool_]  # (n_filters,) True = stays
Masks: TypeAlias = tuple[Mask, ...]  # one per filter group


def kept_count(prune_ratio: float, n_filters: int, multiple: int = 1, fewest: int = 1) -> int:
    """How many of ``n_filters`` stay when ``prune_ratio`` in [0, 1] is removed: at least one.

    With ``multiple`` above 1 the nearest multiple of it stays, at least one multiple, or all.
    With ``fewest=0`` none may stay.

    >>> [kept_count(r, 8) for r in (0.0, 0.5, 0.99, 1.0)]
    [8, 4, 1, 1]
    >>> [kept_count(r, 8, fewest=0) for r in (0.0, 0.5, 0.9, 0.95, 1.0)]
    [8, 4, 1, 0, 0]
    >>> [kept_count(r, 20, 8) for r in (0.0, 0.1, 0.5, 1.0)]
    [20, 16, 8, 8]
    """
    if not 0.0 <= prune_ratio <= 1.0:
        raise InvalidValueError(
            f"prune_ratio={prune_ratio!r} must lie in [0, 1]: the fraction to remove."
        )
    kept = max(fewest, round((1.0 - prune_ratio) * n_filters))
    if multiple == 1 or kept == n_filters:
        return kept
    return min(n_filters, multiple * max(fewest, round(kept / multiple)))


def top_mask(order: NDArray[np.int64], n_kept: int) -> Mask:
    """Keep mask of the ``n_kept`` first filters of ``order`` (most important first).

    >>> top_mask(np.array([2, 0, 1]), 2).tolist()
    [True, False, True]
    """
    mask = np.zeros(order.shape[0], dtype=np.bool_)
    mask[order[:n_kept]] = True
    return mask


def kept_per_group(masks: Sequence[Mask]) -> NDArray[np.int64]:
    """Filters that stay, (n_groups,)."""
    return np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)


def check_masks(
    masks: Sequence[NDArray[np.generic]], sizes: Sequence[int], fewest: Sequence[int] = ()
) -> Masks:
    """Validate one keep mask per group and return them as bool arrays.

    Args:
        masks: one array per filter group, (n_filters,) bool.
        sizes: number of filters per group.
        fewest: how many of each group stay at least, 0 or 1; empty = 1 of each.

    Raises:
        ValueError: wrong number of masks, wrong shape or dtype, or a mask that keeps nothing.
    """
    if len(masks) != len(sizes):
        raise InvalidValueError(f"masks: got {len(masks)} of them for {len(sizes)} filter groups.")
    checked = []
    for index, (mask, size) in enumerate(zip(masks, sizes, strict=True)):
        array = np.asarray(mask)
        if array.shape != (size,) or array.dtype != np.bool_:
            raise InvalidValueError(
                f"masks[{index}] has shape {array.shape} and dtype {array.dtype}; expected a bool "
                f"array of shape ({size},), True = stays."
            )
        if not array.any() and (not fewest or fewest[index]):
            may = "; only groups inside of a block that can go whole may keep none"
            raise InvalidValueError(
                f"masks[{index}] keeps nothing{may if fewest and not all(fewest) else ''}; each "
                "group must keep one at least."
            )
        checked.append(array)
    return tuple(checked)
