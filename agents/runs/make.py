"""What a run is made of: its environments and its agent, by what its `RunConfig` says.

What goes wrong here is what the user asked for, an id, an argument, a device, so that errors of
other libraries become this package's own.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from agents.algorithms.state_checks import bounded_memory
from agents.errors import (
    AgentsError,
    InvalidTypeError,
    InvalidValueError,
    MissingFileError,
    UnknownNameError,
)
from agents.runs.folder import MULTIPLIER, RunConfig
from agents.search_path import import_module_last, put_working_folder_last
from agents.zoo.make import check_device, find_agent, make_agent
from agents.zoo.table import AgentSpec, import_object

MakeVector = Callable[[list[Callable[[], gym.Env[Any, Any]]]], VecEnv]

_MOST_ELEMENTS = 2**30  # that networks of a run may take


def make_env(config: RunConfig, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make one environment of a run, with all its wrappers.

    Raises:
        InvalidValueError: If there is no such environment or wrapper, or it refuses an argument.
        InvalidTypeError: If an argument is none of the environment's.
    """
    env = _registered(config, {} if render_mode is None else {"render_mode": render_mode})
    for name in config.wrappers:
        env = _wrapped(name, env)
    spec = find_agent(config.algo)
    if spec.wrapper is not None:
        limit = {} if config.cost_limit is None else {"cost_limit": config.cost_limit}
        env = import_object(spec.wrapper)(env, **limit)
    return Monitor(env)


def _registered(config: RunConfig, render: dict[str, Any]) -> gym.Env[Any, Any]:
    arguments = {**config.env_kwargs, **render}
    if ":" in config.env:
        put_working_folder_last()
    try:
        return gym.make(config.env, **arguments)
    except AgentsError:
        raise
    except gym.error.UnregisteredEnv as error:
        words = f"env={config.env!r} is not registered: {error}"
        if ":" not in config.env:
            words += f" Name the module that registers it, too: MODULE:{config.env}."
        raise UnknownNameError(words) from error
    except (gym.error.Error, ImportError, OSError, ValueError) as error:
        raise InvalidValueError(f"env={config.env!r} cannot be made: {error}") from error
    except TypeError as error:
        entry_point = gym.spec(config.env.rpartition(":")[2]).entry_point
        maker: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        if not _is_refusal(error, maker, **arguments):
            raise
        raise InvalidTypeError(f"env={config.env!r} cannot be made: {error}.") from error


def _is_refusal(error: TypeError, function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether a TypeError says that arguments are wrong, and not that there is a bug inside.

    Args:
        error: What the call raised.
        function: What was called.
        *args: With these arguments.
        **kwargs: With these arguments.
    """
    if type(error) is not TypeError:  # somebody made a class for it
        return True
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return True
    except ValueError:  # builtins do not say what they take
        pass
    return False


def make_envs(
    config: RunConfig,
    *,
    n_envs: int | None = None,
    training: bool = True,
    render_mode: str | None = None,
    vector: MakeVector = DummyVecEnv,
) -> VecEnv:
    """Make a vector of environments of a run.

    Args:
        config: The run.
        n_envs: How many; those of the run if left out.
        training: Whether statistics for normalisation are updated.
        render_mode: How the environments show themselves.
        vector: Makes the vector of the functions that make its environments.
    """
    make = partial(make_env, config, render_mode)
    envs = vector([make] * (config.n_envs if n_envs is None else n_envs))
    return VecNormalize(envs, training=training, norm_reward=False) if config.normalize else envs


def make_model(config: RunConfig, env: VecEnv) -> Any:
    """Make the agent of a run.

    Raises:
        InvalidValueError: If agent and environment do not fit, or a value is out of range.
        InvalidTypeError: If an override is no argument of the agent or its multiplier.
    """
    spec = find_agent(config.algo)
    given = copy.deepcopy(dict(config.overrides))  # algorithms write into what they are given
    overrides = {k: v for k, v in given.items() if not k.startswith(MULTIPLIER)}
    if len(overrides) < len(given):
        overrides["multiplier"] = _make_multiplier(spec, config)
    if isinstance(overrides.get("train_freq"), list):  # JSON has no tuples
        overrides["train_freq"] = tuple(overrides["train_freq"])
    if config.cost_limit is not None and spec.wrapper is None:
        overrides["cost_limit"] = config.cost_limit
    try:
        with bounded_memory(_MOST_ELEMENTS):
            return make_agent(config.algo, env, seed=config.seed, device=config.device, **overrides)
    except AgentsError:
        raise
    except (AssertionError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if not given:
            raise
        raise InvalidValueError(f"{config.algo} cannot be made with {given}: {error}") from error


def _make_multiplier(spec: AgentSpec, config: RunConfig) -> Any:
    given = {
        key.removeprefix(MULTIPLIER): value
        for key, value in config.overrides.items()
        if key.startswith(MULTIPLIER)
    }
    if spec.multiplier is None:
        raise InvalidTypeError(
            f"{config.algo} has no multiplier to choose: leave {MULTIPLIER}{next(iter(given))} out."
        )
    env_id = config.env.rpartition(":")[2]
    tuned = spec.tuned.get(env_id, {}).get("multiplier_kwargs", {})
    try:
        return spec.multiplier(**{**spec.multiplier_kwargs, **tuned, **given})
    except TypeError as error:
        raise InvalidTypeError(f"{MULTIPLIER[:-1]} of {config.algo}: {error}.") from error


def _wrapped(name: str, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    wrapper = import_by_name("wrapper", name)
    try:
        wrapped = wrapper(env)
    except AgentsError:
        raise
    except ValueError as error:
        raise InvalidValueError(f"wrapper {name!r}: {error}") from error
    except TypeError as error:
        if not _is_refusal(error, wrapper, env):
            raise
        raise InvalidTypeError(
            f"wrapper {name!r} cannot be put around the environment: {error}. It has to take the "
            "environment alone; for further arguments name a function of yours that does."
        ) from error
    if not isinstance(wrapped, gym.Env):
        raise InvalidTypeError(f"wrapper {name!r} returned {wrapped!r}, which is no gymnasium.Env.")
    return wrapped


def import_by_name(kind: str, name: str) -> Any:
    """Import ``"module:name"``.

    Raises:
        InvalidValueError: If that cannot be done (says why, and names the nearest).
    """
    module_name, separator, attribute = name.partition(":")
    if not separator:
        raise InvalidValueError(
            f"{kind} {name!r}: expected MODULE:NAME, e.g. gymnasium.wrappers:ClipAction."
        )
    try:
        module = import_module_last(module_name)
    except ImportError as error:
        raise InvalidValueError(
            f"{kind} {name!r} cannot be imported: {error}. Its module has to be installed, or in "
            "the working directory."
        ) from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f" Did you mean '{module_name}:{near[0]}'?" if near else ""
        raise UnknownNameError(f"{kind} {name!r}: {module_name} has no {attribute!r}.{hint}")
    return getattr(module, attribute)


def load_model(config: RunConfig, path: Path, *, trust: bool = False) -> Any:
    """Load a model of a run, to play with it.

    Args:
        config: The run.
        path: The file.
        trust: Whether values of a user's own in it may be unpickled.

    Raises:
        MissingFileError: If there is none.
        ModelFileError: If it is no model, or one of another algorithm.
        TrustError: If values of it would be unpickled, and it is not trusted.
    """
    check_device(config.device)
    if not path.is_file():
        raise MissingFileError(f"there is no model {path}.")
    return find_agent(config.algo).constructor.load(path, device=config.device, trust=trust)
