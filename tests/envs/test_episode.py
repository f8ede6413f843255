"""An episode is one value; when it is over there is none."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import tiny

from prune_gym import Budget, BudgetError
from prune_gym.envs import LayerPruneEnv, NetworkPruneEnv
from prune_gym.envs.costs import Ledger
from prune_gym.envs.episode import Decision, Episode, Schedule
from prune_gym.errors import UsageError

SCHEDULE: Schedule = {"max_ratio": 1.0, "recovery_steps": 3, "limit": None}


def keep(n: int, size: int, ratio: float = 0.5) -> Decision:
    """Keep the first filters of a group."""
    return Decision(np.arange(size) < n, ratio)


def test_a_step_makes_a_new_episode(tiny_problem):
    begun = Episode.begin(tiny_problem, SCHEDULE, None)
    after = begun.after([keep(2, 4)]).charge_floor()
    assert (begun.n_decided, begun.steps_left, begun.ratios) == (0, 3, ())
    np.testing.assert_array_equal(begun.counts, tiny_problem.sizes)
    assert begun.ledger.cost == 0.0
    assert (after.n_decided, after.steps_left, after.ratios) == (1, 2, (0.5,))
    np.testing.assert_array_equal(after.counts, [2, 6, 8])
    np.testing.assert_array_equal(after.floor_counts(), [2, 1, 1])
    np.testing.assert_array_equal(after.floor_counts([np.arange(6) < 4]), [2, 4, 1])
    assert [int(mask.sum()) for mask in after.floor_masks()] == [2, 1, 1]
    assert after.ledger.cost == tiny_problem.costs(after.floor_masks())[0]


def test_several_groups_at_once_are_as_one_after_another(tiny_problem):
    decisions = [keep(2, 4, 0.5), keep(3, 6, 0.4), keep(7, 8, 0.1)]
    together = Episode.begin(tiny_problem, SCHEDULE, 0.3).after(decisions)
    single = Episode.begin(tiny_problem, SCHEDULE, 0.3)
    for decision in decisions:
        single = single.after([decision])
    tiny.assert_identical(together.masks, single.masks)
    assert together.ratios == single.ratios == (0.5, 0.4, 0.1)
    np.testing.assert_array_equal(together.counts, single.counts)
    judged = together.judge(seed=0)
    assert together.outcome is None
    assert judged.outcome.cost == judged.ledger.cost == judged.ledger.costs[0] / 0.3
    assert judged.limits.tolist() == [0.3]


def test_a_ledger_sums_to_what_is_owed():
    ledger, charged = Ledger.empty(2), []
    for owed in ([0.1, 0.2], [0.1, 0.7], None, [0.5, 0.8]):
        ledger = (
            ledger.charge_nothing() if owed is None else ledger.charge(np.array(owed), max(owed))
        )
        charged.append((*ledger.costs, ledger.cost))
    np.testing.assert_allclose(np.sum(charged, axis=0), [0.5, 0.8, 0.8])
    assert charged[2] == (0.0, 0.0, 0.0)
    np.testing.assert_array_equal(ledger.total_costs, [0.5, 0.8])


def test_calls_after_the_end_are_errors_of_usage(tiny_problem):
    env = NetworkPruneEnv(tiny_problem)
    action = np.zeros(3, dtype=np.float32)
    for call in (env.last_outcome, env.last_masks, env.compact_network):
        with pytest.raises(UsageError, match=r"no finished episode \(or closed\): step until `ter"):
            call()
    env.reset(seed=0)
    env.step(action)
    assert env.steps_left == 0
    with pytest.raises(UsageError, match=r"step\(\) after the episode's end: call reset\(\) first"):
        env.step(action)
    with pytest.raises(UsageError, match=r"the episode has ended: call reset\(\) first"):
        env.would_keep(action)
    np.testing.assert_array_equal(env.floor_counts(), env._finished.counts)


class Breaks:
    """A budget that can be told to raise."""

    def __init__(self) -> None:
        self.broken = False

    def __call__(self, network) -> float:
        if self.broken:
            raise RuntimeError("no scale")
        return float(sum(parameter.numel() for parameter in network.parameters()))


def test_an_episode_that_cannot_be_judged_is_over():
    scale = Breaks()
    problem = tiny.make_tiny(budgets={Budget("scale", scale): 0.9})
    env = gym.make("Prune-v0", problem=problem, granularity="network", render_mode="ansi").unwrapped
    small, large = np.full(3, 0.5, dtype=np.float32), np.full(3, -0.5, dtype=np.float32)
    env.reset(seed=0)
    scale.broken = True
    with pytest.raises(BudgetError, match="no scale"):
        env.step(small)
    with pytest.raises(UsageError, match="call reset"):
        env.step(small)
    assert "undecided" in env.render()
    scale.broken = False
    env.reset(seed=0)
    env.step(small)
    known = env.last_outcome()
    env.reset()
    scale.broken = True
    with pytest.raises(BudgetError, match="no scale"):
        env.step(large)
    assert env.last_outcome() is known
    assert "undecided" not in env.render()
    assert env.cost_limits.tolist() == [0.9]


def test_a_floor_that_cannot_be_measured_leaves_the_episode_as_it_is():
    scale = Breaks()
    budget = Budget("scale", scale, monotone=True, deterministic=True)
    env = LayerPruneEnv(tiny.make_tiny(budgets={budget: 0.9}), cost_mode="dense")
    action = np.zeros(1, dtype=np.float32)
    expected = tiny.rollout(env, seed=0)
    env.action_space.seed(0)
    seen = [(*env.reset(seed=0),)]
    actions = [env.action_space.sample() for _ in range(3)]
    scale.broken = True
    with pytest.raises(BudgetError, match="no scale"):
        env.step(action)
    scale.broken = False
    seen += [env.step(each) for each in actions]
    tiny.assert_identical(seen[1:], expected[1:])


def test_info_is_described(tiny_problem):
    words = LayerPruneEnv.step.__doc__
    page = LayerPruneEnv.__doc__
    env = LayerPruneEnv(tiny_problem, limit_range=(0.2, 0.8))
    for key in env.reset(seed=0)[1]:
        named = key.replace("params", "<budget>")
        assert f"* ``{named}``: " in words
        assert f"\n    | ``{named}`` | " in page
