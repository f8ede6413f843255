"""What the algorithms ask of an environment, and what to say where it is not so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from agents.costs import read_cost
from agents.errors import InvalidTypeError, UnfitEnvError

_REWARD_WRAPPERS: tuple[type[gym.Wrapper[Any, Any, Any, Any]], ...] = (
    gym.wrappers.NormalizeReward,
    gym.wrappers.ClipReward,
    gym.wrappers.TransformReward,
    gym.RewardWrapper,
)

# -- is it an environment --------------------------------------------------------------------------


def check_env(env: Any, name: str = "env") -> None:
    """Raise an InvalidTypeError unless ``env`` is an environment, or a vector of them of SB3."""
    if isinstance(env, gym.vector.VectorEnv):
        raise InvalidTypeError(
            f"{name} is a {type(env).__name__}, a vector of Gymnasium, whose infos and autoreset "
            "differ from those of Stable-Baselines3, which takes its own: pass one environment, "
            "or DummyVecEnv([make_one, make_one])."
        )
    if not isinstance(env, gym.Env | VecEnv):
        raise InvalidTypeError(
            f"{name} is {env!r}; it must be a gymnasium.Env or a VecEnv of Stable-Baselines3. "
            "Make one: gymnasium.make(id)."
        )


def as_vec_env(env: gym.Env[Any, Any] | VecEnv, name: str = "env") -> VecEnv:
    """Return a vector of Stable-Baselines3: ``env`` itself, or a vector of this environment alone.

    Args:
        env: An environment, or a vector of them.
        name: What to call it in an error.

    Raises:
        InvalidTypeError: If it is neither; vectors of Gymnasium are not.
    """
    check_env(env, name)
    return env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])


def unwrapped_ids(env: VecEnv) -> set[int]:
    """Return the identities of a vector and of the environments in it, freed of all wrappers."""
    vector = env.unwrapped
    envs = getattr(vector, "envs", [])  # those of other processes cannot be shared
    return {id(vector), *(id(one.unwrapped) for one in envs)}


def env_id(env: gym.Env[Any, Any] | VecEnv) -> str:
    """Return the id an environment was registered under, empty if it has none."""
    if isinstance(env, VecEnv):
        inner = getattr(env.unwrapped, "envs", [])
        if inner:
            return env_id(inner[0])
        spec = env.get_attr("spec")[0] if env.has_attr("spec") else None
    else:
        spec = env.unwrapped.spec  # a wrapper's is a deep copy: of the network and data, too
    return "" if spec is None else str(spec.id)


# -- does it fit -----------------------------------------------------------------------------------


def check_costs(env: gym.Env[Any, Any], seed: int) -> None:
    """Take one step in an environment, to see that it reports its cost.

    Args:
        env: The environment; it is reset first.
        seed: Of the reset and of the action.

    Raises:
        CostError: If it does not.
    """
    env.reset(seed=seed)
    space = env.action_space
    space.seed(seed)
    if not env.has_wrapper_attr("action_masks"):
        read_cost(env.step(space.sample())[4])
    elif isinstance(space, gym.spaces.Discrete):  # not every action is allowed
        allowed = np.asarray(env.get_wrapper_attr("action_masks")(), dtype=np.int8)
        read_cost(env.step(space.sample(allowed))[4])


def check_truncation(gamma: float, infos: Sequence[Mapping[str, Any]]) -> None:
    """Raise an UnfitEnvError where values would be learned without bound.

    After a truncated episode Stable-Baselines3 adds ``gamma`` times the value of the last state to
    the reward: without a discount, values grow by an episode's return for ever.

    Args:
        gamma: Discount of the algorithm.
        infos: Of one step of all environments.
    """
    if gamma == 1.0 and any(info.get("TimeLimit.truncated", False) for info in infos):
        raise UnfitEnvError(
            "gamma is 1.0 and an episode was truncated: values would grow without bound, as the "
            "value of its last state counts as reward. Use gamma=0.99, or an environment whose "
            "episodes end by `terminated`."
        )


def check_reward_scaling(env: VecEnv) -> None:
    """Raise an UnfitEnvError where a wrapper changes the rewards, and costs stay as they are.

    Gymnasium's ``NormalizeReward``, ``TransformReward``, ``ClipReward`` and every other
    ``RewardWrapper``, and ``VecNormalize`` with ``norm_reward=True``.
    """
    found = [kind for kind in _REWARD_WRAPPERS if any(env.env_is_wrapped(kind))]
    changing, cure = (found[0].__name__ if found else None), "Leave the wrapper out"
    layer = env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize) and layer.norm_reward:
            changing = "VecNormalize with norm_reward=True"
            cure = "Use VecNormalize(..., norm_reward=False)"
        layer = layer.venv
    if changing is not None:
        raise UnfitEnvError(
            f"env is in a {changing}: one critic learns from rewards and costs together, and where "
            "the rewards alone are changed, the multiplier that weighs them has no unit. "
            f"{cure} (rewards are measured in units of their own here already), or take an "
            "algorithm with two critics, such as PPOLagrangian."
        )


def check_unpenalised(env: VecEnv, *wrappers: type[gym.Wrapper[Any, Any, Any, Any]]) -> None:
    """Raise an UnfitEnvError where one of these wrappers puts the cost into the reward already."""
    for wrapper in wrappers:
        if any(env.env_is_wrapped(wrapper)):
            raise UnfitEnvError(
                f"env is penalised by {wrapper.__name__} already; the multiplier would charge "
                "the same cost twice. Pass the environment without that wrapper."
            )


def explain_misfit(error: AssertionError) -> Exception:
    """Say how an environment comes to fit, where Stable-Baselines3 only says that it does not."""
    text = str(error)
    if "action space" not in text.lower():
        return error
    return UnfitEnvError(
        f"env: {text}. gymnasium.wrappers.TransformAction changes the action space: a Box becomes "
        "Discrete for DQN, QRDQN and MaskablePPO (SAC, TD3, DDPG, TQC and CrossQ take the Box "
        "without it), MultiBinary becomes a Box."
    )
