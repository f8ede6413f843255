"""`TabularProblem`: a pruning problem whose networks are looked up in a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.errors import InvalidTypeError, InvalidValueError, TableError
from prune_gym.problem.make import make_problem
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Mask, Masks, kept_per_group
from prune_gym.tables.files import find_table, load_table
from prune_gym.tables.make import digest_of
from prune_gym.tables.table import PruneTable


@dataclass(frozen=True, eq=False, repr=False)
class TabularProblem(PruningProblem):
    """A pruning problem whose networks are judged already; make one with `TabularProblem.load`.

    Environments, searches and baselines take it as any other. Of every group the nearest level of
    the table stays (of two that are as near, the larger one); outcomes are those of the same
    decision on the live problem, in microseconds. Networks are built when they are asked for.

    Attributes:
        table: of the same network, data, scores and recovery.
    """

    table: PruneTable = field(kw_only=True)

    @classmethod
    def of(cls, problem: PruningProblem, table: PruneTable) -> TabularProblem:
        """A problem whose networks are in a table.

        Args:
            problem: whose network and labels are those that the table was made of.
            table: which knows every budget of the problem. Its scores take the place of the
                problem's, which another machine may round otherwise.

        Raises:
            TableError: a table of another network or other data, or without one of the budgets.
        """
        if digest_of(problem) != table.digest:
            raise TableError(f"{table!r} is not of this network and these labels; make another.")
        _check_known(table, problem.names)
        given = {one.name: getattr(problem, one.name) for one in fields(PruningProblem)}
        given["scores"] = table.scores
        given["unpruned_values"] = np.array([table.unpruned_value(name) for name in problem.names])
        return cls(**given, table=table)

    @classmethod
    def load(
        cls,
        table: PruneTable | Path | str,
        *,
        budgets: Mapping[Any, float | str] | None = None,
    ) -> TabularProblem:
        """The problem of a table, with its network.

        Args:
            table: a table, its file, or the name of one that comes with the package.
            budgets: limits by budget, as `make_problem` takes them; ``{"params": 0.1}`` if left
                out.

        Raises:
            TableError: no such table, one of a network that cannot be made anew, or one that does
                not know a budget.

        >>> problem = TabularProblem.load("tiny_vgg-shapes-taylor", budgets={"macs": 0.2})
        >>> problem.table.optimum({"macs": 0.2}).costs["macs"] <= 0.2
        True
        """
        if not isinstance(table, PruneTable):
            return _loaded(find_table(table).absolute(), _written(budgets))
        if table.arguments is None:
            raise TableError(
                f"{table!r} takes objects to be made: TabularProblem.of(make_problem(...), table)."
            )
        limits = {"params": 0.1} if budgets is None else budgets
        plain = [name for name in limits if isinstance(name, str) and ":" not in name]
        _check_known(table, plain)  # before one that it does not know is measured
        known = {name: value for name, value in table.unpruned.items() if name in limits}
        problem = make_problem(**table.arguments, budgets=limits, unpruned_values=known or None)
        return cls.of(problem, table)

    def __repr__(self) -> str:
        """Short, so that an error message that holds a problem stays readable."""
        return f"Tabular{super().__repr__()}"

    # -- decisions -----------------------------------------------------------------------------

    @cached_property
    def nearest(self) -> tuple[NDArray[np.int64], ...]:
        """Per group, the level nearest to each number of filters, (n_filters + 1,)."""
        found = []
        for size, levels in zip(self.sizes.tolist(), self.table.levels, strict=True):
            far = np.abs(np.arange(size + 1)[:, None] - np.array(levels))  # (n_filters + 1, levels)
            found.append(len(levels) - 1 - np.argmin(far[:, ::-1], axis=1))
        return tuple(found)

    def kept_count(self, group: int, prune_ratio: float) -> int:
        """The level of a group that is nearest when ``prune_ratio`` in [0, 1] is removed."""
        wanted = super().kept_count(group, prune_ratio)
        return self.table.levels[group][int(self.nearest[group][wanted])]

    # -- outcomes ------------------------------------------------------------------------------

    def evaluate(
        self, masks: Sequence[Mask], *, seed: int = 0, recovery_steps: int | None = None
    ) -> Outcome:
        """Look a network up.

        Args:
            masks: one keep mask per group; of each group the most important filters stay.
            seed: makes no difference.
            recovery_steps: makes no difference.

        Raises:
            ValueError: masks of a network that the table does not hold.
        """
        masks = self.check_masks(masks)
        counts = kept_per_group(masks)
        number = self._number(masks, counts)
        values = self._values(counts, number)
        return Outcome(
            accuracy=int(self.table.right_of(number)) / self.table.n_examples[0],
            names=self.names,
            value_array=values,
            cost_array=values / self.unpruned_values,
            constraint=self.constraint,
            kept=(counts / self.sizes).astype(np.float32),
            build=partial(self._recovered, masks),
        )

    def values(
        self, masks: Sequence[Mask], network: nn.Module | None = None
    ) -> NDArray[np.float64]:
        """Every budget of keep masks, in its unit, (n_budgets,): counted, or looked up."""
        masks = self.check_masks(masks)
        counts = kept_per_group(masks)
        is_counted = all(name in self.table.counted for name in self.names)
        return self._values(counts, 0 if is_counted else self._number(masks, counts))

    def costs(self, masks: Sequence[Mask], network: nn.Module | None = None) -> NDArray[np.float64]:
        """Every cost of keep masks, (n_budgets,) float64, 1.0 = nothing removed; see `values`."""
        return self.values(masks) / self.unpruned_values

    def _values(self, counts: NDArray[np.int64], number: int) -> NDArray[np.float64]:
        dropped = (self.sizes - counts).astype(np.float64)
        values = [
            self.table.measured[name].flat[number]
            if name in self.table.measured
            else self.table.counted[name].values(dropped)
            for name in self.names
        ]
        found = np.array(values, dtype=np.float64)
        found.setflags(write=False)
        return found

    def _number(self, masks: Masks, counts: NDArray[np.int64]) -> int:
        number = self.table.number(counts)
        for group, mask, order, n in zip(self.groups, masks, self.orders, counts, strict=True):
            if not mask[order[:n]].all():
                raise InvalidValueError(
                    f"masks keep other filters of group {group.name!r} than the {n} most important "
                    "ones; the table holds these only. Use granularity='layer' or 'network'."
                )
        return number

    def _recovered(self, masks: Masks) -> nn.Module:
        return self.recover(self.compact(masks))


def _check_known(table: PruneTable, names: Iterable[str]) -> None:
    """Raise a TableError for a budget that a table does not know."""
    for name in names:
        if name not in table.budgets:
            raise TableError(
                f"the table does not know budget {name!r}, but {', '.join(table.budgets)}; make "
                "one with it: python -m prune_gym.tables make --budget NAME."
            )


def _written(budgets: Mapping[Any, float | str] | None) -> str | Mapping[Any, float | str] | None:
    """Budgets by which a problem is known again, where they can be."""
    plain = budgets is not None and all(isinstance(key, str) for key in budgets)
    return json.dumps(budgets) if plain and budgets is not None else budgets


def _loaded(path: Path, budgets: Any) -> TabularProblem:
    is_known_again = budgets is None or isinstance(budgets, str)
    if not is_known_again or not path.is_file():  # what is wrong with it, load_table() says
        return _read(path, budgets)
    facts = path.stat()  # a table that was made anew is read anew
    return _kept(path, facts.st_mtime_ns, facts.st_size, budgets)


@lru_cache(maxsize=8)
def _kept(path: Path, changed_ns: int, size: int, budgets: str | None) -> TabularProblem:
    return _read(path, None if budgets is None else json.loads(budgets))


def _read(path: Path, budgets: Any) -> TabularProblem:
    return TabularProblem.load(load_table(path), budgets=budgets)


def resolve_tabular(
    problem: Any, table: PruneTable | Path | str, budgets: Mapping[Any, float | str] | None
) -> TabularProblem:
    """The tabular problem given, or the one of a table.

    Raises:
        TypeError: ``problem`` is another one.
        ValueError: ``budgets`` beside a problem.
    """
    if problem is None:
        return TabularProblem.load(table, budgets=budgets)
    if not isinstance(problem, TabularProblem):
        raise InvalidTypeError(
            f"problem={problem!r}: expected a TabularProblem; make one with TabularProblem.load()."
        )
    if budgets is not None:
        raise InvalidValueError("problem is given, so budgets cannot be; say it to load().")
    return problem
