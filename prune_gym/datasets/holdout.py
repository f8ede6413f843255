"""Holding examples out of a split: stratified by class, shuffled, the same on every machine."""

from __future__ import annotations

import numpy as np


def shares(labels: np.ndarray, total: int) -> np.ndarray:
    """How many examples of each class to hold out, ``total`` in all, in proportion.

    Rounded by the largest remainder.

    Args:
        labels: (n,) whole numbers from 0.
        total: how many in all, at most n.

    Returns:
        (n_classes,) whole numbers.

    >>> shares(np.array([0, 0, 0, 0, 1, 1]), 3)
    array([2, 1])
    """
    exact = np.bincount(labels) * total / len(labels)
    counts = np.floor(exact).astype(np.int64)
    most = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[most] += 1
    return counts


def hold_out(labels: np.ndarray, counts: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stay, and rows held out: ``counts`` of each class, both in random order.

    The order is random because "the first 256 images" of a split should hold every class.

    Args:
        labels: (n,) whole numbers from 0.
        counts: (n_classes,) how many to hold out of each class.
        seed: of the choice and of the order.

    >>> rest, held = hold_out(np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1]), seed=0)
    >>> sorted([*rest, *held]) == [0, 1, 2, 3, 4, 5], len(held)
    (True, 2)
    """
    generator = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label, count in enumerate(counts):
        held[generator.permutation(np.flatnonzero(labels == label))[:count]] = True
    return generator.permutation(np.flatnonzero(~held)), generator.permutation(np.flatnonzero(held))
