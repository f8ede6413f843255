"""A run: what was asked for, and the files of its folder.

| file | what it holds |
|---|---|
| ``config.json`` | the fields of `RunConfig` |
| ``command.txt`` | the command lines that worked on it |
| ``versions.json`` | versions of python and packages, and the machine |
| ``checkpoint.zip`` | from where the training goes on |
| ``episodes.csv`` | one row per finished episode of the training |
| ``progress.csv``, ``events.out.tfevents.*`` | Stable-Baselines3's log |
| ``evaluations.npz`` | evaluations during the training |
| ``best_model.zip``, ``best_vecnormalize.npz`` | the best model of these, and its statistics |
| ``model.zip``, ``vecnormalize.npz`` | the final model, and its statistics |
| ``result.json`` | what came out, once the run is finished: see `RunResult` |
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agents.arguments import (
    MOST_ENVS,
    MOST_EPISODES,
    MOST_SEED,
    MOST_TIMESTEPS,
    whole_number,
)
from agents.errors import RunFolderError
from agents.files import (
    check_new_folder,
    make_folder,
    read_json,
    remove_partials,
    write_json,
)
from agents.logs import LineLog

EVALUATION_SEED = 1_000  # added to a run's seed: episodes that the training has not seen
MULTIPLIER = "multiplier."  # begins overrides that are arguments of the multiplier
CONFIG, RESULT = "config.json", "result.json"
_PACKAGES = ("prune-gym", "gymnasium", "numpy", "stable-baselines3", "sb3-contrib", "torch")


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

    def check_numbers(self) -> None:
        """Raise InvalidValueError for a number that is not possible."""
        whole_number("seed", self.seed, 0, MOST_SEED)
        whole_number("timesteps", self.timesteps, 1, MOST_TIMESTEPS)
        whole_number("n_envs", self.n_envs, 1, MOST_ENVS)
        whole_number("eval_episodes", self.eval_episodes, 1, MOST_EPISODES)
        if self.eval_freq is not None:
            whole_number("eval_freq", self.eval_freq, 1, MOST_TIMESTEPS)

    @property
    def default_folder(self) -> Path:
        """Where the run goes if nothing else is said."""
        env_id = self.env.rpartition(":")[2].replace("/", "-")
        return Path("runs") / f"{self.algo}-{env_id}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What came out of a training; saved as ``result.json``.

    Attributes:
        final: The evaluation of the final policy: the fields of `agents.Evaluation`.
        episodes: Finished episodes of the training.
        violations: How many of them cost more than the limit.
        best_feasible_return: Best return of an episode within the limit, of the training, its
            evaluations or the final policy; None if there was none.
        episodes_to_first_feasible: Episodes of training until the first, None if there was none.
        wall_s: Duration of the training in seconds.
    """

    final: Mapping[str, Any]
    episodes: int
    violations: int
    best_feasible_return: float | None
    episodes_to_first_feasible: int | None
    wall_s: float


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Raise unless a new run can go to ``path``; to be called before anything is made.

        Raises:
            RunFolderError: If the folder is not empty.
            FileError: If it cannot be made, or takes no file.
        """
        check_new_folder(path, CONFIG, RunFolderError)

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunFolder:
        """Make the folder of a new run."""
        cls.check_free(path)
        make_folder(path)
        remove_partials(path)
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
        folder = cls(path)
        if not os.path.isfile(folder.config):
            raise RunFolderError(
                f"{path} is no run folder: it holds no config.json. Pass a folder that "
                "python -m agents.train wrote."
            )
        values = read_json(folder.config, RunFolderError)
        if is_pruning_run(values):
            raise RunFolderError(
                f"{path} is a run of prune-gym prune, not of python -m agents.train. Go on with "
                f"it: prune-gym prune --resume {path}"
            )
        return folder, _config(folder.config, values)

    def write_config(self, config: RunConfig) -> None:
        """Write ``config.json``."""
        write_json(self.config, asdict(config))

    def write_result(self, result: RunResult) -> None:
        """Write ``result.json``: the run is finished."""
        write_json(self.result, asdict(result))

    def drop_result(self) -> None:
        """Remove what only a finished run has, before it is made longer."""
        for path in (self.result, self.model(), self.normaliser()):
            path.unlink(missing_ok=True)

    def note_command(self, module: str = "agents.train") -> None:
        """Add this process's command line to ``command.txt``."""
        with LineLog(self.path / "command.txt") as log:
            log.add(shlex.join(["python", "-m", module, *sys.argv[1:]]))

    @property
    def config(self) -> Path:
        """What was asked for."""
        return self.path / CONFIG

    @property
    def checkpoint(self) -> Path:
        """From where the run goes on."""
        return self.path / "checkpoint.zip"

    @property
    def episodes(self) -> Path:
        """One row per episode of the training."""
        return self.path / "episodes.csv"

    @property
    def progress(self) -> Path:
        """Stable-Baselines3's log of the training."""
        return self.path / "progress.csv"

    @property
    def result(self) -> Path:
        """What came out; there once the run is finished."""
        return self.path / RESULT

    def model(self, which: str = "final") -> Path:
        """Where the ``"final"`` or the ``"best"`` model is."""
        return self.path / ("best_model.zip" if which == "best" else "model.zip")

    def normaliser(self, which: str = "final") -> Path:
        """Statistics of VecNormalize that belong to `model`."""
        return self.path / ("best_vecnormalize.npz" if which == "best" else "vecnormalize.npz")


