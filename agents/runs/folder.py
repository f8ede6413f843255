"""A run: what was asked for, its folder, and the environments it is made of."""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from agents.costs import read_cost
from agents.files import write_json
from agents.runs.replayable import Replayable
from agents.zoo.table import AgentSpec, named
from agents.zoo.make import find_agent, make_agent
from agents.errors import InvalidTypeError, InvalidValueError

EVALUATION_SEED = 1_000  # added to a run's seed: episodes that the training has not seen
MULTIPLIER = "multiplier."  # begins overrides that are arguments of the multiplier
_PACKAGES = ("prune-gym", "gymnasium", "numpy", "stable-baselines3", "sb3-contrib", "torch")


class RunFolderError(ValueError):
    """A run folder that is missing, damaged, or taken already."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a training needs to be repeated; saved as ``config.json``.

    Attributes:
        algo: A name of `agents.AGENTS`.
        env: Id of the environment, ``module:Id-v0`` where a module has to be imported first.
        env_kwargs: Arguments of the environment.
        wrappers: ``module:Class`` of wrappers, the first is the innermost.
        seed: Seed of the training.
        timesteps: Environment steps.
        n_envs: Number of environments.
        overrides: Arguments of the algorithm; those of its multiplier begin with "multiplier.".
        normalize: Whether observations are normalised by running statistics.
        cost_limit: Limit on the mean episodic cost; None for the environment's own.
        eval_freq: Steps between evaluations during the training; None for none.
        eval_episodes: Episodes of an evaluation.
        device: Of the model.
    """

    algo: str
    env: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    seed: int = 0
    timesteps: int = 12_000
    n_envs: int = 1
    overrides: Mapping[str, Any] = field(default_factory=dict)
    normalize: bool = False
    cost_limit: float | None = None
    eval_freq: int | None = None
    eval_episodes: int = 20
    device: str = "cpu"

    @property
    def default_folder(self) -> Path:
        """Where the run goes if nothing else is said."""
        env_id = self.env.rpartition(":")[2].replace("/", "-")
        return Path("runs") / f"{self.algo}-{env_id}-{self.seed}"


# -- environments and agents ---------------------------------------------------------------------


