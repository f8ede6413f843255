"""What a search has seen: one row per evaluated network, and the best feasible one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from prune_gym.outcome import Outcome
from prune_gym.pruning.masks import Masks


class NothingFeasibleError(RuntimeError):
    """A search ended without one network that meets every limit."""


@dataclass(frozen=True, eq=False)
class Episode:
    """One evaluated network.

    Attributes:
        accuracy: validation accuracy after recovery.
        cost: the scalar cost.
        costs: cost per budget.
        feasible: whether every limit was met.
        kept: fraction of filters kept per group.
    """

    accuracy: float
    cost: float
    costs: dict[str, float]
    feasible: bool
    kept: tuple[float, ...]

    @classmethod
    def of(cls, outcome: Outcome) -> Episode:
        """The row of an outcome."""
        kept = tuple(float(share) for share in outcome.kept)
        return cls(outcome.accuracy, outcome.cost, dict(outcome.costs), outcome.feasible, kept)


@dataclass(eq=False)
class Archive:
    """Everything evaluated, in order, and the masks of the best feasible network.

    Attributes:
        episodes: one row per evaluation.
        best: the best feasible row, or None; by accuracy, then by lower cost, then by age.
        best_masks: its keep masks.
        on_add: called with every new row, its masks and outcome, and whether it is the new best.
    """

    episodes: list[Episode] = field(default_factory=list)
    best: Episode | None = None
    best_masks: Masks | None = None
    on_add: Callable[[Episode, Masks, Outcome, bool], None] | None = None

    def put(self, episode: Episode) -> bool:
        """Add a row; returns whether it is the new best feasible one."""
        self.episodes.append(episode)
        better = self.best is None or _rank(episode) > _rank(self.best)
        if episode.feasible and better:
            self.best = episode
        return episode.feasible and better

    def add(self, masks: Masks, outcome: Outcome) -> None:
        """Record an outcome and the masks it came from."""
        episode = Episode.of(outcome)
        improved = self.put(episode)
        if improved:
            self.best_masks = tuple(mask.copy() for mask in masks)
        if self.on_add is not None:
            self.on_add(episode, masks, outcome, improved)

    def feasible_masks(self) -> Masks:
        """Masks of the best feasible network.

        Raises:
            NothingFeasibleError: says how close the search came.
        """
        if self.best_masks is None:
            nearest = min((episode.cost for episode in self.episodes), default=float("nan"))
            raise NothingFeasibleError(
                f"none of {len(self.episodes)} evaluated networks meets every limit (lowest cost "
                f"{nearest:.4g}). Search longer, or raise the limit."
            )
        return self.best_masks


def _rank(episode: Episode) -> tuple[float, float]:
    return episode.accuracy, -episode.cost
