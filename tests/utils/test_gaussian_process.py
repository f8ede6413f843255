"""Regression by a Gaussian process, against the formulas of the textbook."""

from __future__ import annotations

import numpy as np
import pytest

from prune_gym.utils.gaussian_process import GaussianProcess


@pytest.fixture
def points():
    """(12, 2)."""
    return np.random.default_rng(0).uniform(0.0, 6.0, (12, 2))


def test_it_is_the_formula_of_the_textbook(points):
    values = np.sin(points).sum(axis=1)
    process = GaussianProcess(points, values)
    asked = points[:3] + 0.3
    # Rasmussen and Williams, (2.25) and (2.26), with inverses, and distances one by one

    def kernel(one, other):
        r = np.sqrt(3.0) * np.linalg.norm(one[:, None] - other, axis=-1) / process.length
        return (1.0 + r) * np.exp(-r)

    inverse = np.linalg.inv(kernel(points, points) + process.noise * np.eye(12))
    between = kernel(asked, points)
    expected = values.mean() + between @ inverse @ (values - values.mean())
    variance = 1.0 - np.einsum("ij,jk,ik->i", between, inverse, between)
    found, deviations = process.predict(asked)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(deviations, values.std() * np.sqrt(variance), rtol=1e-6)


def test_far_away_it_knows_the_mean_and_nothing_else(points):
    values = points[:, 0]
    expected, deviations = GaussianProcess(points, values).predict(np.full((1, 2), 1e3))
    np.testing.assert_allclose(expected, values.mean())
    np.testing.assert_allclose(deviations, values.std())


def test_noise_and_length_are_those_that_make_the_values_likely(points):
    generator = np.random.default_rng(1)
    smooth = GaussianProcess(points, points @ [1.0, 0.5])
    rough = GaussianProcess(points, generator.standard_normal(12))
    assert smooth.noise < rough.noise
    assert smooth.length > 1.0


@pytest.mark.parametrize("n", [1, 4])
def test_equal_values_are_expected_everywhere(points, n):
    expected, deviations = GaussianProcess(points[:n], np.full(n, 0.25)).predict(points)
    np.testing.assert_allclose(expected, 0.25)
    assert (deviations < 1e-6).all()
