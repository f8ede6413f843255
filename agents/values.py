"""The values that the zoo's agents start from: plain data, no code.

They were tuned on short episodes (a dozen steps) whose returns and costs are about 1, as those of
pruning environments are; ``PruneVGG-v0`` by its validation split only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class LinearSchedule:
    """A learning rate that falls in a straight line over the training.

    Attributes:
        start: At the beginning.
        end: At the end.
    """

    start: float
    end: float

    def __call__(self, progress_remaining: float) -> float:
        """Return the value when this fraction of the training is left, 1 to 0."""
        return self.end + (self.start - self.end) * progress_remaining


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
    ent_coef=-0.003,  # below 0: settle, since what is wanted in the end is one solution
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
    episodes_per_update=16,
    policy_kwargs={"net_arch": [64, 64]},
)

PPO_TWO_CRITICS = _frozen(_PPO_ONLY, _COST)
PPO_ONE_CRITIC = _frozen(_PPO_ONLY, normalize_advantage=False)
PPO_PLAIN = PPO_ONE_CRITIC
PPO_MASKABLE = _frozen(
    PPO_ONE_CRITIC,
    policy_kwargs={"net_arch": [64, 64], "optimizer_kwargs": _ADAM},
    ent_coef=0.0,
)
PPO_RECURRENT = _frozen(
    PPO_ONE_CRITIC,
    n_epochs=5,
    policy_kwargs={**_NETWORK, "net_arch": [32], "lstm_hidden_size": 32},
)
FOCOPS = _frozen(
    _ON_POLICY, _COST, batch_size=64, n_epochs=10, learning_rate=1e-3, policy_kwargs=_NETWORK
)
A2C = _frozen(
    _ON_POLICY,
    _COST,
    learning_rate=LinearSchedule(5e-3, 5e-4),
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
SAC = _frozen(_OFF_POLICY, ent_coef=0.003, n_steps=3)
TQC = _frozen(SAC, top_quantiles_to_drop_per_net=0)
CROSSQ = _frozen(SAC)
TD3 = _frozen(_OFF_POLICY, n_steps=3)
DQN = _frozen(
    _OFF_POLICY,
    n_steps=3,
    target_update_interval=200,
    exploration_fraction=0.5,
    exploration_final_eps=0.02,
)
