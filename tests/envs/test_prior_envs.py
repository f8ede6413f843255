"""Environments that decide beside the sensitivity scan's network: the -v1 ids."""

from __future__ import annotations

import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import prune_gym
from prune_gym.envs.make import PRIOR_GRANULARITIES
from prune_gym.envs.prior import PriorLayerPruneEnv
from prune_gym.envs.prior_observation import GROUP_FEATURES, LIMIT_FEATURES, prior_feature_names
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import kept_per_group

PROBLEMS = {
    "params": {"budgets": {"params": 0.4}},
    "macs": {"budgets": {"macs": 0.5}},
    "two": {"budgets": {"params": 0.5, "energy_uj": 0.6}},
    "rounded": {"budgets": {"params": 0.5}, "round_to": 2},
    "residual": {"network": "residual", "budgets": {"macs": 0.5}},
    "depth": {"network": "residual", "depth": True, "budgets": {"params": 0.4}},
}
GRANULARITIES = sorted(PRIOR_GRANULARITIES)


@pytest.fixture(scope="module")
def problems():
    """Made once."""
    found: dict[str, PruningProblem] = {}

    def of(kind):
        if kind not in found:
            found[kind] = tiny.make_tiny(**PROBLEMS[kind])
        return found[kind]

    return of


def make(problem, granularity="layer", **arguments):
    arguments = {"problem": problem, "granularity": granularity, **arguments}
    return gym.make("PruneVGG-v1", **arguments)


def play(env, choose, **reset):
    """Observations, infos and filters kept of one episode."""
    observation, info = env.reset(seed=0, **reset)
    observations, infos, ended = [observation], [info], False
    while not ended:
        action = np.asarray(choose(env.action_space.shape), dtype=np.float32)
        observation, _, ended, _, info = env.step(action)
        observations.append(observation)
        infos.append(info)
    return observations, infos, kept_per_group(env.unwrapped.last_masks())


def steps_up(problem, counts):
    """The networks with one group at its next number of filters."""
    for group, own in enumerate(problem.allocation.keepable):
        above = own[own > counts[group]]
        if above.size:
            more = counts.copy()
            more[group] = above[0]
            yield more


