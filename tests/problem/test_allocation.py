"""Allocation: within the limits, used up, and measured as seldom as said."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from torch import nn

from prune_gym import Budget
from prune_gym.problem.allocation import MEASUREMENTS, Allocation, largest_within
from prune_gym.problem.sensitivity import sensitivity_of

COUNTED = {
    "one": {"budgets": {"params": 0.4}},
    "several": {"budgets": {"params": 0.5, "macs": 0.4, "size_bytes": 0.7}},
    "energy": {"budgets": {"energy_uj": 0.5}},
    "rounded": {"budgets": {"macs": 0.6}, "round_to": 2},
    "residual": {"network": "residual", "budgets": {"macs": 0.4}},
    "depth": {"network": "residual", "depth": True, "budgets": {"params": 0.3}},
}


def next_step(problem, counts, group):
    """The counts with one group at its next number of filters, or None if it is whole."""
    own = problem.allocation.keepable[group]
    above = own[own > counts[group]]
    if not above.size:
        return None
    more = counts.copy()
    more[group] = above[0]
    return more


def is_used_up(problem, counts, limits=None) -> bool:
    """Whether no group can take its next step."""
    limits = np.array(problem.limits if limits is None else limits)
    steps = [next_step(problem, counts, group) for group in range(len(counts))]
    return all((problem.counted_costs(s) > limits).any() for s in steps if s is not None)


@pytest.fixture(scope="module")
def problems():
    """Made once."""
    found = {}

    def of(kind):
        if kind not in found:
            found[kind] = tiny.make_tiny(**COUNTED[kind])
        return found[kind]

    return of


@pytest.mark.parametrize("kind", COUNTED)
def test_it_is_within_all_limits_and_uses_them_up(problems, kind):
    problem = problems(kind)
    counts = problem.allocation.counts()
    costs = problem.costs(problem.masks_of(counts))
    assert problem.feasible(costs)
    assert is_used_up(problem, counts)
    assert problem.evaluate(problem.masks_of(counts)).feasible
    for group, n in enumerate(counts):
        assert n in problem.allocation.keepable[group]


def test_numbers_are_multiples_of_round_to(problems):
    problem = problems("rounded")
    counts = problem.allocation.counts()
    assert all(n % 2 == 0 or n == size for n, size in zip(counts, problem.sizes, strict=True))


@pytest.mark.parametrize("kind", ["one", "residual"])
def test_a_higher_limit_never_keeps_less(problems, kind):
    problem = problems(kind)
    spent = [
        float(problem.counted_costs(problem.allocation.counts([limit]))[0])
        for limit in np.linspace(0.2, 1.0, 12)
    ]
    assert (np.diff(spent) >= -0.05).all()  # one step of one group
    assert spent[-1] == 1.0
    places = np.linspace(0.0, 1.0, 40)
    assert (np.diff(problem.allocation.widths(places), axis=0) >= -1e-9).all()


def test_of_sensitive_groups_more_stays(default_problem):
    sizes = default_problem.sizes
    plan = [sizes] + [np.where(np.arange(len(sizes)) == g, 4, sizes) for g in range(len(sizes))]
    rewards = [1.0, 0.1, *[1.0] * (len(sizes) - 1)]  # the first one matters, no other does
    allocation = Allocation(default_problem, sensitivity_of(default_problem, plan, rewards))
    share = allocation.counts() / sizes
    assert share[0] > 2 * share[1:].max()


def test_without_a_scan_all_groups_keep_the_same_share(default_problem):
    allocation = Allocation.without_scan(default_problem)
    widths = allocation.widths(0.6) / default_problem.sizes
    np.testing.assert_allclose(widths, widths[0], rtol=0.05)


def test_proportions_are_scaled_until_they_fit(problems):
    for kind in COUNTED:
        problem = problems(kind)
        generator = np.random.default_rng(0)
        for _ in range(10):
            wanted = problem.sizes * np.exp(2.0 * generator.standard_normal(len(problem.sizes)))
            counts = problem.allocation.fitted(wanted, problem.limits)
            assert problem.feasible(problem.counted_costs(counts)), kind
            assert is_used_up(problem, counts), kind


def test_what_is_below_the_fewest_is_filled_up_to_them(problems):
    problem = problems("one")
    start = np.zeros(len(problem.sizes), dtype=np.int64)
    counts = problem.allocation.filled(start, problem.sizes.astype(np.float64), [1.0])
    assert counts.tolist() == problem.sizes.tolist()


# -- what is not counted ---------------------------------------------------------------------------


def counting(values):
    """A black box that keeps what it gave."""

    def parameters(network: nn.Module) -> float:
        values.append(float(sum(p.numel() for p in network.parameters())))
        return values[-1]

    return parameters


def test_a_black_box_is_measured_a_few_times():
    values = []
    problem = tiny.make_tiny(budgets={counting(values): 0.5})
    allocation = problem.allocation
    assert not allocation.is_known
    values.clear()
    counts = allocation.counts()
    assert 1 <= len(values) <= MEASUREMENTS
    assert problem.costs(problem.masks_of(counts))[0] <= 0.5
    assert problem.costs(problem.masks_of(counts))[0] > 0.25  # and much of it is used
    values.clear()
    allocation.counts()
    assert not values  # remembered
    allocation.counts([0.3])
    assert len(values) < MEASUREMENTS  # what was measured on the way is known


def test_beside_counted_budgets_a_black_box_is_asked_where_those_hold():
    values = []
    problem = tiny.make_tiny(budgets={"params": 0.2, counting(values): 0.9})
    problem.sensitivity  # noqa: B018 - judged here
    values.clear()
    counts = problem.allocation.counts()
    assert len(values) < MEASUREMENTS  # the counted limit rules most networks out
    assert problem.feasible(problem.costs(problem.masks_of(counts)))


def test_a_budget_that_is_not_monotone_is_measured():
    steps = Budget(
        "steps",
        lambda network: 1.0 + sum(p.numel() for p in network.parameters()) % 7,
        deterministic=True,
        monotone=False,
    )
    problem = tiny.make_tiny(budgets={"macs": 0.5, steps: 1.0})
    assert problem.allocation.known.tolist() == [True, False]
    counts = problem.allocation.counts()
    assert problem.counted_costs(counts)[0] <= 0.5


def test_the_largest_place_within_limits(tiny_problem):
    sizes = tiny_problem.sizes

    def family(place):
        return tiny_problem.masks_of(np.maximum(1, np.rint(place * sizes)).astype(int))

    place = largest_within(tiny_problem, family, tiny_problem.limits)
    assert tiny_problem.costs(family(place))[0] <= 0.5
    assert tiny_problem.costs(family(min(1.0, place + 0.07)))[0] > 0.5
    assert largest_within(tiny_problem, family, [1e-9]) == pytest.approx(0.0, abs=1e-6)
    assert largest_within(tiny_problem, family, [1.0]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("limits", [[0.1, 0.2], ["a"], 0.1, [-1.0], [float("nan")], [0.0], [1.5]])
def test_limits_that_are_none_are_refused(tiny_problem, limits):
    with pytest.raises(ValueError, match=r"limits=.*expected a list of 1 numbers in \(0, 1\]"):
        tiny_problem.allocation.counts(limits)


def test_a_group_that_is_not_there(tiny_problem):
    with pytest.raises(ValueError, match="group=9: expected the index of a group, 0 to 2"):
        tiny_problem.sensitivity.drop(9, [0.5])
