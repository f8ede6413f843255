"""The fast environments against `LayerPruneEnv` on the same problem, to the bit."""

from __future__ import annotations

import pickle

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import prune_gym
from prune_gym import TabularProblem, make_table
from prune_gym.envs import LayerPruneEnv
from prune_gym.errors import InvalidTypeError, InvalidValueError, TableError, UsageError
from prune_gym.tables.env import TablePruneEnv
from prune_gym.tables.vector import TableVectorEnv

KINDS = {
    "params": ({"params": 0.5}, {}),
    "two": ({"params": 0.5, "energy_uj": 0.6}, {}),
    "dense": ({"macs": 0.5}, {"cost_mode": "dense"}),
    "two dense": ({"size_bytes": 0.6, "macs": 0.8}, {"cost_mode": "dense"}),
    "any limit": ({"params": 0.5}, {"limit_range": (0.3, 0.9)}),
    "measured": ({"activation_bytes": 0.9}, {}),
    "history": ({"params": 0.5}, {"history": True}),
    "history of any limit": ({"macs": 0.5}, {"limit_range": (0.3, 0.9), "history": True}),
    "at most half": ({"params": 0.5}, {"max_ratio": 0.5}),
}


@pytest.fixture(scope="module")
def problems():
    """A tabular problem by budgets, made once."""
    found = {}

    def of(budgets):
        key = tuple(budgets)
        if key not in found:
            live = tiny.make_tiny(budgets=budgets)
            found[key] = TabularProblem.of(live, make_table(live, (0.25, 0.5, 1.0)))
        return found[key]

    return of


def same_infos(one, other):
    assert list(one) == list(other)
    for key, value in one.items():
        if isinstance(value, dict):
            same_infos(value, other[key])
        elif isinstance(value, np.ndarray) and value.dtype.hasobject:
            assert [x is None for x in value] == [x is None for x in other[key]]
            for x, y in zip(value, other[key], strict=True):
                np.testing.assert_array_equal(x, y)
        else:
            assert type(value) is type(other[key]), key
            assert np.asarray(value).dtype == np.asarray(other[key]).dtype, key
            np.testing.assert_array_equal(value, other[key], err_msg=key)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_that_of_the_live_environment(problems, kind):
    budgets, arguments = KINDS[kind]
    problem = problems(budgets)
    slow, fast = LayerPruneEnv(problem, **arguments), TablePruneEnv(problem=problem, **arguments)
    assert slow.observation_space == fast.observation_space
    assert slow.action_space == fast.action_space
    generator = np.random.default_rng(0)
    for number in range(12):
        options = {"max_ratio": 0.6} if number % 3 == 2 and kind != "at most half" else None
        seed = 3 if number == 0 else None
        one, other = slow.reset(seed=seed, options=options), fast.reset(seed=seed, options=options)
        while True:
            np.testing.assert_array_equal(one[0], other[0])
            same_infos(one[-1], other[-1])
            assert slow.steps_left == fast.steps_left
            assert slow.cost_limit == fast.cost_limit
            assert slow.floor_counts().tolist() == fast.floor_counts().tolist()
            if len(one) == 5:
                assert one[1:4] == other[1:4]
                assert type(other[1]) is float
                if one[2]:
                    break
            action = generator.uniform(-1.2, 1.2, 1).astype(np.float32)
            kept = slow.would_keep(action), fast.would_keep(action)
            assert [m.tolist() for m in kept[0]] == [m.tolist() for m in kept[1]]
            one, other = slow.step(action), fast.step(action)
        a, b = slow.last_outcome(), fast.last_outcome()
        assert (a.accuracy, a.costs, a.feasible, a.cost) == (
            b.accuracy,
            b.costs,
            b.feasible,
            b.cost,
        )
        assert slow.cost_limits.tolist() == fast.cost_limits.tolist()


def test_tabular_and_live_problems_agree_where_the_levels_are_met(live, tabular):
    slow, fast = LayerPruneEnv(live), TablePruneEnv(problem=tabular)
    for ratios in ((0.0, 0.0, 0.0), (0.5, 0.75, 0.0), (0.75, 0.5, 0.5)):
        one, other = slow.reset(seed=0), fast.reset(seed=0)
        for ratio in ratios:
            action = np.array([2.0 * ratio - 1.0], dtype=np.float32)
            one, other = slow.step(action), fast.step(action)
            # observations of what can still be reached differ: the table has no single filters
            np.testing.assert_array_equal(one[0][:9], other[0][:9])
        assert one[1:4] == other[1:4]
        same_infos(one[-1], other[-1])