# -- the first policy ------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("kind", PROBLEMS)
def test_zeros_play_the_prior(problems, kind, granularity):
    problem = problems(kind)
    env = make(problem, granularity)
    _, infos, counts = play(env, np.zeros)
    prior = problem.masks_of(problem.allocation.counts())
    expected = problem.evaluate(prior)
    assert counts.tolist() == kept_per_group(problem.check_masks(prior)).tolist()
    assert infos[-1]["accuracy"] == expected.accuracy
    assert infos[-1]["feasible"] is True
    for one, other in zip(env.unwrapped.last_masks(), problem.check_masks(prior), strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_a_measured_budget_zeros_play_the_prior_too():
    def parameters(network):
        return float(sum(p.numel() for p in network.parameters()))

    problem = tiny.make_tiny(budgets={parameters: 0.5})
    for granularity in GRANULARITIES:
        env = make(problem, granularity)
        _, infos, counts = play(env, np.zeros)
        assert counts.tolist() == problem.allocation.counts().tolist()
        assert infos[-1]["cost"] <= 0.5
    env = make(problem)
    _, more, kept = play(env, np.ones)
    assert more[-1]["cost"] > 0.5  # nothing keeps an agent below a limit that is measured
    assert (kept >= problem.allocation.counts()).all()
    first = env.reset(seed=0) and env.unwrapped.prior.widths(env.unwrapped._latest)
    env.step(np.ones(1, dtype=np.float32))
    later = env.unwrapped.prior.widths(env.unwrapped._latest)
    np.testing.assert_array_equal(first[1:], later[1:])  # the prior of the others stays


def test_beside_a_measured_budget_a_counted_limit_holds_for_certain():
    def parameters(network):
        return float(sum(p.numel() for p in network.parameters()))

    problem = tiny.make_tiny(budgets={parameters: 0.9, "macs": 0.4})
    _, infos, _ = play(make(problem), np.ones)
    assert infos[-1]["cost_macs"] <= 0.4


# -- any policy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["params", "macs", "two", "residual"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_actions_end_within_the_limits_and_use_them_up(problems, kind, data):
    problem = problems(kind)
    env = make(problem)
    number = st.floats(-1.0, 1.0, width=32)
    observations, infos, counts = play(env, lambda shape: [data.draw(number)])
    assert infos[-1]["feasible"]
    limits = np.array(problem.limits)
    *_, last = (problem.sizes, *steps_up(problem, counts))  # of the last group that is not whole
    if not np.array_equal(last, problem.sizes):
        assert (problem.counted_costs(last) > limits).any()
    for observation in observations:
        assert env.observation_space.contains(observation)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_extremes_are_within_the_limits(problems, kind, granularity):
    problem = problems(kind)
    generator = np.random.default_rng(0)
    for choose in (
        np.ones,
        lambda shape: -np.ones(shape),
        lambda shape: generator.choice([-1.0, 1.0], shape),
        lambda shape: generator.uniform(-1.0, 1.0, shape),
    ):
        env = make(problem, granularity)
        observations, infos, counts = play(env, choose)
        assert infos[-1]["feasible"]
        assert all(env.observation_space.contains(one) for one in observations)
        for group, n in enumerate(counts):
            assert n == 0 or n in problem.allocation.keepable[group]


@pytest.mark.parametrize("kind", PROBLEMS)
def test_all_at_once_is_group_after_group(problems, kind):
    problem = problems(kind)
    generator = np.random.default_rng(1)
    for _ in range(5):
        actions = generator.uniform(-1.0, 1.0, len(problem.groups))
        left = actions.tolist()
        _, _, one = play(make(problem), lambda shape, left=left: [left.pop(0)])
        _, _, other = play(make(problem, "network"), lambda shape, actions=actions: actions)
        assert one.tolist() == other.tolist()


def test_a_positive_action_keeps_more_a_negative_one_less(default_problem):
    env = make(default_problem)
    prior = default_problem.allocation.counts()[0]
    kept = []
    for value in (-1.0, -0.5, 0.0, 0.5, 1.0):
        env.reset(seed=0)
        kept.append(int(env.unwrapped.would_keep(np.float32([value]))[0].sum()))
    assert kept == sorted(kept)
    assert kept[2] == prior
    assert kept[0] < prior < kept[-1]


def test_filters_move_within_the_order_of_importance(default_problem):
    env = make(default_problem, "filter")
    order, width = default_problem.orders[0], int(default_problem.allocation.counts()[0])
    action = np.zeros(env.action_space.shape, dtype=np.float32)
    action[width - 1], action[width] = -1.0, 1.0  # the last that stays for the first that goes
    env.reset(seed=0)
    (mask,) = env.unwrapped.would_keep(action)
    assert mask.sum() == width
    assert not mask[order[width - 1]]
    assert mask[order[width]]


# -- what is observed ------------------------------------------------------------------------------


def test_the_docstring_has_the_table_of_the_features():
    rows = re.findall(
        r"^\s*\| (\d+) \| (\w+) \| (.+?) \| 0 \| 1 \|$", PriorLayerPruneEnv.__doc__, re.M
    )
    features = (*GROUP_FEATURES, *LIMIT_FEATURES)
    assert [(int(number), name, words) for number, name, words in rows] == [
        (number, name, words) for number, (name, words) in enumerate(features)
    ]


@pytest.mark.parametrize("history", [False, True])
def test_every_entry_has_a_name(problems, history):
    problem = problems("two")
    groups = tuple(group.name for group in problem.groups) if history else ()
    env = make(problem, history=history)
    names = prior_feature_names(problem.names, groups)
    assert env.observation_space.shape == (len(names),)
    assert len(set(names)) == len(names)


def test_without_history_no_number_depends_on_the_size_of_the_network(problems):
    shapes = {make(problems(kind)).observation_space.shape for kind in ("params", "residual")}
    assert shapes == {(len(GROUP_FEATURES) + len(LIMIT_FEATURES),)}


def test_what_the_first_observation_says(default_problem):
    env = make(default_problem)
    observation, _ = env.reset(seed=0)
    names = prior_feature_names(default_problem.names)
    seen = dict(zip(names, observation.tolist(), strict=True))
    sensitivity, sizes = default_problem.sensitivity, default_problem.sizes
    prior = default_problem.allocation.counts()
    at_stake = max(sensitivity.unpruned, *(own.max() for own in sensitivity.drops))
    assert seen["position"] == 0.0
    assert seen["drop_4"] == pytest.approx(float(sensitivity.drop(0, 0.25)) / at_stake, abs=1e-6)
    assert seen["filters"] == pytest.approx(np.log2(sizes[0]) / 12, abs=1e-6)
    assert seen["prior"] == seen["present"]
    assert seen["prior"] == pytest.approx(1 + np.log2(prior[0] / sizes[0]) / 8, abs=1e-6)
    assert seen["last"] == seen["mean"] == 0.5
    expected = default_problem.counted_costs(prior)[0] / 0.1 / 2
    assert seen["expected:params"] == pytest.approx(expected, abs=1e-6)
    assert seen["limit:params"] == pytest.approx(1 + np.log10(0.1) / 3, abs=1e-6)


def after(env, values):
    env.reset(seed=0)
    for value in values:
        observation = env.step(np.float32([value]))[0]
    return observation


@pytest.mark.parametrize("env_id", ["PruneVGG-v0", "PruneVGG-v1"])
def test_with_history_the_kept_shares_are_seen(default_problem, env_id):
    seen, plain = (
        gym.make(env_id, problem=default_problem, history=history) for history in (True, False)
    )
    n = len(default_problem.groups)
    values = [0.5, -0.5, 0.2]
    observation = after(seen, values)
    np.testing.assert_array_equal(observation[:-n], after(plain, values))
    counts = seen.unwrapped.floor_counts()[:3] / default_problem.sizes[:3]
    np.testing.assert_array_equal(observation[-n : -n + 3], counts.astype(np.float32))
    assert (observation[-n + 3 :] == 1.0).all()


def test_histories_that_look_alike_differ_with_history(problems):
    """Ratio by ratio, what is seen is the last one and the sum; the order of others is not."""
    problem = tiny.make_tiny("residual", budgets={"params": 1.0})
    histories = [-0.5, 0.5, 0.0], [0.5, -0.5, 0.0]
    facts = slice(6, 9)  # last ratio, what it kept, the sum
    plain = gym.make("PruneVGG-v0", problem=problem)
    one, other = (after(plain, values)[facts] for values in histories)
    np.testing.assert_allclose(one, other, atol=1e-6)
    seen = gym.make("PruneVGG-v0", problem=problem, history=True)
    one, other = (after(seen, values)[-len(problem.groups) :] for values in histories)
    assert not np.array_equal(one, other)


def test_history_is_a_flag(tiny_problem):
    with pytest.raises(TypeError, match=r"history=2: expected True or False"):
        make(tiny_problem, history=2)


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_both_checkers(problems, granularity):
    env = make(problems("two"), granularity, history=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env, warn=True)
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_equal_seeds_give_equal_episodes(problems, granularity):
    made = [make(tiny.make_tiny(**PROBLEMS["two"]), granularity) for _ in range(2)]
    tiny.assert_identical(*(tiny.rollout(env, 2, seed=4) for env in made))


@pytest.mark.parametrize("kind", ["params", "two", "depth"])
def test_dense_costs_sum_to_the_terminal_one(problems, kind):
    for seed in range(3):
        dense = tiny.rollout(make(problems(kind), cost_mode="dense"), 1, seed=seed)
        terminal = tiny.rollout(make(problems(kind)), 1, seed=seed)
        assert tiny.total_cost(dense) == pytest.approx(tiny.total_cost(terminal), abs=1e-9)


def test_every_limit_of_a_range_has_its_prior(problems):
    problem = problems("params")
    env = make(problem, limit_range=(0.2, 0.8))
    for limit in (0.2, 0.35, 0.8):
        _, infos, counts = play(env, np.zeros, options={"limit": limit})
        assert counts.tolist() == problem.allocation.counts([limit]).tolist()
        assert infos[-1]["feasible"]
        assert infos[-1]["limit"] == limit
    _, infos, _ = play(env, np.ones)
    assert infos[-1]["feasible"]


def test_the_largest_ratio_of_an_episode_holds(problems):
    problem = problems("params")
    env = make(problem)
    _, infos, counts = play(env, lambda shape: -np.ones(shape), options={"max_ratio": 0.6})
    floor = problem.kept_counts([0.6] * len(problem.groups))
    assert (counts >= floor).all()
    assert infos[-1]["feasible"]


def test_many_at_once(problems):
    envs = gym.make_vec("PruneVGG-v1", num_envs=3, problem=problems("params"))
    observations, _ = envs.reset(seed=0)
    assert observations.shape == (3, *envs.single_observation_space.shape)
    for _ in problems("params").groups:
        *_, terminations, _, infos = envs.step(np.zeros((3, 1), dtype=np.float32))
    assert terminations.all()
    assert infos["feasible"].all()
    envs.close()


def test_on_an_exact_table():
    problem = gym.make("PruneTable-v1", budgets={"params": 0.25}).unwrapped.problem
    env = PriorLayerPruneEnv(problem)
    _, infos, counts = play(env, np.zeros)
    assert infos[-1]["feasible"]
    assert counts.tolist() == problem.allocation.counts().tolist()
    env.action_space.seed(0)
    for _ in range(10):
        _, infos, _ = play(env, lambda shape: env.action_space.sample())
        assert infos[-1]["feasible"]


def test_every_id_of_v0_has_a_v1(default_problem):
    ids = prune_gym.ENVIRONMENTS
    for env_id, defaults in ids.items():
        name, _, version = env_id.rpartition("-")
        assert f"{name}-{'v1' if version == 'v0' else 'v0'}" in ids
        assert defaults.get("decision", "ratio") == ("prior" if version == "v1" else "ratio")
    env = gym.make("PruneVGG-v1")
    assert isinstance(env.unwrapped, PriorLayerPruneEnv)
    assert env.unwrapped.problem is default_problem


def test_what_is_refused(tiny_problem):
    with pytest.raises(ValueError, match=r"unknown decision 'priors'. Did you mean 'prior'"):
        gym.make("PruneVGG-v0", decision="priors", problem=tiny_problem)
    with pytest.raises(ValueError, match=r"structure"):
        make(tiny.make_tiny(structure="weight"))
    with pytest.raises(ValueError, match=r"Prune-v1 prunes what you bring"):
        gym.make("Prune-v1")
    with pytest.raises(ValueError, match=r"cost_mode"):
        make(tiny.make_tiny(budgets={"activation_bytes": 0.9}), "filter", cost_mode="dense")
