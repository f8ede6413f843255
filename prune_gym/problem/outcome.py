"""What one decision came to, and the memory of what was decided before."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.problem.costs import Constraint
from prune_gym.pruning.masks import Masks


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one decision came to.

    Attributes:
        accuracy: reward of the recovered compact network on the validation split: its accuracy,
            in [0, 1], or what its metric comes to (`prune_gym.tasks.metrics`).
        names: of the budgets.
        value_array: (n_budgets,) float64, the budgets in their units.
        cost_array: (n_budgets,) float64, budget / budget of the unpruned network.
        constraint: the limits that it is judged by.
        kept: (n_groups,) float32, fraction of filters kept per group.
        build: gives `network`.
        remembered: whether the same decision had been judged before, so that nothing was run.
        judged: share of the validation examples that it was judged on; below 1.0 where it was
            dropped from a race (`PruningProblem.racing`), and the accuracy is that on this part.
    """

    accuracy: float
    names: tuple[str, ...]
    value_array: NDArray[np.float64]
    cost_array: NDArray[np.float64]
    constraint: Constraint
    kept: NDArray[np.float32]
    build: Callable[[], nn.Module] = field(repr=False)
    remembered: bool = False
    judged: float = 1.0

    @property
    def values(self) -> dict[str, float]:
        """The budgets, in their units, by name."""
        return dict(zip(self.names, self.value_array.tolist(), strict=True))

    @property
    def costs(self) -> dict[str, float]:
        """Budget / budget of the unpruned network, by name."""
        return dict(zip(self.names, self.cost_array.tolist(), strict=True))

    @property
    def cost(self) -> float:
        """The scalar that the agent is constrained by; see `Constraint`."""
        return self.constraint.cost(self.cost_array)

    @property
    def feasible(self) -> bool:
        """Whether every cost is within its limit."""
        return self.constraint.is_met(self.cost_array)

    @cached_property
    def network(self) -> nn.Module:
        """The compact network, recovered, in evaluation mode; built anew where remembered."""
        return self.build()

    def judged_by(self, limits: Sequence[float]) -> Outcome:
        """The same outcome, judged by other limits, to which `cost` is relative; nothing is run.

        Args:
            limits: one per cost, in their order.
        """
        return replace(self, constraint=Constraint(tuple(limits), is_relative=True))

    def __getstate__(self) -> dict[str, Any]:
        """With the network in place of what builds it, which may hold the whole problem."""
        network = self.network
        return {**vars(self), "network": network, "build": partial(_itself, network)}


def _itself(network: nn.Module) -> nn.Module:
    return network


class OutcomeMemory:
    """The latest outcomes by decision: accuracy and budgets, not networks.

    Threads may share one.

    Args:
        size: how many are kept; the one that was not asked for the longest goes first.

    Attributes:
        hits: how often a decision was found.
        misses: how often it was not.
    """

    def __init__(self, size: int = 4096) -> None:
        self.size = size
        self.hits = self.misses = 0
        self._kept: OrderedDict[Hashable, tuple[float, NDArray[np.float64]]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process starts empty."""
        return OutcomeMemory, (self.size,)

    def get(self, key: Hashable) -> tuple[float, NDArray[np.float64]] | None:
        """Accuracy and budget values (n_budgets,) of a decision; None where it is new."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, accuracy: float, values: NDArray[np.float64]) -> None:
        """Remember a decision."""
        with self._lock:
            self._kept[key] = (accuracy, values)
            self._kept.move_to_end(key)
            if len(self._kept) > self.size:
                self._kept.popitem(last=False)


def digest(masks: Masks) -> bytes:
    """16 bytes that stand for keep masks (of fixed sizes)."""
    found = hashlib.blake2b(digest_size=16)
    for mask in masks:
        found.update(np.packbits(mask).tobytes())
    return found.digest()
