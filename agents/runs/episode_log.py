"""What a training writes down: a row per episode, and Stable-Baselines3's log, continued."""

from __future__ import annotations

import csv
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)

from agents.costs import read_cost_limit, read_costs
from agents.errors import RunFolderError
from agents.logs import LineLog, count_lines, keep_lines, own_file

try:  # Stable-Baselines3 does without it, too
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    SummaryWriter = None  # type: ignore[assignment, misc]

COLUMNS = (
    "episode",
    "timesteps",
    "return",
    "cost",
    "length",
    "feasible",
    "multiplier",
    "wall_s",
)
REPORT_EVERY_S = 10.0


class EpisodeLog(BaseCallback):
    """Writes ``episodes.csv``: one row per finished episode of the training.

    The return is unpenalised: the sum of ``info["reward"]`` where steps have it, else what
    ``Monitor`` says. The multiplier is the one that holds when the episode ends (several are
    separated by spaces, agents without one leave it empty), ``wall_s`` the duration of the training
    so far.

    Args:
        path: The file; rows are appended.
        progress: The log of the training, ``progress.csv``; it is cut back along with ``path`` when
            a checkpoint is restored.
        cost_limit: Limit on the episodic cost; read from the environment if left out.
        report: Called with a line of words every ten seconds.

    Attributes:
        episodes: Number of rows.
        finished_steps: Steps of these episodes.
    """

    def __init__(
        self,
        path: Path,
        *,
        progress: Path,
        cost_limit: float | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.progress = progress
        self.episodes = 0
        self.finished_steps = 0
        self._cost_limit = cost_limit
        self._report = report
        self._file: LineLog | None = None
        self._begun = self._reported = time.monotonic()
        self._wall_s_before = 0.0  # before it was resumed
        self._recent: deque[tuple[float, float]] = deque(maxlen=20)  # returns, costs

    @property
    def wall_s(self) -> float:
        """Duration of the training so far, without the time between stops and resumptions."""
        return self._wall_s_before + time.monotonic() - self._begun

    def get_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "episodes": self.episodes,
            "finished_steps": self.finished_steps,
            "recent": list(self._recent),
            "wall_s": self.wall_s,
            "progress_lines": count_lines(self.progress),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, before the training starts; later rows are cut off."""
        self.episodes = state["episodes"]
        self.finished_steps = state["finished_steps"]
        self._recent.extend(state["recent"])
        self._wall_s_before = state["wall_s"]
        keep_lines(self.path, 1 + self.episodes)
        keep_lines(self.progress, state["progress_lines"])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _on_training_start(self) -> None:
        n_envs = self.training_env.num_envs
        self._running = np.zeros((n_envs, 3))  # unpenalised reward, cost, length
        self._paid = np.zeros(n_envs, dtype=bool)  # whether info["reward"] was there
        self._begun = self._reported = time.monotonic()
        self._file = LineLog(self.path)
        if self._file.is_empty:
            self._file.add(",".join(COLUMNS))

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self._running[:, 1] += read_costs(infos)
        self._running[:, 2] += 1
        for index, info in enumerate(infos):
            if "reward" in info:
                self._running[index, 0] += float(info["reward"])
                self._paid[index] = True
        for done in np.flatnonzero(self.locals["dones"]).tolist():
            self._finish(done, infos[done])
        self._speak()
        return True

    def _finish(self, index: int, info: Mapping[str, Any]) -> None:
        earned, cost, length = self._running[index].tolist()
        if not self._paid[index]:
            earned = float(info["episode"]["r"])
        self._running[index], self._paid[index] = 0.0, False
        self._recent.append((earned, cost))
        self.episodes += 1
        self.finished_steps += int(length)
        row = (
            self.episodes,
            self.num_timesteps,
            earned,
            cost,
            int(length),
            int(cost <= self._limit()),
            " ".join(map(str, self._prices())),
            f"{self.wall_s:.3f}",
        )
        if self._file is not None:
            self._file.add(",".join(map(str, row)))

    def _limit(self) -> float:
        if self._cost_limit is not None:
            return self._cost_limit
        return read_cost_limit(self.training_env)

    def _prices(self) -> list[float]:
        multiplier = getattr(self.model, "multiplier", None)
        return [] if multiplier is None else np.atleast_1d(multiplier.value).tolist()

    def _speak(self) -> None:
        if self._report is None or time.monotonic() - self._reported < REPORT_EVERY_S:
            return
        self._reported = time.monotonic()
        words = [f"{self.num_timesteps:,} timesteps", f"{self.episodes:,} episodes"]
        if self._recent:
            earned, cost = np.mean(self._recent, axis=0)
            words.append(f"of the last {len(self._recent)}: return {earned:.4g}")
            words.append(f"cost {cost:.4g} (limit {self._limit():.4g})")
        words += [f"multiplier {price:.4g}" for price in self._prices()]
        self._report(", ".join(words))


@dataclass(frozen=True)
class Summary:
    """What ``episodes.csv`` says of a training.

    Attributes:
        episodes: Finished episodes.
        violations: How many of them cost more than the limit.
        best_feasible_return: The best return of an episode within the limit, None without one.
        episodes_to_first_feasible: Number of the first such episode, None without one.
    """

    episodes: int
    violations: int
    best_feasible_return: float | None
    episodes_to_first_feasible: int | None


def summarise(path: Path) -> Summary:
    """Read ``episodes.csv``.

    Raises:
        RunFolderError: If it is missing or damaged.
    """
    n_episodes, violations = 0, 0
    best: float | None = None
    first: int | None = None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                n_episodes += 1
                if row["feasible"] == "0":
                    violations += 1
                    continue
                first = int(row["episode"]) if first is None else first
                earned = float(row["return"])
                best = earned if best is None else max(best, earned)
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise RunFolderError(
            f"{path} is damaged: {error}. Delete {path.name} and checkpoint.zip to start anew."
        ) from error
    return Summary(n_episodes, violations, best, first)


class ContinuedCSV(CSVOutputFormat):
    """Stable-Baselines3's CSV of the log, going on with the file that is there."""

    def __init__(self, path: Path) -> None:
        own_file(path)
        if not path.exists() or not path.stat().st_size:
            super().__init__(str(path))
            return
        self.file = path.open("r+", encoding="utf-8", errors="replace")
        self.keys = self.file.readline().rstrip("\n").split(",")
        self.separator, self.quotechar = ",", '"'
        self.file.seek(0, 2)


class _ContinuedTensorBoard(TensorBoardOutputFormat):
    """TensorBoard's events; what was written beyond this step before is hidden."""

    def __init__(self, folder: Path, first_step: int | None) -> None:
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=first_step)
        self._is_closed = False


def make_logger(folder: Path, *, timesteps: int | None = None) -> Logger:
    """Make the logger of a training: ``progress.csv``, and TensorBoard's events if installed.

    Args:
        folder: Where the files go; what is there is gone on with.
        timesteps: Steps of the checkpoint the training goes on from.
    """
    outputs: list[KVWriter] = [ContinuedCSV(folder / "progress.csv")]
    if SummaryWriter is not None:
        outputs.append(_ContinuedTensorBoard(folder, None if timesteps is None else timesteps + 1))
    return Logger(str(folder), outputs)
