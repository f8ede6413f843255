"""Whether an environment fits a constrained algorithm, and what to say where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from agents.errors import InvalidValueError


def check_truncation(gamma: float, infos: Sequence[Mapping[str, Any]]) -> None:
    """Raise a ValueError where values would be learned without bound.

    After a truncated episode Stable-Baselines3 adds ``gamma`` times the value of the last state to
    the reward: without a discount, values grow by an episode's return for ever.

    Args:
        gamma: Discount of the algorithm.
        infos: Of one step of all environments.
    """
    if gamma == 1.0 and any(info.get("TimeLimit.truncated", False) for info in infos):
        raise InvalidValueError(
            "gamma is 1.0 and an episode was truncated: values would grow without bound, as the "
            "value of its last state counts as reward. Use gamma=0.99, or an environment whose "
            "episodes end by `terminated`."
        )


def reward_scaling(env: VecEnv) -> str | None:
    """Name the layer of a vector that divides rewards by their spread, None if there is none."""
    layer = env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize) and layer.norm_reward:
            return "VecNormalize with norm_reward=True"
        layer = layer.venv
    return "NormalizeReward" if any(env.env_is_wrapped(gym.wrappers.NormalizeReward)) else None


def unfit(error: AssertionError) -> Exception:
    """Say how an environment comes to fit, where Stable-Baselines3 only says that it does not."""
    text = str(error)
    if "action space" not in text.lower() and "action spaces" not in text.lower():
        return error
    return ValueError(
        f"env: {text}. Wrappers change the action space: a Box becomes Discrete for DQN, QRDQN and "
        "MaskablePPO (prune_gym.DiscreteRatios for prune ratios; SAC, TD3, DDPG, TQC and CrossQ "
        "take the Box without it), MultiBinary becomes a Box (prune_gym.BinaryToBox)."
    )
