"""What the networks that were judged tell of others: the model of Bayesian optimisation."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import product
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from prune_gym.problem.allocation import Widths
from prune_gym.problem.costs import Counts
from prune_gym.problem.sensitivity import Judged
from prune_gym.pruning.groups import FilterGroup, settled_counts
from prune_gym.pruning.masks import Masks, kept_per_group

CANDIDATES, PARENTS = 128, 5  # the former are steps from so many of the best
STEPS = 0.1, 0.6  # least and largest standard deviation of the logarithms of kept filters
FEW = 2.5  # groups that half of the candidates change, on average
SHIFT = 0.3  # standard deviation of what the logarithms of all groups are raised by
CURIOSITY = 0.3  # weight of the doubt, in standard deviations
MOST = 512  # networks that are learned from, the best ones: the work grows with their cube
RUINED = 2.0  # below the best reward, how much lower makes no difference; accuracies end before
CHEAPEST = 1e-3  # costs below are not told apart
LENGTHS = 1.0, 2.0, 4.0  # octaves over which networks resemble each other, one of these
NOISES = 0.03, 0.1, 0.3  # share of the variance that widths do not explain, one of these

Values = NDArray[np.float64]

T = TypeVar("T")


class Surrogate:
    """Gaussian processes over the logarithms of numbers of filters, of accuracies and of costs.

    Args:
        groups: of the problem.
        cost_limit: of the scalar cost; None where only networks within limits are proposed.
    """

    def __init__(self, groups: Sequence[FilterGroup], cost_limit: float | None) -> None:
        self.groups, self.cost_limit = groups, cost_limit
        self._seen: set[tuple[int, ...]] = set()
        self.counts: list[Counts] = []
        self.judged: Judged = []

    def noting(
        self, proposer: Generator[list[Masks], Judged, T]
    ) -> Generator[list[Masks], Judged, T]:
        """The same proposer, of which every network is learned from."""
        judged = None
        while True:
            try:
                batch = proposer.send(judged)  # type: ignore[arg-type]
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
            judged = yield batch
            self.note([kept_per_group(masks) for masks in batch], judged)

    def note(self, counts: list[Counts], judged: Judged) -> None:
        """Learn from networks that were judged, from each once."""
        for own, came_to in zip(counts, judged, strict=True):
            if tuple(own.tolist()) not in self._seen:
                self._seen.add(tuple(own.tolist()))
                self.counts.append(own)
                self.judged.append(came_to)

    @property
    def _best_first(self) -> NDArray[np.int64]:
        """Indices of what was judged: by accuracy, and after them by cost what is over a limit."""
        accuracies, costs, feasible = map(np.array, zip(*self.judged, strict=True))
        found: NDArray[np.int64]
        found = np.lexsort((np.where(feasible, accuracies, -costs), feasible))[::-1]
        return found

    def candidates(self, generator: np.random.Generator) -> Widths:
        """Steps of several sizes from the best networks, of all groups or of a few.

        Returns:
            (`CANDIDATES`, n_groups) widths.
        """
        best = np.array(self.counts)[self._best_first[:PARENTS]]
        parents = np.maximum(best[generator.integers(len(best), size=CANDIDATES)], 0.5)
        sizes = np.exp(generator.uniform(np.log(STEPS[0]), np.log(STEPS[1]), (CANDIDATES, 1)))
        steps = sizes * generator.standard_normal(parents.shape)
        steps[::2] *= generator.random(steps[::2].shape) < FEW / parents.shape[1]
        found: Widths = parents * np.exp(steps + SHIFT * generator.standard_normal((CANDIDATES, 1)))
        return found

    def chosen(self, counts: Counts, n: int, generator: np.random.Generator) -> list[Counts]:
        """Those of some networks that are judged next, of which most is expected.

        What is expected of a network's accuracy, and a random part of its doubt, is weighed by the
        probability that its cost is within the limit (Gardner et al. 2014).

        Args:
            counts: (n_networks, n_groups) filters; what was judged is left out where others remain.
            n: how many are judged; each has a random part of its own.
            generator: of random numbers.

        Returns:
            n networks at most, at least one, (n_groups,) each.
        """
        if any(group.block is not None for group in self.groups):
            counts = np.stack([settled_counts(self.groups, own) for own in counts])
        counts = np.unique(counts, axis=0)
        is_new = np.array([tuple(own) not in self._seen for own in counts.tolist()])
        counts = counts[is_new] if is_new.any() else counts
        rows = np.sort(self._best_first[:MOST])
        accuracies, costs, _ = (np.array(own)[rows] for own in zip(*self.judged, strict=True))
        accuracies = np.maximum(accuracies, accuracies.max() - RUINED)
        known, asked = _logarithms(np.array(self.counts)[rows]), _logarithms(counts)
        expected, doubt = expectation(known, accuracies, asked)
        weights = CURIOSITY * np.abs(generator.standard_normal((n, 1)))
        merits = (expected + weights * doubt) / (accuracies.std() or 1.0)
        if self.cost_limit is not None:
            costs = np.log(np.maximum(costs, CHEAPEST))
            cost, error = expectation(known, costs, asked)
            below = torch.from_numpy((np.log(self.cost_limit) - cost) / error)
            merits = merits + torch.special.log_ndtr(below).numpy()
        places: list[int] = []
        for own in merits:
            own[places] = -np.inf
            places.append(int(own.argmax()))
        return [counts[place] for place in dict.fromkeys(places)]


def _logarithms(counts: Counts) -> NDArray[np.float64]:
    """Octaves, half a filter where none is kept."""
    return np.log2(np.maximum(counts, 0.5))


def expectation(known: Values, values: Values, asked: Values) -> tuple[Values, Values]:
    """What a Gaussian process with a Matern 3/2 kernel expects, by the likeliest length and noise.

    Args:
        known: (n, n_dimensions), where values are known.
        values: (n,), finite.
        asked: (m, n_dimensions).

    Returns:
        Expected values, (m,), and how far off they may be, (m,), in standard deviations.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    processes = [
        GaussianProcessRegressor(
            Matern(length, nu=1.5), alpha=noise, optimizer=None, normalize_y=True
        )
        for length, noise in product(LENGTHS, NOISES)
    ]
    for process in processes:
        process.fit(known, values)
    likeliest = max(processes, key=lambda process: process.log_marginal_likelihood_value_)
    expected, deviations = likeliest.predict(asked, return_std=True)
    return expected, deviations
