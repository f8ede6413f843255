"""`round_to="auto"`: the choice from times, the cache, what it leaves, what is written down."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny

from prune_gym import Budget, latency_ms, make_problem, search
from prune_gym.budgets.latency import stopwatch_of
from prune_gym.problem import fast_widths
from prune_gym.problem.fast_widths import FastWidths, multiples_in_words, usual_multiple
from prune_gym.searches.run_folder import RunFolder


@pytest.fixture
def fast(monkeypatch):
    """Times that say that multiples of 4 are fast, and how often they were measured."""
    measured = []

    def times(problem, watch):
        measured.append(watch)
        return {1: 1.4, 2: 1.3, 4: 1.02, 8: 1.0}

    monkeypatch.setattr(fast_widths, "_measured", times)
    return measured


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fast_widths"


@pytest.mark.parametrize(
    ("times", "most", "found"),
    [
        ({1: 1.4, 2: 1.2, 4: 1.04, 8: 1.0, 16: 1.0}, 32, 4),
        ({1: 1.4, 2: 1.2, 4: 1.06, 8: 1.0, 16: 1.0}, 32, 8),
        ({1: 1.4, 2: 1.2, 4: 1.3, 8: 1.0}, 4, 2),
        ({1: 1.03, 2: 1.0, 4: 1.02}, 32, 1),
        ({1: 1.0}, 32, 1),
    ],
)
def test_the_smallest_multiple_that_is_hardly_slower(times, most, found):
    assert FastWidths(times).multiple(most) == found


def test_it_is_measured_once_and_written_down_as_a_number(fast, own_folder):
    problem = make_problem(round_to="auto", budgets={"params": 0.2})
    assert problem.round_to == 4
    assert problem.arguments["round_to"] == 4
    assert make_problem(round_to="auto", budgets={"params": 0.2}).round_to == 4
    assert fast == [None]
    assert "multiples of 4: at equal multiply-adds 0.73 of the time" in multiples_in_words(problem)
    counts = problem.kept_counts(np.full(len(problem.groups), 0.55))
    assert (counts % 4 == 0).all()
    (file,) = own_folder.iterdir()
    file.write_text("{}")  # damaged: measured anew
    assert make_problem(round_to="auto", budgets={"params": 0.2}).round_to == 4
    assert len(fast) == 2
    assert json.loads(file.read_text())["times"]["4"] == 1.02


def test_a_run_folder_holds_the_number(fast, tmp_path):
    problem = make_problem(round_to="auto", budgets={"params": 0.2})
    search(problem, "random", evaluations=1, out=tmp_path / "run")
    assert RunFolder.open(tmp_path / "run")[1].problem["round_to"] == 4


def test_a_multiple_has_to_leave_room_within_the_limits(fast):
    floor = 1.05 * np.max(make_problem(round_to=4).costs(make_problem().masks_of([4] * 8)))
    for limit, multiple in ((4.2 * floor, 4), (3.5 * floor, 2)):
        assert make_problem(round_to="auto", budgets={"params": limit}).round_to == multiple


def test_the_allocation_lands_on_the_multiples_and_uses_the_rest_up(fast):
    problem = make_problem(round_to="auto", budgets={"params": 0.2})
    counts = type(problem.allocation).without_scan(problem).counts()
    assert (counts % 4 == 0).all()
    for group in range(len(counts)):
        more = counts.copy()
        more[group] += 4
        assert counts[group] == problem.sizes[group] or problem.counted_costs(more)[0] > 0.2


def test_single_weights_have_no_multiples(fast):
    problem = tiny.make_tiny(round_to="auto", structure="weight")
    assert (problem.round_to, fast) == (1, [])
    assert "any number" in multiples_in_words(problem)


@pytest.mark.parametrize("network", ["vgg", "residual", "mobile"])
def test_it_is_measured_on_networks_of_all_kinds(network, monkeypatch):
    monkeypatch.setattr(fast_widths, "LONGEST_S", 0.0)
    budget = latency_ms(batch_size=2, error=1e9)
    for budgets, known in (({"params": 0.9}, None), ({budget: 0.99}, {"latency_ms": 1.0})):
        problem = tiny.make_tiny(network, budgets=budgets, unpruned_values=known)
        times = fast_widths.fast_widths(problem).times
        assert min(times.values()) == pytest.approx(1.0)
        assert 1 in times


def test_a_latency_is_timed_its_own_way(fast):
    budget = latency_ms(batch_size=3, error=1e9)
    tiny.make_tiny(round_to="auto", budgets={budget: 0.99}, unpruned_values={"latency_ms": 1.0})
    assert fast == [stopwatch_of(budget)]
    assert fast[0].batch_size == 3


@pytest.mark.parametrize("name", ["fast", 8.5, True, 0])
def test_anything_else_is_refused(name):
    with pytest.raises(ValueError, match=r"round_to=.* must be a whole number of at least 1"):
        tiny.make_tiny(round_to=name)


def test_only_limits_on_time_take_it_by_themselves():
    assert usual_multiple({"params": 0.1, "macs": 0.2}) == 1
    assert usual_multiple({"params": 0.1, "latency_ms": "2ms"}) == "auto"
    assert usual_multiple({Budget("mine", lambda network: 1.0, unit="ms"): 0.5}) == "auto"
    assert usual_multiple({"command[ms]:python measure.py {onnx}": 0.5}) == "auto"
