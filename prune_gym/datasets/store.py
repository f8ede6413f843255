"""Decoded images in the cache: written once per machine, shared by its processes.

Each part of a dataset is a plain ``.npy`` file of uint8 pixels that is memory-mapped, so that
several processes read the same pages of memory. All files of a dataset are written to a temporary
folder that is renamed when it is complete: what is half written is never read.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from prune_gym.datasets.base import Split
from prune_gym.errors import DatasetError
from prune_gym.utils.cache import cache_dir

PARTS = ("train", "validation", "test")
_VERSION = 1  # of the files; another one makes them anew


@dataclass(frozen=True)
class Facts:
    """What is known of a decoded dataset besides its pixels.

    Attributes:
        n_classes: number of classes.
        mean: per channel, of training pixels in [0, 1].
        std: likewise.
    """

    n_classes: int
    mean: list[float]
    std: list[float]


def images_file(folder: Path, part: str) -> Path:
    """Where the pixels of a part lie: (n, channels, height, width) uint8."""
    return folder / f"{part}-images.npy"


def write_labels(folder: Path, part: str, labels: np.ndarray) -> None:
    """Write the labels of a part, (n,) whole numbers."""
    np.save(folder / f"{part}-labels.npy", labels.astype(np.int64))


def write_facts(folder: Path, facts: Facts) -> None:
    """Write what is known of a decoded dataset besides its pixels and labels."""
    (folder / "facts.json").write_text(json.dumps(asdict(facts)), encoding="utf-8")


def stored(
    name: str, fingerprint: str, make: Callable[[Path], None]
) -> tuple[Facts, dict[str, Split]]:
    """A decoded dataset from the cache; made and written there where it is missing.

    Args:
        name: of the dataset; file-name safe.
        fingerprint: of what it is made from; older ones of the same name are removed.
        make: fills an empty folder with the files.

    Returns:
        The facts, and a memory-mapped `Split` for each part that was written.

    Raises:
        DatasetError: the cache cannot be written.
    """
    root = cache_dir() / "datasets"
    final = root / f"{name}-v{_VERSION}-{fingerprint}"
    if final.is_dir():
        try:
            return _read(final)
        except (OSError, ValueError, KeyError, TypeError):  # damaged: make it anew
            shutil.rmtree(final, ignore_errors=True)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=root))
    except OSError as error:
        raise DatasetError(
            f"dataset {name!r}: decoded images cannot be kept in {root} ({error.strerror}); set "
            "the environment variable PRUNE_GYM_CACHE to a folder that can be written."
        ) from error
    try:
        complete = partial / "complete"
        complete.mkdir()
        make(complete)
        try:
            complete.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was first, with the same files
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for other in root.glob(f"{name}-v*-*"):
        if other != final:
            shutil.rmtree(other, ignore_errors=True)
    return _read(final)


def _remove_abandoned(root: Path) -> None:
    """Remove what processes that were killed left half written, after a day."""
    for partial in root.glob(".partial-*"):
        with contextlib.suppress(OSError):  # another process may remove it, or finish
            if partial.stat().st_mtime < time.time() - 24 * 3600:
                shutil.rmtree(partial, ignore_errors=True)


def _read(folder: Path) -> tuple[Facts, dict[str, Split]]:
    facts = Facts(**json.loads((folder / "facts.json").read_text(encoding="utf-8")))
    splits = {}
    for part in PARTS:
        if images_file(folder, part).is_file():
            images = np.load(images_file(folder, part), mmap_mode="c")
            splits[part] = Split(
                torch.from_numpy(images),
                torch.from_numpy(np.load(folder / f"{part}-labels.npy")),
                tuple(facts.mean),
                tuple(facts.std),
            )
    return facts, splits


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of (n, channels, height, width) uint8 pixels / 255.

    Counted exactly, a few thousand images at a time.
    """
    n_channels = images.shape[1]
    counts = np.zeros((n_channels, 256), dtype=np.int64)
    for start in range(0, len(images), 2048):
        some = images[start : start + 2048]
        for channel in range(n_channels):
            counts[channel] += np.bincount(some[:, channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255.0
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    std = np.maximum(np.sqrt(variance), 1.0 / 255.0)  # pixels that never change stay finite
    return mean.tolist(), std.tolist()
