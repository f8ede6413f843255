"""The values that the zoo's agents start from: plain data, no code.

They were tuned on short episodes (a dozen steps), on tables and tuning seeds of PruneBench; which
tasks these were stands on the page of its leaderboard.
Reward and cost are measured in units of their own, so that they serve problems of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from agents.algorithms.schedules import LinearSchedule

Values = Mapping[str, Any]
_ADAM: Values = {"eps": 1e-5, "fused": True}  # SB3's, in one pass over all weights
_NETWORK: Values = {"net_arch": [64, 64], "log_std_init": -1.0, "optimizer_kwargs": _ADAM}


def _frozen(*parts: Values, **more: Any) -> Values:
    return MappingProxyType({key: value for part in (*parts, more) for key, value in part.items()})


_ON_POLICY = _frozen(gamma=1.0, gae_lambda=0.95)
_COST = _frozen(cost_gamma=1.0, cost_gae_lambda=0.95)
_PPO_ONLY = _frozen(
    _ON_POLICY,
    batch_size=64,
    n_epochs=15,
    learning_rate=LinearSchedule(3e-3, 2e-4),
    target_kl=0.05,
    policy_kwargs=_NETWORK,
)
_OFF_POLICY = _frozen(
    gamma=1.0,
    learning_starts=400,
    batch_size=128,
    buffer_size=20_000,
    learning_rate=1e-3,
    train_freq=1,
    gradient_steps=4,
    episodes_per_update=8,
    policy_kwargs={"net_arch": [64, 64]},
)

PPO_TWO_CRITICS = _frozen(_PPO_ONLY, _COST)
PPO_PLAIN = _frozen(_PPO_ONLY, normalize_advantage=False)
PPO_ONE_CRITIC = PPO_PLAIN
PPO_MASKABLE = _frozen(
    PPO_ONE_CRITIC,
    policy_kwargs={"net_arch": [64, 64], "optimizer_kwargs": _ADAM},
)
PPO_RECURRENT = _frozen(
    PPO_ONE_CRITIC,
    n_epochs=5,
    policy_kwargs={**_NETWORK, "net_arch": [32], "lstm_hidden_size": 32},
)
FOCOPS = _frozen(
    _ON_POLICY,
    _COST,
    batch_size=64,
    n_epochs=10,
    learning_rate=LinearSchedule(3e-3, 0.0),
    policy_kwargs=_NETWORK,
)
A2C = _frozen(
    _ON_POLICY,
    _COST,
    learning_rate=LinearSchedule(1e-3, 3e-4),
    cost_n_epochs=5,
    policy_kwargs={"net_arch": [64, 64], "log_std_init": -1.0},
)
TRPO = _frozen(
    _ON_POLICY,
    _COST,
    batch_size=64,
    learning_rate=3e-3,
    target_kl=0.03,
    n_critic_updates=15,
    policy_kwargs=_NETWORK,
)
SAC = _frozen(_OFF_POLICY, learning_rate=2e-3, ent_coef=0.01, n_steps=3)
TQC = _frozen(SAC, top_quantiles_to_drop_per_net=0)
CROSSQ = _frozen(SAC, learning_rate=1e-3)
TD3 = _frozen(_OFF_POLICY, learning_rate=5e-4, n_steps=3)
DDPG = _frozen(_OFF_POLICY, learning_rate=3e-4, n_steps=3)
DQN = _frozen(
    _OFF_POLICY,
    n_steps=3,
    target_update_interval=200,
    exploration_fraction=0.5,
    exploration_final_eps=0.02,
)

# Environments that decide beside a prior: short of evaluations, and near a good network from the
# first one on.
PPO_BESIDE_PRIOR = _frozen(
    PPO_TWO_CRITICS,
    n_epochs=10,
    learning_rate=LinearSchedule(1e-2, 1e-3),
    target_kl=None,
    policy_kwargs={"net_arch": [32, 32], "log_std_init": -1.6, "optimizer_kwargs": _ADAM},
)
_BESIDE_PRIOR = ("Prune-v1", "PruneVGG*-v1", "PruneResNet*-v1", "PruneFamily-v1")
PRIOR: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        name: {pattern: {"kwargs": PPO_BESIDE_PRIOR} for pattern in _BESIDE_PRIOR}
        for name in ("ppo_lag", "ppo_pid", "ppo_adam")
    }
)

# The toy with a known optimum, agents.toy:BudgetToy-v0. Fields of a row, see `AgentSpec.tuned`.
_TOY_NETWORK: Values = {"net_arch": [32], "log_std_init": -1.0}
_TOY_ON = _frozen(learning_rate=5e-3, policy_kwargs=_TOY_NETWORK)
_TOY_PPO = _frozen(_TOY_ON, batch_size=128, n_epochs=8, target_kl=None)
_TOY_SLOW = _frozen(_TOY_PPO, learning_rate=LinearSchedule(2e-3, 2e-4))
_TOY_TRPO = _frozen(_TOY_ON, batch_size=128, target_kl=0.02, n_critic_updates=10)
_TOY_OFF = _frozen(
    learning_rate=3e-3,
    learning_starts=256,
    gradient_steps=3,
    tau=0.02,
    n_steps=1,
    episodes_per_update=8,
    policy_kwargs={"net_arch": [32]},
)
_TOY_DQN = _frozen(
    {key: value for key, value in _TOY_OFF.items() if key != "tau"},
    learning_rate=LinearSchedule(3e-3, 3e-4),
    gradient_steps=4,
    target_update_interval=100,
    exploration_fraction=0.4,
    exploration_final_eps=0.02,
)


def _toy(
    kwargs: Values, rollouts: int = 80, rate: float = 0.1, price: Values | None = None
) -> Values:
    price = {"learning_rate": rate, "initial": 0.5} if price is None else price
    steps = {"rollout_size": 256, "n_envs": 32, "timesteps": rollouts * 256}
    return _frozen(steps, kwargs=kwargs, multiplier_kwargs=price)


def _toy_off(kwargs: Values, timesteps: int = 12_000, rate: float = 0.06, **more: Any) -> Values:
    price = {"learning_rate": rate, "initial": 0.5}
    return _frozen(n_envs=8, timesteps=timesteps, kwargs=kwargs, multiplier_kwargs=price, **more)


TOY: Mapping[str, Values] = MappingProxyType(
    {
        "ppo_lag": _toy(_TOY_PPO),
        "ppo_pid": _toy(_TOY_PPO, price={"kp": 0.2, "ki": 0.1, "kd": 0.1, "initial": 0.5}),
        "ppo_adam": _toy(_TOY_PPO, 200, price={"learning_rate": 0.02, "initial": 0.5}),
        "ppo_penalised": _toy(_frozen(_TOY_PPO, learning_rate=3e-3), 120, 0.05),
        "ppo_saute": _frozen(
            rollout_size=256,
            n_envs=32,
            timesteps=240 * 256,
            # Below 0 it asks for less noise: what varies has to keep away from the limit, which
            # holds in every episode here, and there is no multiplier that could weigh that.
            kwargs=_frozen(_TOY_PPO, learning_rate=3e-3, ent_coef=-0.005),
        ),
        "p3o": _toy(_TOY_SLOW, 120, price={"kappa": 2.0}),
        "ipo": _toy(_TOY_SLOW, 120, price={"t": 50.0, "upper_bound": 3.0}),
        "focops": _toy(_frozen(_TOY_ON, learning_rate=LinearSchedule(5e-3, 0.0)), 100),
        "recurrent_ppo_lag": _toy(
            _frozen(
                _TOY_PPO,
                learning_rate=LinearSchedule(5e-3, 5e-4),
                n_epochs=4,
                policy_kwargs={"net_arch": [16], "lstm_hidden_size": 16, "log_std_init": -1.0},
            ),
            80,
        ),
        "maskable_ppo_lag": _toy(_frozen(_TOY_PPO, policy_kwargs={"net_arch": [32]}), 120, 0.05),
        "a2c_lag": _toy(
            _frozen(_TOY_ON, learning_rate=LinearSchedule(7e-3, 5e-4), cost_n_epochs=4), 300, 0.05
        ),
        "trpo_lag": _toy(_TOY_TRPO, 120, 0.05),
        "cpo": _toy(_frozen(policy_kwargs=_TOY_NETWORK), 70, price={}),
        "sac_lag": _toy_off(_frozen(_TOY_OFF, ent_coef=0.001)),
        "tqc_lag": _toy_off(_frozen(_TOY_OFF, ent_coef=0.001)),
        "crossq_lag": _toy_off(
            _frozen({k: v for k, v in _TOY_OFF.items() if k != "tau"}, ent_coef=0.001)
        ),
        "td3_lag": _toy_off(_TOY_OFF, noise=0.1),
        "ddpg_lag": _toy_off(
            _frozen(_TOY_OFF, learning_rate=LinearSchedule(2e-3, 1e-4)), 20_000, 0.03, noise=0.1
        ),
        "dqn_lag": _toy_off(_TOY_DQN, 20_000),
        "qrdqn_lag": _toy_off(_TOY_DQN, 20_000),
    }
)
