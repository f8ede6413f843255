"""The run folder: what a search writes, so that nothing is lost and it can go on."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.files import check_new_folder, remove_partials
from agents.logs import LineLog, count_lines
from prune_gym.errors import FileError, InvalidValueError, RunFolderError
from prune_gym.problem.archive import Archive, Front, Trial
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.trust import trust_option
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.other_runs import refuse_training_run
from prune_gym.searches.records import MOST_LOG_BYTES, RECORDS, Config, check_row, reward_of
from prune_gym.tasks.metrics import Metric
from prune_gym.utils.files import make_folder, replacing, user_path, write_json
from prune_gym.utils.records import in_one_line, is_there, read_bytes, read_record

_PACKAGES = (
    "prune-gym",
    "torch",
    "torchvision",
    "gymnasium",
    "stable-baselines3",
    "numpy",
    "scikit-learn",
)


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def check_free(cls, path: Path | str) -> None:
        """Raise unless a new run can go to a folder; to be called before anything is loaded.

        Raises:
            RunFolderError: it holds something already.
            FileError: it cannot be made, or takes no file.
        """
        check_new_folder(user_path(path), "config.json", RunFolderError, FileError)

    @classmethod
    def create(cls, path: Path | str, config: SearchConfig) -> RunFolder:
        """Make a folder for a new run; see `check_free`."""
        cls.check_free(path)
        folder = cls(user_path(path))
        make_folder(folder.path)
        remove_partials(folder.path)
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
        path = user_path(path)
        file = path / "config.json"
        if not is_there(file, RunFolderError):
            raise RunFolderError(f"{path} is no run folder: it holds no config.json.")
        refuse_training_run(path)
        content = read_record(file, Config, RunFolderError)
        try:
            return cls(path), SearchConfig.from_json(content)
        except (ValueError, TypeError) as error:
            raise RunFolderError(f"{file} is damaged: {error}") from error

    def note_command(self) -> None:
        """Add the command line of this call to ``command.txt``."""
        with LineLog(self.path / "command.txt", FileError) as log:
            log.add(shlex.join(["prune-gym", *sys.argv[1:]]))

    def commands(self) -> list[str]:
        """The command lines that worked on the run, as they were noted."""
        noted = self.path / "command.txt"
        if not is_there(noted, RunFolderError):
            return []
        text = read_bytes(noted, RunFolderError).decode("utf-8", errors="replace")
        return text.splitlines()

    def drop_results(self) -> None:
        """Remove what a finished search wrote: it no longer fits once the search goes on."""
        for name in ("metrics.json", "report.html", self.fine_tuning.name):
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
    def fine_tuning(self) -> Path:
        """State of a fine-tuning that was stopped."""
        return self.path / "finetuning.safetensors"

    @property
    def front(self) -> Path:
        """The networks that no other one beats, masks included."""
        return self.path / "front.npz"

    @property
    def episodes(self) -> Path:
        """One row per evaluated network."""
        return self.path / "episodes.csv"

    def append(
        self,
        trial: Trial,
        number: int,
        multiplier: float,
        problem: PruningProblem,
        racing: bool = False,
    ) -> None:
        """Add one row to the log of episodes; of a race with its share of the images."""
        row: dict[str, Any] = {
            "episode": number,
            **_judged(trial, problem.task.metric),
            "cost": repr(trial.cost),
            "feasible": int(trial.feasible),
            **({"judged": f"{trial.judged:.6g}"} if racing else {}),
            "multiplier": repr(multiplier),
            **{f"cost_{name}": repr(cost) for name, cost in trial.costs.items()},
            **{
                f"kept_{group.name}": f"{share:.6g}"
                for group, share in zip(problem.groups, trial.kept, strict=True)
            },
        }
        with LineLog(self.episodes, FileError) as log:
            lines = io.StringIO(newline="")
            writer = csv.DictWriter(lines, list(row))
            if log.is_empty:
                writer.writeheader()
            writer.writerow(row)
            log.add(lines.getvalue())

    def read_episodes(self) -> list[dict[str, str]]:
        """Rows of the log; a last line that was cut off is left out.

        Raises:
            RunFolderError: the log is damaged.
        """
        if not is_there(self.episodes, RunFolderError):
            return []
        content = read_bytes(self.episodes, RunFolderError, MOST_LOG_BYTES)
        try:
            lines = io.StringIO(content.decode("utf-8"), newline="")
            whole = [line for line in lines if line.endswith("\n")]
            rows = list(csv.DictReader(whole, strict=True))
        except (ValueError, csv.Error) as error:
            why = in_one_line(error)
            raise RunFolderError(f"{self.episodes} is damaged: {why}") from error
        for number, row in enumerate(rows, start=1):
            check_row(self.episodes, number, row)
        return rows

    def _drop_cut_line(self) -> None:
        """Remove a last line that was not written to its end."""
        if is_there(self.episodes, RunFolderError):
            content = read_bytes(self.episodes, RunFolderError, MOST_LOG_BYTES)
            whole = content[: content.rfind(b"\n") + 1]
            if whole and whole != content:
                with replacing(self.episodes) as partial:
                    partial.write_bytes(whole)
            elif not whole and content.startswith(b"episode"):  # cut within the head line
                self.episodes.unlink()

    def restore(self, archive: Archive, depth: bool = False) -> int:
        """Fill an empty archive with the log and the front.

        Args:
            archive: empty.
            depth: whether networks of the front may keep nothing of a filter group.

        Returns:
            How many evaluations had been remembered from before.
        """
        remove_partials(self.path)
        self._drop_cut_line()
        for row in self.read_episodes():
            archive.put(
                Trial(
                    accuracy=reward_of(row),
                    cost=float(row["cost"]),
                    costs={
                        key.removeprefix("cost_"): float(value)
                        for key, value in row.items()
                        if key.startswith("cost_")
                    },
                    feasible=row["feasible"] == "1",
                    kept=tuple(float(v) for key, v in row.items() if key.startswith("kept_")),
                    judged=float(row.get("judged", 1.0)),
                )
            )
        if is_there(self.front, RunFolderError):
            front = Front.load(self.front, RunFolderError, depth)
            archive.front = front.until(len(archive.trials))
        return int(self.read_json("state.json").get("remembered", 0))

    def check_fits(self, archive: Archive, problem: PruningProblem) -> None:
        """Raise RunFolderError unless what `restore` gave is of this problem, and can be true."""
        for number, trial in enumerate(archive.trials, start=1):
            if (*trial.costs,) != problem.names or len(trial.kept) != len(problem.groups):
                raise RunFolderError(
                    f"{self.episodes} is of another problem: row {number} has costs of "
                    f"{', '.join(trial.costs) or 'nothing'} and {len(trial.kept)} filter groups."
                )
            costs = np.array(list(trial.costs.values()))
            if trial.feasible and not problem.feasible(costs):
                raise RunFolderError(
                    f"{self.episodes} is damaged: row {number} is said to be within every limit, "
                    "and its costs are not. Put the file back as it was."
                )
        self.check_front(archive.front, problem)

    def check_front(self, front: Front, problem: PruningProblem) -> None:
        """Raise RunFolderError unless a front is of this problem, with costs that can be true."""
        try:
            front.check_costs(problem)
        except InvalidValueError as error:
            raise RunFolderError(
                f"{self.front} does not fit the run: {error}. Put it back as it was; without it "
                "the search goes on, and pick has nothing to look at."
            ) from error

    def round(self, number: int) -> RunFolder:
        """Where the search of a round is, from 1, of a run in rounds."""
        return RunFolder(self.path / f"round-{number}")

    def searches(self, config: SearchConfig) -> list[RunFolder]:
        """Where its searches are that were begun: itself, or its rounds.

        Args:
            config: of the run.
        """
        if config.rounds == 1:
            return [self]
        rounds = map(self.round, range(1, config.rounds + 1))
        return [one for one in rounds if (one.path / "config.json").is_file()]

    @property
    def run_of_round(self) -> tuple[RunFolder, SearchConfig] | None:
        """The run that this folder is a round of, and its configuration; None = of none."""
        path = user_path(self.path).absolute()
        with suppress(RunFolderError):
            run, config = self.open(path.parent)
            if config.rounds > 1 and path in (one.path for one in run.searches(config)):
                return run, config
        return None

    def check_has_problem(self, config: SearchConfig) -> None:
        """Raise RunFolderError where no file says of what problem the run is.

        Args:
            config: of the run.
        """
        if config.problem:
            return
        found = self.run_of_round
        if found is not None:
            raise RunFolderError(
                f"{self.path} is one round of the run in {found[0].path}; give that folder."
            )
        call = "search(problem, out=..., resume=True)"
        if config.rounds > 1:
            call = f"search_in_rounds({config.rounds}, ...), as it was called before"
        raise RunFolderError(
            f"{self.path} was begun from Python with an object, which no file holds; go on there: "
            f"prune_gym.{call}."
        )

    @property
    def resume_command(self) -> str:
        """What goes on with the run, as a shell takes it, with the options that it needs."""
        option = ""
        with suppress(RunFolderError):  # the message that it is part of says what is wrong
            config = self.open(self.path)[1]
            option = trust_option(config.problem)
            if config.measure_on is not None:
                option += f" --workers 1 --measure-on {shlex.quote(config.measure_on)}"
        return f"prune-gym prune --resume {shlex.quote(str(self.path))}{option}"

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run; an empty dict where it is missing.

        Raises:
            RunFolderError: it is damaged, or holds what it cannot hold.
        """
        file = self.path / name
        if not is_there(file, RunFolderError):
            return {}
        return read_record(file, RECORDS[name], RunFolderError)


@contextmanager
def how_to_go_on(folder: RunFolder | None) -> Iterator[None]:
    """Where a file cannot be written, as the disk is full, say what is kept and what to do then."""
    try:
        yield
    except FileError as error:
        if folder is None:
            raise
        rows = max(0, count_lines(folder.episodes) - 1)
        raise FileError(
            error.errno,
            f"{error} {rows} networks are recorded; then: {folder.resume_command}, "
            "or search(..., resume=True) in Python.",
        ) from error


def _judged(trial: Trial, metric: Metric) -> dict[str, str]:
    """What a row says of how well a network does: its accuracy, or the reward and the metric."""
    if metric.name == "accuracy":
        return {"accuracy": repr(trial.accuracy)}
    value = metric.value(trial.accuracy)
    return {"reward": repr(trial.accuracy), f"metric_{metric.name}": repr(value)}


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the packages that matter."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
