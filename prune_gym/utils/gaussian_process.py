"""Regression by a Gaussian process: what is expected at a point, and how far off it may be."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

LENGTHS = (1.0, 2.0, 4.0)  # over which values go together
NOISES = (0.03, 0.1, 0.3)  # variance of what the process does not explain, of that of the values

Points = NDArray[np.float64]  # (n, n_dimensions)
Values = NDArray[np.float64]  # (n,)


class GaussianProcess:
    """A Gaussian process with a Matern 3/2 kernel (Rasmussen and Williams 2006, chapters 2 and 5).

    Values are standardised. Length and noise are those of `LENGTHS` and `NOISES` under which the
    values are most likely.

    Args:
        points: (n, n_dimensions), where values are known.
        values: (n,), finite.
    """

    def __init__(self, points: Points, values: Values) -> None:
        self.points, self.mean = points, values.mean()
        self.scale = float(values.std()) or 1e-9
        standard = (values - self.mean) / self.scale
        distances = _distances(points, points)
        likeliest = -np.inf
        for length, noise in product(LENGTHS, NOISES):
            factor = np.linalg.cholesky(_matern(distances / length) + noise * np.eye(len(points)))
            half = np.linalg.solve(factor, standard)
            likelihood = -0.5 * half @ half - np.log(np.diagonal(factor)).sum()
            if likelihood > likeliest:
                likeliest = likelihood
                self.length, self.noise, self._factor, self._half = length, noise, factor, half

    def predict(self, points: Points) -> tuple[Values, Values]:
        """Expected values, (m,), at points, (m, n_dimensions), and their standard deviations."""
        between = _matern(_distances(self.points, points) / self.length)
        half = np.linalg.solve(self._factor, between)
        expected: Values = self.mean + self.scale * (half.T @ self._half)
        deviations: Values = self.scale * np.sqrt(np.maximum(1.0 - (half**2).sum(axis=0), 1e-9))
        return expected, deviations


def _distances(some: Points, others: Points) -> NDArray[np.float64]:
    """Euclidean distances, (n, m)."""
    square = (some**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2.0 * some @ others.T
    found: NDArray[np.float64] = np.sqrt(np.maximum(square, 0.0))
    return found


def _matern(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Matern 3/2 kernel at distances in units of its length."""
    scaled = np.sqrt(3.0) * distances
    found: NDArray[np.float64] = (1.0 + scaled) * np.exp(-scaled)
    return found
