"""The sensitivity scan: what the score loses when one filter group alone is cut.

Each group is cut to a few widths while all others stay whole, and the networks are judged as any
other. It is the cheapest thing that can be known of a network before a search, a handful of
networks per group, and says which groups can be cut deeply and which cannot.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prune_gym.errors import InvalidTypeError, InvalidValueError
from prune_gym.problem.costs import Counts
from prune_gym.pruning.masks import Masks

if TYPE_CHECKING:
    from prune_gym.problem.problem import PruningProblem

WIDTHS = (0.0625, 0.125, 0.25, 0.5)  # fractions kept of the group that is cut
# fewer of them, where there are not enough evaluations for all
_FEWER = ((), (0.125,), (0.0625, 0.25), (0.0625, 0.125, 0.25), WIDTHS)

Judged: TypeAlias = list[tuple[float, float, bool]]  # reward, cost, feasible
# yields batches of keep masks, is sent what they came to
Scan: TypeAlias = Generator[list[Masks], Judged, "Sensitivity"]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What a network's score loses when one filter group alone is cut.

    Attributes:
        names: of the groups.
        sizes: (n_groups,) int64, filters per group.
        unpruned: reward of the unpruned network.
        counts: filters kept of each group where it was cut, ascending, (n_widths,) int64.
        rewards: what those networks came to, (n_widths,) float64.
    """

    names: tuple[str, ...]
    sizes: Counts
    unpruned: float
    counts: tuple[Counts, ...]
    rewards: tuple[NDArray[np.float64], ...]

    @property
    def evaluations(self) -> int:
        """Networks that were judged for it."""
        return 1 + sum(len(own) for own in self.counts)

    @cached_property
    def drops(self) -> tuple[NDArray[np.float64], ...]:
        """What is lost at each width, (n_widths,) float64 >= 0, made monotone.

        ``drop[i] = max over j >= i of max(0, unpruned - reward[j])``: a narrower group never loses
        less than a wider one; where it was judged better, that was luck.
        """
        lost = [np.maximum(self.unpruned - own, 0.0) for own in self.rewards]
        return tuple(np.maximum.accumulate(own[::-1])[::-1] for own in lost)

    def drop(self, group: int, shares: Any) -> NDArray[np.float64]:
        """What is lost where a group keeps these shares of its filters.

        Between the widths that were judged it is interpolated along the logarithm of the share. A
        group of which nothing is left is taken to lose everything.

        Args:
            group: its index.
            shares: (...,) in [0, 1].

        Returns:
            (...,) float64.

        Raises:
            ValueError: no index of a group.
        """
        if group not in range(len(self.sizes)):
            raise InvalidValueError(
                f"group={group!r}: expected the index of a group, 0 to {len(self.sizes) - 1}."
            )
        size = float(self.sizes[group])
        known = self.counts[group].astype(np.float64) / size
        nothing = 0.5 / size  # stands for no filter at all, whose logarithm there is not
        places = np.log([nothing, *np.maximum(known, nothing), 1.0])
        lost = [max(self.unpruned, *self.drops[group], 0.0), *self.drops[group], 0.0]
        if known.size and known[0] == 0.0:  # it was judged
            places, lost = places[1:], lost[1:]
        wanted = np.log(np.maximum(np.asarray(shares, dtype=np.float64), nothing))
        found: NDArray[np.float64] = np.interp(wanted, places, lost)
        return found


def scan_counts(problem: PruningProblem, most: int | None = None) -> list[Counts]:
    """Filters kept per group, (n_groups,) each, of the networks that a scan judges.

    The first one is the unpruned network; then group after group is cut to `WIDTHS` of its filters.

    Args:
        problem: whose groups are cut.
        most: judge no more than so many networks, by fewer widths per group; None = no bound.
    """
    n_widths = len(WIDTHS) if most is None else widths_within(most, len(problem.groups))
    plan = [problem.sizes]
    for group in range(len(problem.groups)):
        shares = [0.0, *_FEWER[n_widths]] if _goes_whole(problem, group) else _FEWER[n_widths]
        found = {problem.kept_count(group, 1.0 - share) for share in shares}
        for n in sorted(found - {int(problem.sizes[group])}):
            counts = problem.sizes.copy()
            counts[group] = n
            plan.append(counts)
    return plan if most is None else plan[: max(most, 1)]


def widths_within(most: int, n_groups: int) -> int:
    """At how many widths a scan cuts each group, where it judges no more than ``most`` networks."""
    return min(len(WIDTHS), max(0, most - 1) // max(1, n_groups))


def _goes_whole(problem: PruningProblem, group: int) -> bool:
    """Whether a group may keep nothing; of the groups of one block the first stands for all."""
    block = problem.groups[group].block
    earlier = [other.block for other in problem.groups[:group]]
    return block is not None and block not in earlier


def scanning(problem: PruningProblem, most: int | None = None) -> Scan:
    """The scan as a proposer: yields networks to judge, is sent what they came to.

    Args:
        problem: whose groups are cut.
        most: see `scan_counts`.
    """
    plan = scan_counts(problem, most)
    judged = yield [problem.masks_of(counts) for counts in plan]
    return sensitivity_of(problem, plan, [reward for reward, _, _ in judged])


def scan(problem: PruningProblem) -> Sensitivity:
    """Judge the networks of the scan, here and now."""
    plan = scan_counts(problem)
    return sensitivity_of(
        problem, plan, [problem.evaluate(problem.masks_of(counts)).accuracy for counts in plan]
    )


def sensitivity_of(
    problem: PruningProblem, plan: Sequence[Counts], rewards: Sequence[float]
) -> Sensitivity:
    """What the networks of `scan_counts` say.

    Args:
        problem: whose groups were cut.
        plan: (n_groups,) kept filters each; the first one is the unpruned network.
        rewards: of as many of them as were judged.
    """
    counts: list[list[int]] = [[] for _ in problem.groups]
    found: list[list[float]] = [[] for _ in problem.groups]
    for kept, reward in zip(plan[1:], rewards[1:], strict=False):
        group = int(np.flatnonzero(kept != problem.sizes)[0])
        counts[group].append(int(kept[group]))
        found[group].append(float(reward))
    return Sensitivity(
        names=tuple(group.name for group in problem.groups),
        sizes=problem.sizes,
        unpruned=float(rewards[0]),
        counts=tuple(np.array(own, dtype=np.int64) for own in counts),
        rewards=tuple(np.array(own, dtype=np.float64) for own in found),
    )


def check_sensitivity(problem: PruningProblem, sensitivity: Any) -> Sensitivity:
    """The sensitivity, if it is one of this problem's groups.

    Raises:
        TypeError: it is none.
        ValueError: it is of other groups.
    """
    if not isinstance(sensitivity, Sensitivity):
        raise InvalidTypeError(
            f"sensitivity={sensitivity!r}: expected a Sensitivity; problem.sensitivity makes one."
        )
    names = tuple(group.name for group in problem.groups)
    if sensitivity.names != names or not np.array_equal(sensitivity.sizes, problem.sizes):
        raise InvalidValueError(
            "sensitivity is of other filter groups than the problem's; problem.sensitivity makes "
            "one of these."
        )
    return sensitivity
