"""What finished trainings left in their folders; see `agents.runs.folder` for the files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any
from warnings import warn

from agents.errors import InvalidValueError, RunFolderError
from agents.files import read_json
from agents.runs.folder import CONFIG, RESULT, is_pruning_run

# Keys of config.json in which all runs of one algorithm have to agree
SETTINGS = ("overrides", "wrappers", "n_envs", "normalize")


@dataclass(frozen=True)
class Run:
    """One finished training.

    Attributes:
        folder: Where it lies.
        algorithm: Name of the algorithm.
        env: Id of the environment.
        env_kwargs: Arguments of the environment.
        settings: What else the algorithm was given.
        seed: Seed of the training.
        timesteps: Length of the training.
        return_mean: Mean return of the final policy, unpenalised.
        cost_mean: Mean episodic cost of the final policy.
        cost_limit: The limit.
        violation_rate: Fraction of the final policy's episodes that cost more than the limit.
        best_feasible_return: Best return of an episode within the limit, of the training, its
            evaluations or the final policy; None if there was none.
        episodes_to_first_feasible: Episodes of training until the first, None if there was none.
        wall_s: Duration of the training in seconds.
    """

    folder: Path
    algorithm: str
    env: str
    env_kwargs: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int
    timesteps: int
    return_mean: float
    cost_mean: float
    cost_limit: float
    violation_rate: float
    best_feasible_return: float | None
    episodes_to_first_feasible: float | None
    wall_s: float

    def feasible_return(self, score: str) -> float | None:
        """Return what a run is scored by, None where it is not feasible.

        Args:
            score: ``"best_feasible"`` or ``"final"``, the policy at the end.
        """
        if score == "best_feasible":
            return self.best_feasible_return
        return self.return_mean if self.violation_rate == 0.0 else None


def read_runs(
    runs: Iterable[str | os.PathLike[str]] | Mapping[str, Sequence[str | os.PathLike[str]]],
    report: Callable[[str], None] = warn,
) -> list[Run]:
    """Read run folders; those of ``prune-gym prune``, which lie beside ours, are left out.

    Args:
        runs: Folders of runs, or folders that hold such folders at any depth; or a mapping from
            names, which replace those of the algorithms, to folders.
        report: Called with a line that names the folders that were left out; a warning if left out.

    Raises:
        RunFolderError: If a folder is none of a finished run (names it and what is wrong), a seed
            of an algorithm occurs twice, or its settings differ.
    """
    if isinstance(runs, (str, os.PathLike)):
        raise InvalidValueError(
            f"runs is {str(runs)!r}; it must be a list of folders: [{str(runs)!r}]."
        )
    named: list[tuple[str | None, str | os.PathLike[str]]] = []
    if isinstance(runs, Mapping):
        named = [(name, folder) for name, folders in runs.items() for folder in folders]
    else:
        named = [(None, folder) for folder in runs]
    folders = [(name, folder) for name, given in named for folder in _folders(given)]
    others = [folder for _, folder in folders if _is_of_pruning(folder)]
    words = f"{', '.join(map(str, others))}: of prune-gym prune, see its report.html"
    if others and len(others) == len(folders):
        raise RunFolderError(
            f"there is nothing to compare but {words}. Pass folders written by python -m "
            "agents.train"
        )
    if others:
        report(f"left out {words}")
    found = [_read(folder, name) for name, folder in folders if folder not in others]
    if not found:
        raise InvalidValueError("runs is empty; pass at least one folder of a run.")
    _check_groups(found)
    return found


def _is_of_pruning(folder: Path) -> bool:
    try:
        return is_pruning_run(read_json(folder / CONFIG, RunFolderError))
    except RunFolderError:
        return False  # what is wrong with it is said where it is read


def _check_groups(runs: Sequence[Run]) -> None:
    """Check that runs of one algorithm on one task differ in their seeds, and in nothing else."""
    cure = "or give them names of their own: compare({'name': [folders], ...})."
    groups: dict[tuple[str, str], list[Run]] = {}
    for run, task in zip(runs, task_names(runs), strict=True):
        group = groups.setdefault((task, run.algorithm), [])
        for other in group:
            if other.seed == run.seed:
                raise RunFolderError(
                    f"seed {run.seed} of {run.algorithm} on {task} occurs twice, in "
                    f"{other.folder} and {run.folder}: it would count twice. Leave one out, {cure}"
                )
            if other.settings != run.settings:
                raise RunFolderError(
                    f"settings of {run.algorithm} on {task} differ: {other.settings} in "
                    f"{other.folder}, {run.settings} in {run.folder}. Compare one at a time, {cure}"
                )
        group.append(run)


def task_names(runs: Sequence[Run]) -> list[str]:
    """Name the task of every run: its environment, and what else tells it from other tasks.

    Runs share a task if environment, its arguments and limit are the same.
    """
    variants: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        variants.setdefault(run.env, []).append(_variant(run))
    names = []
    for run in runs:
        others, mine = variants[run.env], _variant(run)
        differing = [key for key in mine if any(other.get(key) != mine[key] for other in others)]
        names.append(", ".join([run.env, *(f"{key} {mine[key]}" for key in differing)]))
    return names


def _variant(run: Run) -> dict[str, Any]:
    kwargs = {key: json.dumps(value, sort_keys=True) for key, value in run.env_kwargs.items()}
    return {**kwargs, "cost_limit": f"{run.cost_limit:g}"}


def check_lengths(runs: Sequence[Run], tasks: Sequence[str]) -> None:
    """Check that all runs of a task were equally long.

    Raises:
        RunFolderError: If they were not (names a run of either length).
    """
    first: dict[str, Run] = {}
    for run, task in zip(runs, tasks, strict=True):
        other = first.setdefault(task, run)
        if other.timesteps != run.timesteps:
            raise RunFolderError(
                f"timesteps differ between runs on {task}: {other.timesteps} in {other.folder}, "
                f"{run.timesteps} in {run.folder}. Compare runs of one length at a time."
            )


def _folders(given: str | os.PathLike[str]) -> list[Path]:
    """Return ``given`` if it is a run, else the runs below it."""
    path = Path(given)
    if not os.path.isdir(path):
        raise RunFolderError(
            f"run {path} is no folder. Pass folders written by python -m agents.train"
        )
    if (path / CONFIG).exists() or (path / RESULT).exists():
        return [path]
    below = sorted(config.parent for config in path.rglob(CONFIG) if config.is_file())
    if not below:
        raise RunFolderError(
            f"run {path} has no config.json, nor has a folder below it. Pass folders written by "
            "python -m agents.train"
        )
    return below


def _read(folder: Path, name: str | None) -> Run:
    config, result = _load(folder, CONFIG), _load(folder, RESULT)
    final = _get(folder, result, "final", dict)
    return Run(
        folder=folder,
        algorithm=_get(folder, config, "algo", str) if name is None else name,
        env=_get(folder, config, "env", str),
        env_kwargs=_get(folder, config, "env_kwargs", dict) if config.get("env_kwargs") else {},
        settings={key: config[key] for key in SETTINGS if config.get(key)},
        seed=_get(folder, config, "seed", int),
        timesteps=_get(folder, config, "timesteps", int),
        return_mean=_number(folder, final, "return_mean"),
        cost_mean=_number(folder, final, "cost_mean"),
        cost_limit=_number(folder, final, "cost_limit"),
        violation_rate=_number(folder, final, "violation_rate"),
        best_feasible_return=_optional(folder, result, "best_feasible_return"),
        episodes_to_first_feasible=_optional(folder, result, "episodes_to_first_feasible"),
        wall_s=_number(folder, result, "wall_s"),
    )


def _load(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise RunFolderError(
            f"run {folder} has no {name}: it did not finish. Finish it or leave it out."
        )
    try:
        return read_json(path, RunFolderError)
    except RunFolderError as error:
        words = str(error).replace(str(path), name)
        raise RunFolderError(f"run {folder}: {words} Run it again.") from error


def _get(folder: Path, data: Mapping[str, Any], key: str, kind: type) -> Any:
    if not isinstance(data.get(key), kind) or isinstance(data[key], bool):
        raise RunFolderError(
            f"run {folder}: {key!r} is {data.get(key)!r}; it must be of type {kind.__name__}. "
            "Was the folder written by python -m agents.train?"
        )
    return data[key]


def _number(folder: Path, data: Mapping[str, Any], key: str) -> float:
    value = _get(folder, data, key, Real)
    if not math.isfinite(value):
        raise RunFolderError(f"run {folder}: {key!r} is {value!r}; it must be finite.")
    return float(value)


def _optional(folder: Path, data: Mapping[str, Any], key: str) -> float | None:
    if key in data and data[key] is None:
        return None
    return _number(folder, data, key)
