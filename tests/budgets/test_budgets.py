"""Every budget of the registry, and what users hand in as one."""

from __future__ import annotations

import inspect
import math
import sys
import time
import types
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch

import prune_gym
from prune_gym import BUDGETS, Budget, BudgetError, count
from prune_gym.budgets import as_budget


class Meter:
    """A black box that remembers what it was called with."""

    __name__ = "meter"

    def __init__(self, value=None) -> None:
        self.seen: list = []
        self.value = value

    def __call__(self, network):
        self.seen.append((network.training, type(network).__name__))
        parameters = sum(p.numel() for p in network.parameters())
        return parameters if self.value is None else self.value


CERTAIN = [name for name in BUDGETS if BUDGETS.get(name)().is_deterministic]
MONOTONE = [name for name in BUDGETS if BUDGETS.get(name)().monotone]
HERE = [name for name in BUDGETS if torch.cuda.is_available() or "cuda" not in name]


@pytest.mark.parametrize("name", CERTAIN)
def test_every_budget(name):
    problem = tiny.make_tiny("residual", budgets={name: 0.9})
    assert problem.names == (name,)
    budget = problem.budgets[0]
    value = budget(problem.network, problem.example)
    assert value > 0.0
    assert math.isfinite(value)
    assert budget(problem.network, problem.example) == value
    assert budget.unit
    whole = problem.evaluate(problem.masks_of(problem.sizes))
    smallest = problem.evaluate(problem.masks_of(np.ones_like(problem.sizes)))
    assert whole.cost == 1.0
    assert not whole.feasible
    assert whole.values[name] == value == count(name, problem.network, problem.example)
    assert 0.0 < smallest.cost < 1.0
    assert smallest.feasible


@pytest.mark.parametrize("name", HERE)
def test_every_budget_that_can_be_measured_here(name, default_problem):
    """On the default problem, cut to one filter a group: what is noisy must come out lower still.

    Of what is timed, only processor time counts: others may have the cores meanwhile.
    """
    make = BUDGETS.get(name)
    is_timed = "timer" in inspect.signature(make).parameters
    budget = make(clock=time.thread_time, error=0.5) if is_timed else make()
    assert budget.name == name
    assert budget.unit
    whole, example = default_problem.network, default_problem.example
    smallest = default_problem.compact(default_problem.masks_of([1] * 8))
    before = [tiny.snapshot(network) for network in (whole, smallest)]
    dense = budget(whole, example)
    value = budget.relative(smallest, whole, example, dense)
    assert math.isfinite(dense)
    assert 0.0 < value < dense
    for network, was in zip((whole, smallest), before, strict=True):
        tiny.assert_unchanged(network, was)


@pytest.mark.parametrize("name", CERTAIN)
def test_counting_leaves_the_network_as_it_is(name):
    network = tiny.build("residual").train()
    before = tiny.snapshot(network)
    count(name, network, tiny.images_of(1))
    tiny.assert_unchanged(network, before)


def test_a_callable():
    def heaviest(network):
        return max(p.numel() for p in network.parameters())

    problem = tiny.make_tiny(budgets={heaviest: 0.5})
    assert problem.names == ("heaviest",)
    assert problem.unpruned_values.tolist() == [8 * 6 * 9]
    outcome = problem.evaluate(problem.masks_of([4, 3, 4]))
    assert outcome.values == {"heaviest": 108.0}
    assert outcome.cost == 0.25


def test_names_of_callables():
    assert as_budget(lambda network: 1.0).name == "custom"
    assert as_budget(Meter()).name == "meter"
    budget = Budget("joules", Meter(), unit="J")
    assert as_budget(budget) is budget