def is_pruning_run(values: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of ``prune-gym prune``, whose runs lie beside ours."""
    return {"problem", "finetune_steps"} <= values.keys()


# Of every field of a configuration its kinds, and the range of its numbers.
_FIELDS: dict[str, tuple[tuple[type, ...], tuple[float, float]]] = {
    "algo": ((str,), (0, 0)),
    "env": ((str,), (0, 0)),
    "env_kwargs": ((dict,), (0, 0)),
    "wrappers": ((list,), (0, 0)),
    "seed": ((int,), (0, 2**31 - 1)),
    "timesteps": ((int,), (1, 2**53)),
    "n_envs": ((int,), (1, MOST_ENVS)),
    "overrides": ((dict,), (0, 0)),
    "normalize": ((bool,), (0, 1)),
    "cost_limit": ((float, int, type(None)), (-1.8e308, 1.8e308)),
    "eval_freq": ((int, type(None)), (1, 2**53)),
    "eval_episodes": ((int,), (1, 2**31)),
    "device": ((str,), (0, 0)),
}
_KIND_NAMES = {
    str: "a text",
    dict: "an object",
    list: "a list",
    int: "a whole number",
    bool: "true or false",
    float: "a number",
}


def _config(path: Path, values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of a file; every field is of its kind and in its range."""
    cure = "Was the folder written by python -m agents.train?"
    for name in [*values, *_FIELDS]:
        if name not in _FIELDS or name not in values:
            which = "is missing" if name in _FIELDS else "is no field of a run"
            raise RunFolderError(f"{path} is damaged: {name[:80]!r} {which}. {cure}")
    for name, (kinds, (low, high)) in _FIELDS.items():
        value = values[name]
        fits = type(value) in kinds
        if fits and isinstance(value, int | float):
            fits = low <= value <= high  # and no NaN
        if name == "wrappers" and fits:
            fits = all(isinstance(wrapper, str) for wrapper in value)
        if not fits:
            words = f"it must be {_KIND_NAMES[kinds[0]]}"
            if kinds[0] is int:
                words += f" from {low} to {high}"
            given = repr(value)
            raise RunFolderError(f"{path} is damaged: {name} is {given[:80]}; {words}. {cure}")
    return RunConfig(**{**values, "wrappers": tuple(values["wrappers"])})


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
