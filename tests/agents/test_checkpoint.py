"""A training that was stopped goes on with what it has learned, and with new episodes."""

from __future__ import annotations

import csv
import json
import pickle
import sys
import zipfile
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import BudgetToyEnv, constrain
from agents.archive import write_archive
from agents.runs.checkpoint import Checkpoint, Checkpoints, TrainingStopped
from agents.runs.folder import RunConfig
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


gym.register("Noisy-v0", NoisyEnv)


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
        training = Training.resume(out, trust=bool(config.wrappers))
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


def written(training):
    return rows(training.folder.episodes, "wall_s")


def steps_of(training):
    """Steps of finished episodes, and of those that were running at the end."""
    lengths = [int(dict(row)["length"]) for row in written(training)]
    return sum(lengths), int(training.log._running[:, 2].sum())


@pytest.mark.sampled
@pytest.mark.parametrize("name", CASES)
def test_a_resumed_training_goes_on_to_its_end(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "test_checkpoint", sys.modules[__name__])
    one = uninterrupted(CASES[name], tmp_path / "one")
    two = interrupted(CASES[name], tmp_path / "two", 71, 130)
    assert two.model.num_timesteps >= 200
    assert two.model.num_timesteps == sum(steps_of(two))  # steps that were broken off do not count
    begun = [row for row in written(one) if int(dict(row)["timesteps"]) <= 71]
    assert written(two)[: len(begun)] == begun  # up to the stop nothing is different
    assert [dict(row)["episode"] for row in written(two)] == [
        str(number + 1) for number in range(len(written(two)))
    ]
    if hasattr(two.model, "multiplier"):
        assert two.model.episodes == len(written(two))
    result = json.loads(two.folder.result.read_text())
    assert result["episodes"] == len(written(two))


@pytest.mark.parametrize("name", ["ppo_lag", "recurrent_ppo_lag", "cpo", "sac_lag", "dqn_lag"])
def test_what_was_learned_is_kept(name, tmp_path):
    stopped = Training.begin(CASES[name], tmp_path / "run")
    stop_at(stopped, 71)
    with pytest.raises(TrainingStopped):
        stopped.run()
    again = Training.resume(tmp_path / "run")
    one, other = stopped.model, again.model
    assert equal(one.get_parameters(), other.get_parameters())  # with optimisers
    assert equal(vars(one.multiplier), vars(other.multiplier))
    assert (one.episodes, one.violations) == (other.episodes, other.violations)
    assert one._n_updates == other._n_updates > 0
    if one.get_vec_normalize_env() is not None:
        mean = [each.get_vec_normalize_env().obs_rms.mean for each in (one, other)]
        assert equal(*mean)
    if hasattr(one, "replay_buffer"):
        for column in ("observations", "actions", "raw_rewards", "costs", "dones"):
            assert equal(*(getattr(each.replay_buffer, column) for each in (one, other)))
        last = other.replay_buffer.pos - 1
        ends = other.replay_buffer.timeouts[last] + other.replay_buffer.dones[last]
        assert (ends == 1.0).all()  # no return goes on over the gap
    again._restore()
    assert again.log.episodes == again.model.episodes > 0
    assert again.model.num_timesteps == again.log.finished_steps <= stopped.model.num_timesteps
    if again._evaluations is not None:
        assert again._evaluations.evaluations_timesteps
        assert equal(again._evaluations.get_state(), stopped._evaluations.get_state())


