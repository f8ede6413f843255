"""Wrappers: other action spaces, the best network, the episode's cost, and SB3 around them."""

from __future__ import annotations

import itertools
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import prune_gym
from prune_gym import (
    BinaryFilters,
    BinaryToBox,
    Budget,
    DiscreteRatios,
    FixedPenalty,
    ProjectionWrapper,
    RecordBest,
    RecordEpisodeCost,
    RecordEpisodeCostVector,
    SauteBudget,
)
from prune_gym.problem.archive import Archive
from prune_gym.wrappers import penalties


def make(problem, granularity="layer", **arguments):
    return gym.make("PruneVGG-v0", problem=problem, granularity=granularity, **arguments)


WRAPPED = {
    "ratios": lambda problem: DiscreteRatios(make(problem), n=5),
    "all ratios": lambda problem: DiscreteRatios(make(problem, "network"), n=5),
    "filters": lambda problem: BinaryFilters(make(problem, "filter")),
    "bits as a box": lambda problem: BinaryToBox(BinaryFilters(make(problem, "filter"))),
    "penalty": lambda problem: FixedPenalty(make(problem), 2.0),
    "budget": lambda problem: SauteBudget(make(problem, cost_mode="dense")),
    "best": lambda problem: RecordBest(make(problem)),
    "cost": lambda problem: RecordEpisodeCost(make(problem)),
    "all": lambda problem: RecordEpisodeCost(RecordBest(DiscreteRatios(make(problem)))),
}


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # it is meant
@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_environments_pass_the_checks(tiny_problem, name):
    env = WRAPPED[name](tiny_problem)
    check_env(env, skip_render_check=True)
    sb3_check_env(env)
    tiny.assert_identical(tiny.rollout(env, 2), tiny.rollout(WRAPPED[name](tiny_problem), 2))
    assert env.get_wrapper_attr("cost_limit") == 0.5


def test_ratios_are_an_even_grid(tiny_problem):
    env = DiscreteRatios(make(tiny_problem), n=5)
    assert env.action_space == gym.spaces.Discrete(5)
    np.testing.assert_array_equal(
        np.concatenate([env.action(index) for index in range(5)]), [-1.0, -0.5, 0.0, 0.5, 1.0]
    )
    env = DiscreteRatios(make(tiny_problem, "network"), n=3)
    assert env.action_space == gym.spaces.MultiDiscrete([3, 3, 3])
    np.testing.assert_array_equal(env.action(np.array([0, 1, 2])), [-1.0, 0.0, 1.0])


def test_bits_keep_filters(tiny_problem):
    env = BinaryFilters(make(tiny_problem, "filter"))
    assert env.action_space == gym.spaces.MultiBinary(8)
    env.reset(seed=0)
    bits = np.array([1, 0, 1, 1, 0, 0, 0, 1], dtype=np.int8)
    for _ in range(3):
        env.step(bits)
    assert [int(mask.sum()) for mask in env.unwrapped.last_masks()] == [3, 3, 4]


def test_numbers_stand_for_bits(tiny_problem):
    env = BinaryToBox(BinaryFilters(make(tiny_problem, "filter")))
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (8,), np.float32)
    numbers = np.array([0.0, -0.0, 1.0, -1.0, 0.3, -1e-9, 5.0, -np.inf])
    bits = env.action(numbers)
    np.testing.assert_array_equal(bits, [1, 1, 1, 0, 1, 0, 1, 0])
    assert env.env.action_space.contains(bits)
    raw = make(tiny_problem, "filter")  # the box that the bits were made from
    actions = np.abs(np.random.default_rng(0).normal(size=(3, 8))) * [1, -1, -1, 1, -1, 1, 1, -1]
    for one, other in ((env, raw), (raw, env)):
        seen = [
            [each.reset(seed=0), *(each.step(a.clip(-1, 1)) for a in actions)]
            for each in (one, other)
        ]
        tiny.assert_identical(*seen)


