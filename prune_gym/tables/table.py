"""Exact tables: every network of a grid, judged; and the problem that is answered by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.budgets import Budget
from prune_gym.errors import FileError, InvalidValueError
from prune_gym.problem.evaluator import Evaluator
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Mask, check_masks, kept_per_group

SPLITS = ("validation", "test")


@dataclass(frozen=True, eq=False)
class Table:
    """What every network of a grid gets right.

    Attributes:
        levels: per filter group, ascending numbers of filters to keep.
        right: (n_levels of group 1, ..., n_levels of group K, 2) uint16: validation and test
            examples that the network gets right.
        n_examples: validation and test examples there are.
        about: what was judged: arguments of the problem, scores' digest, versions.
    """

    levels: tuple[tuple[int, ...], ...]
    right: NDArray[np.uint16]
    n_examples: tuple[int, int]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many networks there are."""
        return int(np.prod(self.right.shape[:-1]))

    def index(self, counts: Sequence[int] | NDArray[np.int64]) -> tuple[int, ...]:
        """Place of a network in the grid.

        Raises:
            ValueError: a number of filters that is no level of its group.
        """
        try:
            return tuple(
                self._places[group][int(n)] for group, n in enumerate(counts)
            )
        except KeyError as error:
            raise InvalidValueError(
                f"counts={list(map(int, counts))}: the table holds no network with {error.args[0]} "
                f"filters there; its levels are {self.levels}."
            ) from error

    @cached_property
    def _places(self) -> list[dict[int, int]]:
        return [{n: i for i, n in enumerate(levels)} for levels in self.levels]

    def accuracy(self, counts: Sequence[int] | NDArray[np.int64], split: str = "validation") -> float:
        """Accuracy of a network of the grid, in [0, 1]."""
        which = SPLITS.index(split)
        return int(self.right[self.index(counts)][which]) / self.n_examples[which]

    def all_counts(self) -> NDArray[np.int64]:
        """(n_networks, n_groups) kept filters of every network, in the order of `right`."""
        grids = np.meshgrid(*(np.array(x, dtype=np.int64) for x in self.levels), indexing="ij")
        return np.stack([grid.ravel() for grid in grids], axis=-1)

    def save(self, path: Path | str) -> None:
        from prune_gym.utils.files import replacing

        with replacing(Path(path)) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file,
                right=self.right,
                n_examples=np.array(self.n_examples),
                n_levels=np.array([len(x) for x in self.levels]),
                levels=np.concatenate([np.array(x) for x in self.levels]),
                about=np.frombuffer(json.dumps(dict(self.about)).encode(), dtype=np.uint8),
            )

    @classmethod
    def load(cls, path: Path | str) -> Table:
        with np.load(path, allow_pickle=False) as content:
            bounds = np.cumsum(content["n_levels"])[:-1]
            levels = tuple(tuple(part.tolist()) for part in np.split(content["levels"], bounds))
            return cls(
                levels,
                content["right"],
                tuple(content["n_examples"].tolist()),
                json.loads(content["about"].tobytes()),
            )


@dataclass(frozen=True, eq=False, repr=False)
class TabularProblem(PruningProblem):
    """A pruning problem whose networks are looked up: equal outcomes, in microseconds.

    Prune ratios are rounded to the nearest level of their group, so environments, searches and
    baselines take it as they take any problem.

    Attributes:
        table: of the same network, data, scores and recovery.
    """

    table: Table | None = None

    @classmethod
    def of(cls, problem: PruningProblem, table: Table) -> TabularProblem:
        given = {f.name: getattr(problem, f.name) for f in fields(PruningProblem)}
        return cls(**given, table=table)
