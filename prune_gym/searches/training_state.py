"""A training that was stopped, in a file: weights, optimizer, order of the data, and what it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prune_gym.errors import FileError, RunFolderError
from prune_gym.networks.checkpoints import read_tensors, write_tensors
from prune_gym.training.loop import Training
from prune_gym.utils.files import reading
from prune_gym.utils.records import shortened

_ABOUT = "about"  # a tensor of bytes among the others, which are the training's


@dataclass
class TrainingState:
    """The state of a training on disk, as safetensors: no pickle, and whole or not there.

    Attributes:
        path: the file; it need not be there.
        about: what is trained, for JSON; a state about something else is refused.
        notes: what else is kept with it, for JSON.
    """

    path: Path
    about: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def peek(cls, path: Path) -> TrainingState | None:
        """What a file says of itself; None where there is none.

        Raises:
            RunFolderError: it is damaged.
        """
        if not path.is_file():
            return None
        with reading(path, RunFolderError):
            said = json.loads(bytes(read_tensors(path)[_ABOUT].tolist()))
            return cls(path, dict(said["about"]), dict(said["notes"]))

    def restore(self, training: Training) -> None:
        """Go on from the file, if there is one.

        Raises:
            RunFolderError: it is damaged, or about another training.
        """
        saved = self.peek(self.path)
        if saved is None:
            return
        if saved.about != self.about:
            raise RunFolderError(
                f"{self.path} is of another fine-tuning ({_words(saved.about)}, not "
                f"{_words(self.about)}); delete it to start this one from its beginning."
            )
        with reading(self.path, RunFolderError):
            training.restore(read_tensors(self.path))

    def save(self, training: Training) -> None:
        """Write it; the file that was there stays until the new one is whole."""
        said = json.dumps({"about": self.about, "notes": self.notes}).encode()
        tensors = {**training.tensors(), _ABOUT: torch.tensor(list(said), dtype=torch.uint8)}
        try:
            write_tensors(self.path, tensors)
        except OSError as error:
            raise FileError(
                f"the state of the fine-tuning cannot be saved: {error} What was saved before is "
                "whole; make room and go on."
            ) from error

    def drop(self) -> None:
        """Remove the file: the training is over."""
        self.path.unlink(missing_ok=True)


def _words(about: dict[str, Any]) -> str:
    return ", ".join(shortened(f"{name} {value}")[1:-1] for name, value in about.items())