def test_numbers_of_any_binary_environment():
    class Grid(gym.Env):
        observation_space = gym.spaces.Box(0.0, 1.0, (1,))
        action_space = gym.spaces.MultiBinary((2, 3))

        def step(self, action):
            return np.zeros(1, dtype=np.float32), float(action.sum()), True, False, {}

    env = BinaryToBox(Grid())
    assert env.action_space.shape == (2, 3)
    assert env.step(np.array([[1, -1, -1], [-1, 0.5, -1]]))[1] == 2.0


def test_record_best_keeps_the_best_feasible_network(tiny_problem):
    env = RecordBest(make(tiny_problem, "network"))
    outcomes = []
    for _ in range(12):
        tiny.rollout(env, seed=len(outcomes))
        outcomes.append((env.unwrapped.last_outcome(), env.unwrapped.last_masks()))
    assert len(env.archive.trials) == 12
    feasible = [(outcome.accuracy, -outcome.cost) for outcome, _ in outcomes if outcome.feasible]
    assert 0 < len(feasible) < 12
    assert (env.archive.best.accuracy, -env.archive.best.cost) == max(feasible)
    again = tiny_problem.evaluate(env.archive.feasible_masks())
    assert (again.accuracy, again.cost) == (env.archive.best.accuracy, env.archive.best.cost)


def test_environments_share_an_archive(tiny_problem):
    archive = Archive()
    envs = [RecordBest(make(tiny_problem, "network"), archive) for _ in range(2)]
    for env in envs:
        tiny.rollout(env)
    assert len(archive.trials) == 2
    assert all(env.archive is archive for env in envs)


@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
def test_record_episode_cost(tiny_problem, cost_mode):
    env = RecordEpisodeCost(make(tiny_problem, cost_mode=cost_mode))
    for seed in range(2):
        seen = tiny.rollout(env, seed=seed)
        running = np.cumsum([step[4]["cost"] for step in seen])
        np.testing.assert_allclose([step[4]["episode_cost"] for step in seen], running)
        assert all(type(step[4]["episode_cost"]) is float for step in seen)


def test_sb3_monitor_reads_the_episode_cost(tiny_problem):
    def one():
        env = RecordEpisodeCost(make(tiny_problem, cost_mode="dense"))
        return Monitor(env, info_keywords=("episode_cost",))

    venv = DummyVecEnv([one, one])
    venv.seed(0)
    venv.reset()
    for _ in range(3):
        _, rewards, dones, infos = venv.step(np.array([[0.2], [-0.4]], dtype=np.float32))
    assert dones.all()
    for reward, info in zip(rewards, infos, strict=True):
        expected = info["params"] / tiny_problem.unpruned_values[0]
        assert info["episode"]["episode_cost"] == pytest.approx(expected)
        assert info["episode"]["r"] == pytest.approx(reward, abs=1e-6)


@pytest.mark.parametrize(
    ("granularity", "wrap"),
    [
        ("layer", lambda env: DiscreteRatios(env, n=4)),
        ("filter", BinaryFilters),
        ("filter", lambda env: BinaryToBox(BinaryFilters(env))),
        ("layer", RecordBest),
        ("layer", RecordEpisodeCost),
        ("layer", lambda env: FixedPenalty(env, 2.0)),
        ("layer", SauteBudget),
    ],
    ids=["ratios", "filters", "bits as a box", "best", "cost", "penalty", "budget"],
)
def test_specs_of_wrapped_environments_survive_json(granularity, wrap):
    env = wrap(gym.make("PruneVGG-v0", granularity=granularity))
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert type(again) is type(env)
    assert again.action_space == env.action_space
    assert again.observation_space == env.observation_space


