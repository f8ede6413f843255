import numpy as np
import pytest
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from agents import (
    BudgetToyEnv,
    FixedMultiplier,
    GradientMultiplier,
    LagrangianCallback,
    LagrangianVecEnv,
    PIDMultiplier,
)


class Trace(BaseCallback):
    """Multiplier at every step, and what was logged at the end of every rollout."""

    def __init__(self):
        super().__init__()
        self.steps, self.logs = [], []

    def _on_step(self):
        self.steps.append(self.model.multiplier.value)
        return True

    def _on_rollout_end(self):
        values = self.logger.name_to_value
        self.logs.append({k: v for k, v in values.items() if k.startswith("lagrange/")})


def test_reward_is_penalised_and_the_raw_one_kept(scripted_env):
    inner = DummyVecEnv([lambda: scripted_env((1.0, 2.0), limit=1.0)] * 2)
    env = LagrangianVecEnv(inner, FixedMultiplier(3.0))
    env.reset()
    _, rewards, _, infos = env.step(np.zeros((2, 1)))
    np.testing.assert_allclose(rewards, [(1.0 - 3.0 * 1.0) / 4.0] * 2)
    assert rewards.dtype == np.float32
    assert [(info["reward"], info["cost"]) for info in infos] == [(1.0, 1.0)] * 2
    assert all("episode_cost" not in info for info in infos)
    _, rewards, dones, infos = env.step(np.zeros((2, 1)))
    np.testing.assert_allclose(rewards, [(1.0 - 3.0 * 2.0) / 4.0] * 2)
    assert dones.all()
    assert [info["episode_cost"] for info in infos] == [3.0, 3.0]


def test_infos_of_the_environment_are_not_changed(scripted_env):
    inner = DummyVecEnv([lambda: scripted_env(limit=1.0)])
    env = LagrangianVecEnv(inner)
    env.reset()
    env.step(np.zeros((1, 1)))
    assert "reward" not in inner.buf_infos[0]


def test_reset_forgets_an_unfinished_episode(scripted_env):
    env = LagrangianVecEnv(DummyVecEnv([lambda: scripted_env((5.0, 1.0), limit=1.0)]))
    env.reset()
    env.step(np.zeros((1, 1)))
    env.reset()
    for _ in range(2):
        infos = env.step(np.zeros((1, 1)))[3]
    assert infos[0]["episode_cost"] == 6.0


def test_limit_is_read_or_given(scripted_env):
    env = LagrangianVecEnv(DummyVecEnv([BudgetToyEnv]))
    assert env.read_limit() == 0.25
    env.set_attr("cost_limit", 0.5)
    assert env.read_limit() == 0.5
    assert LagrangianVecEnv(DummyVecEnv([scripted_env]), cost_limit=2.0).read_limit() == 2.0
    with pytest.raises(ValueError, match="or pass cost_limit="):
        LagrangianVecEnv(DummyVecEnv([scripted_env]))


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_multiplier_moves_once_per_rollout(algorithm, scripted_env):
    venv = DummyVecEnv([lambda: scripted_env((1.0, 2.0), limit=2.5)] * 2)
    env = LagrangianVecEnv(venv, GradientMultiplier(learning_rate=0.5, initial=1.0))
    trace = Trace()
    size = {"batch_size": 8} if algorithm is PPO else {}
    model = algorithm("MlpPolicy", env, n_steps=4, seed=0, device="cpu", **size)
    model.learn(24, callback=[LagrangianCallback(), trace])
    assert trace.steps == [1.0] * 4 + [1.25] * 4 + [1.5] * 4
    assert [log["lagrange/multiplier"] for log in trace.logs] == [1.25, 1.5, 1.75]
    assert {log["lagrange/cost"] for log in trace.logs} == {3.0}
    assert {log["lagrange/violation_rate"] for log in trace.logs} == {1.0}


def test_rollout_without_a_finished_episode_moves_nothing(scripted_env):
    env = LagrangianVecEnv(DummyVecEnv([lambda: scripted_env((1.0,) * 6, limit=1.0)]))
    trace = Trace()
    PPO("MlpPolicy", env, n_steps=4, batch_size=4, device="cpu").learn(
        8, callback=[LagrangianCallback(), trace]
    )
    assert trace.logs[0] == {"lagrange/multiplier": 1.0}
    assert trace.logs[1]["lagrange/cost"] == 6.0  # counted from its start, in the first rollout
    assert trace.logs[1]["lagrange/multiplier"] == 6.0


def test_multiplier_is_saved_with_the_model_and_wins_over_the_wrappers(tmp_path):
    def environment():
        return LagrangianVecEnv(make_vec_env(BudgetToyEnv), PIDMultiplier())

    model = PPO("MlpPolicy", environment(), n_steps=32, batch_size=32, device="cpu", seed=0)
    model.learn(64, callback=LagrangianCallback())
    model.save(tmp_path / "model")
    env = environment()
    loaded = PPO.load(tmp_path / "model", env=env, device="cpu")
    assert loaded.multiplier == model.multiplier
    assert loaded.multiplier != PIDMultiplier()
    loaded.learn(32, callback=LagrangianCallback(), reset_num_timesteps=False)
    assert env.multiplier is loaded.multiplier
    assert loaded.multiplier != model.multiplier


def test_vec_normalize_of_observations_goes_outside():
    env = VecNormalize(LagrangianVecEnv(DummyVecEnv([BudgetToyEnv])), norm_reward=False)
    model = PPO("MlpPolicy", VecMonitor(env), n_steps=32, batch_size=32, device="cpu", seed=0)
    model.learn(32, callback=LagrangianCallback())
    assert model.multiplier.value != 1.0


def test_vec_normalize_inside_is_refused():
    inner = VecNormalize(make_vec_env(BudgetToyEnv))
    with pytest.raises(ValueError, match=r"no unit.*VecNormalize\(LagrangianVecEnv\(venv\), norm"):
        LagrangianVecEnv(inner)


def test_vec_normalize_of_rewards_is_refused():
    env = VecNormalize(LagrangianVecEnv(make_vec_env(BudgetToyEnv)))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, device="cpu")
    with pytest.raises(ValueError, match=r"norm_reward=True: .*drifts .*norm_reward=False"):
        model.learn(32, callback=LagrangianCallback())


def test_callback_needs_the_wrapper():
    model = PPO("MlpPolicy", BudgetToyEnv(), n_steps=32, batch_size=32, device="cpu")
    with pytest.raises(ValueError, match=r"no LagrangianVecEnv.*Train on LagrangianVecEnv\("):
        model.learn(32, callback=LagrangianCallback())


def test_off_policy_is_refused():
    model = SAC("MlpPolicy", LagrangianVecEnv(make_vec_env(BudgetToyEnv)), device="cpu")
    with pytest.raises(TypeError, match=r"model is a SAC; .*on-policy.*different multipliers"):
        model.learn(32, callback=LagrangianCallback())


def test_missing_cost_stops_training(scripted_env):
    env = LagrangianVecEnv(DummyVecEnv([lambda: scripted_env((1.0, None), limit=1.0)]))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match=r"missing from the step info of env 0"):
        model.learn(8, callback=LagrangianCallback())
