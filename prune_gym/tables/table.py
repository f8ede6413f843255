"""`PruneTable`: what every network of a grid gets right and costs, and what follows exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.errors import InvalidValueError, NothingFeasibleError
from prune_gym.tables.counted import Polynomial
from prune_gym.utils.registry import unknown_name

SPLITS = ("validation", "test")
Counts = NDArray[np.int64]
Limits = Mapping[str, float] | float


@dataclass(frozen=True)
class Entry:
    """A network of a table.

    Attributes:
        number: its place among all networks of the table, the last group's level running fastest.
        counts: filters kept per group.
        accuracy: on the validation split, in [0, 1].
        test_accuracy: on the test split; None where there is none.
        costs: by budget, 1.0 = nothing removed.
    """

    number: int
    counts: tuple[int, ...]
    accuracy: float
    test_accuracy: float | None
    costs: dict[str, float]


@dataclass(frozen=True, eq=False, repr=False)
class PruneTable:
    """Every network of a grid, judged.

    The grid gives each filter group a few levels; the networks are all their combinations, and of
    each group the most important filters stay.

    Attributes:
        groups: names of the filter groups.
        sizes: (n_groups,) int64, their filters.
        levels: per group, ascending numbers of filters to keep.
        scores: importance of the filters of each group, (n_filters,) each.
        right: (n_levels of group 1, ..., n_levels of group K, n_splits) uint16: validation
            examples that the network gets right, then test examples if there are any.
        n_examples: validation examples, then test examples.
        counted: budgets that follow from the numbers of filters, by name.
        measured: budgets that were measured, by name: (n_levels of group 1, ...) float64 each, in
            the budget's unit.
        unpruned: of the measured budgets, that of the unpruned network, by name.
        arguments: of `prune_gym.make_problem`, which make its problem; None = it takes objects.
        digest: of the unpruned network's weights and the labels, in hexadecimal.
    """

    groups: tuple[str, ...]
    sizes: Counts
    levels: tuple[tuple[int, ...], ...]
    scores: tuple[NDArray[np.float64], ...]
    right: NDArray[np.uint16]
    n_examples: tuple[int, ...]
    counted: Mapping[str, Polynomial]
    measured: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    unpruned: Mapping[str, float] = field(default_factory=dict)
    arguments: Mapping[str, Any] | None = None
    digest: str = ""

    def __repr__(self) -> str:
        """What it is of, and how large."""
        what = "a network of your own"
        if self.arguments is not None:
            what = f"{self.arguments['network']} on {self.arguments['dataset']}"
        return f"PruneTable({what}, {len(self):,} networks, {', '.join(self.budgets)})"

    def __len__(self) -> int:
        """How many networks there are."""
        return int(np.prod(self.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Levels of every group."""
        return tuple(len(levels) for levels in self.levels)

    @property
    def budgets(self) -> tuple[str, ...]:
        """Budgets that the table knows."""
        return (*self.counted, *self.measured)

    # -- one network -------------------------------------------------------------------------

    def number(self, counts: Sequence[int] | Counts) -> int:
        """Place of a network among all, of filters kept per group, (n_groups,).

        Raises:
            ValueError: a number of filters that is no level of its group, or too few or too many.
        """
        if len(counts) != len(self.levels):
            raise InvalidValueError(
                f"counts={counts}: expected {len(self.levels)} numbers of filters, one a group."
            )
        number = 0
        for group, (levels, n) in enumerate(zip(self.levels, counts, strict=True)):
            if n not in levels:
                raise InvalidValueError(
                    f"the table holds no network with {int(n)} filters of group "
                    f"{self.groups[group]!r}; its levels are {', '.join(map(str, levels))}."
                )
            number = number * len(levels) + levels.index(int(n))
        return number

    def entry(self, number: int) -> Entry:
        """The network at a place."""
        place = np.unravel_index(number, self.shape)
        right = self.right[place].tolist()
        shares = [n / of for n, of in zip(right, self.n_examples, strict=True)]
        return Entry(
            number=int(number),
            counts=tuple(own[i] for own, i in zip(self.levels, place, strict=True)),
            accuracy=shares[0],
            test_accuracy=shares[1] if len(shares) > 1 else None,
            costs={name: float(self.costs(name)[place]) for name in self.budgets},
        )

    def accuracy(self, counts: Sequence[int] | Counts, split: str = "validation") -> float:
        """Accuracy of a network, in [0, 1].

        Args:
            counts: (n_groups,) filters kept per group.
            split: ``"validation"`` or ``"test"``.
        """
        place, which = np.unravel_index(self.number(counts), self.shape), self._split(split)
        return float(self.right[place][which] / self.n_examples[which])

    def right_of(self, numbers: Any) -> Any:
        """Validation examples that the network at a place gets right, or those at many places."""
        return self._validation[numbers]

    # -- all networks ------------------------------------------------------------------------

    def accuracies(self, split: str = "validation") -> NDArray[np.float64]:
        """Accuracy of every network, (n_levels of group 1, ..., of group K), in [0, 1]."""
        which = self._split(split)
        found: NDArray[np.float64] = self.right[..., which] / self.n_examples[which]
        return found

    def values(self, budget: str) -> NDArray[np.float64]:
        """A budget of every network, (n_levels of group 1, ..., of group K), in its unit."""
        if budget in self.measured:
            return self.measured[budget]
        if budget not in self.counted:
            raise unknown_name("budget of the table", budget, list(self.budgets))
        dropped = [n - np.array(own) for n, own in zip(self.sizes, self.levels, strict=True)]
        return self.counted[budget].of_grid(tuple(d.astype(np.float64) for d in dropped))

    def costs(self, budget: str) -> NDArray[np.float64]:
        """A cost of every network, (n_levels of group 1, ...); 1.0 = nothing removed."""
        if budget not in self._costs:
            unpruned = (
                self.unpruned[budget] if budget in self.measured else self.unpruned_value(budget)
            )
            self._costs[budget] = self.values(budget) / unpruned
            self._costs[budget].setflags(write=False)
        return self._costs[budget]

    def unpruned_value(self, budget: str) -> float:
        """A budget of the unpruned network, in its unit."""
        if budget in self.unpruned:
            return self.unpruned[budget]
        if budget not in self.counted:
            raise unknown_name("budget of the table", budget, list(self.budgets))
        return self.counted[budget].constant

    def is_within(self, limits: Limits) -> NDArray[np.bool_]:
        """Whether every network is within all limits, (n_levels of group 1, ...); no tolerance.

        Args:
            limits: in (0, 1] by budget, or of the table's first budget.
        """
        found = np.ones(self.shape, dtype=np.bool_)
        for name, limit in self._limits(limits).items():
            found &= self.costs(name) <= limit
        return found

    def optimum(self, limits: Limits, split: str = "validation") -> Entry:
        """The most accurate network within the limits, exactly.

        Of equally accurate ones it is the cheapest by the first limit, then the first.

        Args:
            limits: in (0, 1] by budget, or of the table's first budget.
            split: on which networks are compared; ``"validation"`` is what searches see.

        Raises:
            NothingFeasibleError: no network of the table is within the limits.
        """
        limits = self._limits(limits)
        right = self.right[..., self._split(split)].ravel()
        within = np.flatnonzero(self.is_within(limits))
        if not within.size:
            floors = ", ".join(f"{name} {self.costs(name).min():.4g}" for name in limits)
            raise NothingFeasibleError(
                f"no network of the table is within {limits}; its smallest costs are {floors}."
            )
        best = within[right[within] == right[within].max()]
        first = self.costs(next(iter(limits))).ravel()
        return self.entry(int(best[np.argmin(first[best])]))

    def regret(
        self, counts: Sequence[Any] | Counts, limits: Limits, split: str = "validation"
    ) -> NDArray[np.float64]:
        """What networks lack of the optimum's accuracy, (...,), in [0, 1].

        A network that breaks a limit is worth nothing: its regret is the optimum's accuracy.

        Args:
            counts: (..., n_groups) filters kept per group.
            limits: in (0, 1] by budget, or of the table's first budget.
            split: on which accuracies are compared; the optimum is that of this split.

        Raises:
            ValueError: a network that the table does not hold.
            NothingFeasibleError: no network of the table is within the limits.
        """
        given = np.asarray(counts)
        if given.ndim == 0 or given.dtype.kind not in "iuf":
            raise InvalidValueError(
                f"counts={counts!r}: expected {len(self.levels)} numbers of filters, one a group."
            )
        best = self.optimum(limits, split)
        top = best.accuracy if split == SPLITS[0] else best.test_accuracy
        rows = given.reshape(-1, given.shape[-1])
        numbers = np.array([self.number(row) for row in rows], dtype=np.int64)
        worth = np.where(self.is_within(limits), self.accuracies(split), 0.0).ravel()[numbers]
        found: NDArray[np.float64] = (top - worth).reshape(given.shape[:-1])
        return found

    def front(self, budgets: Sequence[str] | None = None, split: str = "validation") -> list[Entry]:
        """The exact Pareto front: networks that no other beats in accuracy and in every cost.

        Of networks that are equal in all of these the first stands for all.

        Args:
            budgets: that count; None = the table's first one.
            split: on which accuracies are compared.

        Returns:
            From the lowest accuracy to the highest.
        """
        names = self.budgets[:1] if budgets is None else tuple(budgets)
        if not names:
            raise InvalidValueError("budgets=[]: give one at least, e.g. ['params'].")
        right = self.right[..., self._split(split)].ravel().astype(np.int64)
        costs = np.stack([self.costs(name).ravel() for name in names], axis=1)
        order = np.lexsort((*costs.T[::-1], -right))  # most accurate, then cheapest first
        return [self.entry(number) for number in reversed(list(_undominated(order, costs)))]

    # -- inside ------------------------------------------------------------------------------

    @cached_property
    def _validation(self) -> NDArray[np.uint16]:
        found = np.ascontiguousarray(self.right[..., 0]).ravel()  # (n_networks,)
        found.setflags(write=False)
        return found

    @cached_property
    def _costs(self) -> dict[str, NDArray[np.float64]]:
        return {}

    def _limits(self, limits: Limits) -> dict[str, float]:
        given = dict(limits) if isinstance(limits, Mapping) else {self.budgets[0]: limits}
        for name, limit in given.items():
            if name not in self.budgets:
                raise unknown_name("budget of the table", name, list(self.budgets))
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if not number or not 0.0 < limit <= 1.0:
                raise InvalidValueError(f"limit of {name!r} is {limit!r}; it must be in (0, 1].")
        if not given:
            raise InvalidValueError("limits={}: give one at least, e.g. {'params': 0.1}.")
        return given

    def _split(self, split: str) -> int:
        known = SPLITS[: len(self.n_examples)]
        if split not in known:
            raise unknown_name("split of the table", split, list(known))
        return known.index(split)


def _undominated(order: NDArray[np.int64], costs: NDArray[np.float64]) -> Iterator[int]:
    """Numbers of ``order`` whose costs, (n, n_budgets), no earlier one is within."""
    while order.size:
        first = order[0]
        yield int(first)
        order = order[(costs[order] < costs[first]).any(axis=1)]
