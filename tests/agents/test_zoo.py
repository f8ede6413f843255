import dataclasses

import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import AGENTS, BudgetToyEnv, FixedMultiplier, make_agent
from agents.multipliers import check_multiplier


@pytest.mark.parametrize("name", AGENTS)
class TestEveryAgent:
    def test_learns_a_rollout(self, name):
        model = make_agent(name, make_vec_env(BudgetToyEnv, n_envs=4), device="cpu", n_epochs=1)
        assert model.n_steps * model.n_envs == 128
        before = model.multiplier.value
        assert model.learn(256).multiplier.value != before

    def test_row_is_plain_data(self, name):
        spec = AGENTS[name]
        assert "\n" not in spec.description
        assert spec.description
        assert check_multiplier(spec.multiplier(**spec.multiplier_kwargs))
        with pytest.raises(dataclasses.FrozenInstanceError):
            spec.description = ""
        with pytest.raises(TypeError, match="does not support item assignment"):
            spec.kwargs["n_epochs"] = 1

    def test_agents_share_nothing(self, name):
        first, second = (make_agent(name, BudgetToyEnv(), device="cpu") for _ in range(2))
        assert first.multiplier is not second.multiplier
        assert first.policy_kwargs is not second.policy_kwargs

    def test_dict_observations_choose_their_policy(self, name, scripted_env):
        env = DummyVecEnv([lambda: scripted_env(limit=1.0, as_dict=True)])
        assert make_agent(name, env, device="cpu").policy.predict_cost_values is not None


def test_overrides_win():
    multiplier = FixedMultiplier(3.0)
    model = make_agent(
        "ppo_lag", BudgetToyEnv(), seed=7, device="cpu", multiplier=multiplier, n_steps=64
    )
    assert (model.multiplier, model.n_steps, model.seed) == (multiplier, 64, 7)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"'ppo_lagg'; .*\['ppo_lag', .*Did you mean 'ppo_lag'\?"):
        make_agent("ppo_lagg", BudgetToyEnv())
    with pytest.raises(ValueError, match=r"name is 'zzz'; it must be one of .*'ppo_pid'\]\.$"):
        make_agent("zzz", BudgetToyEnv())


def test_unknown_override():
    with pytest.raises(TypeError, match=r"'learning_rat' is no argument.*'learning_rate'\?"):
        make_agent("ppo_lag", BudgetToyEnv(), learning_rat=1.0)
