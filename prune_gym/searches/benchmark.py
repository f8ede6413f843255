"""Searches as entries of `agents.benchmark`: controls, evolution, CMA-ES, and the exact optimum.

Each is a ``train(make_env, seed, budget)``: it judges plans (an action for every step, whatever is
observed) until the evaluations are spent. What they return plays the best plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.benchmark.environments import MakeEnv
from agents.benchmark.ledger import EvaluationsSpent, Judged
from agents.benchmark.policies import Plan
from agents.errors import MissingLibraryError, UnfitEnvError
from prune_gym.problem.costs import Counts
from prune_gym.problem.problem import PruningProblem
from prune_gym.searches.baselines import BASELINES

Ratios = NDArray[np.float64]  # (n_groups,) prune ratio per group, in [0, 1]
Limits = Mapping[str, float]


class Plans:
    """Judges networks by prune ratios or kept filters, and remembers the best plan.

    Args:
        make_env: Of the run.

    Attributes:
        problem: What is pruned; of several the first.
        targets: Limits by budget, and the options of a reset under which they hold.
        best: Plays the best plan so far, by `rank`; None as long as nothing was judged.
    """

    def __init__(self, make_env: MakeEnv) -> None:
        env = make_env().unwrapped
        self.problem: PruningProblem = env.problem
        self._make_env, self._by_filter = make_env, env.granularity == "filter"
        own = dict(zip(self.problem.names, self.problem.limits, strict=True))
        parts = [{}] if make_env.by_policy else make_env.judged
        self.targets: list[tuple[Limits, Any]] = [
            (part.get("limits") or own, part.get("options")) for part in parts
        ]
        self.best: Plan | None = None
        self._rank = False, -math.inf

    def judge(self, ratios: Ratios, options: Any = None) -> Judged:
        """Judge the network without these shares of its groups' filters."""
        actions = list(2.0 * ratios[:, None] - 1.0)
        if self._by_filter:
            masks = self.problem.masks_of(self.problem.kept_counts(ratios))
            width = int(self.problem.sizes.max())
            actions = [np.pad(2.0 * mask - 1.0, (0, width - mask.size)) for mask in masks]
        judged = self._make_env.judge(actions, options=options)
        if rank(judged) > self._rank:
            self._rank, self.best = rank(judged), Plan(actions)
        return judged

    def judge_counts(self, counts: Counts, options: Any = None) -> Judged:
        """Judge the network with so many filters per group, (n_groups,)."""
        return self.judge((1.0 - counts / self.problem.sizes).astype(np.float64), options)


def rank(judged: Judged) -> tuple[bool, float]:
    """What networks are chosen by, larger is better: the feasible first, and by accuracy."""
    return judged.feasible, judged.accuracy if judged.feasible else -judged.cost


def baseline(name: str, make_env: MakeEnv, budget: int, seed: int) -> Plan | None:
    """Run one of `prune_gym.searches.baselines`."""
    plans = Plans(make_env)
    generator = np.random.default_rng(seed)
    proposer = BASELINES.get(name)(len(plans.problem.groups), budget, generator)
    with suppress(EvaluationsSpent, StopIteration):
        batch = next(proposer)
        while True:
            judged = [plans.judge(ratios) for ratios in batch]
            batch = proposer.send([(one.accuracy, one.cost, one.feasible) for one in judged])
    return plans.best


