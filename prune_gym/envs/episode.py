"""An episode as one value: what was decided since its reset, and what it was charged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.costs import Ledger
from prune_gym.problem.costs import Constraint
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.groups import settled, settled_counts
from prune_gym.pruning.masks import Mask, Masks, kept_per_group


class Schedule(TypedDict, total=False):
    """Settings of an episode, as ``reset(options=...)`` and `PruneEnv.set_schedule` take them."""

    max_ratio: float  # largest prune ratio of a group, in (0, 1]
    recovery_steps: int  # optimizer steps of a recovery that trains
    limit: float | None  # of the one budget, with `limit_range`; None = drawn


class Decision(NamedTuple):
    """What becomes of one filter group."""

    mask: Mask  # (n_filters,) bool, True = keep
    ratio: float  # prune ratio, in [0, 1]


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode; a step makes a new one of it.

    Attributes:
        problem: what is pruned.
        max_ratio: largest prune ratio of a group, in (0, 1].
        recovery_steps: optimizer steps of a recovery that trains.
        limit: of the one budget, where it is this episode's own; None = the problem's limits hold.
        minimum: (n_groups,) int64, fewest filters per group that actions can reach.
        counts: (n_groups,) int64, filters kept per group; all of them where it is undecided.
        ledger: what it was charged.
        masks: keep masks of the groups decided so far, (n_filters,) bool each.
        ratios: their prune ratios, in [0, 1].
        outcome: what the finished network came to; None until it is judged.
    """

    problem: PruningProblem
    max_ratio: float
    recovery_steps: int
    limit: float | None
    minimum: NDArray[np.int64]
    counts: NDArray[np.int64]
    ledger: Ledger
    masks: Masks = ()
    ratios: tuple[float, ...] = ()
    outcome: Outcome | None = None

    @classmethod
    def begin(cls, problem: PruningProblem, schedule: Schedule, limit: float | None) -> Episode:
        """An episode in which nothing is decided yet; arguments as the attributes."""
        return cls(
            problem=problem,
            max_ratio=float(schedule["max_ratio"]),
            recovery_steps=int(schedule["recovery_steps"]),
            limit=limit,
            minimum=smallest_counts(problem, schedule["max_ratio"]),
            counts=problem.sizes,
            ledger=Ledger.empty(len(problem.budgets)),
        )

    @property
    def n_decided(self) -> int:
        """Groups decided so far; also the index of the next one."""
        return len(self.masks)

    @property
    def steps_left(self) -> int:
        """Groups that are still to be decided."""
        return len(self.problem.groups) - len(self.masks)

    @property
    def constraint(self) -> Constraint:
        """The limits, and the rule that makes one cost of all."""
        if self.limit is None:
            return self.problem.constraint
        return Constraint((self.limit,), is_relative=True)

    @property
    def limits(self) -> NDArray[np.float64]:
        """Limit of each cost, (n_budgets,) float64."""
        return np.array(self.constraint.limits, dtype=np.float64)

    # -- what steps do -----------------------------------------------------------------------

    def after(self, decisions: Iterable[Decision]) -> Episode:
        """The episode after decisions on the groups that are next in turn."""
        masks, ratios = zip(*decisions, strict=True)
        decided = settled(self.problem.groups, (*self.masks, *masks))
        counts = self.counts.copy()
        counts[: len(decided)] = kept_per_group(decided)
        return replace(self, masks=decided, ratios=(*self.ratios, *ratios), counts=counts)

    def charge_floor(self) -> Episode:
        """Charge the growth of the floor: the dense cost of a step."""
        return self._charge(self.floor_costs())

    def charge_nothing(self) -> Episode:
        """Charge nothing yet: the terminal cost comes with the last step."""
        return replace(self, ledger=self.ledger.charge_nothing())

    def judge(self, seed: int) -> Episode:
        """Build, repair and judge the network of the masks, all of which are there; charge it.

        Args:
            seed: of a recovery that draws random numbers.
        """
        outcome = self.problem.evaluate(self.masks, seed=seed, recovery_steps=self.recovery_steps)
        if self.limit is not None:
            outcome = outcome.judged_by((self.limit,))
        return replace(self, outcome=outcome)._charge(outcome.cost_array)

    def _charge(self, owed: NDArray[np.float64]) -> Episode:
        """Charge what the episode owes since its reset, (n_budgets,), less what was charged."""
        cost = self.constraint.cost(owed)
        return replace(self, ledger=self.ledger.charge(owed, cost))

    # -- the smallest network that can still be reached --------------------------------------

    def floor_counts(self, masks: Sequence[Mask] = ()) -> NDArray[np.int64]:
        """Filters per group of the floor, (n_groups,) int64; see `PruneEnv.floor_counts`."""
        n = self.n_decided
        counts = np.where(np.arange(len(self.counts)) < n, self.counts, self.minimum)
        counts[n : n + len(masks)] = kept_per_group(masks)
        return settled_counts(self.problem.groups, counts)

    def floor_masks(self, masks: Sequence[Mask] = ()) -> Masks:
        """Keep masks of the floor."""
        decided = (*self.masks, *masks)
        rest = self.problem.masks_of(self.minimum)[len(decided) :]
        return settled(self.problem.groups, (*decided, *rest))

    def floor_costs(self, masks: Sequence[Mask] = ()) -> NDArray[np.float64]:
        """Costs of the floor, (n_budgets,) float64."""
        if all(budget.counted is not None for budget in self.problem.budgets):
            return self.problem.counted_costs(self.floor_counts(masks))
        return self.problem.costs(self.floor_masks(masks))


def smallest_counts(problem: PruningProblem, max_ratio: float) -> NDArray[np.int64]:
    """Fewest filters per group, (n_groups,) int64, where no prune ratio is above ``max_ratio``."""
    return problem.kept_counts(np.full(len(problem.groups), max_ratio))


def draw_limit(limit_range: tuple[float, float], generator: np.random.Generator) -> float:
    """A limit of the range; each doubling is as likely as any other."""
    low, high = limit_range
    return float(np.clip(np.exp(generator.uniform(np.log(low), np.log(high))), low, high))
