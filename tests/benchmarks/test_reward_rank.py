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
    key = {"problem": "resnet20-macs", "images": 5000, "epochs": 2}
    rows = []
    for number in range(8):
        own = {**key, "network": number}
        scores = {"accuracy": 0.1 * (number // 2), "loss": 2.0 - 0.1 * number}
        tuned = {"tuned_test": 0.5 + 0.01 * number, "kind": "random" if number % 2 else "near"}
        rows.append({**own, "part": "tuned", "scores": scores, "seconds": 1.0, **tuned})
        rows.append({**own, "part": "32 steps", "scores": scores, "seconds": 9.0})
        if number < 3:
            rows.append({**own, "part": "tuned again", **tuned})
    text = "\n".join(reward_rank.lines_of(rows))
    assert "| loss, at once | 8 | 1.00 [1.00, 1.00] | 0.07 [" in text
    assert "| accuracy, after 32 steps | 8 | 0.93 [" in text
    assert "Two fine-tunings of 3 networks agree at 1.00 [" in text
