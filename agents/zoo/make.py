"""The agents by name, with values to start from.

>>> from agents import AGENTS, BudgetToyEnv, make_agent
>>> [name for name in AGENTS if name.startswith("ppo")]
['ppo_lag', 'ppo_pid', 'ppo_adam', 'ppo_penalised', 'ppo_saute']
>>> model = make_agent("ppo_pid", BudgetToyEnv(), seed=1, device="cpu")
>>> model.n_steps, type(model.multiplier).__name__
(128, 'PIDMultiplier')
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from safetensors import SafetensorError
from safetensors.torch import load_file
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from agents.algorithms.lagrangian import fitting_policy
from agents.env_checks import check_env, env_id
from agents.errors import (
    InvalidTypeError,
    InvalidValueError,
    ModelFileError,
    UnfitEnvError,
    UnknownNameError,
)
from agents.files import shown
from agents.zoo.table import AGENTS, AgentSpec, import_object
from agents.zoo.values import PPO_BESIDE_PRIOR as PRETRAINED_VALUES

PRETRAINED = Path(__file__).parent / "data" / "pretrained.safetensors"


def make_agent(
    name: str, env: gym.Env[Any, Any] | VecEnv, *, seed: int | None = 0, **overrides: Any
) -> Any:
    """Make an agent of `AGENTS`, ready to ``learn``.

    Args:
        name: A key of `AGENTS`.
        env: The environment, or a vector of them; ``n_steps`` of on-policy agents follows from
            their number.
        seed: Seed of the agent; None for a random one.
        **overrides: Arguments of the algorithm that replace the values of the row, for example
            ``learning_rate=3e-4`` or ``multiplier=GradientMultiplier(initial=3.0)``.

    Raises:
        InvalidValueError: If there is no agent of this name, or it does not fit the environment.
        InvalidTypeError: If the algorithm has no argument of an override's name.
        MissingLibraryError: If it needs a package that is not installed.
    """
    row = find_agent(name)
    check_env(env)
    spec = row.tuned_for(env_id(env))
    constructor = spec.constructor
    arguments = _arguments(constructor)
    for key in overrides:
        if key not in arguments:
            raise InvalidTypeError(f"{key!r} is no argument of {name}; {_known(key, arguments)}")
    check_fit(name, env)
    check_device(overrides.get("device", "auto"))
    n_envs = env.num_envs if isinstance(env, VecEnv) else 1
    chosen: dict[str, Any] = {"policy": fitting_policy(constructor, env)}
    if spec.rollout_size is not None:
        chosen["n_steps"] = max(1, spec.rollout_size // n_envs)
    if spec.multiplier is not None:
        chosen["multiplier"] = spec.multiplier(**spec.multiplier_kwargs)
    if spec.noise is not None and isinstance(env.action_space, gym.spaces.Box):
        shape = env.action_space.shape
        chosen["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, spec.noise))
    chosen.update(deepcopy(dict(spec.kwargs)))
    if spec.rollout_size is None and isinstance(env.observation_space, gym.spaces.Dict):
        chosen["n_steps"] = 1  # Stable-Baselines3 replays Dict observations in single steps only
    chosen.update(overrides)
    if spec.rollout_size is not None and "batch_size" in set(chosen) - set(overrides):
        chosen["batch_size"] = _dividing(chosen["n_steps"] * n_envs, chosen["batch_size"])
    return constructor(env=env, seed=seed, **chosen)


def load_policy(model: Any, file: Path | str) -> None:
    """Give a model the weights of a policy of the same kind, critics included.

    Raises:
        UnfitEnvError: It is of other observations or actions, or another network.
        ModelFileError: The file is missing or damaged.
    """
    if not isinstance(file, str | Path):
        raise InvalidTypeError(f"file={file!r}: expected the path of a policy, *.safetensors.")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{shown(file)} holds no policy: {error}") from error
    try:
        model.policy.load_state_dict(tensors)
    except RuntimeError as error:
        space = model.observation_space
        raise UnfitEnvError(
            f"env: the policy of {shown(file)} is of other observations or actions than "
            f"{space} and {model.action_space}. One that comes with the package takes environments "
            "that decide beside a prior, layer by layer, with one budget and without history, and "
            "no policy_kwargs of yours."
        ) from error


def load_pretrained(
    env: gym.Env[Any, Any] | VecEnv, file: Path | str = PRETRAINED, **overrides: Any
) -> Any:
    """The agent ``"ppo_lag"`` whose policy was trained on many networks, and goes on learning.

    Args:
        env: An environment that decides beside a prior (ids of ``-v1``), layer by layer, with one
            budget.
        file: Weights of a policy; those that come with the package if left out.
        **overrides: See `make_agent`.

    Raises:
        UnfitEnvError: The policy is of other observations or actions.
    """
    model = make_agent("ppo_lag", env, **{**PRETRAINED_VALUES, **overrides})
    load_policy(model, file)
    return model


def _dividing(rollout_size: int, batch_size: int) -> int:
    """Return the batch size that divides a rollout and is nearest to ``batch_size``, by ratio."""
    divisors = [size for size in range(2, rollout_size + 1) if rollout_size % size == 0]
    return min(divisors, key=lambda size: max(size / batch_size, batch_size / size), default=1)


def find_agent(name: str) -> AgentSpec:
    """Return the row of this name; an unknown one is an error that lists those there are."""
    if name not in AGENTS:
        raise UnknownNameError(f"name is {name!r}; {_known(name, AGENTS)}")
    return AGENTS[name]


def check_device(device: Any) -> None:
    """Raise an InvalidValueError unless torch can compute on ``device``."""
    try:
        th.zeros(1, device=get_device(device))
    except (AssertionError, RuntimeError) as error:  # torch's, for what it was built without, too
        words = str(error).splitlines()[0]
        raise InvalidValueError(f"device is {device!r}: {words}. Use cpu, cuda or auto.") from error


def check_fit(name: str, env: gym.Env[Any, Any] | VecEnv) -> None:
    """Raise an UnfitEnvError, with the cure, unless the agent takes the environment."""
    spec, space = find_agent(name), env.action_space
    kind = type(space).__name__
    if kind not in spec.action_spaces:
        if kind == "Box":
            cure = (
                "Wrap each environment so that it has one; gymnasium.wrappers.TransformAction does."
            )
        elif "Box" in spec.action_spaces and kind == "MultiBinary":
            cure = "Wrap each environment in gymnasium.wrappers.TransformAction, to a Box."
        else:
            fitting = [key for key, row in AGENTS.items() if kind in row.action_spaces]
            cure = f"Agents that take it: {', '.join(fitting)}."
        raise UnfitEnvError(
            f"env: {name} takes an action space of {' or '.join(spec.action_spaces)}, not {space}. "
            f"{cure}"
        )
    if spec.wrapper is not None:
        wrapper = import_object(spec.wrapper)
        if isinstance(env, VecEnv):
            wrapped = all(env.env_is_wrapped(wrapper))
        else:
            wrapped = is_wrapped(env, wrapper)
        if not wrapped:
            module, cls = spec.wrapper.split(":")
            raise UnfitEnvError(
                f"env: {name} needs each environment wrapped: from {module} import {cls}; "
                f"{cls}(env)."
            )


def _arguments(constructor: type[Any]) -> set[str]:
    """Return what can be overridden, and what the constructor refuses with a word of its own."""
    names = {*inspect.signature(constructor).parameters, *getattr(constructor, "refused", ())}
    return {name for name in names - {"env", "seed"} if not name.startswith("_")}


def _known(name: str, names: Collection[str]) -> str:
    """Say which names there are, the most similar first."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"it must be one of {sorted(names)}.{hint}"
