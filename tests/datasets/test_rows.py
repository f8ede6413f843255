"""Rows that stand for a set: every class, every part of it, whatever its order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prune_gym.datasets import Split
from prune_gym.datasets.rows import spread_rows

SORTED = np.repeat(np.arange(10), 100)


def orders(labels: np.ndarray) -> dict[str, np.ndarray]:
    mixed = np.random.default_rng(3).permutation(labels)
    return {"ascending": labels, "descending": labels[::-1], "mixed": mixed}


@pytest.mark.parametrize("order", ["ascending", "descending", "mixed"])
def test_every_class_is_there_in_whatever_order(order):
    labels = orders(SORTED)[order]
    rows = spread_rows(1000, 256, labels)
    assert torch.equal(rows, spread_rows(1000, 256, labels))  # always the same ones
    assert len(rows.unique()) == 256
    assert sorted(np.bincount(labels[rows]).tolist()) == [25] * 4 + [26] * 6
    for part in rows.split(32):
        assert len(np.unique(labels[part])) == 10


def test_rows_lie_all_over_a_class():
    rows = spread_rows(1000, 100, SORTED).sort().values.view(10, 10)
    assert torch.equal(rows // 10, torch.arange(100).view(10, 10))


@pytest.mark.parametrize(
    ("sizes", "wanted", "counts"),
    [
        ([500, 300, 20], 256, [118, 118, 20]),
        ([990, 1], 256, [255, 1]),
        ([5, 3], 256, [5, 3]),
        ([2, 0, 6], 6, [2, 0, 4]),
    ],
)
def test_rare_classes_give_all_they_have(sizes, wanted, counts):
    labels = np.repeat(np.arange(len(sizes)), sizes)[::-1]
    rows = spread_rows(len(labels), wanted, labels)
    assert np.bincount(labels[rows], minlength=len(sizes)).tolist() == counts


def test_more_classes_than_rows():
    labels = np.arange(3000) % 1000
    found = labels[spread_rows(3000, 256, labels)]
    assert len(np.unique(found)) == 256
    assert np.histogram(found, bins=8, range=(0, 1000))[0].tolist() == [32] * 8


def test_without_classes_rows_lie_all_over_the_set():
    rows = spread_rows(12_800, 256).sort().values
    assert torch.equal(rows // 50, torch.arange(256))
    assert len((rows % 50).unique()) > 30  # a cycle of 50 leaves nothing out


def test_classes_in_proportion():
    labels = np.repeat([0, 1], [900, 100])
    found = labels[spread_rows(1000, 50, labels, in_proportion=True)]
    assert np.bincount(found).tolist() == [45, 5]


def test_a_part_of_a_split():
    labels = torch.from_numpy(SORTED)
    split = Split(torch.arange(1000.0)[:, None], labels)
    some = split.subset(40)
    assert torch.bincount(some.labels).tolist() == [4] * 10
    assert torch.equal(labels[some.images[:, 0].long()], some.labels)
    assert split.subset(1000) is split
    assert torch.equal(split.first(3).images[:, 0], torch.arange(3.0))