def test_the_tree_forgets_where_it_is_full(problems, monkeypatch):
    monkeypatch.setattr("prune_gym.tables.episode.MOST_NODES", 2)
    env = TablePruneEnv(problem=problems({"params": 0.5}))
    again = TablePruneEnv(problem=problems({"params": 0.5}))
    for value in (-1.0, 0.0, 0.3, 1.0):
        monkeypatch.setattr("prune_gym.tables.episode.MOST_NODES", 2)
        env.reset(), again.reset()
        for _ in range(3):
            action = np.array([value], dtype=np.float32)
            one, other = env.step(action), again.step(action)
            np.testing.assert_array_equal(one[0], other[0])
    assert env._running_episode is None
    assert env._ended.lists.n_nodes == 2


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", KINDS)
def test_many_at_once_are_a_vector_of_single_ones(problems, mode, kind):
    budgets, arguments = KINDS[kind]
    problem, n = problems(budgets), 5
    one = SyncVectorEnv(
        [lambda: TablePruneEnv(problem=problem, **arguments)] * n, autoreset_mode=mode
    )
    many = TableVectorEnv(n, problem=problem, autoreset_mode=mode, **arguments)
    assert one.single_observation_space == many.single_observation_space
    assert one.action_space.shape == many.action_space.shape
    assert many.metadata["autoreset_mode"] == mode
    generator = np.random.default_rng(0)
    first, second = one.reset(seed=5), many.reset(seed=5)
    for turn in range(14):
        np.testing.assert_array_equal(first[0], second[0])
        same_infos(first[-1], second[-1])
        if len(first) == 5:
            for a, b in zip(first[1:4], second[1:4], strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
            mask = first[2] | (np.arange(n) == (2 if turn == 7 else -1))
            if mode == AutoresetMode.DISABLED and mask.any():
                options = {"max_ratio": 0.5}
                first = one.reset(options={**options, "reset_mask": mask.copy()})
                second = many.reset(options={**options, "reset_mask": mask.copy()})
                np.testing.assert_array_equal(first[0], second[0])
                same_infos(first[-1], second[-1])
        actions = generator.uniform(-1, 1, (n, 1)).astype(np.float32)
        first, second = one.step(actions), many.step(actions)
    one.close()
    many.close()


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("steps", [2, 3])
def test_many_at_once_are_truncated_as_single_ones(problems, mode, steps):
    problem, n = problems({"params": 0.5}), 4

    def one_of_them():
        return TimeLimit(TablePruneEnv(problem=problem, cost_mode="dense"), steps)

    one = SyncVectorEnv([one_of_them] * n, autoreset_mode=mode)
    many = TableVectorEnv(
        n, problem=problem, cost_mode="dense", autoreset_mode=mode, max_episode_steps=steps
    )
    first, second = one.reset(seed=5), many.reset(seed=5)
    for _ in range(9):
        actions = np.random.default_rng(0).uniform(-1, 1, (n, 1)).astype(np.float32)
        first, second = one.step(actions), many.step(actions)
        for a, b in zip(first[:4], second[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        same_infos(first[-1], second[-1])
        done = first[2] | first[3]
        if mode == AutoresetMode.DISABLED and done.any():
            with pytest.raises(UsageError, match=r"step\(\) after the end of 4 episodes"):
                many.step(actions)
            one.reset(options={"reset_mask": done.copy()})
            many.reset(options={"reset_mask": done.copy()})


def test_bad_calls_are_named(problems, default_problem):
    problem = problems({"params": 0.5})
    env = TablePruneEnv(problem=problem)
    for _ in range(3):
        env.step(np.zeros(1, dtype=np.float32))
    with pytest.raises(UsageError, match=r"step\(\) after the episode's end"):
        env.step(np.zeros(1, dtype=np.float32))
    env.reset()
    with pytest.raises(InvalidValueError, match=r"action has shape \(2,\); .* takes \(1,\)"):
        env.step(np.zeros(2, dtype=np.float32))
    with pytest.raises(InvalidValueError, match="NaN or infinity"):
        env.step(np.array([np.nan], dtype=np.float32))
    with pytest.raises(InvalidTypeError, match=r"expected a TabularProblem"):
        TablePruneEnv(problem=default_problem)
    with pytest.raises(InvalidValueError, match=r"problem is given, so budgets cannot be"):
        TablePruneEnv(problem=problem, budgets={"params": 0.2})
    many = TableVectorEnv(3, problem=problem, autoreset_mode="Disabled")
    for _ in range(3):
        many.step(np.zeros((3, 1), dtype=np.float32))
    with pytest.raises(UsageError, match=r"step\(\) after the end of 3 episodes: reset those"):
        many.step(np.zeros((3, 1), dtype=np.float32))
    with pytest.raises(InvalidTypeError, match=r"expected a bool array of shape \(3,\)"):
        many.reset(options={"reset_mask": [True] * 3})
    with pytest.raises(InvalidValueError, match=r"unknown autoreset_mode 'Never'"):
        TableVectorEnv(3, problem=problem, autoreset_mode="Never")


def test_masks_that_a_table_does_not_hold_are_named(tabular):
    masks = [m.copy() for m in tabular.masks_of(tabular.sizes // 2)]
    masks[0] = ~masks[0]
    with pytest.raises(InvalidValueError, match=r"keep other filters of group .* most important"):
        tabular.evaluate(masks)


def test_a_table_of_another_network_is_refused(live, table):
    with pytest.raises(TableError, match=r"is not of this network and these labels"):
        TabularProblem.of(tiny.make_tiny("residual"), table)
    other = tiny.make_tiny(budgets={"activation_bytes": 0.5})
    with pytest.raises(TableError, match=r"does not know budget 'activation_bytes', but params"):
        TabularProblem.of(other, table)
    with pytest.raises(TableError, match=r"takes objects to be made: TabularProblem.of"):
        TabularProblem.load(table)


def test_a_tabular_problem_is_a_problem(tabular, live):
    import prune_gym.searches.baselines as baselines

    assert isinstance(tabular, prune_gym.PruningProblem)
    masks = baselines.masks_of_ratios(tabular, np.full(3, 0.5))
    outcome = tabular.evaluate(masks)
    expected = live.evaluate(masks)
    assert outcome.accuracy == expected.accuracy
    images = live.data.validation.images
    assert np.array_equal(outcome.network(images).detach(), expected.network(images).detach())
    assert pickle.loads(pickle.dumps(tabular.table)).optimum(0.4) == tabular.table.optimum(0.4)
    shared = prune_gym.share(tabular).open()
    assert shared.evaluate(masks).accuracy == outcome.accuracy


@pytest.mark.filterwarnings("ignore:.*we recommend.*")
def test_checkers_of_gymnasium_and_stable_baselines(problems):
    env = TablePruneEnv(problem=problems({"params": 0.5}))
    check_env(env, skip_render_check=True)
    sb3_check_env(env)


def test_wrappers_and_policies_move_between_both(problems):
    problem = problems({"params": 0.5})
    fast = prune_gym.RecordBest(prune_gym.ProjectionWrapper(TablePruneEnv(problem=problem)))
    model = PPO("MlpPolicy", fast, n_steps=32, batch_size=32, seed=0, device="cpu")
    model.learn(64)
    assert len(fast.archive.front)
    assert all(trial.feasible for trial in fast.archive.trials)
    slow = LayerPruneEnv(problem)
    observation, _ = slow.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    slow.step(action)


def test_rendering_and_the_last_network(problems):
    env = TablePruneEnv(problem=problems({"params": 0.5}), render_mode="ansi")
    env.reset()
    env.step(np.array([0.0], dtype=np.float32))
    assert "?" in env.render() or env.render()
    for _ in range(2):
        env.step(np.array([0.0], dtype=np.float32))
    assert sum(p.numel() for p in env.compact_network().parameters()) > 0
    env.close()
    with pytest.raises(UsageError, match="no finished episode"):
        env.compact_network()


def test_a_table_that_was_made_anew_is_read_anew(tmp_path):
    shipped = prune_gym.load_table("tiny_resnet-shapes-l1")
    prune_gym.save_table(shipped, tmp_path / "t.npz")
    first = gym.make("PruneTable-v1", table=tmp_path / "t.npz").unwrapped.problem
    assert gym.make("PruneTable-v1", table=tmp_path / "t.npz").unwrapped.problem is first
    prune_gym.save_table(prune_gym.load_table("tiny_vgg-digits-l1"), tmp_path / "t.npz")
    second = gym.make("PruneTable-v1", table=tmp_path / "t.npz").unwrapped.problem
    assert len(second.table) == 46_656 != len(first.table)


def test_registered_ids():
    arguments = {"table": "tiny_vgg-shapes-taylor", "budgets": {"params": 0.2}}
    env = gym.make("PruneTable-v1", **arguments)
    many = gym.make_vec("PruneTable-v1", num_envs=3, **arguments)
    assert isinstance(env.unwrapped, TablePruneEnv)
    assert isinstance(many.unwrapped, TableVectorEnv)
    assert env.unwrapped.problem is many.unwrapped.problem


def test_a_budget_that_the_table_lacks_is_not_measured_first(monkeypatch):
    monkeypatch.setattr("prune_gym.tables.problem.make_problem", None)
    with pytest.raises(TableError, match="does not know budget 'latency_ms', but params"):
        gym.make("prune_gym:PruneTable-v1", budgets={"latency_ms": 0.5})


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        ("x", "seed='x': expected a whole number, 2 of them"),
        ([1, 2, 3], "seed has 3 numbers for 2"),
    ],
)
def test_seeds_of_a_vector_are_checked(seed, words):
    envs = gym.make_vec("prune_gym:PruneTable-v1", num_envs=2, table="tiny_vgg-shapes-taylor")
    with pytest.raises(InvalidValueError, match=words):
        envs.reset(seed=seed)
