"""The searches that know the budgets: never above a limit that is counted, and used up."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tiny

from prune_gym import TabularProblem, make_problem, search
from prune_gym.criteria import CRITERIA, score_groups
from prune_gym.problem.sensitivity import scan_counts
from prune_gym.pruning.masks import kept_per_group
from prune_gym.searches.baselines import TRIES, _first_within, baseline, prior

KNOWING = ("equal_width", "lamp", "scan", "evolution", "cmaes", "bayesian")
KINDS = {
    "params": {"budgets": {"params": 0.4}},
    "two": {"budgets": {"params": 0.6, "macs": 0.5}},
    "rounded": {"budgets": {"params": 0.5}, "round_to": 2},
    "depth": {"network": "residual", "depth": True, "budgets": {"macs": 0.5}},
}


@pytest.fixture(scope="module")
def problems():
    """Made once."""
    return {kind: tiny.make_tiny(**arguments) for kind, arguments in KINDS.items()}


def parameters(network):
    """A black box."""
    return float(sum(p.numel() for p in network.parameters()))


def judged_of(name, problem, evaluations=40, seed=0, limits=None):
    """Masks and outcomes, those of the scan apart: (scan, later)."""
    proposer = baseline(name, problem, evaluations, np.random.default_rng(seed), limits)
    found, batch = [], next(proposer, None)
    while batch is not None:
        outcomes = [problem.evaluate(masks) for masks in batch]
        found += list(zip(batch, outcomes, strict=True))
        try:
            batch = proposer.send([(one.accuracy, one.cost, one.feasible) for one in outcomes])
        except StopIteration:
            batch = None
    n = 0 if name in ("equal_width", "lamp") else len(scan_counts(problem, evaluations // 2))
    return found[:n], found[n:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", KNOWING)
def test_no_network_is_above_a_counted_limit(problems, name, kind):
    problem = problems[kind]
    _, later = judged_of(name, problem)
    assert later
    assert all(outcome.feasible for _, outcome in later)


@pytest.mark.parametrize("name", KNOWING)
def test_other_limits_than_the_problems(problems, name):
    _, later = judged_of(name, problems["params"], limits=[0.7])
    costs = [outcome.cost for _, outcome in later]
    assert max(costs) <= 0.7
    assert max(costs) > 0.4


@pytest.mark.parametrize("name", KNOWING)
def test_a_measured_limit_is_met_by_some(name):
    problem = tiny.make_tiny(budgets={parameters: 0.5})
    _, later = judged_of(name, problem)
    assert any(outcome.feasible for _, outcome in later)
    assert max(outcome.cost for _, outcome in later if outcome.feasible) > 0.3


class Warming:
    """A black box that costs more once its network was chosen."""

    factor = 1.0

    def __call__(self, network):
        return self.factor * parameters(network)


def told(proposer, problem):
    """Whether each network that a proposer yields is within the limits, and what it returns."""
    batch, fits = next(proposer), []
    while True:
        outcomes = [problem.evaluate(masks) for masks in batch]
        fits += [one.feasible for one in outcomes]
        try:
            batch = proposer.send([(one.accuracy, one.cost, one.feasible) for one in outcomes])
        except StopIteration as end:
            return fits, end.value


def test_smaller_networks_follow_where_the_scans_is_over_when_it_is_measured():
    budget = Warming()
    problem = tiny.make_tiny(budgets={budget: 0.4})
    counts = problem.allocation.counts()
    budget.factor = 1.25  # what held while it was looked for holds no more
    fits, (found, best, left) = told(_first_within(problem.allocation, problem.limits, 20), problem)
    assert fits == [False] * (len(fits) - 1) + [True]
    assert 1 < len(fits) <= TRIES
    assert (found < counts).any()
    assert (best[0], left) == (True, 20 - len(fits))


def test_agents_start_from_a_network_that_was_within_the_limits():
    budget = Warming()
    problem = tiny.make_tiny(budgets={budget: 0.4})
    proposer = prior(problem, 40, 40)
    batch, judged = next(proposer), []
    n_scan = len(scan_counts(problem, 20))
    while batch is not None:
        budget.factor = 1.25 if len(judged) == n_scan else budget.factor
        judged += [problem.evaluate(masks) for masks in batch]
        rows = [(one.accuracy, one.cost, one.feasible) for one in judged[-len(batch) :]]
        try:
            batch = proposer.send(rows)
        except StopIteration as end:
            (allocation, n_judged), batch = end.value, None
    assert n_judged == len(judged)
    assert not judged[n_scan].feasible
    assert judged[-1].feasible
    kept = np.rint(judged[-1].kept * problem.sizes)
    assert (allocation.counts() == kept).all()
    known = problem.knowing(allocation.sensitivity, allocation)
    assert known.allocation is allocation


def test_lamp_takes_the_filters_that_a_table_has():
    problem = TabularProblem.load("tiny_resnet-digits-taylor", budgets={"params": 0.4})
    (masks, outcome), *others = judged_of("lamp", problem)[1]
    assert not others
    assert outcome.feasible
    for mask, order in zip(masks, problem.orders, strict=True):
        assert mask[order[: mask.sum()]].all()


def test_searches_begin_with_the_scan_and_its_network(problems):
    problem = problems["params"]
    for name in ("scan", "evolution", "cmaes", "bayesian"):
        scanned, later = judged_of(name, problem)
        plan = scan_counts(problem, 20)
        assert [kept_per_group(m).tolist() for m, _ in scanned] == [c.tolist() for c in plan]
        assert kept_per_group(later[0][0]).tolist() == problem.allocation.counts().tolist()


def test_evolution_goes_on_from_the_best(problems):
    problem = problems["two"]
    _, later = judged_of("evolution", problem, 60)
    best = [outcome.accuracy for _, outcome in later]
    assert max(best) >= best[0]


def test_bayesian_optimisation_judges_no_network_twice(default_problem):
    _, later = judged_of("bayesian", default_problem, 24)
    assert len({tuple(kept_per_group(masks)) for masks, _ in later}) == len(later)


def test_bayesian_optimisation_learns_what_a_measured_budget_costs():
    problem = tiny.make_tiny(budgets={parameters: 0.4})
    _, later = judged_of("bayesian", problem, 60)
    costs = np.array([outcome.cost for _, outcome in later[-20:]])
    assert (costs <= 0.4).mean() > 0.6
    assert costs.max() > 0.3  # and uses it up


def test_equal_width_keeps_the_same_number_in_every_group(default_problem):
    ((masks,),) = [next(baseline("equal_width", default_problem, 1, np.random.default_rng(0)))]
    counts = kept_per_group(masks)
    cut = counts[counts < default_problem.sizes]  # those that have fewer stay whole
    assert cut.max() - cut.min() <= 1
    assert (counts[counts == default_problem.sizes] <= cut.max() + 1).all()
    costs = default_problem.costs(masks)
    assert 0.09 < costs[0] <= 0.1


def test_lamp_is_one_threshold_on_its_scores(default_problem):
    ((masks,),) = [next(baseline("lamp", default_problem, 1, np.random.default_rng(0)))]
    problem, train = default_problem, default_problem.data.train
    scores = score_groups(
        problem.network, problem.groups, CRITERIA.get("lamp"), train, 0, problem.task
    )
    kept = min(
        float(own[mask].min()) for own, mask in zip(scores, masks, strict=True) if mask.sum() > 1
    )
    gone = max(
        float(own[~mask].max()) for own, mask in zip(scores, masks, strict=True) if not mask.all()
    )
    assert kept >= gone
    assert 0.08 < problem.costs(masks)[0] <= 0.1


def test_the_library_of_cmaes_is_named_where_it_is_missing(tiny_problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(
        ModuleNotFoundError, match=r'cmaes is not installed\. pip install "prune-gym'
    ):
        next(baseline("cmaes", tiny_problem, 20, np.random.default_rng(0)))


# -- in a search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["evolution", "bayesian", "ppo_lag", "scan"])
@pytest.mark.parametrize("evaluations", [1, 2, 5, 30])
def test_a_search_of_few_networks(algo, evaluations):
    result = search(tiny.make_tiny(), algo, evaluations=evaluations)
    assert len(result) <= evaluations
    if algo != "scan":
        assert len(result) == evaluations
    if evaluations > 2:
        assert result.feasible


@pytest.mark.parametrize("algo", [None, "ppo_lag"])
def test_the_default_search_decides_beside_the_prior(algo):
    problem = tiny.make_tiny()
    result = search(problem, algo, evaluations=40)
    assert (result.config.env, result.config.algo) == ("PruneVGG-v1", algo or "bayesian")
    table = result.networks
    n = problem.sensitivity.evaluations
    assert table["feasible"][n:].all()  # nothing after the scan is above the limit


@pytest.mark.parametrize(
    ("structure", "options", "env"),
    [
        ("weight", {}, "PruneVGG-v0"),
        ("filter", {"hard": True}, "PruneVGG-v0"),
        ("filter", {"granularity": "filter"}, "PruneVGGFilters-v1"),
    ],
)
def test_where_no_prior_decides_layer_by_layer_the_default_is_an_agent(structure, options, env):
    problem = tiny.make_tiny(structure=structure)
    result = search(problem, evaluations=8, **options)
    assert (result.config.env, result.config.algo) == (env, "ppo_lag")


# -- criterion="auto" ------------------------------------------------------------------------------


def test_the_criterion_follows_from_the_network(default_problem):
    from torch import nn

    assert make_problem(criterion="auto").arguments["criterion"] == "bn_scale"
    own = tiny.make_tiny(criterion="auto")  # every group has a BatchNorm
    by_name = tiny.make_tiny(criterion="bn_scale")
    for one, other in zip(own.scores, by_name.scores, strict=True):
        np.testing.assert_array_equal(one, other)
    plain = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    for one, other in zip(
        tiny.make_tiny(plain, criterion="auto").scores,
        tiny.make_tiny(plain, criterion="l1").scores,
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_single_weights_go_by_their_size():
    problem = make_problem(structure="weight", criterion="auto")
    assert problem.arguments["criterion"] == "l1"
