"""Runs of ``python -m agents.train``, which may lie beside those of ``prune-gym prune``."""

from __future__ import annotations

from pathlib import Path

from agents.files import read_json
from prune_gym.errors import RunFolderError


def refuse_training_run(path: Path | str) -> None:
    """Raise a RunFolderError that says which command reads it, if a folder is of ``agents.train``.

    What is wrong with other folders is said by those who read them.
    """
    try:
        content = read_json(Path(path) / "config.json", RunFolderError)
    except RunFolderError:
        return
    if {"env_kwargs", "overrides"} <= content.keys():
        raise RunFolderError(
            f"{path} is a run of python -m agents.train, which goes on with it (--resume {path}); "
            f"its policy is shown by python -m agents.enjoy {path}"
        )