def random(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """Independent uniform prune ratios per group."""
    return baseline("random", make_env, budget, seed)


def uniform(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """The same prune ratio in every group, from an even grid."""
    return baseline("uniform", make_env, budget, seed)


def cem(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """Cross-entropy method."""
    return baseline("cem", make_env, budget, seed)


def optimum(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """The exact optimum, looked up in the table: the upper end of the scale, no algorithm."""
    plans = Plans(make_env)
    table = getattr(plans.problem, "table", None)
    if table is None or make_env.by_policy:
        raise UnfitEnvError(
            f"optimum: task {make_env.name!r} has no table of what it scores, in which the "
            "optimum could be looked up."
        )
    for limits, options in plans.targets:
        plans.judge_counts(np.array(table.optimum(limits).counts, dtype=np.int64), options)
    return plans.best


# -- evolution -------------------------------------------------------------------------------------

OFFSPRING = 4
STEP = 0.3  # standard deviation of the logarithm of kept filters


def evolution(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """(1 + 4) evolution with log-normal steps on the numbers of kept filters.

    Where budgets are counted, a child is rescaled until it fits, then filled up to the limit.
    """
    plans, generator = Plans(make_env), np.random.default_rng(seed)
    with suppress(EvaluationsSpent):
        for number, (limits, options) in enumerate(plans.targets, 1):
            fit = fitting(plans.problem, limits, generator)
            counts = fit(plans.problem.sizes.astype(np.float64))
            best = rank(plans.judge_counts(counts, options))
            until = budget * (len(plans.targets) - number) // len(plans.targets)
            while make_env.evaluations_left > until:
                children = []
                for _ in range(OFFSPRING):
                    steps = STEP * generator.standard_normal(counts.size)
                    child = fit((counts * np.exp(steps)).astype(np.float64))
                    children.append((rank(plans.judge_counts(child, options)), child))
                top, child = max(children, key=lambda one: one[0])
                if top >= best:
                    best, counts = top, child
    return plans.best


def fitting(
    problem: PruningProblem, limits: Limits, generator: np.random.Generator
) -> Callable[[NDArray[np.float64]], Counts]:
    """Gives the function that makes numbers of filters fit: rescaled, then filled up.

    Args:
        problem: Whose budgets are counted; where one is not, numbers are rounded and no more.
        limits: By budget.
        generator: By which groups are filled up in turn.
    """
    within = np.array([limits[name] for name in problem.names])
    is_known = all(budget.counted is not None for budget in problem.budgets)
    # per group, the number that can be kept next to every number from 0 to all
    nearest = [
        np.array([problem.kept_count(group, 1.0 - n / size) for n in range(size + 1)])
        for group, size in enumerate(problem.sizes.tolist())
    ]

    def rounded(wanted: NDArray[np.float64]) -> Counts:
        whole = np.rint(np.clip(wanted, 0, problem.sizes)).astype(np.int64)
        return np.array([own[n] for own, n in zip(nearest, whole, strict=True)])

    def fits(counts: Counts) -> bool:
        return bool((problem.counted_costs(counts) <= within).all())

    def fit(wanted: NDArray[np.float64]) -> Counts:
        if not is_known:
            return rounded(wanted)
        low, high = 1e-3, 1e3  # scales
        for _ in range(16):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if fits(rounded(wanted * middle)) else (low, middle)
        counts = rounded(wanted * low)
        for group in generator.permutation(counts.size):
            for n in np.unique(nearest[group]):
                if n > counts[group]:
                    more = counts.copy()
                    more[group] = n
                    if not fits(more):
                        break
                    counts = more
        return counts

    return fit


def cmaes(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """CMA-ES on prune ratios, by the library of that name (Hansen and Ostermeier 2001)."""
    try:
        from cmaes import CMA
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            'cmaes is not installed. pip install "prune-gym[agents]" installs it.', name="cmaes"
        ) from error
    plans = Plans(make_env)
    n_groups = len(plans.problem.groups)
    bounds = np.tile([0.0, 1.0], (n_groups, 1))
    with suppress(EvaluationsSpent):
        for number, (_, options) in enumerate(plans.targets, 1):
            until = budget * (len(plans.targets) - number) // len(plans.targets)
            search = CMA(mean=np.full(n_groups, 0.5), sigma=0.3, bounds=bounds, seed=seed)
            while make_env.evaluations_left > until:
                told = []
                for _ in range(search.population_size):
                    ratios = search.ask()
                    judged = plans.judge(ratios, options)
                    loss = -judged.accuracy if judged.feasible else judged.cost
                    told.append((ratios, loss))
                search.tell(told)
                if search.should_stop():
                    search = CMA(mean=np.full(n_groups, 0.5), sigma=0.3, bounds=bounds, seed=seed)
    return plans.best
