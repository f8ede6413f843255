"""Decisions are remembered where nothing but the decision matters, and only there."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch

from prune_gym import Budget
from prune_gym.problem.evaluator import Evaluator
from prune_gym.problem.outcome import OutcomeMemory, digest
from prune_gym.pruning.compact import Compaction
from prune_gym.utils.threads import Workers


class Scale:
    """A black-box budget that counts its calls."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, network) -> float:
        self.n_calls += 1
        return float(sum(parameter.numel() for parameter in network.parameters()))


@pytest.fixture
def judged(monkeypatch):
    """How often a network was judged."""
    calls: Counter[str] = Counter()
    plain = Evaluator.accuracy

    def counted(evaluator, network):
        calls["accuracy"] += 1
        return plain(evaluator, network)

    monkeypatch.setattr(Evaluator, "accuracy", counted)
    return calls


def with_scale(**arguments):
    """A problem whose only budget is a black box, and that budget."""
    scale = Scale()
    problem = tiny.make_tiny(budgets={Budget("scale", scale, **arguments): 0.9})
    scale.n_calls = 0
    return problem, scale


def assert_same_outcome(one, other) -> None:
    for name in ("accuracy", "costs", "values", "feasible", "cost"):
        assert getattr(one, name) == getattr(other, name), name
    np.testing.assert_array_equal(one.kept, other.kept)


def assert_same_tensors(one, other) -> None:
    expected, found = one.state_dict(), other.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


@pytest.mark.parametrize("recovery", ["none", "bn"])
def test_a_repeated_decision_is_remembered(recovery, judged):
    problem = tiny.make_tiny(recovery=recovery, recovery_steps=2)
    masks = tiny.random_masks(problem, 0)
    first, again = problem.evaluate(masks), problem.evaluate([mask.copy() for mask in masks])
    assert judged["accuracy"] == 1
    assert (first.remembered, again.remembered) == (False, True)
    assert_same_outcome(first, again)
    assert (problem.evaluator.memory.hits, problem.evaluator.memory.misses) == (1, 1)
    assert again.network is again.network
    assert again.network is not first.network
    assert not again.network.training
    assert_same_tensors(first.network, again.network)
    assert judged["accuracy"] == 1


def test_no_network_is_built_for_what_is_remembered(monkeypatch):
    problem = tiny.make_tiny()
    masks = tiny.random_masks(problem, 0)
    first = problem.evaluate(masks)
    with monkeypatch.context() as patch:
        patch.setattr(Compaction, "network", lambda *_: pytest.fail("built"))
        assert_same_outcome(first, problem.evaluate(masks))


def test_outcomes_do_not_lean_on_each_other():
    problem = tiny.make_tiny()
    masks = tiny.random_masks(problem, 0)
    first = problem.evaluate(masks)
    expected = copy.deepcopy(first.network)
    first.kept[:] = 9.0
    first.costs.clear()
    with torch.no_grad():
        for parameter in first.network.parameters():
            parameter.zero_()
    again = problem.evaluate(masks)
    assert again.costs == {"params": again.cost}
    assert again.kept.max() <= 1.0
    assert_same_tensors(again.network, expected)


def test_different_masks_are_different_decisions(judged):
    problem = tiny.make_tiny()
    counts = [(4, 6, 7), (4, 6, 8), (3, 6, 8), (4, 5, 8)]
    outcomes = [problem.evaluate(problem.masks_of(count)) for count in counts]
    assert judged["accuracy"] == 4
    assert len({outcome.cost for outcome in outcomes}) == 4
    assert problem.evaluator.memory.hits == 0


def test_equally_many_of_other_filters_are_another_decision():
    problem = tiny.make_tiny()
    masks = problem.masks_of([2, 3, 4])
    others = tuple(~mask for mask in masks)
    assert digest(masks) != digest(others)
    problem.evaluate(masks)
    assert not problem.evaluate(others).remembered


