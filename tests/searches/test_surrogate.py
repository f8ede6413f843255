"""What Bayesian optimisation learns from, and what it asks for next."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from prune_gym.searches import surrogate as module
from prune_gym.searches.surrogate import Surrogate


@pytest.fixture(scope="module")
def groups():
    """Those of a tiny network."""
    return tiny.make_tiny().groups


def learned(groups, worst=0.0, n=40):
    """A surrogate that has seen networks, the better the more filters the first group keeps."""
    generator = np.random.default_rng(0)
    counts = [generator.integers(2, 33, len(groups)) for _ in range(n)]
    found = Surrogate(groups, None)
    found.note(counts, [(own[0] / 32.0, 0.5, True) for own in counts])
    found.note([np.ones(len(groups), dtype=np.int64)], [(worst, 0.5, True)])
    return found


@pytest.mark.parametrize("worst", [0.0, -1e4, -1e12])
def test_one_ruined_network_does_not_blind_it(groups, worst):
    asked = np.array([[3, 15, 15], [30, 15, 15]])
    ((best,),) = [learned(groups, worst).chosen(asked, 1, np.random.default_rng(0))]
    assert best[0] == 30


def test_each_network_is_learned_once(groups):
    found = learned(groups)
    n = len(found.counts)
    found.note([found.counts[0]], [(0.0, 0.5, True)])
    assert len(found.counts) == len(found.judged) == n


def test_it_learns_from_the_best_where_there_are_many(groups, monkeypatch):
    seen = []

    class Process(module.GaussianProcess):
        def __init__(self, points, values):
            seen.append(values)
            super().__init__(points, values)

    monkeypatch.setattr(module, "GaussianProcess", Process)
    monkeypatch.setattr(module, "MOST", 8)
    found = learned(groups)
    found.chosen(np.array([[3, 15, 15], [30, 15, 15]]), 1, np.random.default_rng(0))
    assert len(seen[0]) == 8
    assert seen[0].min() >= sorted(one[0] for one in found.judged)[-8]
