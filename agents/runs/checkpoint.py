"""Checkpoints of a training, from which it goes on with new episodes.

Stable-Baselines3 saves a model: its networks, optimisers and counters, and ours save their
multiplier with it. A training is more: a replay buffer, the statistics of ``VecNormalize``, what
callbacks have counted. `Checkpoints` saves all that between two rollouts, as one file that is
replaced in one step. What is not saved is where environments stand in their episodes: a resumed
training begins new ones, with other random numbers, and the steps of those that were broken off do
not count.

>>> import tempfile
>>> from pathlib import Path
>>> from agents import BudgetToyEnv, PPOLagrangian
>>> from agents.runs.checkpoint import Checkpoint, Checkpoints
>>> path = Path(tempfile.mkdtemp()) / "checkpoint.zip"
>>> kwargs = {"n_steps": 60, "batch_size": 60, "seed": 0, "device": "cpu"}
>>> model = PPOLagrangian("MlpPolicy", BudgetToyEnv(), **kwargs)
>>> model = model.learn(120, callback=Checkpoints(path))
>>> again = Checkpoint.read(path).load_model(PPOLagrangian, BudgetToyEnv(), device="cpu")
>>> again.learn(60, reset_num_timesteps=False).num_timesteps
180
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

from agents.algorithms.stored_values import Reader, Writer
from agents.archive import Archive, DamageError, open_archive, write_archive
from agents.errors import ModelFileError
from agents.evaluation import Evaluation
from agents.files import replacing
from agents.runs.normaliser import set_statistics, statistics_of

FORMAT = 3  # of checkpoints; a larger one was written by a later version of this package


class Stateful(Protocol):
    """A part of the training, such as a callback, whose state belongs into a checkpoint."""

    def get_state(self) -> Any:
        """Return what JSON and arrays can hold, see `agents.algorithms.stored_values`."""

    def set_state(self, state: Any) -> None:
        """Go on from what `get_state` returned."""


class TrainingStopped(Exception):
    """Raised from ``learn`` after the checkpoint that was asked for by ``Checkpoints.stop``."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: Its file.
        num_timesteps: After how many steps it was taken.
        parts: States of the training's parts, by name.
        keeps: Names of files beside it that belong to it.
        statistics: Of ``VecNormalize``, by name; none where the training has no such layer.
    """

    path: Path
    num_timesteps: int
    parts: Mapping[str, Any]
    keeps: tuple[str, ...]
    statistics: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path | str) -> Checkpoint:
        """Read a checkpoint; nothing of it is run.

        Raises:
            ModelFileError: If the file is damaged or of another version.
            MissingFileError: If there is none.
        """
        path = Path(path)
        with _checkpoint(path) as archive:
            if "state.pkl" in archive.names:
                raise ModelFileError(
                    f"{path} was written by an earlier version, as a pickle, which can run "
                    "anything and is not read any more. Start the training anew."
                )
            data = archive.json()
            version = data.pop("_format", None)
            if version != FORMAT:
                later = isinstance(version, int) and version > FORMAT
                cure = "Upgrade the package to go on from it." if later else "Start anew."
                raise ModelFileError(
                    f"{path} has format {version}; this version knows up to {FORMAT}. {cure}"
                )
            reader = Reader(archive, str(path))
            state = {name: reader.read(name, value) for name, value in data.items()}
            kinds = {"num_timesteps": int, "parts": dict, "keeps": tuple, "statistics": dict}
            for name, kind in kinds.items():
                if type(state.get(name)) is not kind:
                    raise DamageError(f"{name} is {str(state.get(name))[:80]}")
            if state["num_timesteps"] < 0 or state.keys() != kinds.keys():
                raise DamageError("its steps are negative, or it holds something else")
            return cls(path, **state)

    def load_model(
        self,
        algorithm: type[BaseAlgorithm],
        env: GymEnv,
        *,
        device: str = "auto",
        trust: bool = False,
    ) -> Any:
        """Load the model, its replay buffer, and the statistics that normalise its observations.

        The next ``learn(..., reset_num_timesteps=False)`` begins new episodes.

        Args:
            algorithm: The class of the model.
            env: An environment like that of the saved training, or a vector of them.
            device: Of the model.
            trust: Whether values of a user's own in it may be unpickled, which can run anything.
        """
        how: Any = {"trust": True} if trust else {}  # which classes of others do not know
        with _checkpoint(self.path) as archive:
            file = io.BytesIO(archive.read("model.zip"))
            model: Any = algorithm.load(file, env=env, device=device, **how)
            if getattr(model, "replay_buffer", None) is not None:
                with archive.open("replay_buffer.npz") as buffer_file:
                    model.load_replay_buffer(buffer_file)
                break_off(model.replay_buffer)
            normaliser = model.get_vec_normalize_env()
            if normaliser is not None:
                set_statistics(normaliser, self.statistics)
        return model

    def restore_files(self, keeps: Sequence[str]) -> None:
        """Put the files that the checkpoint keeps back beside it, and remove later ones.

        Args:
            keeps: Their names, which are not taken from the file: it could name others.
        """
        with _checkpoint(self.path) as archive:
            for name in keeps:
                target = self.path.with_name(name)
                if f"files/{name}" in archive.names:
                    with replacing(target) as partial:
                        partial.write_bytes(archive.read(f"files/{name}"))
                elif name in self.keeps:
                    target.unlink(missing_ok=True)


@contextmanager
def _checkpoint(path: Path) -> Iterator[Archive]:
    """Open a checkpoint; what is wrong with it becomes one error that names it."""
    try:
        with open_archive(path) as archive:
            yield archive
    except (DamageError, ModelFileError) as error:
        words = " ".join(str(error).split())
        if str(path) in words:
            raise
        raise ModelFileError(
            f"{path} is no checkpoint, or damaged ({words}). Start the training anew."
        ) from error


def check_state(state: Any, own: Mapping[str, Any]) -> None:
    """Raise a ValueError unless the state of a part is like that which it has now.

    Args:
        state: Of a checkpoint.
        own: Of the part, whose values show what kinds they are.
    """
    if not isinstance(state, dict) or state.keys() != own.keys():
        raise ValueError(f"keys are {str(state)[:80]}; they must be {sorted(own)}")
    for name, value in state.items():
        example = own[name]
        if isinstance(example, list):
            fits = isinstance(value, list) and all(map(_is_number, _leaves(value)))
        elif example is None or isinstance(example, Evaluation):
            fits = value is None or isinstance(value, Evaluation)
        elif isinstance(example, int):
            fits = type(value) is int and value >= 0
        else:
            fits = _is_number(value)
        if not fits:
            raise ValueError(f"{name} is {str(value)[:80]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _leaves(value: Any) -> Iterator[Any]:
    for item in value:
        if isinstance(item, list | tuple):
            yield from _leaves(item)
        else:
            yield item


def break_off(buffer: Any) -> None:
    """Note in a replay buffer that its last episodes go on no further: n-step returns end there."""
    last = (buffer.pos - 1) % buffer.buffer_size
    buffer.timeouts[last] = np.logical_not(buffer.dones[last])


class Checkpoints(BaseCallback):
    """Saves checkpoints between rollouts, before the first step of the next one.

    Args:
        path: The file; a new checkpoint replaces it in one step.
        every_s: Seconds between checkpoints. Where saving is slow (a large replay buffer) it is
            done less often, so that it takes a twentieth of the time at most. 0 saves always.
        parts: What else has a state, by name.
        keeps: Names of files beside ``path`` that belong to the checkpoint.

    Attributes:
        stop: Set it to True: the next checkpoint is taken at the end of the running rollout, and
            ``learn`` raises `TrainingStopped`.
        saved: Steps at the latest checkpoint; None before the first.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        every_s: float = 60.0,
        parts: Mapping[str, Stateful] | None = None,
        keeps: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.every_s = every_s
        self.parts = dict(parts or {})
        self.keeps = tuple(keeps)
        self.stop = False
        self.saved: int | None = None
        self._due = 0.0
        self._within_rollout = False

    def _on_rollout_start(self) -> None:
        if self.stop or time.monotonic() >= self._due:
            self.save()
        if self.stop:
            raise TrainingStopped(f"stopped after {self.model.num_timesteps} timesteps")
        self._within_rollout = True

    def _on_rollout_end(self) -> None:
        self._within_rollout = False

    def _on_training_end(self) -> None:
        if not self._within_rollout:  # where no callback broke a rollout off
            self.save()  # after the last update: from here the training can be made longer

    def _on_step(self) -> bool:
        return True

    def save(self) -> None:
        """Save a checkpoint now; between rollouts only."""
        begun = time.monotonic()
        self._write()
        self.saved = self.model.num_timesteps
        ended = time.monotonic()
        self._due = (
            ended if self.every_s == 0.0 else ended + max(self.every_s, 19 * (ended - begun))
        )

    def _write(self) -> None:
        model = self.model
        writer = Writer()
        state = {
            "num_timesteps": model.num_timesteps,
            "parts": {name: part.get_state() for name, part in self.parts.items()},
            "keeps": self.keeps,
            "statistics": statistics_of(model.get_vec_normalize_env()),
        }
        data = {"_format": FORMAT, **writer.write(state)}
        model_file = io.BytesIO()
        model.save(model_file)
        files: dict[str, Path | bytes] = {"model.zip": model_file.getvalue()}
        buffer = getattr(model, "replay_buffer", None)
        if buffer is not None:
            buffer_file = io.BytesIO()
            buffer.save(buffer_file)
            files["replay_buffer.npz"] = buffer_file.getvalue()
        for name in self.keeps:
            if self.path.with_name(name).exists():
                files[f"files/{name}"] = self.path.with_name(name)
        with replacing(self.path) as partial:
            write_archive(partial, data, writer.arrays, files)
