"""Racing: a network that is far below another one is judged on a part of the images only.

The images come in one order, drawn once, every class in turn. After a half of them, an eighth, a
32nd and so on (`FEWEST` at least) a network's score so far is held against a bar, the
accuracy of another network: if one that does better than that on all images would hardly ever have
so few of them right by then, this network is judged no further.

How often that is wrong is bounded: by `ERROR_RATE` for a network in all its looks together, over
the draw of the order. The test is exact, as the split is finite: of ``n`` images with ``k`` right
ones among them, the right ones among the first ``m`` are hypergeometric (and spread less where
classes take turns); the looks share the error rate (Bonferroni). What cannot pass the bar even if
all other images were right is dropped by the same test, and never wrongly.
Cf. Maron and Moore, "The racing algorithm" (1997).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import hypergeom

ERROR_RATE = 0.01  # of wrongly dropped networks, at most
FEWEST = 200  # images before the first look: smaller forwards cost what is saved


@dataclass(frozen=True, eq=False)
class Race:
    """The order in which examples are judged, and when a network is dropped.

    Attributes:
        order: rows of the split, (n,) int64.
        looks: after how many of them a score is looked at, rising.
        error_rate: of a network, in all looks together.
    """

    order: torch.Tensor
    looks: tuple[int, ...]
    error_rate: float = ERROR_RATE

    @classmethod
    def over(cls, classes: NDArray[np.int64], device: torch.device) -> Race:
        """A race over the examples of a split.

        Args:
            classes: of each example, (n,).
            device: of the split.
        """
        looks, share = [], len(classes) // 2
        while share >= FEWEST:  # each look costs a forward of its own: few of them
            looks.append(share)
            share //= 4
        return cls(balanced_order(classes).to(device), tuple(reversed(looks)))

    @property
    def stages(self) -> list[slice]:
        """Places of the order that are judged before each look, and at last the rest."""
        ends = [*self.looks, len(self.order)]
        return [slice(start, end) for start, end in zip([0, *self.looks], ends, strict=True)]

    def is_lost(self, right: int, judged: int, bar: float) -> bool:
        """Whether a network is dropped.

        Args:
            right: examples of the first ``judged`` that it has right.
            judged: how many were judged.
            bar: the accuracy, in [0, 1], that it would have to exceed on all examples.
        """
        n = len(self.order)
        least = round(bar * n) + 1  # right ones of a network that is better
        if least > n:
            return True
        return _chance(right, n, least, judged) <= self.error_rate / len(self.looks)


@lru_cache(maxsize=2**14)
def _chance(right: int, n: int, n_right: int, judged: int) -> float:
    """Of at most so many right ones among those judged, if ``n_right`` of ``n`` are right."""
    return float(hypergeom.cdf(right, n, n_right, judged))


def balanced_order(classes: NDArray[np.int64], seed: int = 0) -> torch.Tensor:
    """All rows in random order, (n,) int64, but every part of it holds each class by its share.

    >>> balanced_order(np.array([0, 0, 0, 1, 1, 1]))[:2].div(3, rounding_mode="floor").sum().item()
    1
    """
    generator = np.random.default_rng(seed)
    turns = np.empty(len(classes))
    for one in np.unique(classes):
        rows = np.flatnonzero(classes == one)
        places = generator.permutation(len(rows)) + generator.random(len(rows))
        turns[rows] = places / len(rows)
    return torch.from_numpy(np.argsort(turns, kind="stable"))
