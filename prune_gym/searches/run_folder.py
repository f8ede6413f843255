"""The run folder: what a search writes, so that nothing is lost and it can go on."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import platform
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prune_gym import ENVIRONMENTS
from prune_gym.budgets import budgets_from_json, budgets_to_json
from prune_gym.errors import InvalidValueError, RunFolderError
from prune_gym.problem.archive import Archive, Front, Trial
from prune_gym.problem.problem import PruningProblem
from prune_gym.searches.baselines import BASELINES
from prune_gym.searches.other_runs import refuse_training_run
from prune_gym.utils.files import make_folder, write_json

_PACKAGES = (
    "prune-gym",
    "torch",
    "torchvision",
    "gymnasium",
    "stable-baselines3",
    "torch-pruning",
    "numpy",
    "scikit-learn",
)


@dataclass(frozen=True)
class SearchConfig:
    """Everything that a search needs to be repeated; saved as ``config.json``.

    Attributes:
        env: id of the environment.
        algo: a name of `prune_gym.searches.algorithms.algorithms`.
        timesteps: environment steps of an agent; controls get as many network evaluations.
        seed: of the search.
        finetune_steps: optimizer steps of the returned network's fine-tuning.
        problem: arguments of `prune_gym.make_problem`.
        distillation: share of the fine-tuning loss that follows the unpruned network.
        hard: whether every network is kept within the limits (`prune_gym.ProjectionWrapper`).
        folder: working directory in which it began; modules of the user's may lie there.
        limits: by budget, as fractions; empty in runs of earlier versions.
        groups: filters by filter group; likewise.
    """

    env: str
    algo: str
    timesteps: int
    seed: int
    finetune_steps: int
    problem: dict[str, Any]
    distillation: float = 0.0
    hard: bool = False
    folder: str = ""
    limits: dict[str, float] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)

    @property
    def granularity(self) -> str:
        """What the environment decides at a time: a layer, or each filter of one."""
        granularity: str = ENVIRONMENTS[self.env]["granularity"]
        return granularity

    @property
    def by_ratio(self) -> bool:
        """Whether masks keep the most important filters, as many as a ratio leaves."""
        return self.granularity != "filter" or self.algo in BASELINES

    @property
    def network_name(self) -> str | None:
        """Registered name of the unpruned network, or ``"module:function"``; None = an object."""
        name = self.problem.get("network", "small")
        return name if isinstance(name, str) else None

    def lengthened(self, timesteps: int) -> SearchConfig:
        """The same search with other timesteps.

        Raises:
            ValueError: the algorithm's networks depend on how many there are.
        """
        if timesteps != self.timesteps and self.algo == "uniform":
            raise InvalidValueError(
                "timesteps and evaluations cannot change for algo='uniform': it would be another "
                "grid. Start a new run with another folder: --out, out=."
            )
        return replace(self, timesteps=timesteps)

    def check_same(self, problem: PruningProblem) -> None:
        """Raise RunFolderError unless a problem is the one that was searched."""
        groups = {group.name: group.n_filters for group in problem.groups}
        limits = dict(zip(problem.names, problem.limits, strict=True))
        for name, was, found in (("groups", self.groups, groups), ("limits", self.limits, limits)):
            if was and was != found:
                raise RunFolderError(
                    f"the run was of another problem: its {name} were {was}, those of the problem "
                    f"are {found}. Give the same problem, or start a new run: out=."
                )
        given = problem.arguments or {}
        for name in ("network", "dataset", "criterion", "recovery", "structure", "round_to"):
            if name in given and given[name] != self.problem.get(name, given[name]):
                raise RunFolderError(
                    f"the run was of another problem: its {name} was {self.problem[name]!r}, that "
                    f"of the problem is {given[name]!r}. Give the same problem, or start a new run."
                )

    def to_json(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        problem = dict(self.problem)
        if "budgets" in problem:
            problem["budgets"] = budgets_to_json(problem["budgets"])
        return {**vars(self), "problem": problem}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> SearchConfig:
        """The way back (raises ValueError, TypeError)."""
        config = cls(**content)
        if isinstance(config.problem, dict) and "budgets" in config.problem:
            budgets = budgets_from_json(config.problem["budgets"])
            return replace(config, problem={**config.problem, "budgets": budgets})
        return config


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def create(cls, path: Path | str, config: SearchConfig) -> RunFolder:
        """Make a folder for a new run.

        Raises:
            RunFolderError: the folder is not empty.
        """
        folder = cls(Path(path))
        if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            if (folder.path / "config.json").is_file():
                cure = f"a run already; choose another folder, or continue it: --resume {path}"
            else:
                cure = "other files; choose another folder"
            raise RunFolderError(f"out={str(path)!r} holds {cure}.")
        make_folder(folder.path)
        write_json(folder.path / "config.json", config.to_json())
        folder.note_command()
        write_json(folder.path / "versions.json", versions())
        return folder

    @classmethod
    def open(cls, path: Path | str) -> tuple[RunFolder, SearchConfig]:
        """An existing run and its configuration.

        Raises:
            RunFolderError: there is no run, or its files are damaged.
        """
        file = Path(path) / "config.json"
        if not file.is_file():
            raise RunFolderError(f"{path} is no run folder: it holds no config.json.")
        refuse_training_run(path)
        try:
            config = SearchConfig.from_json(json.loads(file.read_text()))
            kinds = {"timesteps": int, "seed": int, "finetune_steps": int, "problem": dict}
            kinds["hard"] = bool
            for name, kind in kinds.items():
                if not isinstance(getattr(config, name), kind):
                    raise InvalidValueError(f"{name} is no {kind.__name__}")
        except (ValueError, TypeError) as error:
            raise RunFolderError(f"{file} is damaged: {error}") from error
        return cls(Path(path)), config

    def note_command(self) -> None:
        """Add the command line of this call to ``command.txt``."""
        with (self.path / "command.txt").open("a", encoding="utf-8") as file:
            file.write(shlex.join(["prune-gym", *sys.argv[1:]]) + "\n")

    def drop_results(self) -> None:
        """Remove what a finished search wrote: it no longer fits once the search goes on."""
        for name in ("metrics.json", "report.html"):
            (self.path / name).unlink(missing_ok=True)

    @property
    def agent(self) -> Path:
        """The trained agent."""
        return self.path / "agent.zip"

    @property
    def replay_buffer(self) -> Path:
        """What an off-policy agent learns from."""
        return self.path / "replay_buffer.npz"

    @property
    def front(self) -> Path:
        """The networks that no other one beats, masks included."""
        return self.path / "front.npz"

    @property
    def episodes(self) -> Path:
        """One row per evaluated network."""
        return self.path / "episodes.csv"

    def append(self, trial: Trial, number: int, multiplier: float, problem: PruningProblem) -> None:
        """Add one row to the log of episodes."""
        row: dict[str, Any] = {
            "episode": number,
            "accuracy": repr(trial.accuracy),
            "cost": repr(trial.cost),
            "feasible": int(trial.feasible),
            "multiplier": repr(multiplier),
            **{f"cost_{name}": repr(cost) for name, cost in trial.costs.items()},
            **{
                f"kept_{group.name}": f"{share:.6g}"
                for group, share in zip(problem.groups, trial.kept, strict=True)
            },
        }
        new = not self.episodes.exists()
        with self.episodes.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def read_episodes(self) -> list[dict[str, str]]:
        """Rows of the log; a last line that was cut off is left out.

        Raises:
            RunFolderError: the log is damaged.
        """
        if not self.episodes.exists():
            return []
        try:
            with self.episodes.open(newline="", encoding="utf-8") as file:
                lines = [line for line in file if line.endswith("\n")]
            rows = list(csv.DictReader(lines, strict=True))
            for row in rows:
                if None in row or None in row.values():
                    raise InvalidValueError(
                        f"row {row.get('episode')!r} has too many or too few columns"
                    )
                int(row["feasible"]), row["accuracy"], row["cost"], row["multiplier"]
                for value in row.values():
                    float(value)
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            raise RunFolderError(f"{self.episodes} is damaged: {error}") from error
        return rows

    def _drop_cut_line(self) -> None:
        """Remove a last line that was not written to its end."""
        if self.episodes.exists():
            content = self.episodes.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole and whole != content:
                self.episodes.write_bytes(whole)
            elif not whole and content.startswith(b"episode"):  # cut within the head line
                self.episodes.unlink()

    def restore(self, archive: Archive) -> int:
        """Fill an empty archive with the log and the front.

        Returns:
            How many evaluations had been remembered from before.
        """
        self._drop_cut_line()
        for row in self.read_episodes():
            archive.put(
                Trial(
                    accuracy=float(row["accuracy"]),
                    cost=float(row["cost"]),
                    costs={
                        key.removeprefix("cost_"): float(value)
                        for key, value in row.items()
                        if key.startswith("cost_")
                    },
                    feasible=row["feasible"] == "1",
                    kept=tuple(float(v) for key, v in row.items() if key.startswith("kept_")),
                )
            )
        if self.front.is_file():
            front = Front.load(self.front, RunFolderError)
            archive.front = front.until(len(archive.trials))
        return int(self.read_json("state.json").get("remembered", 0))

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run; an empty dict where it is missing."""
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            content: dict[str, Any] = json.loads(file.read_text())
        except ValueError as error:
            raise RunFolderError(f"{file} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise RunFolderError(f"{file} is damaged: it holds no JSON object.")
        return content


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the packages that matter."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
