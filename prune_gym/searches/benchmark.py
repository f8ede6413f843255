"""Searches as entries of `agents.benchmark`: the baselines, and the exact optimum.

Each is a ``train(make_env, seed, budget)``: it judges plans (an action for every step, whatever is
observed) until the evaluations are spent. What they return plays the best plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from agents.benchmark.environments import MakeEnv
from agents.benchmark.ledger import EvaluationsSpent, Judged
from agents.benchmark.policies import Plan
from agents.errors import UnfitEnvError
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Masks, kept_per_group
from prune_gym.searches import baselines

Limits = Mapping[str, float]


class Plans:
    """Judges networks by keep masks, and remembers the best plan.

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

    def judge_masks(self, masks: Masks, options: Any = None) -> Judged:
        """Judge the network of keep masks; layer by layer, their numbers of filters count."""
        if self._by_filter:
            width = int(self.problem.sizes.max())
            ordered = [mask[order] for mask, order in zip(masks, self.problem.orders, strict=True)]
            actions = [np.pad(2.0 * mask - 1.0, (0, width - mask.size)) for mask in ordered]
        else:
            shares = kept_per_group(masks) / self.problem.sizes
            actions = list((1.0 - 2.0 * shares)[:, None])
        judged = self._make_env.judge(actions, options=options)
        if rank(judged) > self._rank:
            self._rank, self.best = rank(judged), Plan(actions)
        return judged


def rank(judged: Judged) -> tuple[bool, float]:
    """What networks are chosen by, larger is better: the feasible first, and by accuracy."""
    return baselines.rank((judged.accuracy, judged.cost, judged.feasible))


def baseline(name: str, make_env: MakeEnv, budget: int, seed: int) -> Plan | None:
    """Run one of `prune_gym.searches.baselines`, once for each limit that is judged."""
    plans, generator = Plans(make_env), np.random.default_rng(seed)
    with suppress(EvaluationsSpent):
        for number, (limits, options) in enumerate(plans.targets, 1):
            until = budget * (len(plans.targets) - number) // len(plans.targets)
            within = [limits[name] for name in plans.problem.names]
            left = make_env.evaluations_left - until
            proposer = baselines.baseline(name, plans.problem, left, generator, within)
            # costs of an episode with limits of its own are shares of its limit
            unit = within[0] if len(within) == 1 else 1.0
            with suppress(StopIteration):
                batch = next(proposer)
                while True:
                    judged = [plans.judge_masks(masks, options) for masks in batch]
                    batch = proposer.send(
                        [
                            (one.accuracy, one.cost / one.cost_limit * unit, one.feasible)
                            for one in judged
                        ]
                    )
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
        counts = np.array(table.optimum(limits).counts, dtype=np.int64)
        plans.judge_masks(plans.problem.masks_of(counts), options)
    return plans.best


# -- what starts with the sensitivity scan ---------------------------------------------------------


def scan(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """The sensitivity scan, and the network of its allocation."""
    return baseline("scan", make_env, budget, seed)


def evolution(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """(1 + 4) evolution of the scan's network, scaled to fit and filled up."""
    return baseline("evolution", make_env, budget, seed)


def cmaes(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """CMA-ES around the scan's network, by the library of that name."""
    return baseline("cmaes", make_env, budget, seed)


def bayesian(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """Bayesian optimisation around the scan's network, by a Gaussian process."""
    return baseline("bayesian", make_env, budget, seed)


# -- one network -----------------------------------------------------------------------------------


def equal_width(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """The same number of filters in every group."""
    return baseline("equal_width", make_env, budget, seed)


def lamp(make_env: MakeEnv, seed: int, budget: int) -> Plan | None:
    """One threshold on the LAMP scores of all filters."""
    return baseline("lamp", make_env, budget, seed)