def test_digests_tell_every_bit():
    masks = tuple(np.zeros(size, dtype=bool) for size in (3, 8, 9))
    seen = {digest(masks)}
    for group, mask in enumerate(masks):
        for bit in range(len(mask)):
            changed = [mask.copy() for mask in masks]
            changed[group][bit] = True
            seen.add(digest(tuple(changed)))
    assert len(seen) == 1 + 3 + 8 + 9
    assert {len(found) for found in seen} == {16}


@pytest.mark.parametrize("recovery", ["none", "bn"])
def test_seed_and_steps_do_not_matter_where_nothing_is_drawn(recovery, judged):
    problem = tiny.make_tiny(recovery=recovery)
    masks = tiny.random_masks(problem, 0)
    problem.evaluate(masks, seed=1, recovery_steps=3)
    assert problem.evaluate(masks, seed=2).remembered
    assert judged["accuracy"] == 1


def test_a_recovery_that_draws_is_run_every_time():
    """Dropout draws from torch's own generator; what a recovery of the user's does is unknown."""
    asked = []

    def spy(network, train, *, generator, steps):
        asked.append((generator.initial_seed(), steps))

    for recovery in ("finetune", spy):
        problem = tiny.make_tiny(recovery=recovery, recovery_steps=2)
        masks = tiny.random_masks(problem, 0)
        assert not any(problem.evaluate(masks, seed=1).remembered for _ in range(3))
        assert len(problem.evaluator.memory) == 0
    assert asked == [(1, 2)] * 3


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_budget_is_called_once_for_a_decision(deterministic, judged):
    """Also one that is noisy: a decision has one cost."""
    problem, scale = with_scale(deterministic=deterministic)
    masks = tiny.random_masks(problem, 0)
    outcomes = [problem.evaluate(masks) for _ in range(3)]
    assert scale.n_calls == judged["accuracy"] == 1
    assert [outcome.remembered for outcome in outcomes] == [False, True, True]
    assert_same_outcome(outcomes[0], outcomes[2])


def test_the_first_measurement_of_a_noisy_budget_stays():
    draws = np.random.default_rng(0)
    noisy = Budget("noisy", lambda network: draws.random() + 1.0)
    problem = tiny.make_tiny(budgets={"params": 0.9, noisy: 1.0})
    masks, others = (tiny.random_masks(problem, seed) for seed in (0, 1))
    first = problem.evaluate(masks)
    assert problem.evaluate(others).values["noisy"] != first.values["noisy"]
    assert_same_outcome(first, problem.evaluate(masks))


def test_a_recovery_that_draws_is_measured_every_time():
    scale = Scale()
    budgets = {Budget("scale", scale): 0.9}
    problem = tiny.make_tiny(recovery="finetune", recovery_steps=2, budgets=budgets)
    masks = tiny.random_masks(problem, 0)
    scale.n_calls = 0
    assert not any(problem.evaluate(masks, seed=1).remembered for _ in range(3))
    assert scale.n_calls == 3


def test_errors_are_not_remembered():
    problem, _ = with_scale(deterministic=True)
    masks = tiny.random_masks(problem, 0)
    odd = [float("nan"), 0.25]
    odd_budget = replace(problem.budgets[0], measure=lambda network: odd.pop(0))
    mended = replace(problem, budgets=(odd_budget,))
    with pytest.raises(ValueError, match=r"budget 'scale' returned nan"):
        mended.evaluate(masks)
    assert mended.evaluate(masks).values == {"scale": 0.25}


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_black_box_is_called_once_per_finished_episode_at_most(deterministic):
    problem, scale = with_scale(deterministic=deterministic)
    env = gym.make("Prune-v0", problem=problem)
    scale.n_calls = 0
    for _ in range(3):
        env.reset(seed=0)
        for _ in range(3):
            env.step(np.zeros(1, dtype=np.float32))
        assert scale.n_calls == 1


