"""Networks are measured anew before they are handed over, one after the other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
from test_searches import config_of, search_in

from prune_gym import Budget, BudgetError
from prune_gym.cli.pictures import _returned
from prune_gym.errors import NothingFeasibleError
from prune_gym.searches.finalize import TUNED, finish
from prune_gym.searches.fine_tuning import FineTuned
from prune_gym.searches.remeasure import REPEATS, candidates, confirm, cost_in_words


class Noisy:
    """Parameters times a factor that the test can tell; counts its calls by size."""

    def __init__(self) -> None:
        self.factors = lambda size: 1.0
        self.calls: list[int] = []

    def __call__(self, network) -> float:
        size = sum(p.numel() for p in network.parameters())
        self.calls.append(size)
        return size * self.factors(size)


def noisy_problem(limit=0.5, **arguments):
    noisy = Noisy()
    problem = tiny.make_tiny(budgets={Budget("noisy", noisy, unit="ms"): limit, "params": 1.0})
    return problem, noisy


def test_noisy_budgets_are_measured_several_times():
    problem, noisy = noisy_problem()
    masks = problem.masks_of([2, 3, 4])
    network = problem.compact(masks)
    size = problem.costs(masks)[1] * 765
    draws = iter([0.9, 1.3, 1.0, 1.2, 1.1])
    noisy.factors = lambda size: next(draws)
    found = confirm(problem, masks, network)
    assert found.costs.tolist() == pytest.approx([1.1 * size / 765, size / 765])
    assert found.measured == {
        "noisy": {
            "lowest": pytest.approx(0.9 * size / 765),
            "median": pytest.approx(1.1 * size / 765),
            "highest": pytest.approx(1.3 * size / 765),
            "measurements": REPEATS,
        }
    }
    assert found.feasible
    assert " in 5 measurements) of at most 0.5 (382.5 ms); params 0." in str(found)


def test_the_median_counts_and_not_the_luckiest():
    problem, noisy = noisy_problem()
    masks = problem.masks_of([2, 3, 4])
    cost = problem.costs(masks)[1]
    draws = iter(0.5 / cost * np.array([0.1, 1.1, 0.1, 1.1, 1.1]))
    noisy.factors = lambda size: next(draws)
    assert not confirm(problem, masks, problem.compact(masks)).feasible


def test_two_equal_measurements_are_enough():
    problem, noisy = noisy_problem()
    masks = problem.masks_of([2, 3, 4])
    noisy.calls.clear()
    found = confirm(problem, masks, problem.compact(masks))
    assert len(noisy.calls) == 2
    assert found.measured["noisy"]["measurements"] == 2


def test_certain_budgets_are_not_measured_again():
    problem = tiny.make_tiny(budgets={"params": 0.5, "activation_bytes": 1.0})
    masks = problem.masks_of([2, 3, 4])
    found = confirm(problem, masks, problem.compact(masks))
    assert found.measured == {}
    np.testing.assert_array_equal(found.costs, problem.costs(masks))
    assert cost_in_words(problem, 0, 0.25) == (
        "params 0.2500 (191.2 parameters) of at most 0.5 (382.5 parameters)"
    )


def searched(tmp_path, problem, algo="random"):
    search = search_in(tmp_path / "run", problem, config_of(algo, 60, seed=3))
    search.run()
    return search


def test_candidates_are_the_best_networks_in_turn(tmp_path):
    problem, _ = noisy_problem()
    search = searched(tmp_path, problem)
    found = [masks for _, masks in candidates(search.archive, problem, search.config.by_ratio)]
    feasible = [row for row in search.archive.trials if row.feasible]
    assert 3 < len(found) <= min(10, len(feasible))
    judged = [problem.evaluate(masks) for masks in found]
    assert all(outcome.remembered and outcome.feasible for outcome in judged)  # no others
    ranks = [(outcome.accuracy, -outcome.cost) for outcome in judged]
    assert ranks == sorted(ranks, reverse=True)
    assert len(list(candidates(search.archive, problem, by_ratio=False))) == 1
    resumed = search_in(tmp_path / "run", problem, search.config)
    again = [masks for _, masks in candidates(resumed.archive, problem, resumed.config.by_ratio)]
    assert len(again) == len(found)
    for one, other in zip(found, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_next_best_network_is_taken(tmp_path):
    problem, noisy = noisy_problem()
    search = searched(tmp_path, problem)
    sizes = [
        sum(p.numel() for p in problem.compact(masks).parameters())
        for _, masks in candidates(search.archive, problem, True)
    ]
    lucky = set(sizes[:2])
    assert sizes[2] not in lucky
    noisy.factors = lambda size: 100.0 if size in lucky else 1.0
    metrics = finish(
        search.result, search.run_folder.path, wall_s=lambda: 1.0, on_step=lambda *_: None
    )
    assert metrics["pruned"]["params"] == sizes[2]
    assert metrics["feasible"] is True
    assert metrics["costs"]["noisy"] == sizes[2] / 765 == metrics["measured"]["noisy"]["median"]
    rows = search.folder.read_episodes()
    row = rows[_returned(search.folder, rows)]
    assert float(row["cost_params"]) == sizes[2] / 765  # what the report points at
    assert metrics["units"] == {"noisy": "ms", "params": "parameters"}
    assert metrics["unpruned_values"] == {"noisy": 765.0, "params": 765.0}


def test_none_of_them_is(tmp_path):
    problem, noisy = noisy_problem()
    search = searched(tmp_path, problem)
    before = (tmp_path / "run" / "plan.json").read_bytes()
    noisy.factors = lambda size: 100.0
    with pytest.raises(
        NothingFeasibleError,
        match=r"^measured anew, the best network is over a limit: noisy \d+\.\d+ \(.* ms; .* in 2 "
        r"measurements\) of at most 0.5 .*; so are the next \d of the best. A budget is noisy, or",
    ):
        finish(search.result, search.run_folder.path, wall_s=lambda: 1.0, on_step=lambda *_: None)
    assert (tmp_path / "run" / "plan.json").read_bytes() == before
    assert not (tmp_path / "run" / "metrics.json").exists()
    noisy.factors = lambda size: 1.0
    metrics = finish(
        search.result, search.run_folder.path, wall_s=lambda: 1.0, on_step=lambda *_: None
    )
    assert json.dumps(metrics)


def test_a_budget_that_breaks_then_is_named(tmp_path):
    problem, noisy = noisy_problem()
    search = searched(tmp_path, problem)
    noisy.factors = lambda size: float("nan")
    with pytest.raises(BudgetError, match="budget 'noisy' returned nan"):
        finish(search.result, search.run_folder.path, wall_s=lambda: 1.0, on_step=lambda *_: None)


def test_few_are_fine_tuned_where_weights_are_to_blame(tmp_path, monkeypatch):
    """Networks that only fine-tuning pushes over the limit: three of them are tried."""
    problem, noisy = noisy_problem()
    search = searched(tmp_path, problem)
    tuned = []

    def tune(network, *_, **__):
        tuned.append(network)
        noisy.factors = lambda size: 100.0
        return FineTuned(0.5, 0.5, recomputed=False, kept=True)

    def compact(masks, plain=problem.compact):
        noisy.factors = lambda size: 1.0
        return plain(masks)

    monkeypatch.setattr("prune_gym.searches.finalize.fine_tune", tune)
    monkeypatch.setattr(type(problem), "compact", lambda self, masks: compact(masks))
    with pytest.raises(NothingFeasibleError, match=r"^after fine-tuning the best network is over"):
        finish(search.result, search.run_folder.path, wall_s=lambda: 1.0, on_step=lambda *_: None)
    assert len(tuned) == TUNED == 3