def test_wrapper_errors(tiny_problem):
    with pytest.raises(
        ValueError, match=r"granularity='filter' takes no ratios; use BinaryFilters"
    ):
        DiscreteRatios(make(tiny_problem, "filter"))
    with pytest.raises(ValueError, match=r"n=1 must be a whole number of at least 2"):
        DiscreteRatios(make(tiny_problem), n=1)
    with pytest.raises(ValueError, match=r"BinaryFilters needs granularity='filter'"):
        BinaryFilters(make(tiny_problem))
    with pytest.raises(ValueError, match=r"expected a Box action space.*wrap it only once"):
        DiscreteRatios(DiscreteRatios(make(tiny_problem)))
    env = DiscreteRatios(make(tiny_problem), n=3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 3 is not in Discrete\(3\)"):
        env.step(3)
    bits = BinaryFilters(make(tiny_problem, "filter"))
    bits.reset(seed=0)
    with pytest.raises(ValueError, match=r"is not in MultiBinary\(8\)"):
        bits.step(np.zeros(3, dtype=np.int8))
    with pytest.raises(ValueError, match=r"expected a MultiBinary action space, got Box.*leave a"):
        BinaryToBox(make(tiny_problem))
    box = BinaryToBox(bits)
    for wrong in (np.zeros(3), np.full(8, np.nan)):
        with pytest.raises(ValueError, match=r"must be numbers of shape \(8,\), none of them NaN"):
            box.step(wrong)
    unconstrained = RecordEpisodeCost(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"gives no info\['cost'\]"):
        unconstrained.reset(seed=0)


# -- masks of ratios -------------------------------------------------------------------------------


def doubled(network):
    """A black box."""
    return 2.0 * sum(parameter.numel() for parameter in network.parameters())


def half_of_every_group():
    """A limit that grid choices reach exactly."""
    return float(tiny.make_tiny().counted_costs(np.array([2, 3, 4]))[0])


LIMITED = {
    "params": lambda: tiny.make_tiny(budgets={"params": 0.3}),
    "macs": lambda: tiny.make_tiny("residual", budgets={"macs": 0.4}),
    "both": lambda: tiny.make_tiny(budgets={"params": 0.5, "macs": 0.35, "size_bytes": 0.6}),
    "weights": lambda: tiny.make_tiny(structure="weight", budgets={"params": 0.25}),
    "multiples": lambda: tiny.make_tiny("residual", round_to=2, budgets={"params": 0.5}),
    "exact": lambda: tiny.make_tiny(budgets={"params": half_of_every_group()}),
    "dense block": lambda: tiny.make_tiny("dense", budgets={"params": 0.6}),
}


@pytest.fixture(scope="module", params=LIMITED)
def limited(request):
    return LIMITED[request.param]()


def play_masked(env, generator, masked=True):
    """One episode of random actions; whether it ended within every limit."""
    ended, info = False, {}
    while not ended:
        masks = env.get_wrapper_attr("action_masks")()
        allowed = np.flatnonzero(masks) if masked else np.arange(len(masks))
        _, _, ended, _, info = env.step(int(generator.choice(allowed)))
    return info["feasible"]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 7), max_ratio=st.floats(0.93, 1.0))
def test_masked_episodes_meet_every_limit(limited, seed, n, max_ratio):
    env = DiscreteRatios(make(limited), n=n)
    generator = np.random.default_rng(seed)
    for options in (None, {"max_ratio": max_ratio}):
        env.reset(seed=0, options=options)
        assert play_masked(env, generator)


def test_unmasked_episodes_do_not(limited):
    env = DiscreteRatios(make(limited), n=5)
    generator = np.random.default_rng(0)
    met = []
    for _ in range(20):
        env.reset(seed=0)
        met.append(play_masked(env, generator, masked=False))
    assert not all(met)


@pytest.mark.parametrize("options", [None, {"max_ratio": 0.95}])
def test_masks_allow_just_what_can_be_completed(limited, options):
    env = DiscreteRatios(make(limited), n=3)
    largest = 1.0 if options is None else options["max_ratio"]
    n_groups = len(limited.groups)

    def is_feasible(choices):
        ratios = [largest * choice / 2 for choice in choices]
        return limited.feasible(limited.counted_costs(limited.kept_counts(ratios)))

    for begun in range(n_groups):
        for first in itertools.product(range(3), repeat=begun):
            env.reset(seed=0, options=options)
            for choice in first:
                env.step(choice)
            expected = [
                any(
                    is_feasible((*first, choice, *rest))
                    for rest in itertools.product(range(3), repeat=n_groups - begun - 1)
                )
                for choice in range(3)
            ]
            masks = env.action_masks()
            assert masks.dtype == np.bool_
            assert masks.tolist() == (expected if any(expected) else [False, False, True])


