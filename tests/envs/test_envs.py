"""Every registered environment, granularity and cost mode against the CMDP contract."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import prune_gym
from prune_gym.budgets import as_budget
from prune_gym.budgets.latency import Stopwatch
from prune_gym.envs import GRANULARITIES
from prune_gym.envs.base import COST_MODES, RENDER_MODES
from prune_gym.errors import InvalidValueError

# those that work at once: with trained weights in the package
IDS = ["PruneVGG-v0", "PruneVGGFilters-v0"]


@pytest.fixture(params=COST_MODES)
def cost_mode(request):
    return request.param


@pytest.fixture(params=sorted(GRANULARITIES))
def granularity(request):
    return request.param


@pytest.fixture
def env(tiny_problem, granularity, cost_mode):
    made = gym.make(
        "PruneVGG-v0", problem=tiny_problem, granularity=granularity, cost_mode=cost_mode
    )
    yield made
    made.close()


@pytest.fixture(params=["one", "several", "weight", "residual", "finetune"])
def any_problem(request, tiny_problem, residual_problem):
    """The kinds of problem an environment may stand on."""
    if request.param == "one":
        return tiny_problem
    if request.param == "several":
        return tiny.make_tiny(budgets={"params": 0.5, "macs": 0.6, "size_bytes": 0.7})
    if request.param == "weight":
        return tiny.make_tiny(structure="weight")
    if request.param == "finetune":
        return tiny.make_tiny(recovery="finetune", recovery_steps=2)
    return residual_problem


def layer_env(problem, **arguments):
    return gym.make("PruneVGG-v0", problem=problem, **arguments)


# -- the checkers of the field ---------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_check_of_every_id(env_id, default_problem):
    env = gym.make(env_id)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    assert [str(warning.message) for warning in caught] == []
    assert env.unwrapped.problem is default_problem


def test_gymnasium_check(env):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    assert [str(warning.message) for warning in caught] == []


def test_sb3_check(env):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb3_check_env(env, warn=True)
    assert [str(warning.message) for warning in caught] == []


def test_both_checks_of_every_problem(any_problem):
    env = layer_env(any_problem)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env, warn=True)
    assert [str(warning.message) for warning in caught] == []


# -- one contract at every step --------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_seeded_rollouts_of_every_id_are_identical(env_id):
    first = tiny.rollout(gym.make(env_id), 1, seed=5)
    tiny.assert_identical(first, tiny.rollout(gym.make(env_id), 1, seed=5))
    assert first[-1][1] > 0.0


def test_ids_say_whether_their_costs_are_noisy():
    for env_id, defaults in prune_gym.ENVIRONMENTS.items():
        budgets = [as_budget(name) for name in defaults.get("budgets", {"params": 0.1})]
        noisy = not all(budget.is_deterministic for budget in budgets)
        assert gym.spec(env_id).nondeterministic == noisy == (env_id in prune_gym.NONDETERMINISTIC)


def test_a_noisy_environment(monkeypatch):
    """Measurements that are never the same twice; a decision has one cost in a problem."""
    draws = np.random.default_rng(0)

    def noisy(self, network, unpruned, example):
        return 0.4 + 0.2 * draws.random()

    monkeypatch.setattr(Stopwatch, "ratio", noisy)
    monkeypatch.setattr(Stopwatch, "milliseconds", lambda *_: 2.0)
    env = gym.make("PruneVGGLatency-v0", budgets={"latency_ms": "1.2ms"})
    assert env.spec.nondeterministic
    assert env.unwrapped.cost_limit == pytest.approx(0.6)
    assert env.unwrapped.cost_names == ("latency_ms",)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
        sb3_check_env(env, warn=True)
    assert [str(warning.message) for warning in caught] == []
    first = tiny.rollout(env, 1, seed=5)
    tiny.assert_identical(first, tiny.rollout(env, 1, seed=5))
    assert 0.4 <= first[-1][4]["cost"] <= 0.6
    assert first[-1][4]["latency_ms"] == pytest.approx(2.0 * first[-1][4]["cost"])
    other = gym.make("PruneVGGLatency-v0", budgets={"latency_ms": 0.6})
    assert tiny.rollout(other, 1, seed=5)[-1][4]["cost"] != first[-1][4]["cost"]


def test_seeded_rollouts_are_identical(env, any_problem, cost_mode):
    tiny.assert_identical(tiny.rollout(env, 3), tiny.rollout(env, 3))
    made = [layer_env(any_problem, cost_mode=cost_mode) for _ in range(2)]
    tiny.assert_identical(*(tiny.rollout(each, 2) for each in made))


def test_other_seeds_of_a_recovery_that_trains_give_other_networks():
    env = layer_env(tiny.make_tiny(recovery="finetune", recovery_steps=2))
    weights = []
    for seed in (0, 0, 1):
        env.reset(seed=seed)
        for _ in range(3):
            env.step(np.zeros(1, dtype=np.float32))
        weights.append(env.unwrapped.compact_network().classifier.weight.detach().numpy())
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_info_has_the_same_keys_and_types_at_every_step(env):
    kinds = [
        {
            key: (type(value), getattr(value, "dtype", None), getattr(value, "shape", None))
            for key, value in step[4].items()
        }
        for step in tiny.rollout(env, 2)
    ]
    assert all(kind == kinds[0] for kind in kinds)
    assert {name for name, _, _ in kinds[0].values()} <= {float, bool, np.ndarray}
    assert kinds[0]["cost"][0] is float
    assert kinds[0]["costs"] == (np.ndarray, np.dtype(np.float32), (1,))
    assert kinds[0]["kept"] == (np.ndarray, np.dtype(np.float32), (3,))
    assert list(kinds[0]) == [
        "cost",
        "costs",
        "accuracy",
        "feasible",
        "kept",
        "cost_params",
        "params",
    ]


def test_reward_is_zero_until_the_last_step_and_accuracy_then(env):
    seen = tiny.rollout(env)[1:]
    for _, reward, terminated, truncated, info in seen:
        assert type(reward) is float
        assert type(terminated) is bool
        assert truncated is False
        assert reward == (info["accuracy"] if terminated else 0.0)
    base = env.unwrapped
    assert seen[-1][1] == base.problem.accuracy(base.compact_network())
    assert len(seen) == (1 if base.granularity == "network" else len(base.problem.groups))


def test_observations_are_within_bounds_and_finite(any_problem, cost_mode):
    env = layer_env(any_problem, cost_mode=cost_mode)
    for observation, *_ in tiny.rollout(env, 3):
        assert observation.dtype == np.float32
        assert np.isfinite(observation).all()
        assert observation in env.observation_space
    assert env.observation_space.shape == (9 + 5 * len(any_problem.budgets),)
    assert float(env.observation_space.low.min()) == 0.0
    assert float(env.observation_space.high.max()) == 1.0


def test_last_info_tells_the_outcome(env):
    info = tiny.rollout(env)[-1][4]
    outcome = env.unwrapped.last_outcome()
    assert info["params"] == outcome.values["params"]
    assert info["params"] == sum(p.numel() for p in outcome.network.parameters())
    assert info["feasible"] == (outcome.cost <= env.unwrapped.cost_limit)
    np.testing.assert_array_equal(info["kept"], outcome.kept)


def test_limits_are_attributes(env):
    base = env.unwrapped
    assert base.cost_limit == 0.5
    assert type(base.cost_limit) is float
    assert base.cost_names == ("params",)
    np.testing.assert_array_equal(base.cost_limits, np.array([0.5]))
    assert base.cost_limits.dtype == np.float64  # a limit is held against costs without tolerance
    assert env.get_wrapper_attr("cost_limit") == 0.5


def test_several_budgets_have_one_scalar_cost(cost_mode):
    limits = {"params": 0.5, "macs": 0.25, "size_bytes": 0.75}
    env = layer_env(tiny.make_tiny(budgets=limits), cost_mode=cost_mode)
    seen = tiny.rollout(env)
    base, outcome = env.unwrapped, env.unwrapped.last_outcome()
    assert base.cost_limit == 1.0
    assert base.cost_names == tuple(limits)
    np.testing.assert_allclose(base.cost_limits, list(limits.values()))
    costs = sum(step[4]["costs"].astype(np.float64) for step in seen)
    np.testing.assert_allclose(costs, list(outcome.costs.values()), rtol=1e-6)
    worst = max(outcome.costs[name] / limit for name, limit in limits.items())
    assert tiny.total_cost(seen) == pytest.approx(worst, abs=1e-12)
    assert outcome.cost == worst
    for name in limits:
        assert sum(step[4][f"cost_{name}"] for step in seen) == pytest.approx(outcome.costs[name])


# -- cost ------------------------------------------------------------------------------------------


def test_terminal_cost_comes_last(tiny_problem, granularity):
    env = layer_env(tiny_problem, granularity=granularity)
    seen = tiny.rollout(env)
    assert [step[4]["cost"] for step in seen[:-1]] == [0.0] * (len(seen) - 1)
    assert seen[-1][4]["cost"] == env.unwrapped.last_outcome().cost


@pytest.mark.parametrize("seed", range(4))
def test_dense_cost_is_not_negative_and_sums_to_the_terminal_cost(any_problem, seed):
    dense = tiny.rollout(layer_env(any_problem, cost_mode="dense"), seed=seed)
    terminal = tiny.rollout(layer_env(any_problem), seed=seed)
    assert all(step[4]["cost"] >= 0.0 for step in dense)
    assert tiny.total_cost(dense) == pytest.approx(terminal[-1][4]["cost"], abs=1e-12)
    assert [step[1] for step in dense] == [step[1] for step in terminal]
    for one, other in zip(dense, terminal, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_no_action_beats_the_floor_and_none_is_the_dense_network(tiny_problem, cost_mode):
    env = layer_env(tiny_problem, cost_mode=cost_mode)
    sums = []
    for action in (-1.0, 1.0):
        env.reset(seed=0)
        infos = [env.step(np.array([action], dtype=np.float32))[4] for _ in range(3)]
        sums.append(sum(info["cost"] for info in infos))
    assert sums[0] == pytest.approx(1.0, abs=1e-12)
    smallest = np.ones(3, dtype=np.int64)
    assert sums[1] == pytest.approx(float(tiny_problem.counted_costs(smallest)[0]), abs=1e-12)


# -- what actions mean -----------------------------------------------------------------------------


def test_a_ratio_keeps_the_most_important_filters(tiny_problem):
    env = layer_env(tiny_problem)
    env.reset(seed=0)
    for action in (0.0, -0.5, 0.5):  # ratios 0.5, 0.25, 0.75 of 4, 6, 8 filters
        env.step(np.array([action], dtype=np.float32))
    masks = env.unwrapped.last_masks()
    assert [int(mask.sum()) for mask in masks] == [2, 4, 2]
    for mask, scores in zip(masks, tiny_problem.scores, strict=True):
        assert scores[mask].min() >= scores[~mask].max()


def test_network_granularity_is_the_layers_at_once(tiny_problem):
    together = layer_env(tiny_problem, granularity="network")
    actions = np.array([0.1, -0.7, 0.6], dtype=np.float32)
    together.reset(seed=0)
    _, reward, terminated, _, info = together.step(actions)
    env = layer_env(tiny_problem)
    env.reset(seed=0)
    for action in actions:
        last = env.step(np.array([action], dtype=np.float32))
    assert terminated
    assert (reward, info["cost"]) == (last[1], last[4]["cost"])


def test_a_filter_action_counts_from_the_most_important(tiny_problem):
    env = gym.make("PruneVGGFilters-v0", problem=tiny_problem)
    assert env.action_space.shape == (8,)
    env.reset(seed=0)
    wish = np.array([-1, 1, 0, -1, 1, -1, -1, -0.5], dtype=np.float32)
    for _ in range(3):
        env.step(wish)
    masks = env.unwrapped.last_masks()
    for mask, order in zip(masks, tiny_problem.orders, strict=True):
        assert sorted(np.flatnonzero(mask)) == sorted(
            order[np.flatnonzero(wish[: len(order)] >= 0)]
        )


def test_a_filter_action_keeps_one_at_least(tiny_problem):
    env = gym.make("PruneVGGFilters-v0", problem=tiny_problem)
    env.reset(seed=0)
    wish = np.full(8, -1.0, dtype=np.float32)
    wish[2] = -0.25
    for _ in range(3):
        env.step(wish)
    kept = [np.flatnonzero(mask).tolist() for mask in env.unwrapped.last_masks()]
    assert kept == [[int(order[2])] for order in tiny_problem.orders]


def test_actions_beyond_the_box_are_clipped(tiny_problem):
    env = layer_env(tiny_problem).unwrapped
    kept = []
    for action in (1.0, 7.0):
        env.reset(seed=0)
        kept.append(env.step(np.array([action], dtype=np.float32))[4]["kept"])
    np.testing.assert_array_equal(*kept)


# -- schedules -------------------------------------------------------------------------------------


def cut_all(env):
    """Fraction kept per group when every action asks for the most."""
    terminated = False
    while not terminated:
        action = np.ones(env.action_space.shape, dtype=np.float32)
        if env.unwrapped.granularity == "filter":
            action = -action
        _, _, terminated, _, info = env.step(action)
    return info["kept"].tolist()


def test_options_hold_for_one_episode(env):
    env.reset(seed=0, options={"max_ratio": 0.75})
    assert cut_all(env) == pytest.approx([1 / 4, 2 / 6, 2 / 8])
    env.reset()
    assert cut_all(env) == pytest.approx([1 / 4, 1 / 6, 1 / 8])


def test_schedules_hold_until_the_next_one(env):
    env.unwrapped.set_schedule(max_ratio=0.75)
    for _ in range(2):
        env.reset()
        assert cut_all(env) == pytest.approx([1 / 4, 2 / 6, 2 / 8])
    env.unwrapped.set_schedule(max_ratio=1.0)
    env.reset()
    assert cut_all(env) == pytest.approx([1 / 4, 1 / 6, 1 / 8])


def test_a_schedule_waits_for_the_next_episode(tiny_problem):
    env = layer_env(tiny_problem)
    env.reset(seed=0)
    env.unwrapped.set_schedule(max_ratio=0.75)
    assert cut_all(env) == pytest.approx([1 / 4, 1 / 6, 1 / 8])


def test_recovery_steps_are_scheduled():
    asked = []

    def spy(network, train, *, generator, steps):
        asked.append(steps)

    env = layer_env(tiny.make_tiny(recovery=spy, recovery_steps=7))
    for options in (None, {"recovery_steps": 3}, None):
        env.reset(options=options)
        cut_all(env)
    env.unwrapped.set_schedule(recovery_steps=5)
    env.reset()
    cut_all(env)
    assert asked == [7, 3, 7, 5]


def test_vector_environments_can_be_scheduled(tiny_problem):
    venv = gym.make_vec("PruneVGG-v0", num_envs=2, vectorization_mode="sync", problem=tiny_problem)
    venv.call("set_schedule", max_ratio=0.75)
    assert [env.unwrapped._schedule["max_ratio"] for env in venv.envs] == [0.75, 0.75]
    venv.close()


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_specs_survive_json(env_id):
    made = gym.make(env_id, budgets={"params": 0.25, "macs": 0.5}, cost_mode="dense")
    text = made.spec.to_json()
    json.loads(text)
    again = gym.make(EnvSpec.from_json(text))
    assert again.spec == made.spec
    assert again.unwrapped.cost_names == ("params", "macs")
    assert again.unwrapped.problem is made.unwrapped.problem
    tiny.assert_identical(tiny.rollout(made), tiny.rollout(again))


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))],
    ids=["copy", "pickle"],
)
def test_copies_go_on_alike(env, duplicate):
    tiny.rollout(env)
    tiny.assert_identical(tiny.rollout(env, 2), tiny.rollout(duplicate(env), 2))
    env.reset(seed=3)
    action = env.action_space.sample()
    if env.unwrapped.granularity != "network":
        env.step(action)
    twin = duplicate(env)
    tiny.assert_identical(env.step(action), twin.step(action))
    assert twin.unwrapped.problem is not env.unwrapped.problem


def test_environments_share_one_problem_and_do_not_disturb_each_other(tiny_problem):
    alone = tiny.rollout(layer_env(tiny_problem), 2)
    one, other = layer_env(tiny_problem), layer_env(tiny_problem)
    one.reset(seed=1)
    one.step(np.ones(1, dtype=np.float32))
    tiny.assert_identical(tiny.rollout(other, 2), alone)
    assert one.unwrapped.problem is other.unwrapped.problem


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_vector_environments(tiny_problem, mode):
    settings = {} if mode == "sync" else {"context": "forkserver"}
    venv = gym.make_vec(
        "PruneVGG-v0",
        num_envs=2,
        vectorization_mode=mode,
        vector_kwargs=settings,
        problem=tiny_problem,
        cost_mode="dense",
    )
    try:
        venv.action_space.seed(0)
        observations, infos = venv.reset(seed=4)
        assert observations.shape == (2, 14)
        total = infos["cost"].copy()
        for step in range(3):
            actions = venv.action_space.sample()
            if step == 0:
                single = layer_env(tiny_problem, cost_mode="dense")
                single.reset(seed=4)
            expected = single.step(actions[0])
            observations, rewards, ends, _, infos = venv.step(actions)
            total += infos["cost"]
            np.testing.assert_array_equal(observations[0], expected[0])
            assert rewards[0] == expected[1]
        assert ends.all()
        np.testing.assert_allclose(total, infos["params"] / tiny_problem.unpruned_values)
    finally:
        venv.close()


# -- the rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", RENDER_MODES)
def test_every_render_mode(tiny_problem, granularity, mode):
    env = layer_env(tiny_problem, granularity=granularity, render_mode=mode)
    env.reset(seed=0)
    pictures = [env.render()]
    terminated = False
    while not terminated:
        terminated = env.step(env.action_space.sample())[2]
        pictures.append(env.render())
    env.close()
    if mode == "human":
        assert pictures == [None] * len(pictures)
        return
    if mode == "ansi":
        assert pictures[0].count("undecided") == 3
        assert "accuracy" in pictures[-1]
        assert "undecided" not in pictures[-1]
        return
    assert {(picture.dtype, picture.shape) for picture in pictures} == {
        (np.dtype(np.uint8), pictures[0].shape)
    }
    assert pictures[0].shape[2] == 3
    assert not np.array_equal(pictures[0], pictures[-1])


def test_rendering_changes_nothing(tiny_problem):
    plain = tiny.rollout(layer_env(tiny_problem))
    env = layer_env(tiny_problem, render_mode="rgb_array")
    env.reset(seed=0)
    env.render()
    tiny.assert_identical(tiny.rollout(env), plain)


def test_registration_is_idempotent():
    before = {env_id: gym.registry[env_id] for env_id in IDS}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prune_gym.register_envs()
        prune_gym.register_envs()
    assert [str(warning.message) for warning in caught] == []
    assert all(gym.registry[env_id] is before[env_id] for env_id in IDS)
    assert gym.make("prune_gym:PruneVGG-v0").spec.id == "PruneVGG-v0"


@pytest.mark.parametrize("env_id", ["PruneVGG-v0", "Prune-v0", "PruneTable-v1"])
def test_max_episode_steps_is_registered_and_never_reached(env_id, tiny_problem):
    assert gym.spec(env_id).max_episode_steps == 1000
    arguments = {"table": "tiny_vgg-shapes-taylor"}
    if env_id != "PruneTable-v1":
        arguments = {"problem": tiny_problem}
    env = gym.wrappers.TimeAwareObservation(gym.make(env_id, **arguments))
    env.reset(seed=0)
    n_steps, ended = env.unwrapped.steps_left, (False, False)
    while not any(ended):
        ended, n_steps = env.step(env.action_space.sample())[2:4], n_steps - 1
    assert (ended, n_steps) == ((True, False), 0)
    short = gym.make(env_id, max_episode_steps=2, **arguments)
    many = gym.make_vec(env_id, num_envs=2, max_episode_steps=2, **arguments)
    short.reset(), many.reset()
    actions = many.action_space.sample()
    for truncated in (False, True):
        assert short.step(actions[0])[2:4] == (False, truncated)
        assert many.step(actions)[3].tolist() == [truncated] * 2
    many.close()
    gym.make_vec(env_id, num_envs=2, max_episode_steps=-1, **arguments).close()
    with pytest.raises(InvalidValueError, match=r"max_episode_steps=0 must be a whole number"):
        gym.make_vec(env_id, num_envs=2, max_episode_steps=0, **arguments)


def test_episodes_that_gymnasium_would_truncate_are_refused(tiny_problem, monkeypatch):
    monkeypatch.setattr("prune_gym.envs.make.MAX_EPISODE_STEPS", 2)
    with pytest.raises(InvalidValueError, match=r"3 steps, .* after 2; say .*LayerPruneEnv\("):
        gym.make("PruneVGG-v0", problem=tiny_problem)
    assert gym.make("PruneVGG-v0", problem=tiny_problem, granularity="network")


def test_compact_network_is_that_of_the_last_finished_episode(env):
    with pytest.raises(RuntimeError, match="no finished episode"):
        env.unwrapped.compact_network()
    tiny.rollout(env)
    network = env.unwrapped.compact_network()
    assert not network.training
    env.reset()
    assert env.unwrapped.compact_network() is network
    env.close()
    with pytest.raises(RuntimeError, match="no finished episode"):
        env.unwrapped.last_masks()
