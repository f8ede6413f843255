"""A training that was stopped and resumed is the one that was never stopped, to the last bit."""

from __future__ import annotations

import csv
import json
import pickle
import random
import sys
import zipfile
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import BudgetToyEnv, constrain, constrained
from agents.runs.checkpoint import Checkpoint, Checkpoints, TrainingStopped
from agents.runs.folder import RunConfig
from agents.runs.replayable import EpisodeMismatchError, Replayable
from agents.runs.training import Training
from agents.wrappers import AddCost

TOY = "agents.toy:BudgetToy-v0"
SMALL = {"policy_kwargs": {"net_arch": [8]}, "gamma": 0.99}  # episodes are truncated
REPLAY = {**SMALL, "learning_starts": 40, "buffer_size": 100, "batch_size": 16, "gradient_steps": 1}


class NoisyEnv(gym.Env):
    """A walk of random length with random steps: everything depends on ``np_random``."""

    cost_limit = 2.0

    def __init__(self, n_actions=None, as_dict=False):
        box = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.as_dict = as_dict
        self.observation_space = gym.spaces.Dict({"x": box}) if as_dict else box
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        if n_actions is not None:
            self.action_space = gym.spaces.Discrete(n_actions)

    def observe(self):
        return {"x": self.x.copy()} if self.as_dict else self.x.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2).astype(np.float32)
        self.t = 0
        return self.observe(), {"cost": 0.0}

    def step(self, action):
        self.t += 1
        push = float(np.mean(action))
        self.x = np.clip(self.x + push + self.np_random.normal(size=2), -10, 10).astype(np.float32)
        info = {"cost": abs(push) * float(self.np_random.random())}
        over = bool(self.np_random.random() < 0.1)
        return self.observe(), push - abs(float(self.x[0])) / 10, over, self.t >= 12, info

    def action_masks(self):
        return np.array([True, self.t % 2 == 0, True])


class GlobalNoiseEnv(NoisyEnv):
    """Draws from a generator that nobody can find."""

    def observe(self):
        return np.full(2, random.random(), dtype=np.float32)


gym.register("Noisy-v0", NoisyEnv)
gym.register("GlobalNoise-v0", GlobalNoiseEnv)


def tilted(env):
    """CartPole may not lean."""
    return AddCost(env, lambda observation, *_: abs(float(observation[2])), cost_limit=0.5)


def stop_at(training, timesteps):
    """Have a training stop at the end of the rollout that these steps fall into."""
    checkpoints = training.checkpoints

    def on_step():
        checkpoints.stop = checkpoints.model.num_timesteps >= timesteps
        return True

    checkpoints._on_step = on_step


def uninterrupted(config, out):
    training = Training.begin(config, out)
    training.run()
    return training


def interrupted(config, out, *stops):
    training = Training.begin(config, out)
    for stop in stops:
        stop_at(training, stop)
        with pytest.raises(TrainingStopped):
            training.run()
        th.manual_seed(123)  # what another process would have: other generators
        np.random.seed(123)  # noqa: NPY002
        training = Training.resume(out)
    training.run()
    return training