def make_env(config: RunConfig, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make one environment of a run, with all its wrappers."""
    render: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        env: gym.Env[Any, Any] = gym.make(config.env, **config.env_kwargs, **render)
    except gym.error.UnregisteredEnv as error:
        if ":" in config.env:
            raise
        raise InvalidValueError(
            f"env={config.env!r} is not registered: {error} Name the module that registers it, "
            f"too: MODULE:{config.env}."
        ) from error
    for name in config.wrappers:
        env = _wrapped(name, env)
    spec = find_agent(config.algo)
    if spec.wrapper is not None:
        limit = {} if config.cost_limit is None else {"cost_limit": config.cost_limit}
        env = named(spec.wrapper)(env, **limit)
    return Replayable(Monitor(env))


def make_envs(
    config: RunConfig,
    *,
    n_envs: int | None = None,
    training: bool = True,
    render_mode: str | None = None,
) -> VecEnv:
    """Make a vector of environments of a run.

    Args:
        config: The run.
        n_envs: How many; those of the run if left out.
        training: Whether statistics for normalisation are updated.
        render_mode: How the environments show themselves.
    """
    make = partial(make_env, config, render_mode)
    vector: VecEnv = DummyVecEnv([make] * (config.n_envs if n_envs is None else n_envs))
    if config.normalize:
        vector = VecNormalize(vector, training=training, norm_reward=False)
    return vector


def check_costs(config: RunConfig) -> None:
    """Take one step in an environment of the run, to see that it reports its cost.

    Raises:
        ValueError: If it does not.
    """
    env = make_env(config)
    try:
        env.reset(seed=config.seed + EVALUATION_SEED)
        space = env.action_space
        space.seed(config.seed)
        if not env.has_wrapper_attr("action_masks"):
            read_cost(env.step(space.sample())[4])
        elif isinstance(space, gym.spaces.Discrete):  # not every action is allowed
            allowed = np.asarray(env.get_wrapper_attr("action_masks")(), dtype=np.int8)
            read_cost(env.step(space.sample(allowed))[4])
    finally:
        env.close()


def make_model(config: RunConfig, env: VecEnv) -> Any:
    """Make the agent of a run.

    Raises:
        ValueError: If agent and environment do not fit, or a value is out of range.
        TypeError: If an override is no argument of the agent or its multiplier.
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
    return make_agent(config.algo, env, seed=config.seed, device=config.device, **overrides)


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
    wrapper = imported("wrapper", name)
    try:
        wrapped = wrapper(env)
    except TypeError as error:
        raise InvalidTypeError(
            f"wrapper {name!r} cannot be put around the environment: {error}. It has to take the "
            "environment alone; for further arguments name a function of yours that does."
        ) from error
    if not isinstance(wrapped, gym.Env):
        raise InvalidTypeError(f"wrapper {name!r} returned {wrapped!r}, which is no gymnasium.Env.")
    return wrapped


def imported(kind: str, name: str) -> Any:
    """Import ``"module:name"``.

    Raises:
        ValueError: If that cannot be done (says why, and names the nearest).
    """
    module_name, separator, attribute = name.partition(":")
    if not separator:
        raise InvalidValueError(f"{kind} {name!r}: expected MODULE:NAME, e.g. gymnasium.wrappers:ClipAction.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidValueError(
            f"{kind} {name!r} cannot be imported: {error}. Its module has to be installed, or in "
            "the working directory."
        ) from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f" Did you mean '{module_name}:{near[0]}'?" if near else ""
        raise InvalidValueError(f"{kind} {name!r}: {module_name} has no {attribute!r}.{hint}")
    return getattr(module, attribute)


# -- the folder ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Raise unless a new run can go to ``path``.

        Raises:
            RunFolderError: If the folder is not empty.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if (path / "config.json").is_file():
                cure = f"a run already; choose another folder, or continue it: --resume {path}"
            else:
                cure = "other files; choose another folder"
            raise RunFolderError(f"out={str(path)!r} holds {cure}.")

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunFolder:
        """Make the folder of a new run."""
        cls.check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.write_config(config)
        write_json(path / "versions.json", _versions())
        return folder

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, RunConfig]:
        """Open an existing run.

        Raises:
            RunFolderError: If there is none, or its configuration is damaged.
        """
        file = path / "config.json"
        if not file.is_file():
            raise RunFolderError(
                f"{path} is no run folder: it holds no config.json. Pass a folder that "
                "python -m agents.train wrote."
            )
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            config = RunConfig(**{**values, "wrappers": tuple(values["wrappers"])})
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(f"{file} is damaged, or of another version: {error}.") from error
        return cls(path), config

    def write_config(self, config: RunConfig) -> None:
        """Write ``config.json``."""
        write_json(self.path / "config.json", asdict(config))

    def note_command(self, module: str = "agents.train") -> None:
        """Add the command line of this sitting to ``command.txt``."""
        with (self.path / "command.txt").open("a", encoding="utf-8") as file:
            file.write(shlex.join(["python", "-m", module, *sys.argv[1:]]) + "\n")

    @property
    def checkpoint(self) -> Path:
        """From where the run goes on."""
        return self.path / "checkpoint.zip"

    @property
    def episodes(self) -> Path:
        """One row per episode of the training."""
        return self.path / "episodes.csv"

    @property
    def result(self) -> Path:
        """What came out; there once the run is finished."""
        return self.path / "result.json"

    def model(self, which: str = "final") -> Path:
        """Where the ``"final"`` or the ``"best"`` model is."""
        return self.path / ("best_model.zip" if which == "best" else "model.zip")

    def normaliser(self, which: str = "final") -> Path:
        """Statistics of VecNormalize that belong to `model`."""
        return self.path / ("best_vecnormalize.pkl" if which == "best" else "vecnormalize.pkl")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
