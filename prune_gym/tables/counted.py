"""Counted budgets of a whole grid: polynomials of the filters that go.

A tensor has the product of its axes' lengths in elements, and filters run along two of them at
most, so that a budget which counts elements is a polynomial of degree two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.sizes import TensorSizes


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A counted budget by the filters d that go: constant + linear d + d quadratic d.

    Attributes:
        constant: of the unpruned network.
        linear: (n_groups,).
        quadratic: (n_groups, n_groups), symmetric.
    """

    constant: float
    linear: NDArray[np.float64]
    quadratic: NDArray[np.float64]

    @classmethod
    def of(cls, sizes: TensorSizes, weights: NDArray[np.float64]) -> Polynomial:
        """The budget that weighs every element of tensor t by ``weights[t]``, (n_tensors,)."""
        lengths, width = sizes.lengths, sizes.width
        if len(lengths) > 2:
            raise UnsupportedNetworkError("filters run along three axes of one tensor; no table.")
        if len(lengths) == 1:
            lengths = np.concatenate([lengths, np.ones_like(lengths)])
            width = np.concatenate([width, np.zeros_like(width)])
        scale = weights * sizes.fixed  # (n_tensors,)
        (first, second), (along_first, along_second) = lengths, width
        linear = -(scale * second) @ along_first - (scale * first) @ along_second
        quadratic = along_first.T @ (scale[:, None] * along_second)
        return cls(
            float(scale @ (first * second)),
            linear - weights @ sizes.single,
            (quadratic + quadratic.T) / 2.0,
        )

    def values(self, dropped: NDArray[np.float64]) -> NDArray[np.float64]:
        """The budget, (...,), of ``dropped`` filters per group, (..., n_groups)."""
        found: NDArray[np.float64] = (
            self.constant + dropped @ self.linear + ((dropped @ self.quadratic) * dropped).sum(-1)
        )
        return found

    def of_grid(self, dropped: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
        """The budget of every network of a grid, (n_levels of group 1, ..., of group K).

        Args:
            dropped: of every group the filters that go at each of its levels, (n_levels,).
        """
        n = len(dropped)
        axes = [d.reshape([-1 if j == i else 1 for j in range(n)]) for i, d in enumerate(dropped)]
        found = np.full([len(d) for d in dropped], self.constant)
        for i, d in enumerate(axes):
            found += self.linear[i] * d + self.quadratic[i, i] * d * d
            for j in range(i):
                if self.quadratic[i, j]:
                    found += 2.0 * self.quadratic[i, j] * d * axes[j]
        return found
