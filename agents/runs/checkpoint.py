"""Checkpoints from which a training goes on as if it had never stopped, to the last bit.

Stable-Baselines3 saves a model's parameters and settings. A training is more: its replay buffer,
the statistics of ``VecNormalize``, the states of all random generators, and where every environment
stands in its episode. `Checkpoints` saves all that between two rollouts, as one file that is
replaced in one step, and a later training is put back to the same point between two rollouts:

>>> import tempfile
>>> from pathlib import Path
>>> from stable_baselines3.common.vec_env import DummyVecEnv
>>> from agents import BudgetToyEnv, PPOLagrangian
>>> from agents.runs.checkpoint import Checkpoint, Checkpoints
>>> from agents.runs.replayable import Replayable
>>> path = Path(tempfile.mkdtemp()) / "checkpoint.zip"
>>> def make():
...     return DummyVecEnv([lambda: Replayable(BudgetToyEnv())])
>>> model = PPOLagrangian("MlpPolicy", make(), n_steps=60, batch_size=60, seed=0, device="cpu")
>>> model = model.learn(120, callback=Checkpoints(path))
>>> checkpoint = Checkpoint.read(path)
>>> again = checkpoint.load_model(PPOLagrangian, make(), device="cpu")
>>> callback = Checkpoints(path, resume_from=checkpoint)
>>> again.learn(60, callback=callback, reset_num_timesteps=False).num_timesteps
180
"""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.files import replacing
from agents.runs.model_state import get_state, set_state
from agents.runs.replayable import Replayable

# what a file that is none, or whose classes have other names now, may raise
_DAMAGE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    AttributeError,
    ImportError,
    IndexError,
    TypeError,
)
FORMAT = 1  # of checkpoints; a larger one was written by a later version of this package


class Stateful(Protocol):
    """A part of the training, such as a callback, whose state belongs into a checkpoint."""

    def get_state(self) -> Any:
        """Return what can be pickled."""

    def set_state(self, state: Any, *, new_episodes: bool) -> None:
        """Go on from what `get_state` returned; with ``new_episodes`` all environments begin."""