def test_module_and_function(monkeypatch):
    module = types.ModuleType("lent_budgets")
    module.lent = lambda network: 2.0
    module.made = Budget("made", lambda network: 3.0)
    module.number = 7
    monkeypatch.setitem(sys.modules, "lent_budgets", module)
    assert tiny.make_tiny(budgets={"lent_budgets:lent": 1.0}).names == ("lent_budgets:lent",)
    assert tiny.make_tiny(budgets={"lent_budgets:made": 1.0}).names == ("made",)
    for path, why in (("lent_budgets:gone", "has no attribute"), ("gone:lent", "No module named")):
        with pytest.raises(ValueError, match=rf"budget '{path}' cannot be imported: .*{why}"):
            tiny.make_tiny(budgets={path: 1.0})
    with pytest.raises(ValueError, match=r"'lent_budgets:number' is 7, which cannot be called"):
        tiny.make_tiny(budgets={"lent_budgets:number": 1.0})


@pytest.mark.parametrize("granularity", ["layer", "filter", "network"])
def test_a_black_box_is_called_once_per_finished_episode(granularity):
    meter = Meter()
    problem = tiny.make_tiny(budgets={meter: 0.9})
    env = gym.make("PruneVGG-v0", problem=problem, granularity=granularity, render_mode="ansi")
    env.reset(seed=0)
    env.action_space.seed(0)  # decisions that are judged already ask no budget
    env.step(env.action_space.sample())
    before = len(meter.seen) - (granularity == "network")
    env.reset()
    env.render()
    for episode in range(1, 4):
        tiny.rollout(env, seed=episode)
        env.render()
        env.unwrapped.compact_network()
        assert len(meter.seen) == before + episode + (granularity == "network")
    assert set(meter.seen) == {(False, "VGG")}  # always in evaluation mode


def test_a_monotone_black_box_can_be_charged_densely():
    budget = Budget("declared", Meter(), monotone=True)
    dense = gym.make(
        "PruneVGG-v0", problem=tiny.make_tiny(budgets={budget: 0.9}), cost_mode="dense"
    )
    counted = gym.make(
        "PruneVGG-v0", problem=tiny.make_tiny(budgets={"params": 0.9}), cost_mode="dense"
    )
    costs = [[step[4]["cost"] for step in tiny.rollout(env)] for env in (dense, counted)]
    np.testing.assert_allclose(*costs, atol=1e-12)


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3.0), (np.float32(0.5), 0.5), (np.int64(2), 2.0), (torch.tensor(4), 4.0), (0, 0.0)],
)
def test_numbers_that_are_allowed(value, number):
    found = Budget("mine", lambda network: value)(tiny.build("vgg"), tiny.images_of(1))
    assert type(found) is float
    assert found == number


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"budget 'mine' returned nan; expected a finite number, 0 or above"),
        (float("inf"), r"budget 'mine' returned inf; expected a finite number"),
        (-1.0, r"budget 'mine' returned -1.0; expected a finite number, 0 or above"),
        ("3", r"budget 'mine' returned '3' \(str\); expected a number"),
        (True, r"budget 'mine' returned True \(bool\); expected a number"),
        (None, r"budget 'mine' returned None \(NoneType\)"),
        (1j, r"budget 'mine' returned 1j \(complex\)"),
        (torch.ones(2), r"budget 'mine' returned tensor\(\[1., 1.\]\) \(Tensor\)"),
        (torch.tensor(True), r"budget 'mine' returned True \(bool\)"),
    ],
)
def test_values_that_are_no_cost(value, message):
    with pytest.raises(BudgetError, match=message):
        tiny.make_tiny(budgets={Budget("mine", lambda network: value): 0.5})


def test_a_budget_that_raises_is_named():
    def broken(network):
        raise KeyError("gone")

    with pytest.raises(BudgetError, match=r"budget 'broken' raised KeyError: 'gone'"):
        tiny.make_tiny(budgets={broken: 0.5})