@pytest.mark.parametrize("algo", ["sac_lag", "ppo_lag"])
def test_as_many_episodes_as_were_asked_for(algo, tmp_path):
    """Three stops in the middle of eight episodes each."""
    overrides = REPLAY if algo == "sac_lag" else {**ON, "n_steps": 12, "batch_size": 12}
    settings = config(algo, TOY, n_envs=8, timesteps=320, overrides=overrides)
    training = interrupted(settings, tmp_path / "run", 36, 100, 164)
    finished, running = steps_of(training)
    assert finished + running >= 320
    assert len(written(training)) >= (40 if algo == "sac_lag" else 320 // 8 - 8)
    assert training.model.num_timesteps == finished + running


def test_new_episodes_are_not_those_of_the_beginning(tmp_path):
    settings = CASES["a2c_lag"]
    training = interrupted(settings, tmp_path / "one", 71)
    begun, resumed = written(training)[0], written(training)[-1]
    assert dict(begun)["return"] != dict(resumed)["return"]
    again = interrupted(settings, tmp_path / "two", 71)
    assert written(training) == written(again)  # but they are the same every time
    first = [row for row in written(training) if int(dict(row)["timesteps"]) <= 71]
    later = [dict(row)["return"] for row in written(training)[len(first) :]]
    assert not {dict(row)["return"] for row in first} & set(later)


def test_a_kill_loses_nothing_but_the_time_since_the_last_checkpoint(tmp_path):
    settings = CASES["sac_lag"]
    killed = Training.begin(settings, tmp_path / "run", checkpoint_every_s=1e9)
    at_checkpoint = {}

    def begin_rollout():
        if killed.model.num_timesteps == 120:
            killed.checkpoints.save()
            at_checkpoint["rows"] = written(killed)
            at_checkpoint["best"] = (tmp_path / "run" / "best_model.zip").read_bytes()

    def die():  # with later rows, evaluations and models in the folder
        if killed.model.num_timesteps >= 180:
            raise MemoryError
        return True

    killed.checkpoints._on_rollout_start, killed.checkpoints._on_step = begin_rollout, die
    with pytest.raises(MemoryError):
        killed.run()
    assert len(written(killed)) > len(at_checkpoint["rows"])
    (tmp_path / "run" / "best_model.zip").write_bytes(b"a later one")
    again = Training.resume(tmp_path / "run")
    again._restore()
    assert again.checkpoints.saved == 120
    assert written(again) == at_checkpoint["rows"]
    assert (tmp_path / "run" / "best_model.zip").read_bytes() == at_checkpoint["best"]
    Training.resume(tmp_path / "run").run()
    assert written(again)[: len(at_checkpoint["rows"])] == at_checkpoint["rows"]


def test_saving_changes_nothing(tmp_path):
    settings = replace(CASES["sac_lag"], timesteps=100)
    one = uninterrupted(settings, tmp_path / "one")
    again = Training.begin(settings, tmp_path / "two", checkpoint_every_s=0)
    again.run()
    assert_same(one, again)


def test_a_finished_run_can_be_made_longer(tmp_path):
    first = uninterrupted(config("ppo_lag", overrides=ON, timesteps=100), tmp_path / "run")
    before = written(first)
    longer = Training.resume(tmp_path / "run", 200)
    assert not (tmp_path / "run" / "result.json").exists()
    longer.run()
    assert written(longer)[: len(before)] == before
    assert longer.model.num_timesteps == sum(steps_of(longer)) >= 200
    assert json.loads((tmp_path / "run" / "config.json").read_text())["timesteps"] == 200


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


# -- files ---------------------------------------------------------------------------------------


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "c.zip"
    env = DummyVecEnv([BudgetToyEnv])
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
    env = DummyVecEnv([BudgetToyEnv])
    callback = Checkpoints(tmp_path / "c.zip", every_s=10.0)
    constrain(TD3, env, seed=0, device="cpu", **REPLAY).learn(10, callback=callback)
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("agents.runs.checkpoint.time.monotonic", lambda: next(clock))
    callback.save()
    assert callback._due == 102.0 + 19 * 2.0


def test_damaged_and_later_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        archive.writestr("state.pkl", pickle.dumps({"format": 1}))
    with pytest.raises(
        ValueError, match=r"old\.zip was written by an earlier version, as a pickle"
    ):
        Checkpoint.read(tmp_path / "old.zip")
    path = tmp_path / "c.zip"
    path.write_text("nonsense")
    with pytest.raises(ValueError, match=r"c\.zip is no checkpoint, or damaged .*anew"):
        Checkpoint.read(path)
    write_archive(path, {"_format": 99}, {})
    with pytest.raises(ValueError, match=r"format 99; .* up to 3\. Upgrade"):
        Checkpoint.read(path)
    with pytest.raises(FileNotFoundError):
        Checkpoint.read(tmp_path / "none.zip")
