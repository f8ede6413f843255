"""The rule of the scalar cost, and budgets by keep masks."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from prune_gym import Budget
from prune_gym.budgets import as_budget
from prune_gym.problem.costs import Constraint, measure_unpruned


def test_one_budget_is_its_cost():
    constraint = Constraint((0.25,))
    assert constraint.limit == 0.25
    assert constraint.cost(np.array([0.2])) == 0.2
    assert constraint.is_met(np.array([0.25]))
    assert not constraint.is_met(np.array([np.nextafter(0.25, 1.0)]))


@pytest.mark.parametrize(("limits", "costs"), [((0.25, 0.5), (0.2, 0.45)), ((0.5,), (0.45,))])
def test_several_or_relative_is_the_worst_share_of_a_limit(limits, costs):
    constraint = Constraint(limits, is_relative=len(limits) == 1)
    assert constraint.limit == 1.0
    assert constraint.cost(np.array(costs)) == 0.45 / 0.5
    assert constraint.is_met(np.array(costs))


def test_a_problem_and_its_outcomes_follow_the_rule():
    problem = tiny.make_tiny(budgets={"params": 0.5, "macs": 0.4})
    outcome = problem.evaluate(tiny.random_masks(problem, 0))
    assert problem.constraint == Constraint((0.5, 0.4))
    assert outcome.cost == problem.constraint.cost(outcome.cost_array)
    assert outcome.cost == max(outcome.costs["params"] / 0.5, outcome.costs["macs"] / 0.4)
    np.testing.assert_array_equal(outcome.cost_array, outcome.value_array / problem.unpruned_values)
    other = outcome.judged_by((1.0, 1.0))
    assert other.cost == max(outcome.costs.values())
    assert other.feasible
    assert other.values == outcome.values


def test_other_budgets_of_the_same_networks(tiny_problem):
    masks = tiny.random_masks(tiny_problem, 0)
    other = tiny_problem.cost_model.of_budgets([as_budget("macs"), as_budget("params")])
    assert other.names == ("macs", "params")
    assert other.costs(masks)[1] == tiny_problem.costs(masks)[0]
    expected = tiny.make_tiny(budgets={"macs": 0.9}).costs(masks)[0]
    assert other.costs(masks)[0] == expected


def test_the_unpruned_network_is_measured_unless_it_was_before(tiny_problem):
    calls = []
    clock = Budget("clock", lambda network: float(len(calls.append(1) or calls)))
    network, example = tiny_problem.network, tiny_problem.example
    budgets = (clock, as_budget("params"))
    assert measure_unpruned(budgets, network, example).tolist() == [1.0, 765.0]
    assert measure_unpruned(budgets, network, example, {"clock": 7.0}).tolist() == [7.0, 765.0]
    assert len(calls) == 1


def test_what_was_remembered_cannot_be_written_to(tiny_problem):
    outcome = tiny_problem.evaluate(tiny.random_masks(tiny_problem, 0))
    with pytest.raises(ValueError, match="read-only"):
        outcome.value_array[0] = 0.0
