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
from typing import BinaryIO

import numpy as np
import torch

from prune_gym.datasets.base import Split
from prune_gym.errors import DatasetError, InvalidValueError
from prune_gym.utils.cache import cache_dir

PARTS = ("train", "validation", "test")
# what reading a file raises that is damaged, or another's
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
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


def write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Begin a file of uint8 pixels; they follow, written and not mapped.

    Where a disk is full, writing raises an error; mapped memory would kill the process.
    """
    facts = {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
    np.lib.format.write_array_header_1_0(file, facts)


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
        DatasetError: the cache cannot be written, or what is damaged in it cannot be replaced.
    """
    root = cache_dir() / "datasets"
    final = root / f"{name}-v{_VERSION}-{fingerprint}"
    known = _read(final)
    if known is not None:
        return known
    try:
        _remove(final)  # damaged
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=root))
        try:
            complete = partial / "complete"
            complete.mkdir()
            make(complete)
            with contextlib.suppress(OSError):  # another process was first, with the same files
                complete.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DatasetError(
            f"dataset {name!r}: decoded images cannot be kept in {root} ({error.strerror or error})"
            "; free space there, or set the environment variable PRUNE_GYM_CACHE to a folder that "
            "can be written."
        ) from error
    for other in root.glob(f"{name}-v*-*"):
        if other != final:
            _remove(other)
    made = _read(final)
    if made is None:
        raise DatasetError(
            f"dataset {name!r}: {final} is damaged, or in the way, and cannot be replaced; delete "
            "it, or set the environment variable PRUNE_GYM_CACHE to a folder of your own."
        )
    return made


def _remove(path: Path) -> None:
    """Remove a folder, or what lies in its place, as far as that is allowed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_abandoned(root: Path) -> None:
    """Remove what processes that were killed left half written, after a day."""
    for partial in root.glob(".partial-*"):
        with contextlib.suppress(OSError):  # another process may remove it, or finish
            if partial.stat().st_mtime < time.time() - 24 * 3600:
                shutil.rmtree(partial, ignore_errors=True)


def _read(folder: Path) -> tuple[Facts, dict[str, Split]] | None:
    """What lies in a folder of the cache; None where it is missing, damaged, or of something else.

    A file is read only as far as its size allows, whatever its head says.
    """
    try:
        facts = Facts(**json.loads((folder / "facts.json").read_text(encoding="utf-8")))
        splits = {}
        for part in PARTS:
            if images_file(folder, part).is_file():
                images = np.load(images_file(folder, part), mmap_mode="c")
                labels = np.array(np.load(folder / f"{part}-labels.npy", mmap_mode="r"))
                _check(facts, images, labels)
                splits[part] = Split(
                    torch.from_numpy(images),
                    torch.from_numpy(labels),
                    tuple(facts.mean),
                    tuple(facts.std),
                )
        shapes = {split.images.shape[1:] for split in splits.values()}
        if not {"train", "validation"} <= set(splits) or len(shapes) > 1:
            return None
    except _DAMAGE:
        return None
    return facts, splits


def _check(facts: Facts, images: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError or TypeError unless pixels, labels and facts fit each other."""
    values = [float(value) for value in (*facts.mean, *facts.std)]
    fits = (
        images.dtype == np.uint8
        and labels.dtype == np.int64
        and images.ndim == 4
        and images.size > 0
        and labels.shape == images.shape[:1]
        and isinstance(facts.n_classes, int)
        and int(labels.min()) >= 0
        and int(labels.max()) < facts.n_classes
        and len(facts.mean) == len(facts.std) == images.shape[1]
        and bool(np.isfinite(values).all())
        and min(facts.std) > 0.0
    )
    if not fits:
        raise InvalidValueError("pixels, labels and facts do not fit each other")


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
