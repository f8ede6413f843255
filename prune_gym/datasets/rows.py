"""Which rows stand for a set: fixed, of every class, from its beginning to its end.

Nobody looks at "the first so many examples": data comes sorted by class, by place, by day. Whatever
looks at a part of a split, a recovery, a criterion, a trace or a timing, asks here.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from prune_gym.datasets.holdout import shares


def spread_rows(
    n_examples: int,
    wanted: int,
    labels: NDArray[np.int64] | None = None,
    *,
    in_proportion: bool = False,
) -> torch.Tensor:
    """Rows of ``wanted`` examples, or of all where there are fewer; always the same ones.

    They lie all over the set, of each class all over the class, at places drawn from a fixed seed,
    so that no order of the data, sorted or in cycles, leaves out a part of it. Their own order is
    mixed, so that parts of them hold every class, too (all rows of a set come as they are).

    Args:
        n_examples: size of the set.
        wanted: how many rows at most.
        labels: (n_examples,) whole numbers; None = there are no classes.
        in_proportion: whether classes are as frequent as in the set; else as many of every class
            as can be, and of more classes than rows as many different ones.

    Returns:
        (min(wanted, n_examples),) int64, no row twice.

    >>> spread_rows(6, 4, np.array([7, 7, 7, 7, 7, 3])).numel()
    4
    >>> 5 in spread_rows(6, 2, np.array([7, 7, 7, 7, 7, 3]))
    True
    """
    if wanted >= n_examples:
        return torch.arange(n_examples)
    names = np.zeros(n_examples, dtype=np.int64) if labels is None else labels
    _, numbers = np.unique(names, return_inverse=True)
    sizes = np.bincount(numbers)
    counts = shares(numbers, wanted) if in_proportion else _alike(sizes, wanted)
    generator = np.random.default_rng(0)
    rows, turns = [], []
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(sizes)[:-1])
    for own, count in zip(members, counts, strict=True):
        rows.append(generator.permutation(own[_spread(len(own), int(count), generator)]))
        turns.append((np.arange(count) + 0.5) / max(1, count))
    order = np.argsort(np.concatenate(turns), kind="stable")
    return torch.from_numpy(np.concatenate(rows)[order])


def _spread(size: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """``count`` different places of ``size``, one in each of as many parts of equal length."""
    borders = np.arange(count + 1) * size // max(1, count)
    places = borders[:-1] + generator.random(count) * np.diff(borders)
    return places.astype(np.int64)


def _alike(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """How many of each class, as equal as their sizes allow, ``total`` in all."""
    counts = np.zeros_like(sizes)
    while (left := total - int(counts.sum())) > 0:
        is_open = np.flatnonzero(counts < sizes)
        share = left // len(is_open)
        if share == 0:  # one each for some of them
            counts[is_open[_spread(len(is_open), left, np.random.default_rng(0))]] += 1
        else:
            counts[is_open] = np.minimum(counts[is_open] + share, sizes[is_open])
    return counts
