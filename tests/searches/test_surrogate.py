"""What Bayesian optimisation learns from, and what it asks for next."""

from __future__ import annotations

from itertools import product

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

    def expectation(known, values, asked):
        seen.append(values)
        return real(known, values, asked)

    real = module.expectation
    monkeypatch.setattr(module, "expectation", expectation)
    monkeypatch.setattr(module, "MOST", 8)
    found = learned(groups)
    found.chosen(np.array([[3, 15, 15], [30, 15, 15]]), 1, np.random.default_rng(0))
    assert len(seen[0]) == 8
    assert seen[0].min() >= sorted(one[0] for one in found.judged)[-8]


@pytest.fixture
def points():
    """(12, 2)."""
    return np.random.default_rng(0).uniform(0.0, 6.0, (12, 2))


def test_expectations_are_those_of_the_textbook_at_one_of_the_lengths(points):
    values, asked = np.sin(points).sum(axis=1), points[:3] + 0.3
    found, deviations = module.expectation(points, values, asked)

    def textbook(length, noise):  # Rasmussen and Williams 2006, (2.25) and (2.26)
        def kernel(one, other):
            r = np.sqrt(3.0) * np.linalg.norm(one[:, None] - other, axis=-1) / length
            return (1.0 + r) * np.exp(-r)

        inverse = np.linalg.inv(kernel(points, points) + noise * np.eye(12))
        between = kernel(asked, points)
        standard = (values - values.mean()) / values.std()
        likelihood = -0.5 * standard @ inverse @ standard + 0.5 * np.linalg.slogdet(inverse)[1]
        expected = values.mean() + values.std() * between @ inverse @ standard
        variance = 1.0 - np.einsum("ij,jk,ik->i", between, inverse, between)
        return likelihood, expected, values.std() * np.sqrt(variance)

    likeliest = max(
        (textbook(*chosen) for chosen in product(module.LENGTHS, module.NOISES)),
        key=lambda one: one[0],
    )
    np.testing.assert_allclose(found, likeliest[1], rtol=1e-6)
    np.testing.assert_allclose(deviations, likeliest[2], rtol=1e-6)


def test_far_away_the_mean_is_expected_and_all_is_doubted(points):
    values = points[:, 0]
    expected, deviations = module.expectation(points, values, np.full((1, 2), 1e3))
    np.testing.assert_allclose(expected, values.mean())
    np.testing.assert_allclose(deviations, values.std())


@pytest.mark.parametrize("n", [1, 4])
def test_equal_values_are_expected_everywhere(points, n):
    expected, _ = module.expectation(points[:n], np.full(n, 0.25), points)
    np.testing.assert_allclose(expected, 0.25)


def test_costs_count_where_all_networks_are_equally_good(groups):
    found = Surrogate(groups, 0.5)
    counts = [np.array([n, 16, 16]) for n in range(2, 32, 3)]
    found.note(counts, [(0.25, own[0] / 32.0, own[0] <= 16) for own in counts])
    asked = np.array([[4, 16, 16], [30, 16, 16]])
    (best,) = found.chosen(asked, 1, np.random.default_rng(0))
    assert best[0] == 4
