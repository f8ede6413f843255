"""The statistics by which ``VecNormalize`` normalises, in files of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from agents.algorithms.model_file import reading, writing
from agents.algorithms.stored_values import Reader, Writer
from agents.archive import DamageError, write_archive

_STATISTICS = ("obs_rms", "ret_rms")
FORMAT = 1  # of saved statistics


def statistics_of(normaliser: VecNormalize | None) -> dict[str, Any]:
    """Return the statistics of a ``VecNormalize`` by name; none where there is none."""
    noted = {} if normaliser is None else vars(normaliser)
    return {name: noted[name] for name in _STATISTICS if name in noted}


def set_statistics(normaliser: VecNormalize, statistics: Mapping[str, Any]) -> None:
    """Give a ``VecNormalize`` statistics that were saved.

    Raises:
        DamageError: If they are not of observations like its own.
    """
    own = statistics_of(normaliser)
    for name, value in own.items():
        if _shapes(statistics.get(name)) != _shapes(value):
            raise DamageError(f"statistics.{name} do not fit the environment's observations")
    vars(normaliser).update({name: statistics[name] for name in own})


def _shapes(statistics: Any) -> Any:
    if isinstance(statistics, dict):
        return {key: _shapes(value) for key, value in statistics.items()}
    return statistics.mean.shape if isinstance(statistics, RunningMeanStd) else None


def save_statistics(normaliser: VecNormalize, path: Path) -> None:
    """Write the statistics of a ``VecNormalize``."""
    writer = Writer()
    data = {"_format": FORMAT, "statistics": writer.write(statistics_of(normaliser))}
    with writing(path, ".npz") as file:
        write_archive(file, data, writer.arrays)


def load_statistics(normaliser: VecNormalize, path: Path) -> None:
    """Give a ``VecNormalize`` the statistics of a file.

    Raises:
        ModelFileError: If the file is damaged, or of other observations.
    """
    what, cure = "file of statistics", "Lengthen the run to write it anew, or train anew."
    with reading(path, ".npz", what, cure) as archive:
        content = archive.json().get("statistics")
        if not isinstance(content, dict):
            raise DamageError("statistics is missing in it")
        set_statistics(normaliser, Reader(archive, str(path)).read("statistics", content))
