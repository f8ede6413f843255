"""The agents by name, with values to start from.

>>> from agents import AGENTS, BudgetToyEnv, make_agent
>>> sorted(AGENTS)
['ppo_lag', 'ppo_pid']
>>> model = make_agent("ppo_pid", BudgetToyEnv(), seed=1, device="cpu")
>>> model.n_steps, type(model.multiplier).__name__
(128, 'PIDMultiplier')
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from agents.multipliers import GradientMultiplier, Multiplier, PIDMultiplier
from agents.ppo_lagrangian import PPOLagrangian


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


@dataclass(frozen=True)
class AgentSpec:
    """One row of `AGENTS`.

    Attributes:
        description: One line.
        constructor: The algorithm.
        multiplier: Makes the multiplier, a new one for every agent.
        multiplier_kwargs: Its arguments.
        rollout_size: Steps per rollout, all environments together.
        kwargs: Arguments of the algorithm.
    """

    description: str
    constructor: type[PPOLagrangian]
    multiplier: Callable[..., Multiplier]
    multiplier_kwargs: Mapping[str, float]
    rollout_size: int
    kwargs: Mapping[str, Any]


_PPO: Mapping[str, Any] = MappingProxyType(
    {
        "batch_size": 64,
        "n_epochs": 15,
        "learning_rate": LinearSchedule(3e-3, 2e-4),
        "target_kl": 0.05,
        "ent_coef": -0.003,  # below 0: settle, since what is wanted in the end is one solution
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "cost_gamma": 1.0,
        "cost_gae_lambda": 0.95,
        "policy_kwargs": {
            "net_arch": [64, 64],
            "log_std_init": -1.0,
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},  # SB3's Adam, in one pass
        },
    }
)

AGENTS: Mapping[str, AgentSpec] = MappingProxyType(
    {
        "ppo_lag": AgentSpec(
            description="PPO with two critics, multiplier by projected gradient ascent",
            constructor=PPOLagrangian,
            multiplier=GradientMultiplier,
            multiplier_kwargs=MappingProxyType({"learning_rate": 1.5, "initial": 3.0}),
            rollout_size=128,
            kwargs=_PPO,
        ),
        "ppo_pid": AgentSpec(
            description="PPO with two critics, multiplier by PID control",
            constructor=PPOLagrangian,
            multiplier=PIDMultiplier,
            multiplier_kwargs=MappingProxyType(
                {"kp": 5.0, "ki": 1.0, "kd": 0.0, "initial": 3.0, "ema": 0.5}
            ),
            rollout_size=128,
            kwargs=_PPO,
        ),
    }
)


def make_agent(
    name: str, env: gym.Env[Any, Any] | VecEnv, *, seed: int | None = 0, **overrides: Any
) -> PPOLagrangian:
    """Make an agent of `AGENTS`, ready to ``learn``.

    Args:
        name: A key of `AGENTS`.
        env: The environment, or a vector of them; ``n_steps`` follows from their number.
        seed: Seed of the agent; None for a random one.
        **overrides: Arguments of the algorithm that replace the values of the row, for example
            ``learning_rate=3e-4`` or ``multiplier=GradientMultiplier(initial=3.0)``.

    Raises:
        ValueError: If there is no agent of this name.
        TypeError: If the algorithm has no argument of an override's name.
    """
    if name not in AGENTS:
        raise ValueError(f"name is {name!r}; {_known(name, AGENTS)}")
    spec = AGENTS[name]
    arguments = _arguments(spec.constructor)
    for key in overrides:
        if key not in arguments:
            raise TypeError(f"{key!r} is no argument of {name}; {_known(key, arguments)}")
    n_envs = env.num_envs if isinstance(env, VecEnv) else 1
    is_dict = isinstance(env.observation_space, gym.spaces.Dict)
    values = {
        "policy": "MultiInputPolicy" if is_dict else "MlpPolicy",
        "n_steps": max(1, spec.rollout_size // n_envs),
        "multiplier": spec.multiplier(**spec.multiplier_kwargs),
        **deepcopy(dict(spec.kwargs)),
        **overrides,
    }
    return spec.constructor(env=env, seed=seed, **values)


def _arguments(constructor: type[PPOLagrangian]) -> set[str]:
    """Return what can be overridden: the arguments of the algorithm and of PPO beneath it."""
    names = {*inspect.signature(constructor).parameters, *inspect.signature(PPO).parameters}
    hidden = {"env", "seed", "ppo_kwargs", "normalize_advantage"}
    return {name for name in names - hidden if not name.startswith("_")}


def _known(name: str, names: Collection[str]) -> str:
    """Say which names there are, the most similar first."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"it must be one of {sorted(names)}.{hint}"
