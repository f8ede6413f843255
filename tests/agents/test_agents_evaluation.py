import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import BudgetToyEnv, Evaluation, evaluate
from agents.wrappers import FixedPenalty


class Constant:
    """A policy that always keeps the same fraction."""

    def __init__(self, fraction):
        self.action = 2.0 * fraction - 1.0

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((len(observation), 1), self.action, dtype=np.float32), state


def vector():
    return make_vec_env(lambda: BudgetToyEnv(0.16), n_envs=3)


def penalised(env=None):
    return FixedPenalty(env or BudgetToyEnv(0.16), 5.0)


ENVIRONMENTS = {
    "env": lambda: BudgetToyEnv(0.16),
    "wrapped": lambda: gym.wrappers.TimeLimit(BudgetToyEnv(0.16), 100),
    "vector": vector,
    "penalised": penalised,
    "watched": lambda: Monitor(penalised()),
    "watched inside": lambda: penalised(Monitor(BudgetToyEnv(0.16))),
    "normalised": lambda: VecNormalize(vector()),
    "both": lambda: VecNormalize(make_vec_env(penalised, n_envs=3)),
}


@pytest.mark.parametrize("make", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_reports_what_the_environment_paid(make):
    result = evaluate(Constant(0.25), make(), n_episodes=5, seed=0)
    assert result.return_mean == pytest.approx(0.5, abs=1e-5)
    assert result.return_std == pytest.approx(0.0, abs=1e-5)
    assert result.cost_mean == pytest.approx(0.25)
    assert result.cost_limit == 0.16
    assert result.cost_ratio == pytest.approx(0.25 / 0.16)
    assert result.violation_rate == 1.0
    assert not result.feasible
    assert result.returns == pytest.approx([0.5] * 5, abs=1e-5)
    assert result.costs == pytest.approx([0.25] * 5)
    assert result.lengths == (8,) * 5
    assert result.mean_excess == pytest.approx(0.09)
    assert result.episodes == 5


def test_meeting_the_limit_exactly_is_no_violation(scripted_env):
    result = evaluate(Constant(0.5), scripted_env((0.25, 0.5), limit=0.75), n_episodes=3)
    assert (result.violation_rate, result.mean_excess) == (0.0, 0.0)


def test_short_episodes_are_not_over_represented(scripted_env):
    lengths = [1, 9]
    envs = [lambda n=n: scripted_env((1.0,) * n, limit=5.0) for n in lengths]
    result = evaluate(Constant(0.5), DummyVecEnv(envs), n_episodes=10)
    assert result.episodes == 10
    assert result.cost_mean == result.return_mean == np.mean(lengths)
    assert result.return_std == np.std(lengths)
    assert result.violation_rate == 0.5
    assert result.mean_excess == 2.0


def test_seed_makes_it_repeatable():
    class Noisy(BudgetToyEnv):
        def step(self, action):
            return super().step(self.np_random.uniform(-1.0, 1.0, 1))

    env = Noisy()
    first, second, third = (evaluate(Constant(0.5), env, 4, seed=seed) for seed in (1, 1, 2))
    assert first == second != third


@pytest.mark.parametrize(
    ("cost", "limit", "ratio"),
    [
        (0.2, 0.4, 0.5),
        (-0.2, 0.4, -0.5),
        (-2.0, -1.0, 0.0),
        (-1.0, -1.0, 1.0),
        (-0.5, -1.0, 1.5),
        (0.0, 0.0, 1.0),
        (0.1, 0.0, np.inf),
        (-0.1, 0.0, -np.inf),
    ],
)
def test_cost_ratio_is_above_one_where_the_limit_is_broken(cost, limit, ratio):
    result = Evaluation.of_episodes([1.0], [cost], [1], limit)
    assert result.cost_ratio == pytest.approx(ratio)
    assert result.feasible == (ratio <= 1.0)


def test_rank_prefers_feasible_then_little_excess_then_return():
    def result(cost, episode_return):
        return Evaluation.of_episodes([episode_return], [cost], [1], cost_limit=1.0)

    ranked = [
        result(3.0, 9.0),
        result(2.0, 1.0),
        result(2.0, 2.0),
        result(0.5, 0.0),
        result(1, 0.5),
    ]
    assert sorted(ranked[::-1], key=lambda one: one.rank) == ranked


def test_sampled_actions_on_request():
    class Sampling(Constant):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            self.action = 0.0 if deterministic else 1.0
            return super().predict(observation)

    costs = [evaluate(Sampling(0.0), BudgetToyEnv(), 1, deterministic=d) for d in (True, False)]
    assert [result.cost_mean for result in costs] == [0.5, 1.0]


def test_normalisation_does_not_learn_from_evaluation():
    inner = VecNormalize(vector(), training=False)
    env = VecNormalize(inner)
    env.reset()
    before = env.obs_rms.mean.copy(), env.obs_rms.count, env.ret_rms.count
    evaluate(Constant(0.5), env, 3)
    assert before == (env.obs_rms.mean, env.obs_rms.count, env.ret_rms.count)
    assert (env.training, inner.training) == (True, False)


def test_normalisation_learns_again_after_an_error(scripted_env):
    env = VecNormalize(DummyVecEnv([lambda: scripted_env((None,), limit=1.0)]))
    with pytest.raises(ValueError, match="missing from the step info"):
        evaluate(Constant(0.5), env, 1)
    assert env.training


def test_an_episode_ends_where_monitor_says_so(scripted_env):
    class TwoLives(gym.Wrapper):
        """Ends an episode in the middle, without starting another, as Atari's wrapper does."""

        def __init__(self, env):
            super().__init__(env)
            self.over = True

        def reset(self, **kwargs):
            return self.env.reset(**kwargs) if self.over else (np.zeros(2, np.float32), {})

        def step(self, action):
            observation, reward, self.over, truncated, info = self.env.step(action)
            return observation, reward, True, truncated, info

    env = TwoLives(Monitor(scripted_env((1.0, 2.0), limit=5.0)))
    result = evaluate(Constant(0.5), env, 2)
    assert (result.returns, result.costs, result.lengths) == ((2.0, 2.0), (3.0, 3.0), (2, 2))


def test_recurrent_policies_keep_their_state():
    class Counting(Constant):
        """Acts by the number of steps since the episode began."""

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            steps = np.zeros(len(observation)) if state is None else state
            steps = np.where(episode_start, 0, steps)
            return (2.0 * steps[:, None] / 7.0 - 1.0).astype(np.float32), steps + 1

    result = evaluate(Counting(0.0), vector(), 6)
    assert result.costs == pytest.approx([0.5] * 6)  # mean of 0/7, 1/7, ..., 7/7


def test_models_that_take_masks_get_them(scripted_env):
    contrib = pytest.importorskip("sb3_contrib")
    env = OnlyOne()
    model = contrib.MaskablePPO("MlpPolicy", OnlyOne(), n_steps=8, batch_size=8, seed=0)
    for player in (model, model.policy):
        result = evaluate(player, env, 3, deterministic=False, seed=0)
        assert result.cost_mean == 3.0
    with pytest.raises(ValueError, match="ActionMasker"):
        evaluate(model, scripted_env(limit=1.0, n_actions=3), 1)


class OnlyOne(gym.Env):
    """The cost is the action; all but one are masked, another at every step."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)
    cost_limit = 3.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {"cost": 0.0}

    def action_masks(self):
        return np.arange(3) == self.steps % 3

    def step(self, action):
        assert self.action_masks()[action]
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, self.steps == 3, False, {"cost": float(action)}


def test_the_environment_that_is_learned_in_is_refused():
    env = BudgetToyEnv()
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    for same in (env, Monitor(env), DummyVecEnv([lambda: env]), model.get_env()):
        with pytest.raises(ValueError, match="env is an environment that the model learns in"):
            evaluate(model, same, 1)
    assert evaluate(model.policy, env, 1).episodes == 1  # a policy learns nowhere
    assert evaluate(model, BudgetToyEnv(), 1).episodes == 1


def test_recurrent_ppo():
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.RecurrentPPO("MlpLstmPolicy", vector(), n_steps=8, batch_size=8, seed=0)
    assert evaluate(model, vector(), 4, seed=0).episodes == 4


def test_vectors_of_gymnasium_are_refused():
    env = gym.vector.SyncVectorEnv([BudgetToyEnv])
    with pytest.raises(
        TypeError, match=r"env is a SyncVectorEnv.*pass one environment, or DummyVecEnv"
    ):
        evaluate(Constant(0.5), env)


def test_ids_are_refused():
    with pytest.raises(TypeError, match=r"env is 'BudgetToy-v0'; .* gymnasium.make"):
        evaluate(Constant(0.5), "BudgetToy-v0")


def test_bad_unpenalised_reward_is_an_error():
    class Wrong(gym.Wrapper):
        def step(self, action):
            *rest, info = self.env.step(action)
            return *rest, {**info, "reward": "high"}

    with pytest.raises(ValueError, match=r"info\[\"reward\"\] of env 0 is 'high'.*another key"):
        evaluate(Constant(0.5), Wrong(BudgetToyEnv()), 1)


def test_limit_can_be_given(scripted_env):
    assert evaluate(Constant(0.5), scripted_env(), 1, cost_limit=2.0).mean_excess == 1.0
    with pytest.raises(ValueError, match="or pass cost_limit="):
        evaluate(Constant(0.5), scripted_env(), 1)


def test_bad_number_of_episodes():
    with pytest.raises(ValueError, match="n_episodes is 0; it must be at least 1"):
        evaluate(Constant(0.5), BudgetToyEnv(), n_episodes=0)


def test_missing_cost_is_an_error(scripted_env):
    with pytest.raises(ValueError, match="missing from the step info of env 0"):
        evaluate(Constant(0.5), scripted_env((None,), limit=1.0), 1)


def test_result_is_a_value():
    result = evaluate(Constant(0.5), BudgetToyEnv(), 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.cost_mean = 0.0