class TrainingStopped(Exception):
    """Raised from ``learn`` after the checkpoint that was asked for by ``Checkpoints.stop``."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: Its file.
        state: All but the model and its replay buffer.
    """

    path: Path
    state: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path | str) -> Checkpoint:
        """Read a checkpoint; like every pickle, only from somebody you trust.

        Raises:
            ValueError: If the file is damaged or of a later version.
            FileNotFoundError: If there is none.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                state = pickle.loads(archive.read("state.pkl"))
            version = state["format"]
        except _DAMAGE as error:
            raise ValueError(
                f"{path} is no checkpoint, or damaged ({error}). Start the training anew."
            ) from error
        if version > FORMAT:
            raise ValueError(
                f"{path} has format {version}; this version knows up to {FORMAT}. Upgrade the "
                "package to go on from it."
            )
        return cls(Path(path), state)

    @property
    def num_timesteps(self) -> int:
        """After how many steps it was taken."""
        return int(self.state["num_timesteps"])

    def load_model(
        self,
        algorithm: type[BaseAlgorithm],
        env: VecEnv,
        *,
        device: str = "auto",
        new_episodes: bool = False,
    ) -> Any:
        """Load the model and its replay buffer; `Checkpoints` restores the rest in ``learn``.

        Args:
            algorithm: The class of the model.
            env: A vector of environments like those of the saved training.
            device: Of the model.
            new_episodes: Whether all environments begin new episodes.
        """
        with zipfile.ZipFile(self.path) as archive:
            file = io.BytesIO(archive.read("model.zip"))
            model: Any = algorithm.load(file, env=env, device=device, force_reset=new_episodes)
            if "replay_buffer.pkl" in archive.namelist():
                with archive.open("replay_buffer.pkl") as buffer_file:
                    raw: Any = buffer_file
                    model.load_replay_buffer(io.BufferedReader(raw))
                if new_episodes:
                    break_off(model.replay_buffer)
        return model

    def restore_files(self) -> None:
        """Put the files that the checkpoint keeps back beside it, and remove later ones."""
        with zipfile.ZipFile(self.path) as archive:
            for name in self.state["keeps"]:
                target = self.path.with_name(name)
                if f"files/{name}" in archive.namelist():
                    with replacing(target) as partial:
                        partial.write_bytes(archive.read(f"files/{name}"))
                else:
                    target.unlink(missing_ok=True)


def break_off(buffer: Any) -> None:
    """Note in a replay buffer that its last episodes go on no further: n-step returns end there."""
    last = (buffer.pos - 1) % buffer.buffer_size
    buffer.timeouts[last] = np.logical_not(buffer.dones[last])


class Checkpoints(BaseCallback):
    """Saves checkpoints between rollouts, and restores one at the first rollout.

    Both happen at the same point of the loop, before the first step of a rollout; what happened in
    between (loading, seeding, resets) leaves no trace. Environments have to be `Replayable`.

    Args:
        path: The file; a new checkpoint replaces it in one step.
        every_s: Seconds between checkpoints. Where saving is slow (a large replay buffer) it is
            done less often, so that it takes a twentieth of the time at most. 0 saves always.
        parts: What else has a state, by name.
        keeps: Names of files beside ``path`` that belong to the checkpoint.
        resume_from: The checkpoint to go on from.
        new_episodes: Whether environments begin new episodes, as in `Checkpoint.load_model`. The
            training is then another one from there on.

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
        resume_from: Checkpoint | None = None,
        new_episodes: bool = False,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.every_s = every_s
        self.parts = dict(parts or {})
        self.keeps = tuple(keeps)
        self.stop = False
        self.saved: int | None = None if resume_from is None else resume_from.num_timesteps
        self._resume_from = resume_from
        self._new_episodes = new_episodes
        self._due = 0.0 if resume_from is None else time.monotonic() + every_s
        self._within_rollout = False

    def _on_training_start(self) -> None:
        if not all(self.training_env.env_is_wrapped(Replayable)):
            raise ValueError(
                "env: checkpoints need every environment in agents.runs.replayable.Replayable, outside "
                "of all other wrappers."
            )

    def _on_rollout_start(self) -> None:
        if self._resume_from is not None:
            restore(self.model, self._resume_from, self.parts, new_episodes=self._new_episodes)
            self._resume_from = None
        elif self.stop or time.monotonic() >= self._due:
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
        save(self.path, self.model, self.parts, self.keeps)
        self.saved = self.model.num_timesteps
        ended = time.monotonic()
        self._due = (
            ended if self.every_s == 0.0 else ended + max(self.every_s, 19 * (ended - begun))
        )


def save(
    path: Path, model: BaseAlgorithm, parts: Mapping[str, Stateful], keeps: Sequence[str]
) -> None:
    """Write a checkpoint; what lies at ``path`` is replaced once the new one is whole."""
    state = {
        **get_state(model),
        "format": FORMAT,
        "num_timesteps": model.num_timesteps,
        "parts": {name: part.get_state() for name, part in parts.items()},
        "keeps": tuple(keeps),
    }
    with (
        replacing(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.writestr("state.pkl", pickle.dumps(state))
        model_file = io.BytesIO()
        model.save(model_file)
        archive.writestr("model.zip", model_file.getvalue())
        for name in keeps:
            if path.with_name(name).exists():
                archive.write(path.with_name(name), f"files/{name}")
        buffer = getattr(model, "replay_buffer", None)
        if buffer is not None:
            with archive.open("replay_buffer.pkl", "w", force_zip64=True) as buffer_file:
                pickle.dump(buffer, buffer_file, protocol=pickle.HIGHEST_PROTOCOL)


def restore(
    model: BaseAlgorithm,
    checkpoint: Checkpoint,
    parts: Mapping[str, Stateful],
    *,
    new_episodes: bool = False,
) -> None:
    """Put everything but the model itself back to where it stood; before a rollout's first step.

    Raises:
        EpisodeMismatchError: If an environment cannot be brought back to its episode.
    """
    for name, part in parts.items():
        part.set_state(checkpoint.state["parts"][name], new_episodes=new_episodes)
    checkpoint.restore_files()
    set_state(model, checkpoint.state, new_episodes=new_episodes)  # last: it sets the generators
