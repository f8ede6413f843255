"""What the networks that were judged tell of others: the model of Bayesian optimisation."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from prune_gym.problem.allocation import Widths
from prune_gym.problem.costs import Counts
from prune_gym.problem.sensitivity import Judged
from prune_gym.pruning.masks import Masks, kept_per_group
from prune_gym.utils.gaussian_process import GaussianProcess

CANDIDATES, PARENTS = 128, 5  # the former are steps from so many of the best
STEPS = 0.1, 0.6  # least and largest standard deviation of the logarithms of kept filters
FEW = 2.5  # groups that half of the candidates change, on average
SHIFT = 0.3  # standard deviation of what the logarithms of all groups are raised by
CURIOSITY = 0.3  # weight of the doubt, in standard deviations

T = TypeVar("T")


class Surrogate:
    """Gaussian processes over the logarithms of numbers of filters, of accuracies and of costs.

    Args:
        cost_limit: of the scalar cost; None where only networks within limits are proposed.
    """

    def __init__(self, cost_limit: float | None) -> None:
        self.cost_limit = cost_limit
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
        """Learn from networks that were judged."""
        self.counts += counts
        self.judged += judged

    def candidates(self, generator: np.random.Generator) -> Widths:
        """Steps of several sizes from the best networks, of all groups or of a few.

        Returns:
            (`CANDIDATES`, n_groups) widths.
        """
        accuracies, costs, feasible = map(np.array, zip(*self.judged, strict=True))
        order = np.lexsort((np.where(feasible, accuracies, -costs), feasible))[::-1]
        best = np.array(self.counts)[order[:PARENTS]]
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
        counts = np.unique(counts, axis=0)
        seen = {tuple(own) for own in np.array(self.counts).tolist()}
        is_new = np.array([tuple(own) not in seen for own in counts.tolist()])
        counts = counts[is_new] if is_new.any() else counts
        accuracies, costs, _ = map(np.array, zip(*self.judged, strict=True))
        known, asked = _logarithms(np.array(self.counts)), _logarithms(counts)
        expected, doubt = GaussianProcess(known, accuracies).predict(asked)
        weights = CURIOSITY * np.abs(generator.standard_normal((n, 1)))
        merits = (expected + weights * doubt) / (accuracies.std() + 1e-9)
        if self.cost_limit is not None:
            cost, error = GaussianProcess(known, np.log(np.maximum(costs, 1e-9))).predict(asked)
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
