"""Properties of masks and counted costs, for random masks on every small network."""

from __future__ import annotations

from functools import lru_cache

import gymnasium as gym
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import prune_gym
from prune_gym.pruning.masks import check_masks, kept_count, top_mask

COUNTED = ("params", "macs", "size_bytes")
EXAMPLES = settings(deadline=None, max_examples=25, derandomize=True)


@lru_cache
def problem_of(name: str) -> prune_gym.PruningProblem:
    return tiny.make_tiny(name, budgets=dict.fromkeys(COUNTED, 1.0))


@lru_cache
def weight_problem() -> prune_gym.PruningProblem:
    return tiny.make_tiny(structure="weight")


def masks_for(problem):
    """Strategy: one non-empty keep mask per group."""
    return st.tuples(
        *(
            st.lists(st.booleans(), min_size=int(n), max_size=int(n))
            .filter(any)
            .map(lambda bits: np.array(bits, dtype=np.bool_))
            for n in problem.sizes
        )
    )


@pytest.mark.parametrize("name", tiny.BUILDERS)
@EXAMPLES
@given(data=st.data())
def test_counted_costs_are_those_of_the_compact_network(name, data):
    problem = problem_of(name)
    masks = data.draw(masks_for(problem))
    network = problem.compact(masks)
    by_hand = tiny.numbers_by_hand(network, problem.example)
    counted = [prune_gym.count(budget, network, problem.example) for budget in COUNTED]
    assert counted == by_hand
    values = problem.costs(masks) * problem.unpruned_values
    np.testing.assert_allclose(values, by_hand, rtol=1e-12)
    assert [round(value) for value in values] == by_hand
    counts = np.array([mask.sum() for mask in masks])
    np.testing.assert_array_equal(problem.counted_costs(counts), problem.costs(masks))


@pytest.mark.parametrize("name", tiny.BUILDERS)
@EXAMPLES
@given(data=st.data())
def test_costs_grow_with_the_masks(name, data):
    problem = problem_of(name)
    smaller = data.draw(masks_for(problem))
    larger = tuple(a | b for a, b in zip(smaller, data.draw(masks_for(problem)), strict=True))
    low, high = problem.costs(smaller), problem.costs(larger)
    assert (low <= high).all()
    assert (high <= 1.0).all()
    assert (low > 0.0).all()
    if any((a != b).any() for a, b in zip(smaller, larger, strict=True)):
        assert (low < high).all()


@EXAMPLES
@given(data=st.data())
def test_single_weights_are_counted(data):
    problem = weight_problem()
    masks = tiny.random_masks(problem, data.draw(st.integers(0, 10**6)), data.draw(st.floats(0, 1)))
    network = problem.compact(masks)
    not_zero = sum(int((p != 0).sum()) for p in network.parameters())
    zero_by_itself = sum(int((p == 0).sum()) for p in problem.network.parameters())
    value = problem.costs(masks) * problem.unpruned_values
    assert value == pytest.approx(not_zero + zero_by_itself)


@given(ratio=st.floats(0.0, 1.0), n=st.integers(1, 4096))
@settings(derandomize=True, deadline=None)
def test_kept_count_is_within_bounds_and_falls(ratio, n):
    kept = kept_count(ratio, n)
    assert 1 <= kept <= n
    assert abs(kept - max(1.0, (1.0 - ratio) * n)) <= 0.5 + 1e-9
    assert kept_count(min(1.0, ratio + 0.1), n) <= kept
    assert kept_count(0.0, n) == n
    assert kept_count(1.0, n) == 1


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_kept_count_refuses_what_is_no_fraction(ratio):
    with pytest.raises(ValueError, match=r"prune_ratio=.* must lie in \[0, 1\]"):
        kept_count(ratio, 4)


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=30), data=st.data())
@settings(derandomize=True, deadline=None)
def test_top_masks_are_nested(scores, data):
    order = np.argsort(-np.array(scores), kind="stable")
    n = data.draw(st.integers(1, len(scores)))
    mask = top_mask(order, n)
    assert mask.sum() == n
    assert (mask <= top_mask(order, min(n + 1, len(scores)))).all()
    assert np.array(scores)[mask].min() >= np.array(scores)[~mask].max(initial=0.0)


@EXAMPLES
@given(actions=st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
@pytest.mark.parametrize("granularity", ["layer", "filter"])
def test_dense_costs_telescope(granularity, actions):
    env = gym.make(
        "PruneVGG-v0", problem=problem_of("vgg"), granularity=granularity, cost_mode="dense"
    )
    env.reset(seed=0)
    costs = []
    for action in actions:
        full = np.resize(np.array([action, -action], dtype=np.float32), env.action_space.shape)
        *_, info = env.step(full)
        costs.append(info["cost"])
    assert min(costs) >= 0.0
    assert sum(costs) == pytest.approx(env.unwrapped.last_outcome().cost, abs=1e-12)


@given(data=st.data())
@EXAMPLES
def test_evaluation_is_a_function_of_the_masks(data):
    problem = problem_of("vgg")
    masks = data.draw(masks_for(problem))
    one, other = problem.evaluate(masks), problem.evaluate(masks)
    assert (one.accuracy, one.costs, one.cost) == (other.accuracy, other.costs, other.cost)
    assert one.feasible == all(one.costs[name] <= 1.0 for name in COUNTED)
    np.testing.assert_allclose(one.kept, [mask.mean() for mask in masks], rtol=1e-6)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([np.ones(2, dtype=bool)], r"masks: got 1 of them for 2 filter groups"),
        ([np.ones(2, dtype=bool), np.ones(2, dtype=bool)], r"masks\[1\] has shape \(2,\)"),
        ([np.ones(2), np.ones(3, dtype=bool)], r"masks\[0\] has .*dtype float64; expected a bool"),
        ([np.zeros(2, dtype=bool), np.ones(3, dtype=bool)], r"masks\[0\] keeps nothing"),
    ],
)
def test_check_masks(masks, message):
    with pytest.raises(ValueError, match=message):
        check_masks(masks, [2, 3])


def test_check_masks_returns_good_ones():
    checked = check_masks([[True, False], np.array([False, True, True])], [2, 3])
    assert [mask.tolist() for mask in checked] == [[True, False], [False, True, True]]
