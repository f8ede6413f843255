"""Stratified, deterministic hold-out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_gym.datasets.holdout import hold_out, shares

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(np.array)


@given(LABELS, st.data())
def test_shares_are_in_proportion(labels, data):
    total = data.draw(st.integers(0, len(labels)))
    counts = shares(labels, total)
    sizes = np.bincount(labels)
    assert counts.sum() == total
    assert (counts <= sizes).all()
    assert (np.abs(counts - sizes * total / len(labels)) < 1).all()


def test_shares_of_a_balanced_set():
    assert shares(np.arange(50_000) % 10, 5000).tolist() == [500] * 10
    assert shares(np.arange(50_000) % 100, 5000).tolist() == [50] * 100


@given(LABELS, st.integers(0, 5))
def test_every_row_is_on_one_side(labels, seed):
    counts = shares(labels, len(labels) // 3)
    rest, held = hold_out(labels, counts, seed)
    assert sorted([*rest, *held]) == list(range(len(labels)))
    assert np.bincount(labels[held], minlength=len(counts)).tolist() == counts.tolist()
    again = hold_out(labels, counts, seed)
    assert np.array_equal(again[0], rest)
    assert np.array_equal(again[1], held)


def test_the_choice_depends_on_the_seed_and_is_no_block():
    labels = np.repeat(np.arange(4), 500)
    rest, held = hold_out(labels, np.full(4, 50), seed=0)
    assert not np.array_equal(hold_out(labels, np.full(4, 50), seed=1)[1], held)
    for label in range(4):
        mine = np.sort(held[labels[held] == label]) - 500 * label
        assert mine.min() < 50
        assert mine.max() > 450
    # the first rows hold every class in about its share
    for rows in (rest, held):
        assert np.bincount(labels[rows[:100]], minlength=4).min() > 10
    assert (np.diff(rest) < 0).mean() == pytest.approx(0.5, abs=0.05)