def test_masks_where_nothing_can_be_told(tiny_problem):
    every = DiscreteRatios(make(tiny_problem, "network"), n=4)
    np.testing.assert_array_equal(every.action_masks(), np.ones(12, dtype=np.bool_))
    unknown = [
        doubled,
        Budget("box", measure=doubled, monotone=True),
        Budget("odd", counted=lambda network, example: {"classifier.weight": 1.0}),
    ]
    for budget in unknown:
        env = DiscreteRatios(make(tiny.make_tiny(budgets={budget: 0.3})), n=4)
        env.reset(seed=0)
        for _ in range(3):
            assert env.action_masks().tolist() == [True] * 4
            env.step(0)
        assert env.action_masks().tolist() == [True] * 4  # the episode is over
    told = DiscreteRatios(make(tiny.make_tiny(budgets={"params": 0.3})), n=6)
    half = DiscreteRatios(make(tiny.make_tiny(budgets={"params": 0.3, doubled: 0.9})), n=6)
    told.reset(seed=0)
    half.reset(seed=0)
    masks = []
    for action in (0, 1, 5):
        masks.append(half.action_masks().tolist())
        assert masks[-1] == told.action_masks().tolist()
        half.step(action)
        told.step(action)
    assert False in masks[-1]


def test_one_ratio_stays_allowed_where_no_limit_can_be_met():
    env = DiscreteRatios(make(tiny.make_tiny(budgets={"params": 0.1})), n=4)
    env.reset(seed=0)
    env.step(0)  # whole, against the mask
    assert env.action_masks().tolist() == [False, False, False, True]
    env.step(0)
    assert env.action_masks().tolist() == [False, False, False, True]


def test_sb3_contrib_reads_the_masks():
    problem = tiny.make_tiny(budgets={"params": 0.3})

    def one():
        env = RecordEpisodeCost(DiscreteRatios(make(problem), n=5))
        return Monitor(env, info_keywords=("feasible", "episode_cost"))

    venv = DummyVecEnv([one, one])
    venv.seed(0)
    venv.reset()
    venv.step(np.array([4, 2]))
    masks = get_action_masks(venv)
    assert masks.shape == (2, 5)
    by_hand = [DiscreteRatios(make(problem), n=5) for _ in range(2)]
    for env, action, mask in zip(by_hand, (4, 2), masks, strict=True):
        env.reset(seed=0)
        env.step(action)
        np.testing.assert_array_equal(env.action_masks(), mask)
    model = MaskablePPO("MlpPolicy", venv, n_steps=12, batch_size=24, seed=0, device="cpu")
    model.learn(48)
    assert len(model.ep_info_buffer) == 16
    assert all(episode["feasible"] for episode in model.ep_info_buffer)
    assert all(episode["episode_cost"] <= 0.3 for episode in model.ep_info_buffer)


# -- penalties of the agents, on pruning environments ----------------------------------------------


@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
def test_a_broken_budget_takes_the_accuracy_away(tiny_problem, cost_mode):
    env = SauteBudget(make(tiny_problem, cost_mode=cost_mode), unsafe_reward=-1.0)
    for action, feasible in ((np.ones(1), True), (-np.ones(1), False)):
        observations, rewards = [env.reset(seed=0)[0]], []
        for _ in range(3):
            observation, reward, _, _, info = env.step(action.astype(np.float32))
            observations.append(observation)
            rewards.append(reward)
        left = [observation[-1] for observation in observations]
        assert info["feasible"] is feasible
        assert info["reward"] == info["accuracy"] > 0.0
        assert rewards[-1] == (info["accuracy"] if feasible else -1.0)
        assert bool(left[-1] >= 0.0) is feasible
        if cost_mode == "terminal":  # nothing to see before it is too late
            assert left[:-1] == [1.0] * 3
            assert rewards[:-1] == [0.0, 0.0]
        else:
            assert left == sorted(left, reverse=True)
            assert left[1] < 1.0
    paid = FixedPenalty(make(tiny_problem), 4.0)
    seen = tiny.rollout(paid)[-1]
    assert seen[1] == (seen[4]["accuracy"] - 4.0 * seen[4]["cost"]) / 5.0