@pytest.mark.parametrize("recovery", ["none", "bn"])
def test_transitions_do_not_tell_whether_outcomes_were_remembered(recovery):
    fresh, known = (tiny.make_tiny(recovery=recovery, recovery_steps=2) for _ in range(2))
    known_env = gym.make("Prune-v0", problem=known, cost_mode="dense")
    tiny.rollout(known_env, 4)
    seen = tiny.rollout(known_env, 4)
    assert known.evaluator.memory.hits >= 4
    tiny.assert_identical(
        seen, tiny.rollout(gym.make("Prune-v0", problem=fresh, cost_mode="dense"), 4)
    )
    assert fresh.evaluator.memory.hits == 0


def test_the_memory_is_bounded_and_the_unused_goes_first():
    memory = OutcomeMemory(2)
    for key in "ab":
        memory.put(key, 0.5, np.zeros(1))
    assert memory.get("a") is not None  # so "b" waits the longest
    memory.put("c", 0.25, np.ones(1))
    assert len(memory) == 2
    assert memory.get("b") is None
    assert memory.get("a")[0] == 0.5
    assert memory.get("c")[0] == 0.25
    assert (memory.hits, memory.misses) == (3, 1)


def test_putting_again_is_using():
    memory = OutcomeMemory(2)
    for key in "abac":
        memory.put(key, 0.5, np.zeros(1))
    assert memory.get("a") is not None
    assert memory.get("b") is None


def test_what_was_forgotten_is_judged_anew(judged):
    problem = tiny.make_tiny()
    problem.evaluator.memory.size = 2
    decisions = [problem.masks_of(counts) for counts in ((1, 1, 1), (2, 2, 2), (3, 3, 3))]
    first, *_ = [problem.evaluate(masks) for masks in decisions]
    again = problem.evaluate(decisions[0])
    assert not again.remembered
    assert judged["accuracy"] == 4
    assert_same_outcome(first, again)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_memory_start_empty(duplicate):
    memory = OutcomeMemory(7)
    memory.put("a", 0.5, np.zeros(1))
    memory.get("a")
    twin = duplicate(memory)
    assert (len(twin), twin.size, twin.hits, twin.misses) == (0, 7, 0, 0)
    assert len(memory) == 1


@pytest.mark.parametrize("recovery", ["none", "bn"])
def test_threads_judge_as_one_does(recovery):
    arguments = {"recovery": recovery, "recovery_steps": 2, "batch_size": 40}
    serial, threaded = (tiny.make_tiny("residual", **arguments) for _ in range(2))
    decisions = [tiny.random_masks(serial, seed % 12) for seed in range(36)]
    with Workers(4) as workers:
        found = list(workers.map(threaded.evaluate, decisions))
    for one, other in zip(map(serial.evaluate, decisions), found, strict=True):
        assert_same_outcome(one, other)
    memory = threaded.evaluator.memory
    assert memory.hits + memory.misses == 36
    assert len(memory) == 12
    assert_same_tensors(serial.evaluate(decisions[0]).network, found[0].network)


def test_masks_that_change_later_change_no_network():
    problem = tiny.make_tiny()
    masks = tiny.random_masks(problem, 0)
    problem.evaluate(masks)
    remembered = problem.evaluate(masks)
    for mask in masks:
        mask[:] = True
    n_params = sum(parameter.numel() for parameter in remembered.network.parameters())
    assert remembered.remembered
    assert n_params == remembered.values["params"] < problem.unpruned_values[0]


def test_outcomes_can_be_pickled():
    problem = tiny.make_tiny()
    masks = tiny.random_masks(problem, 0)
    for outcome in (problem.evaluate(masks), problem.evaluate(masks)):
        content = pickle.dumps(outcome)
        assert len(content) < 100_000  # without the problem
        again = pickle.loads(content)
        assert again.costs == outcome.costs
        expected = outcome.network.state_dict()
        for name, tensor in again.network.state_dict().items():
            assert torch.equal(tensor, expected[name])
