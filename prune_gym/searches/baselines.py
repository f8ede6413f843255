"""Searches without a policy: the honest controls for every agent.

Each gets as many network evaluations as the agent. Three of them only see accuracy and cost
(`uniform`, `random`, `cem`); the others know the budgets that are counted, as the agents' own
environment does, and use them up: `equal_width` and `lamp` judge one network, `scan` the networks
of the sensitivity scan and the one that follows from them, `evolution`, `cmaes` and `bayesian` go
on from there. Where a budget is measured or not monotone, they are led to the limit by what they
are told.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from agents.errors import MissingLibraryError
from prune_gym.criteria import CRITERIA, score_groups
from prune_gym.problem.allocation import Allocation, Widths, largest_within
from prune_gym.problem.costs import Counts
from prune_gym.problem.feasibility import Costs, feasible_ratios
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.sensitivity import Judged, scanning
from prune_gym.pruning.masks import Masks, kept_per_group, top_mask
from prune_gym.searches.surrogate import Surrogate
from prune_gym.tables.problem import TabularProblem
from prune_gym.utils.registry import Registry

Ratios: TypeAlias = NDArray[np.float64]  # (n_groups,) prune ratio per group, in [0, 1]
# yields batches of keep masks, is sent what they came to
Proposer: TypeAlias = Generator[list[Masks], Judged, None]
Limits: TypeAlias = Sequence[float]  # (n_budgets,)

BATCH = 8  # judged side by side
SCANNING = ("scan", "evolution", "cmaes", "bayesian")  # begin with the sensitivity scan
OFFSPRING = 4
STEP = 0.3  # standard deviation of the logarithm of kept filters
TRIES = 5  # networks of the allocation at most, where it is over a measured limit
SMALLER, SMALLEST = 0.95, 1e-3  # of the limit, each time; the smallest limit

# a problem, evaluations, a generator of random numbers, and limits, (n_budgets,); those that scan,
# too, the evaluations by which the scan is planned
BASELINES: Registry[Callable[..., Proposer]] = Registry("algorithm")


def baseline(
    name: str,
    problem: PruningProblem,
    evaluations: int,
    generator: np.random.Generator,
    limits: Limits | None = None,
    begun: int = 0,
) -> Proposer:
    """A baseline as a proposer: it yields networks to judge, and is sent what they came to.

    Args:
        name: in `BASELINES`.
        problem: whose networks are proposed.
        evaluations: how many are judged at most.
        generator: of random numbers.
        limits: (n_budgets,); None = the problem's.
        begun: evaluations by which the sensitivity scan is planned, where a search that was begun
            with other ones goes on; 0 = the same.
    """
    within = problem.limits if limits is None else limits
    if name in SCANNING:
        return BASELINES.get(name)(problem, evaluations, generator, within, begun or evaluations)
    return BASELINES.get(name)(problem, evaluations, generator, within)


# -- what only sees accuracy and cost --------------------------------------------------------------


@BASELINES.register
def uniform(
    problem: PruningProblem, evaluations: int, generator: np.random.Generator, limits: Limits
) -> Proposer:
    """The same prune ratio in every layer, from an even grid."""
    grid = np.linspace(0.0, 1.0, evaluations + 1)[1:]
    for start in range(0, evaluations, BATCH):
        batch = grid[start : start + BATCH]
        yield [masks_of_ratios(problem, np.full(len(problem.groups), ratio)) for ratio in batch]


@BASELINES.register
def random(
    problem: PruningProblem, evaluations: int, generator: np.random.Generator, limits: Limits
) -> Proposer:
    """Independent uniform prune ratios per layer."""
    for start in range(0, evaluations, BATCH):
        size = min(BATCH, evaluations - start)
        ratios = generator.random((size, len(problem.groups)))
        yield [masks_of_ratios(problem, row) for row in ratios]


@BASELINES.register
def cem(
    problem: PruningProblem, evaluations: int, generator: np.random.Generator, limits: Limits
) -> Proposer:
    """Cross-entropy method: refit a Gaussian to the best 20 % of 40 samples, again and again.

    Rubinstein (1999). Feasible samples rank by accuracy and before infeasible ones, which rank by
    cost. Mean and spread move by 0.7 towards the elite; the spread starts at 0.3 and stays above
    0.02.
    """
    n_groups = len(problem.groups)
    mean, spread = np.full(n_groups, 0.5), np.full(n_groups, 0.3)
    left = evaluations
    while left > 0:
        size = min(40, left)
        samples = np.clip(mean + spread * generator.standard_normal((size, n_groups)), 0.0, 1.0)
        judged = yield [masks_of_ratios(problem, row) for row in samples]
        ranked = sorted(range(size), key=lambda index: rank(judged[index]), reverse=True)
        elite = samples[ranked[: max(2, size // 5)]]
        mean = 0.3 * mean + 0.7 * elite.mean(axis=0)
        spread = np.maximum(0.3 * spread + 0.7 * elite.std(axis=0), 0.02)
        left -= size


def rank(judged: tuple[float, float, bool]) -> tuple[bool, float]:
    """What networks are chosen by, larger is better: the feasible first, and by accuracy."""
    accuracy, cost, is_feasible = judged
    return is_feasible, accuracy if is_feasible else -cost


# -- one network -----------------------------------------------------------------------------------


@BASELINES.register
def equal_width(
    problem: PruningProblem, evaluations: int, generator: np.random.Generator, limits: Limits
) -> Proposer:
    """The same number of filters in every group, filled up to the limit: one network."""
    widest = float(problem.sizes.max())
    allocation = Allocation.without_scan(problem)

    def counts(place: float) -> Counts:
        return allocation.rounded(np.minimum(problem.sizes, widest**place))

    place = largest_within(problem, lambda place: problem.masks_of(counts(place)), limits)
    found = counts(place)
    if allocation.is_known:
        found = allocation.filled(found, np.full(len(found), widest), limits)
    yield [problem.masks_of(found)]


@BASELINES.register
def lamp(
    problem: PruningProblem, evaluations: int, generator: np.random.Generator, limits: Limits
) -> Proposer:
    """One threshold on the LAMP scores of all filters (Lee et al., 2010.07611): one network.

    Its scores choose the filters as well, whatever the problem's criterion is. (Of a table, which
    holds the networks of one order only, that order does.)
    """
    train, task = problem.data.train, problem.task
    scores = score_groups(problem.network, problem.groups, CRITERIA.get("lamp"), train, 0, task)
    orders: Sequence[NDArray[np.int64]] = [np.argsort(-own, kind="stable") for own in scores]
    if isinstance(problem, TabularProblem):
        orders = problem.orders
    thresholds = np.sort(np.concatenate(scores))[::-1]  # (n_filters,) of all groups
    allocation = Allocation.without_scan(problem)

    def masks(place: float) -> Masks:
        threshold = thresholds[round(place * (len(thresholds) - 1))]
        wanted = np.array([np.count_nonzero(own >= threshold) for own in scores], dtype=np.float64)
        counts = allocation.rounded(wanted)
        return tuple(top_mask(order, int(n)) for order, n in zip(orders, counts, strict=True))

    yield [masks(largest_within(problem, masks, limits))]


# -- what starts with the scan ---------------------------------------------------------------------


@BASELINES.register
def scan(
    problem: PruningProblem,
    evaluations: int,
    generator: np.random.Generator,
    limits: Limits,
    begun: int,
) -> Proposer:
    """The sensitivity scan, and the network of its allocation (`prune_gym.problem.allocation`)."""
    allocation, left = yield from _scanned(problem, evaluations, begun)
    yield from _first_within(allocation, limits, left)


@BASELINES.register
def evolution(
    problem: PruningProblem,
    evaluations: int,
    generator: np.random.Generator,
    limits: Limits,
    begun: int,
) -> Proposer:
    """(1 + 4) evolution of the scan's network: log-normal steps on the numbers of kept filters.

    A child is scaled until it fits, then filled up to the limit, where budgets are counted.
    """
    allocation, left = yield from _scanned(problem, evaluations, begun)
    counts, best, left = yield from _first_within(allocation, limits, left)
    while left > 0:
        n_children = min(OFFSPRING, left)
        steps = STEP * generator.standard_normal((n_children, counts.size))
        children = allocation.fitted(_moved(counts, steps), limits)
        judged = yield [problem.masks_of(child) for child in children]
        top = max(range(n_children), key=lambda index: rank(judged[index]))
        if rank(judged[top]) >= best:
            best, counts = rank(judged[top]), children[top]
        left -= n_children


@BASELINES.register
def cmaes(
    problem: PruningProblem,
    evaluations: int,
    generator: np.random.Generator,
    limits: Limits,
    begun: int,
) -> Proposer:
    """CMA-ES around the scan's network, by the library cmaes (Hansen and Ostermeier 2001).

    A point is the logarithm of what each group keeps, beside that network; it is scaled until it
    fits, then filled up to the limit, where budgets are counted.
    """
    try:
        from cmaes import CMA
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            'cmaes is not installed. pip install "prune-gym[agents]" installs it.', name="cmaes"
        ) from error
    allocation, left = yield from _scanned(problem, evaluations, begun)
    prior, _, left = yield from _first_within(allocation, limits, left)

    def anew() -> CMA:
        seed = int(generator.integers(2**31))
        return CMA(mean=np.zeros(max(prior.size, 2)), sigma=STEP, seed=seed)

    search = anew()
    while left > 0:
        size = min(search.population_size, left)
        points = [search.ask() for _ in range(search.population_size)]
        asked = points[:size]
        steps = np.array([point[: prior.size] for point in asked])
        children = allocation.fitted(_moved(prior, steps), limits)
        judged = yield [problem.masks_of(child) for child in children]
        left -= size
        if size < len(points):
            return
        losses = [-accuracy if fits else 1.0 + cost for accuracy, cost, fits in judged]
        search.tell(list(zip(points, losses, strict=True)))
        if search.should_stop():
            search = anew()


@BASELINES.register
def bayesian(
    problem: PruningProblem,
    evaluations: int,
    generator: np.random.Generator,
    limits: Limits,
    begun: int,
) -> Proposer:
    """Bayesian optimisation around the scan's network: a Gaussian process chooses among steps.

    Candidates are log-normal steps from the best networks so far, scaled until they fit and filled
    up. A Gaussian process over the numbers of filters, which learns from every network, the scan's
    included, says of which most is expected; four at a time are judged. Where budgets are measured,
    another one learns costs (`prune_gym.searches.surrogate`).
    """
    limit = limits[0] if len(limits) == 1 else 1.0  # several costs are told as shares of limits
    is_known = Allocation.without_scan(problem).is_known
    surrogate = Surrogate(problem.groups, None if is_known else limit)
    allocation, left = yield from surrogate.noting(_scanned(problem, evaluations, begun))
    *_, left = yield from surrogate.noting(_first_within(allocation, limits, left))
    while left > 0:
        n = min(OFFSPRING, left)
        wanted = surrogate.candidates(generator)
        children = surrogate.chosen(allocation.fitted(wanted, limits), n, generator)
        judged = yield [problem.masks_of(child) for child in children]
        surrogate.note(children, judged)
        left -= len(children)


def _moved(counts: Counts, steps: NDArray[np.float64]) -> Widths:
    """Widths that differ from numbers of filters by factors exp(steps)."""
    found: Widths = np.maximum(counts, 0.5) * np.exp(steps)
    return found


def _scanned(
    problem: PruningProblem, evaluations: int, begun: int
) -> Generator[list[Masks], Judged, tuple[Allocation, int]]:
    """The allocation after a scan, and the evaluations that are left.

    Half of those that it was begun with are spent at most; of a single one nothing is, and all
    groups keep the same share.
    """
    if begun < 2:
        return Allocation.without_scan(problem), evaluations
    sensitivity = yield from scanning(problem, most=begun // 2)
    return Allocation(problem, sensitivity), evaluations - sensitivity.evaluations


def _first_within(
    allocation: Allocation, limits: Limits, left: int
) -> Generator[list[Masks], Judged, tuple[Counts, tuple[bool, float], int]]:
    """The allocation's network, and what it ranks; the evaluations that are left after it.

    Where budgets are measured, and it turns out to be over a limit, smaller ones are tried.
    """
    within, best = np.asarray(limits, dtype=np.float64), (False, -np.inf)
    counts = allocation.counts(within)
    for n_left in range(min(left, 1 if allocation.is_known else TRIES), 0, -1):
        best = rank((yield [allocation.problem.masks_of(counts)])[0])
        left -= 1
        if best[0] or n_left == 1:
            break
        over = counts
        while np.array_equal(counts, over) and within.max() > SMALLEST:
            within = within * SMALLER
            counts = allocation.counts(within)
    return counts, best, left


def prior(
    problem: PruningProblem, evaluations: int, begun: int
) -> Generator[list[Masks], Judged, tuple[Allocation, int]]:
    """What agents start from that decide beside a prior, and how many networks were judged."""
    allocation, left = yield from _scanned(problem, evaluations, begun)
    counts, _, left = yield from _first_within(allocation, problem.limits, max(left, 1))
    allocation.settle(counts)
    return allocation, evaluations - left


# -- masks of ratios -------------------------------------------------------------------------------


def masks_of_ratios(problem: PruningProblem, ratios: Ratios) -> Masks:
    """Keep masks that remove the fraction ``ratios``, (n_groups,), of each group."""
    return problem.masks_of(problem.kept_counts(ratios))


def masks_within(problem: PruningProblem, masks: Masks, costs: Costs) -> Masks:
    """Keep masks within all limits: these, or those of the nearest ratios that are.

    Args:
        problem: with budgets that are monotone.
        masks: one keep mask per group.
        costs: of its networks.
    """
    counts = kept_per_group(masks)
    if problem.feasible(costs(counts, lambda: masks)):
        return masks
    ratios = feasible_ratios(problem, 1.0 - counts / problem.sizes, costs)
    return masks_of_ratios(problem, ratios)
