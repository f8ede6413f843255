"""`benchmarks/reward_rank.py`: tau in numbers, and its table; nothing is trained here."""

from __future__ import annotations

import importlib

import numpy as np
import pytest


@pytest.fixture
def reward_rank(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    return importlib.import_module("reward_rank")


@pytest.mark.parametrize(
    ("scores", "truth", "tau"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 1, 2], [1, 2, 3], 2 / 6**0.5),  # tau-b: a tie is neither right nor wrong
    ],
)
def test_tau_is_kendalls(reward_rank, scores, truth, tau):
    weights = np.full((1, len(scores)), 1 / len(scores))
    assert reward_rank.taus(np.array(scores), np.array(truth), weights)[0] == pytest.approx(tau)


def test_a_copy_in_a_bootstrap_sample_is_no_pair(reward_rank):
    scores, truth = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    weights = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    assert reward_rank.taus(scores, truth, weights) == pytest.approx([1.0, -1.0])


def test_the_table_of_some_rows(reward_rank):
    """Both kinds are ranked apart: telling them apart is no order within them."""
    key = {"problem": "resnet20-macs", "images": 5000, "epochs": 2}
    rows = []
    for number in range(8):
        own = {**key, "network": number}
        is_random = number % 2
        order = number // 2  # the random ones are worse, all of them
        scores = {"accuracy": 0.5 - 0.4 * is_random, "loss": 2.0 - 0.1 * order}
        truth = 0.8 - 0.3 * is_random + 0.01 * order
        tuned = {"tuned_test": truth, "kind": "random" if is_random else "near the scan's"}
        rows.append({**own, "part": "tuned", "scores": scores, "seconds": 1.0, **tuned})
        rows.append({**own, "part": "32 steps", "scores": scores, "seconds": 9.0})
        if number < 4:
            again = {**tuned, "tuned_test": truth + 0.02 * (number == 0)}
            rows.append({**own, "part": "tuned again", **again})
    text = "\n".join(reward_rank.lines_of(rows))
    # accuracy tells the kinds apart and nothing else; the loss has the order within each
    assert "| accuracy, at once | 8 | 0.00 [0.00, 0.00] | 0.00 [0.00, 0.00] | 0.00 [" in text
    assert "| loss, at once | 8 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 1.00 [" in text
    assert "| loss, after 32 steps | 8 | 1.00 [" in text
    assert "All, by the kind alone: 0.76." in text
    assert "Two fine-tunings of 2 networks, near the scan's: tau -1.00, and 0.0200 apart" in text
    assert "Two fine-tunings of 2 networks, random: tau 1.00, and 0.0000 apart at most." in text
