"""Allocation: how many filters each group keeps, by one common threshold on what cutting it loses.

With d_i(s) what the score loses where group i alone keeps the share s of its filters (the
`Sensitivity`), a threshold t lets every group shrink as far as its loss allows,

    s_i(t) = min { s : d_i(s) + tie * (log s)^2 <= t },

so that one number, t, leads from the whole network (t = 0) to the smallest one. The second term
decides where the scan saw no loss, or the same loss at several widths: scores are coarse, and a
group is then cut by an even share. ``tie`` is `TIE` times the largest loss that was seen. The
threshold is bisected until every limit holds, and what is left of the limits is filled up, one step
of one group after the other. Without a scan all groups keep the same share.

It is what NVIDIA's Model-Optimizer does by the name of fastnas, for any number of budgets of any
kind: those that are counted need no network, the others are measured a few times.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prune_gym.errors import InvalidValueError
from prune_gym.problem.costs import Counts
from prune_gym.problem.sensitivity import Sensitivity, sensitivity_of
from prune_gym.pruning.masks import Masks, kept_per_group

if TYPE_CHECKING:
    from prune_gym.problem.problem import PruningProblem

TIE = 0.003
ROWS = 65  # thresholds in the table
FINER = 17  # between two of them
MEASUREMENTS = 7  # of a budget that is not counted, until the threshold is found

_REMEMBERED = 4096  # allocations

Widths = NDArray[np.float64]  # (n_groups,) filters kept, not yet rounded
Limits: TypeAlias = Sequence[float] | NDArray[np.float64]  # (n_budgets,) costs


class Allocation:
    """Networks from the smallest to the whole one, by one number: their place in [0, 1].

    Args:
        problem: whose groups are allocated.
        sensitivity: of its groups.

    Attributes:
        keepable: per group, the numbers of filters that can stay of it, ascending.
        known: (n_budgets,) bool, whether costs follow from numbers of filters alone, and never rise
            where filters are removed.
    """

    def __init__(self, problem: PruningProblem, sensitivity: Sensitivity) -> None:
        self.problem, self.sensitivity = problem, sensitivity
        self.keepable = tuple(_keepable(problem, group) for group in range(len(problem.groups)))
        self.known = _is_known(problem)
        self._measured: dict[float, NDArray[np.float64]] = {}  # costs by place
        self._found: dict[tuple[float, ...], Counts] = {}  # allocations by limits

    @classmethod
    def without_scan(cls, problem: PruningProblem) -> Allocation:
        """That of a sensitivity without a network judged: all groups keep the same share."""
        return cls(problem, sensitivity_of(problem, [problem.sizes], [0.0]))

    @property
    def is_known(self) -> bool:
        """Whether the cost of every network is known without building it."""
        return bool(self.known.all())

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """Logarithms of widths by threshold, falling: (`ROWS`, n_groups) float64, rising."""
        sensitivity, sizes = self.sensitivity, self.problem.sizes
        seen = max([0.0, *(float(own.max()) for own in sensitivity.drops if own.size)])
        tie = TIE * seen or 1.0
        losses, places = [], []
        for group, size in enumerate(sizes.tolist()):
            place = np.linspace(np.log(0.5 / size), 0.0, 512)
            places.append(place + np.log(size))
            losses.append(sensitivity.drop(group, np.exp(place)) + tie * place**2)
        highest = max(float(own[0]) for own in losses)
        thresholds = highest * np.linspace(1.0, 0.0, ROWS) ** 3
        rows = [
            np.interp(-thresholds, -loss, place) for loss, place in zip(losses, places, strict=True)
        ]
        return np.stack(rows, axis=-1)

    @cached_property
    def _rows(self) -> Widths:
        """Widths by threshold: (`ROWS`, n_groups)."""
        found: Widths = np.exp(self.table)
        return found

    def widths(self, place: float | NDArray[np.float64]) -> Widths:
        """Filters per group, not rounded, (..., n_groups), at places (...) in [0, 1]."""
        at = np.asarray(place, dtype=np.float64) * (ROWS - 1)
        below = np.minimum(at.astype(np.int64), ROWS - 2)
        part = (at - below)[..., None]
        found: Widths = np.exp((1.0 - part) * self.table[below] + part * self.table[below + 1])
        return found

    def rounded(self, widths: Widths) -> Counts:
        """The next smaller numbers of filters that can stay, (..., n_groups) (or the fewest)."""
        found = np.empty(widths.shape, dtype=np.int64)
        for group, own in enumerate(self.keepable):
            places = own.searchsorted(widths[..., group] + 1e-9, side="right") - 1
            found[..., group] = own[np.maximum(places, 0)]
        return found

    def nearest(self, group: int, width: float) -> int:
        """The number of filters of a group that can stay and is nearest to a width."""
        own = self.keepable[group]
        return int(own[np.argmin(np.abs(own - width))])

    # -- what is within limits ---------------------------------------------------------------

    def counts(self, limits: Limits | None = None) -> Counts:
        """Filters kept per group, (n_groups,), of the allocation within limits.

        Args:
            limits: (n_budgets,) costs; None = the problem's.

        Returns:
            Within all limits that are counted; within those that are measured as far as a few
            measurements tell (noise, and budgets that rise where filters go, are told by judging).
        """
        within = self.problem.limits if limits is None else self._checked(limits)
        if within not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[within] = self._allocated(np.array(within))
        found: Counts = self._found[within].copy()
        return found

    def _checked(self, limits: Limits) -> tuple[float, ...]:
        """Limits as numbers; raises where they are none, or too many or too few."""
        names = self.problem.names
        try:
            found = tuple(float(limit) for limit in limits)
        except (TypeError, ValueError):
            found = ()
        if len(found) != len(names) or not all(0.0 < limit <= 1.0 for limit in found):
            raise InvalidValueError(
                f"limits={limits!r}: expected a list of {len(names)} numbers in (0, 1], the limits "
                f"of {', '.join(names)}."
            )
        return found

    def settle(self, counts: Counts) -> None:
        """Let numbers of filters, (n_groups,), be the allocation within the problem's limits.

        Judging may show that a network is over a measured limit, and a smaller one is not.
        """
        self._found[tuple(self.problem.limits)] = counts

    def _allocated(self, limits: NDArray[np.float64]) -> Counts:
        place = largest_within(
            self.problem,
            lambda place: self.problem.masks_of(self.rounded(self.widths(place))),
            limits,
            self._measured,
        )
        counts = self.rounded(self.widths(place))
        return self.filled(counts, self.widths(place), limits) if self.is_known else counts

    @cached_property
    def _next(self) -> Counts:
        """The next larger number that can stay, by group and number: (n_groups, largest + 1)."""
        found = np.zeros((len(self.keepable), int(self.problem.sizes.max()) + 1), dtype=np.int64)
        for group, own in enumerate(self.keepable):
            found[group, : own[0]] = own[0]
            for less, more in itertools.pairwise(own.tolist()):
                found[group, less:more] = more
        return found

    def filled(self, counts: Counts, wanted: Widths, limits: Limits) -> Counts:
        """Numbers of filters with what is left of the limits used up.

        The group that is furthest below its wish gets its next step first, as long as one fits.

        Args:
            counts: (..., n_groups) filters, within the limits.
            wanted: (..., n_groups) widths; groups grow in proportion to them.
            limits: (n_budgets,) costs; those of known budgets are looked at.

        Returns:
            (..., n_groups) filters.
        """
        sizes, within = self.problem.sizes, np.asarray(limits)[self.known]
        found: Counts = np.array(counts).reshape(-1, len(sizes))
        wishes = np.broadcast_to(wanted, counts.shape).reshape(found.shape)
        is_open = found < sizes
        rows = np.flatnonzero(is_open.any(axis=-1))
        while rows.size:
            own, among = found[rows], np.arange(rows.size)
            shares = np.where(is_open[rows], own / wishes[rows], np.inf)
            group = shares.argmin(axis=-1)
            own[among, group] = self._next[group, own[among, group]]
            costs = self.problem.counted_costs(own)[..., self.known]
            fits = (costs <= within).all(axis=-1)
            found[rows[fits]] = own[fits]
            is_open[rows, group] = fits & (own[among, group] < sizes[group])
            rows = rows[is_open[rows].any(axis=-1)]
        filled: Counts = found.reshape(counts.shape)
        return filled

    def fitted(self, wanted: Widths, limits: Limits) -> Counts:
        """Numbers of filters in proportion to widths, scaled until they fit, then filled up.

        Args:
            wanted: (..., n_groups) above 0.
            limits: (n_budgets,) costs; where one is not known, numbers are rounded and no more.

        Returns:
            (..., n_groups) filters.
        """
        if not self.is_known:
            columns = [
                own[np.abs(own - wanted[..., group, None]).argmin(axis=-1)]
                for group, own in enumerate(self.keepable)
            ]
            return np.stack(columns, axis=-1)
        within = np.asarray(limits)
        low, high = np.full(wanted.shape[:-1], -12.0), np.full(wanted.shape[:-1], 12.0)
        for _ in range(4):  # they are logarithms of scales
            scales = np.linspace(low, high, 33, axis=-1)
            widths = wanted[..., None, :] * np.exp(scales)[..., None]
            rows = self.rounded(np.minimum(widths, self.problem.sizes))
            last = last_within(self.problem.counted_costs(rows), within)[..., None]
            low = np.take_along_axis(scales, last, axis=-1)[..., 0]
            high = np.take_along_axis(scales, np.minimum(last + 1, 32), axis=-1)[..., 0]
        found: Counts = np.take_along_axis(rows, last[..., None], axis=-2)[..., 0, :]
        return self.filled(found, wanted, limits)

    def left(self, counts: Counts, n_decided: int, limits: Limits) -> Widths:
        """Widths of the groups that are still open, so that they use up what is left.

        Args:
            counts: (n_groups,) filters; those of the first groups are decided.
            n_decided: how many are.
            limits: (n_budgets,) costs of known budgets.

        Returns:
            (n_groups,) widths, not rounded; of decided groups what is kept.
        """
        within = np.asarray(limits)

        def last(rows: Widths) -> int:
            rows[:, :n_decided] = counts[:n_decided]
            return int(last_within(self._costs(rows), within))

        row = min(last(self._rows.copy()), ROWS - 2)
        finer = self.widths((row + np.linspace(0.0, 1.0, FINER)) / (ROWS - 1))
        found: Widths = finer[last(finer)]
        return found

    def _costs(self, widths: Widths) -> NDArray[np.float64]:
        """Costs of networks whose groups keep so many filters, whole numbers or not."""
        return self.problem.counted_costs(widths)  # type: ignore[arg-type]

    def bounded(
        self, count: int, counts: Counts, group: int, minimum: Counts, limits: Limits
    ) -> int:
        """The number of filters nearest to ``count`` with which limits can still be used up.

        With more, a limit breaks even if all later groups are cut to their minimum; with fewer,
        something is left over even if all of them stay whole.

        Args:
            count: filters of a group, a number that can stay.
            counts: (n_groups,) filters; those of earlier groups are decided.
            group: the one that is decided next.
            minimum: (n_groups,) fewest filters of later groups, and of this one.
            limits: (n_budgets,) costs; budgets that are not known bound nothing.
        """
        own = self.keepable[group]
        own = own[np.searchsorted(own, minimum[group]) :]
        count = max(count, int(own[0]))
        if not self.known.any():
            return count
        within = np.asarray(limits)[self.known]
        fits, uses_up = self._reach(np.array([count]), counts, group, minimum, within)
        if fits[0] and uses_up[0]:  # nearly always, and cheap to see
            return count
        fits, uses_up = self._reach(own, counts, group, minimum, within)
        most = int(own[np.flatnonzero(fits)[-1]]) if fits.any() else int(own[0])
        fewest = int(own[np.argmax(uses_up)]) if uses_up.any() else int(own[-1])
        return min(max(count, fewest), most)

    def _reach(
        self,
        own: Counts,
        counts: Counts,
        group: int,
        minimum: Counts,
        within: NDArray[np.float64],
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether limits can be kept, and used up, with each of ``own`` (n,) filters: (n,) each."""
        rows = np.empty((2, len(own), len(counts)), dtype=np.int64)
        rows[...] = counts
        rows[:, :, group] = own
        rows[0, :, group + 1 :] = minimum[group + 1 :]
        rows[1, :, group + 1 :] = self.problem.sizes[group + 1 :]
        costs = self.problem.counted_costs(rows)[..., self.known]
        fits = (costs[0] <= within).all(axis=-1)
        uses_up = (costs[1] >= within).any(axis=-1) if self.is_known else np.ones_like(fits)
        return fits, uses_up