def test_the_agents_are_imported_when_they_are_asked_for():
    code = (
        "import sys, prune_gym, prune_gym.wrappers; print('agents.wrappers' in sys.modules);"
        "prune_gym.SauteBudget; print('agents.wrappers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert penalties.FixedPenalty is FixedPenalty is prune_gym.wrappers.FixedPenalty
    assert penalties.SauteBudget is SauteBudget is prune_gym.wrappers.SauteBudget


def test_penalties_load_no_agents_but_themselves():
    """Neither PyTorch nor Stable-Baselines3: they go with any library."""
    code = (
        "import sys, prune_gym; prune_gym.FixedPenalty, prune_gym.SauteBudget;"
        "print(sorted({'torch', 'stable_baselines3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "wrapper",
    [ProjectionWrapper, DiscreteRatios, BinaryFilters, RecordBest],
    ids=lambda w: w.__name__,
)
def test_wrappers_of_pruning_environments_refuse_others(wrapper):
    with pytest.raises(TypeError, match=f"{wrapper.__name__}: expected a pruning environment"):
        wrapper(gym.make("Pendulum-v1"))


# -- the episode's cost in vectors of environments -------------------------------------------------

MODES = list(AutoresetMode)


class Uneven(gym.Env):
    """Episodes of one to five steps and random costs; every third one is truncated."""

    observation_space = gym.spaces.Box(0.0, 10.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, dense, reset_cost=0.0):
        self._dense = dense
        self._reset_cost = reset_cost
        self._episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._costs = self.np_random.random(self.np_random.integers(1, 6))
        self._at = 0
        self._episodes += 1
        return np.zeros(1, dtype=np.float32), {"cost": self._reset_cost}

    def step(self, action):
        self._at += 1
        over = self._at == len(self._costs)
        cost = self._costs[self._at - 1] if self._dense else over * self._costs.sum()
        truncated = self._episodes % 3 == 0
        observation = np.full(1, self._at, dtype=np.float32)
        return observation, 1.0, over and not truncated, over and truncated, {"cost": float(cost)}


def alone(env, seed, n_steps):
    """Costs of the episodes that end within so many steps: a plain loop."""
    totals, running = [], 0.0
    env.reset(seed=seed)
    for _ in range(n_steps):
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        running += info["cost"]
        if terminated or truncated:
            totals.append(running)
            running = 0.0
            env.reset()
    return totals


def together(envs, seed, n_steps):
    """The same of a vector, read in the same way in every autoreset mode."""
    totals = [[] for _ in range(envs.num_envs)]
    _, infos = envs.reset(seed=seed)
    assert infos["episode_cost"].tolist() == [0.0] * envs.num_envs
    for _ in range(n_steps):
        _, _, terminations, truncations, infos = envs.step(envs.action_space.sample())
        ended = terminations | truncations
        for index in np.flatnonzero(ended):
            totals[index].append(float(infos["episode_cost"][index]))
        if envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            options = {"reset_mask": ended}
            _, reset_infos = envs.reset(options=options)
            assert list(options) == ["reset_mask"]  # what is handed in stays as it is
            now = np.where(ended, 0.0, infos["episode_cost"])
            np.testing.assert_array_equal(reset_infos["episode_cost"], now)
    return totals


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dense", [True, False])
def test_episode_costs_of_a_vector_are_those_of_a_plain_loop(mode, dense):
    envs = RecordEpisodeCostVector(SyncVectorEnv([lambda: Uneven(dense)] * 4, autoreset_mode=mode))
    for seed in (0, 100):  # a full reset in the middle of episodes forgets them
        for index, totals in enumerate(together(envs, seed, 40)):
            assert len(set(totals)) == len(totals) > 5
            assert totals == alone(Uneven(dense), seed + index, 40)[: len(totals)]


@pytest.mark.parametrize("mode", MODES)
def test_a_wrapped_vector_is_a_vector_of_wrapped_environments(mode):
    outside = RecordEpisodeCostVector(
        SyncVectorEnv([lambda: Uneven(True, 0.25)] * 3, autoreset_mode=mode)
    )
    inside = SyncVectorEnv([lambda: RecordEpisodeCost(Uneven(True, 0.25))] * 3, autoreset_mode=mode)
    infos, expected = outside.reset(seed=5)[1], inside.reset(seed=5)[1]
    actions = outside.action_space.sample()
    for _ in range(30):
        tiny.assert_identical(dict(sorted(infos.items())), dict(sorted(expected.items())))
        *_, terminations, truncations, infos = outside.step(actions)
        expected = inside.step(actions)[-1]
        ended = terminations | truncations
        if mode == AutoresetMode.SAME_STEP and ended.any():
            final = infos["final_info"]["episode_cost"]
            np.testing.assert_array_equal(infos["episode_cost"][ended], final[ended])
            infos["episode_cost"][ended] = infos["cost"][
                ended
            ]  # the vector keeps it where one looks for it
            infos.pop("final_obs"), expected.pop("final_obs")
        if mode == AutoresetMode.DISABLED and ended.any():
            outside.reset(options={"reset_mask": ended})
            inside.reset(options={"reset_mask": ended})


@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
@pytest.mark.parametrize("mode", [None, *MODES])
def test_terminal_costs_of_pruning_vectors_are_not_lost(tiny_problem, cost_mode, mode):
    arguments = {"problem": tiny_problem, "cost_mode": cost_mode}
    if mode is None:  # the vector environment of the package
        envs = gym.make_vec("PruneVGG-v0", num_envs=2, **arguments)
        assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    else:
        settings = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": mode}}
        envs = gym.make_vec("PruneVGG-v0", num_envs=2, **settings, **arguments)
    envs = RecordEpisodeCostVector(envs)
    actions = np.array([[0.2], [-0.4]], dtype=np.float32)
    expected = []
    for action in actions:
        env = make(tiny_problem)
        env.reset(seed=0)
        expected.append([env.step(action) for _ in range(3)][-1][4]["cost"])
    envs.reset(seed=0)
    for _ in range(2):
        for _ in range(3):
            _, _, terminations, _, infos = envs.step(actions)
        assert terminations.all()
        np.testing.assert_allclose(infos["episode_cost"], expected, rtol=1e-12)
        if envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP:
            infos = envs.step(actions)[-1]
        elif envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED:
            infos = envs.reset()[1]
    envs.close()


def test_a_vector_that_names_no_mode_resets_with_the_next_step():
    plain = SyncVectorEnv([lambda: Uneven(True)] * 2)
    del plain.metadata["autoreset_mode"]  # as gymnasium 1.0 has it
    totals = RecordEpisodeCostVector(plain)
    totals.reset(seed=0)
    named = RecordEpisodeCostVector(SyncVectorEnv([lambda: Uneven(True)] * 2))
    named.reset(seed=0)
    for _ in range(20):
        actions = named.action_space.sample()
        tiny.assert_identical(totals.step(actions), named.step(actions))


def test_vector_errors():
    class Forgetful(Uneven):
        def step(self, action):
            return (*super().step(action)[:4], {})

    with pytest.raises(TypeError, match=r"is a vector; use RecordEpisodeCostVector"):
        RecordEpisodeCost(SyncVectorEnv([lambda: Uneven(True)]))
    with pytest.raises(TypeError, match=r"is no vector environment; use RecordEpisodeCost\."):
        RecordEpisodeCostVector(Uneven(True))
    listed = RecordEpisodeCostVector(DictInfoToList(SyncVectorEnv([lambda: Uneven(True)])))
    with pytest.raises(TypeError, match=r"infos are a list, .*put DictInfoToList around it"):
        listed.reset(seed=0)
    bare = RecordEpisodeCostVector(gym.make_vec("CartPole-v1", num_envs=2))
    with pytest.raises(ValueError, match=r"environments \[0, 1\] give no info\['cost'\]"):
        bare.reset(seed=0)
    for mode in MODES:
        makers = [lambda: Uneven(True), lambda: Forgetful(True)]
        envs = RecordEpisodeCostVector(SyncVectorEnv(makers, autoreset_mode=mode))
        envs.reset(seed=3)
        with pytest.raises(ValueError, match=r"environments \[1\] give no info\['cost'\]"):
            envs.step(envs.action_space.sample())