def equal(first, second):
    """Whether nested values are the same to the last bit, NaN included."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, th.Tensor):
        return first.dtype == second.dtype and equal(first.numpy(), second.numpy())
    if isinstance(first, np.ndarray):
        return first.shape == second.shape and first.tobytes() == second.tobytes()
    return first == second


def rows(path, *without):
    """Rows of a CSV, the columns in the order of their names."""
    with path.open(newline="") as file:
        return [
            sorted((key, value) for key, value in row.items() if key not in without)
            for row in csv.DictReader(file)
        ]


def assert_same(one, other):
    """Two trainings did the same."""
    model, again = one.model, other.model
    assert model.num_timesteps == again.num_timesteps
    assert equal(model.get_parameters(), again.get_parameters())
    if hasattr(model, "multiplier"):
        assert equal(model.multiplier.value, again.multiplier.value)
        assert (model.episodes, model.violations) == (again.episodes, again.violations)
    if getattr(model, "replay_buffer", None) is not None:
        assert equal(model.replay_buffer.rewards, again.replay_buffer.rewards)
        assert equal(model.replay_buffer.actions, again.replay_buffer.actions)
    if one.config.normalize:
        mean = [each.get_vec_normalize_env().obs_rms.mean for each in (model, again)]
        assert equal(*mean)
    first, second = one.folder.path, other.folder.path
    assert rows(first / "episodes.csv", "wall_s") == rows(second / "episodes.csv", "wall_s")
    clock = ("time/fps", "time/time_elapsed", "time/iterations")
    assert rows(first / "progress.csv", *clock) == rows(second / "progress.csv", *clock)
    results = [json.loads((path / "result.json").read_text()) for path in (first, second)]
    assert {**results[0], "wall_s": 0} == {**results[1], "wall_s": 0}
    if one.config.eval_freq is not None:
        with np.load(first / "evaluations.npz") as a, np.load(second / "evaluations.npz") as b:
            assert equal(dict(a), dict(b))


def config(algo, env="Noisy-v0", **more):
    more = {"timesteps": 200, "n_envs": 1, "overrides": SMALL, "eval_episodes": 2, **more}
    return RunConfig(algo=algo, env=env, **more)


ON = {**SMALL, "n_steps": 20, "batch_size": 20, "n_epochs": 2}
NOISY_3 = {"env_kwargs": {"n_actions": 3}}
CASES = {
    "ppo_lag": config("ppo_lag", n_envs=3, overrides=ON, normalize=True, eval_freq=60),
    "ppo_lag-toy": config("ppo_lag", TOY, overrides={**ON, "n_steps": 30, "batch_size": 30}),
    "ppo_lag-sde": config("ppo_lag", overrides={**ON, "use_sde": True, "sde_sample_freq": 7}),
    "ppo_lag-dict": config("ppo_lag", env_kwargs={"as_dict": True}, n_envs=2, overrides=ON),
    "ppo_lag-cartpole": config(
        "ppo_lag", "CartPole-v1", wrappers=("test_checkpoint:tilted",), n_envs=2, overrides=ON
    ),
    "ppo_penalised": config("ppo_penalised", n_envs=2, overrides=ON),
    "ppo_saute": config("ppo_saute", n_envs=2, overrides=ON),
    "recurrent_ppo_lag": config(
        "recurrent_ppo_lag",
        n_envs=2,
        overrides={**ON, "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8}},
    ),
    "maskable_ppo_lag": config("maskable_ppo_lag", **NOISY_3, n_envs=2, overrides=ON),
    "focops": config("focops", overrides=ON),
    "a2c_lag": config("a2c_lag", n_envs=2, overrides={**SMALL, "n_steps": 7}),
    "trpo_lag": config("trpo_lag", overrides={**SMALL, "n_steps": 40, "batch_size": 40}),
    "cpo": config("cpo", n_envs=2, overrides={**SMALL, "n_steps": 20, "batch_size": 40}),
    "sac_lag": config("sac_lag", n_envs=2, overrides=REPLAY, normalize=True, eval_freq=50),
    "sac_lag-sde": config("sac_lag", overrides={**REPLAY, "use_sde": True, "train_freq": 4}),
    "sac_lag-dict": config(
        "sac_lag", env_kwargs={"as_dict": True}, overrides={**REPLAY, "n_steps": 1}
    ),
    "sac_lag-auto": config("sac_lag", TOY, overrides={**REPLAY, "ent_coef": "auto"}),
    "td3_lag": config("td3_lag", n_envs=2, overrides=REPLAY),
    "ddpg_lag": config("ddpg_lag", overrides={**REPLAY, "train_freq": (1, "episode")}),
    "tqc_lag": config("tqc_lag", overrides=REPLAY),
    "crossq_lag": config("crossq_lag", overrides=REPLAY),
    "dqn_lag": config("dqn_lag", **NOISY_3, n_envs=2, overrides=REPLAY),
    "qrdqn_lag": config(
        "qrdqn_lag",
        **NOISY_3,
        overrides={**REPLAY, "policy_kwargs": {"net_arch": [8], "n_quantiles": 5}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_resumed_equals_uninterrupted(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "test_checkpoint", sys.modules[__name__])
    one = uninterrupted(CASES[name], tmp_path / "one")
    assert_same(one, interrupted(CASES[name], tmp_path / "two", 71, 130))


def test_a_kill_loses_nothing_but_the_time_since_the_last_checkpoint(tmp_path):
    settings = CASES["sac_lag"]
    one = uninterrupted(settings, tmp_path / "one")
    killed = Training.begin(settings, tmp_path / "two", checkpoint_every_s=1e9)

    def begin_rollout():
        if killed.model.num_timesteps == 120:
            killed.checkpoints.save()

    def die():  # with later rows, evaluations and models in the folder
        if killed.model.num_timesteps >= 180:
            raise MemoryError
        return True

    killed.checkpoints._on_rollout_start, killed.checkpoints._on_step = begin_rollout, die
    with pytest.raises(MemoryError):
        killed.run()
    assert len(rows(tmp_path / "two" / "episodes.csv")) > 12
    again = Training.resume(tmp_path / "two")
    assert again.checkpoints.saved == 120
    again.run()
    assert_same(one, again)


def test_saving_changes_nothing(tmp_path):
    settings = replace(CASES["sac_lag"], timesteps=100)
    one = uninterrupted(settings, tmp_path / "one")
    again = Training.begin(settings, tmp_path / "two", checkpoint_every_s=0)
    again.run()
    assert_same(one, again)


def test_a_finished_run_can_be_made_longer(tmp_path):
    """With constant schedules it is then what a longer run would have been."""
    overrides = {**ON, "learning_rate": 1e-3}
    one = uninterrupted(config("ppo_lag", overrides=overrides, timesteps=200), tmp_path / "one")
    uninterrupted(config("ppo_lag", overrides=overrides, timesteps=100), tmp_path / "two")
    longer = Training.resume(tmp_path / "two", 200)
    assert not (tmp_path / "two" / "result.json").exists()
    longer.run()
    assert_same(one, longer)
    assert json.loads((tmp_path / "two" / "config.json").read_text())["timesteps"] == 200


def test_stopped_before_its_result_was_written(tmp_path):
    one = uninterrupted(config("a2c_lag", TOY, timesteps=64), tmp_path / "one")
    (tmp_path / "one" / "result.json").rename(tmp_path / "result.json")
    again = Training.resume(tmp_path / "one")
    final = again.run()
    before = json.loads((tmp_path / "result.json").read_text())
    assert before["final"]["return_mean"] == final.return_mean
    assert equal(one.model.get_parameters(), again.model.get_parameters())


def test_without_a_checkpoint_it_begins_again(tmp_path):
    one = uninterrupted(CASES["a2c_lag"], tmp_path / "one")
    Training.begin(CASES["a2c_lag"], tmp_path / "two")
    again = Training.resume(tmp_path / "two")
    again.run()
    assert_same(one, again)


def test_action_noise_with_a_memory(tmp_path):
    """Ornstein-Uhlenbeck noise, which ``learn`` resets, and several environments."""

    def make():
        return DummyVecEnv([lambda: Replayable(NoisyEnv())] * 2)

    def new():
        noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1))
        return constrain(TD3, make(), action_noise=noise, seed=0, device="cpu", **REPLAY)

    one = new().learn(120)
    callback = Checkpoints(tmp_path / "c.zip", every_s=0)
    new().learn(60, callback=callback)
    checkpoint = Checkpoint.read(tmp_path / "c.zip")
    again = checkpoint.load_model(constrained(TD3), make(), device="cpu")
    callback = Checkpoints(tmp_path / "c.zip", resume_from=checkpoint)
    again.learn(60, callback=callback, reset_num_timesteps=False)
    assert equal(one.get_parameters(), again.get_parameters())


# -- environments --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [0, 1, 5])
def test_an_environment_comes_back(n_steps):
    env, other = Replayable(NoisyEnv()), Replayable(NoisyEnv())
    env.reset(seed=3)
    env.reset(options={"a": 1})  # an episode that began without a seed
    for _ in range(n_steps):
        env.step(np.array([0.3]))
    other.restore_episode(pickle.loads(pickle.dumps(env.episode_state())))
    assert equal(env.step(np.array([0.1])), other.step(np.array([0.1])))
    assert equal(env.reset()[0], other.reset()[0])
    assert equal(env.episode_state().now, other.episode_state().now)


def test_generators_of_wrappers_come_back():
    class Jitter(gym.ObservationWrapper):
        def __init__(self, env):
            super().__init__(env)
            self.generator = np.random.default_rng()

        def observation(self, observation):
            return observation + self.generator.normal(size=2)

    env, other = Replayable(Jitter(NoisyEnv())), Replayable(Jitter(NoisyEnv()))
    env.reset(seed=0)
    env.step(np.array([0.3]))
    other.restore_episode(env.episode_state())
    assert equal(env.step(np.array([0.3])), other.step(np.array([0.3])))
    with pytest.raises(EpisodeMismatchError, match="made with other arguments"):
        Replayable(NoisyEnv()).restore_episode(env.episode_state())


def test_no_episode_has_begun():
    with pytest.raises(ValueError, match="no episode has begun; call reset"):
        Replayable(NoisyEnv()).episode_state()


def test_an_environment_that_cannot_come_back_is_named(tmp_path):
    settings = config("a2c_lag", "GlobalNoise-v0", overrides={**SMALL, "n_steps": 7})
    training = Training.begin(settings, tmp_path / "one")
    stop_at(training, 71)
    with pytest.raises(TrainingStopped):
        training.run()
    with pytest.raises(EpisodeMismatchError, match=r"GlobalNoise.*is not a function of its np_ra"):
        Training.resume(tmp_path / "one").run()
    final = Training.resume(tmp_path / "one", new_episodes=True).run()
    assert final.episodes == 2
    written = rows(tmp_path / "one" / "episodes.csv")
    assert [dict(row)["episode"] for row in written] == [str(i + 1) for i in range(len(written))]


def test_new_episodes_of_an_off_policy_agent(tmp_path):
    training = Training.begin(CASES["sac_lag"], tmp_path / "one")
    stop_at(training, 71)
    with pytest.raises(TrainingStopped):
        training.run()
    again = Training.resume(tmp_path / "one", new_episodes=True)
    buffer = again.model.replay_buffer
    last = buffer.pos - 1
    assert (buffer.timeouts[last].astype(bool) | buffer.dones[last].astype(bool)).all()
    again.run()
    assert again.model.num_timesteps == 200


# -- files ---------------------------------------------------------------------------------------


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "c.zip"
    env = DummyVecEnv([lambda: Replayable(BudgetToyEnv())])
    model = constrain(TD3, env, seed=0, device="cpu", **REPLAY)
    callback = Checkpoints(path)
    model.learn(50, callback=callback)
    before = path.read_bytes()
    monkeypatch.setattr(type(model), "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        callback.save()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_slow_checkpoints_are_taken_less_often(tmp_path, monkeypatch):
    env = DummyVecEnv([lambda: Replayable(BudgetToyEnv())])
    callback = Checkpoints(tmp_path / "c.zip", every_s=10.0)
    constrain(TD3, env, seed=0, device="cpu", **REPLAY).learn(10, callback=callback)
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("agents.runs.checkpoint.time.monotonic", lambda: next(clock))
    callback.save()
    assert callback._due == 102.0 + 19 * 2.0


def test_damaged_and_later_files(tmp_path):
    path = tmp_path / "c.zip"
    path.write_text("nonsense")
    with pytest.raises(ValueError, match=r"c\.zip is no checkpoint, or damaged .*anew"):
        Checkpoint.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("state.pkl", pickle.dumps({"format": 99}))
    with pytest.raises(ValueError, match=r"format 99; .* up to 1\. Upgrade"):
        Checkpoint.read(path)
    with pytest.raises(FileNotFoundError):
        Checkpoint.read(tmp_path / "none.zip")


def test_environments_have_to_be_replayable(tmp_path):
    model = constrain(TD3, BudgetToyEnv(), device="cpu", **REPLAY)
    with pytest.raises(ValueError, match=r"every environment in agents\.replayable\.Replayable"):
        model.learn(10, callback=Checkpoints(tmp_path / "c.zip"))