def last_within(costs: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.int64]:
    """The last row of rising costs, (..., n, n_budgets), before one is over a limit; 0 at least."""
    fits = np.logical_and.accumulate((costs <= limits).all(axis=-1), axis=-1)
    found: NDArray[np.int64] = np.maximum(fits.sum(axis=-1) - 1, 0)
    return found


def largest_within(
    problem: PruningProblem,
    family: Callable[[float], Masks],
    limits: Limits,
    measured: dict[float, NDArray[np.float64]] | None = None,
) -> float:
    """The largest place in [0, 1] whose network is within limits, by bisection; 0.0 if none is.

    Budgets that are counted are told by numbers of filters; the others are measured, `MEASUREMENTS`
    times at most.

    Args:
        problem: whose budgets are asked.
        family: keep masks by place; a larger one costs more.
        limits: (n_budgets,) costs.
        measured: costs, (n_budgets,), of places that were measured before; more are added.
    """
    known, measured = _is_known(problem), {} if measured is None else measured
    within = np.asarray(limits)

    def fits(place: float) -> bool:
        masks = family(place)
        counted = problem.counted_costs(kept_per_group(masks))
        if not (counted <= within)[known].all():
            return False
        if not known.all() and place not in measured:
            measured[place] = problem.costs(masks)
        return bool(known.all() or (measured[place] <= within).all())

    low, high = 0.0, 1.0
    for _ in range(24 if known.all() else MEASUREMENTS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _is_known(problem: PruningProblem) -> NDArray[np.bool_]:
    """(n_budgets,) whether costs follow from numbers of filters, and never rise as some go."""
    return np.array([b.counted is not None and b.monotone for b in problem.budgets])


def _keepable(problem: PruningProblem, group: int) -> Counts:
    """The numbers of filters that can stay of a group, ascending.

    Of a residual block that can go whole, one group decides that it does; the others follow.
    """
    size = int(problem.sizes[group])
    found = {problem.kept_count(group, 1.0 - n / size) for n in range(size + 1)}
    block = problem.groups[group].block
    if block is not None and block in [other.block for other in problem.groups[:group]]:
        found -= {0}
    return np.array(sorted(found), dtype=np.int64)