def test_a_budget_that_breaks_in_an_episode_is_named():
    meter = Meter()
    env = gym.make("PruneVGG-v0", problem=tiny.make_tiny(budgets={meter: 0.9}))
    meter.value = float("nan")
    with pytest.raises(BudgetError, match=r"budget 'meter' returned nan"):
        tiny.rollout(env)


def test_a_budget_of_zero_has_no_relative_cost():
    with pytest.raises(ValueError, match=r"budget 'zero' of the unpruned network is 0.0.*above 0"):
        tiny.make_tiny(budgets={Budget("zero", lambda network: 0.0): 0.5})


def test_budgets_that_are_none():
    with pytest.raises(
        TypeError, match=r"budget 3: expected one of activation_bytes, .*size_bytes, 'mod"
    ):
        tiny.make_tiny(budgets={3: 0.5})
    with pytest.raises(ValueError, match=r"budget 'x': give `measure` or `counted`, one of them"):
        Budget("x")
    with pytest.raises(ValueError, match=r"two of them are named 'custom'; rename one"):
        tiny.make_tiny(budgets={(lambda n: 1.0): 0.5, (lambda n: 2.0): 0.5})
    with pytest.raises(ValueError, match=r"budgets=\['params'\]: expected limits by budget"):
        tiny.make_tiny(budgets=["params"])
    with pytest.raises(ValueError, match=r"'macs' with structure='weight'.*structure='filter'"):
        tiny.make_tiny(budgets={"macs": 0.5}, structure="weight")
    with pytest.raises(ValueError, match=r"unknown budget 'mac'. Did you mean 'macs'"):
        count("mac", tiny.build("vgg"), tiny.images_of(1))


@pytest.mark.parametrize(
    "limit", [0, 0.0, -0.1, 1.1, 2, float("nan"), float("inf"), True, None, "much", "", "0", "-2"]
)
def test_limits(limit):
    with pytest.raises(ValueError, match=r"budgets: the limit of 'params' is .*\(0, 1\]"):
        tiny.make_tiny(budgets={"params": limit})


def test_the_floor_of_each_broken_limit_is_named():
    floors = {"params": 0.05, "macs": 0.01}
    with pytest.raises(prune_gym.InfeasibleLimitError) as caught:
        tiny.make_tiny(budgets=floors)
    problem = tiny.make_tiny(budgets={"params": 1.0, "macs": 1.0})
    found = problem.counted_costs(np.ones(3, dtype=np.int64))
    for (name, limit), floor in zip(floors.items(), found, strict=True):
        part = f"budget {name!r}: limit {limit:g} is below the floor {floor:.4g}"
        assert (part in str(caught.value)) == (floor > limit)
    assert "Choose a limit at or above the floor" in str(caught.value)


def test_a_limit_at_the_floor_can_be_reached():
    problem = tiny.make_tiny(budgets={"params": 1.0})
    floor = float(problem.costs(problem.masks_of(np.ones(3, dtype=np.int64)))[0])
    at_floor = tiny.make_tiny(budgets={"params": floor})
    assert at_floor.evaluate(at_floor.masks_of([1, 1, 1])).feasible
    assert not at_floor.evaluate(at_floor.masks_of([1, 1, 2])).feasible


def test_a_measure_that_cannot_be_hashed():
    @dataclass
    class Table:
        scale: float

        def __call__(self, network):
            return self.scale * sum(p.numel() for p in network.parameters())

    budget = Budget("table", Table(2.0))
    problem = tiny.make_tiny(budgets={budget: 0.5})
    assert problem.unpruned_values[0] == 2.0 * 765


def test_one_that_exits_ends_no_search():
    def leave(network):
        sys.exit(3)

    for timeout_s in (None, 30.0):
        with pytest.raises(BudgetError, match=r"budget 'leaves' raised SystemExit: 3"):
            Budget("leaves", leave, timeout_s=timeout_s)(tiny.build("vgg"), tiny.images_of(1))

    def stop(network):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Budget("stops", stop)(tiny.build("vgg"), tiny.images_of(1))
