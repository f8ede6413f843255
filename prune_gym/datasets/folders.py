"""Image folders: `folder:PATH`, or `folder:PATH@SIZE` for images of different sizes."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from pathlib import Path

import numpy as np

from agents.files import shown
from prune_gym.datasets.augment import flip_and_shift
from prune_gym.datasets.base import DATASETS, Dataset
from prune_gym.datasets.decode import Report, decode, progress, without_warnings
from prune_gym.datasets.listing import Files, Listing, broken_in_words, list_images
from prune_gym.datasets.store import (
    Facts,
    images_file,
    pixel_statistics,
    stored,
    write_facts,
    write_header,
    write_labels,
)
from prune_gym.errors import DatasetError
from prune_gym.utils.files import user_path

_BROKEN = 0.01  # share of images that may be unreadable
_SIZES = range(8, 1025)


def folder(spec: str = "") -> Dataset:
    """Images of yours, `folder:PATH` or `folder:PATH@64`: PATH/train/CLASS/*, PATH/test/CLASS/*.

    Either ``PATH/train/<class>/*`` with ``test/<class>/*``, ``val/<class>/*`` (or ``validation``,
    ``valid``), or both; or ``PATH/<class>/*``, of which a tenth is held out for validation and a
    tenth for test. Without a validation folder a tenth of the training images is held out. What
    is held out is drawn class by class, the same on every machine.

    Classes are the subfolders, sorted by name. Files are taken by extension, as torchvision's
    ``ImageFolder`` does, from folders inside a class too; hidden ones are left out. Up to 1 % may
    be broken: they are skipped, counted and named. So are files that are no images (named pipes,
    devices, links that lead nowhere or round), and images of more than 90 megapixels. Images are
    RGB unless every one is grey; rotation in EXIF and transparency are ignored. Pixels are
    normalised by the mean and standard deviation of the training images, per channel.

    Decoded pixels are kept in the cache and memory-mapped, until the name, size or time of change
    of a file differs.

    Args:
        spec: ``PATH``, or ``PATH@SIZE``: the shorter side is resized to SIZE pixels and the centre
            cropped to SIZE x SIZE. A path that itself ends so is written with a slash after it.

    Raises:
        DatasetError: a wrong path or size, a layout that is neither of the two, a class without
            images, images of different sizes, or more than 1 % broken ones.
    """
    path, size = parse(spec)
    _check_there(spec, path)
    listing = list_images(path)
    name = file_name(spec)

    def make(target: Path) -> None:
        _decode_all(path, listing, size, target)

    facts, splits = stored(name, listing.fingerprint, make)
    return Dataset(
        name,
        splits["train"],
        splits["validation"],
        splits.get("test"),
        n_classes=facts.n_classes,
        augment=flip_and_shift,
    )


DATASETS.register(folder)


def parse(spec: str) -> tuple[Path, int | None]:
    """The absolute path and the size of ``PATH`` or ``PATH@SIZE``.

    ``~`` and ``~name`` are home folders, and links are resolved: what is written down of a run goes
    on meaning the folder that it meant.

    >>> parse("/data/birds@64")[1], parse("/data/birds")[1], parse("/data/birds@64/")[0].name
    (64, None, 'birds@64')
    """
    found = re.fullmatch(r"(.+)@([0-9]+)", spec, re.DOTALL)
    words, size = (found[1], found[2]) if found else (spec, None)
    if not words.strip():
        raise DatasetError("dataset 'folder' needs a path: write folder:PATH or folder:PATH@64.")
    if size is not None and not _is_size(size):
        raise _wrong_size(spec, size)
    try:
        path = user_path(words).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
        raise DatasetError(
            f"dataset 'folder:{shown(spec)}' is no path ({error}); write folder:PATH."
        ) from error
    return path, None if size is None else int(size)


def absolute(spec: str) -> str:
    """The same ``PATH`` or ``PATH@SIZE`` from any working directory.

    >>> absolute("/data/birds@64/"), absolute("/data/birds@064"), absolute("/data/birds/")
    ('/data/birds@64/', '/data/birds@64', '/data/birds')
    """
    path, size = parse(spec)
    if size is not None:
        return f"{path}@{size}"
    return f"{path}/" if re.search(r"@[0-9]+$", str(path)) else str(path)


def _is_size(words: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", words) is not None and int(words) in _SIZES


def _wrong_size(spec: str, size: str) -> DatasetError:
    size = size if len(size) < 20 else f"{size[:9]}... of {len(size)} digits"
    return DatasetError(
        f"dataset 'folder:{shown(spec) if len(spec) < 300 else '...'}': size {shown(size)} must be "
        f"{_SIZES[0]} to {_SIZES[-1]} pixels."
    )


def _check_there(spec: str, path: Path) -> None:
    if os.path.isdir(path):  # also of a name that is too long
        return
    before, at, size = spec.rpartition("@")
    if at and before.strip() and not _is_size(size) and os.path.isdir(user_path(before)):
        raise _wrong_size(spec, size)
    raise DatasetError(
        f"dataset 'folder:{shown(spec)}': there is no folder {shown(path)}. Write folder:PATH with "
        "a folder that holds train/CLASS/* and test/CLASS/*, or CLASS/*."
    )


def file_name(spec: str) -> str:
    """Name of ``PATH`` or ``PATH@SIZE`` in file names: its last part, and a hash of all of it."""
    path, size = parse(spec)
    digest = hashlib.sha256(f"{path}@{size}".encode(errors="surrogateescape")).hexdigest()[:6]
    return f"folder.{re.sub(r'[^A-Za-z0-9._-]', '_', path.name)}-{digest}"


def _decode_all(path: Path, listing: Listing, size: int | None, target: Path) -> None:
    """Decode every split of a folder into the files of `stored`."""
    report = Report(broken=dict(listing.skipped))
    n = sum(len(files.paths) for files in listing.splits.values())
    readable = {}
    with progress(n) as advance, without_warnings():
        for part, files in listing.splits.items():
            readable[part] = decode(
                path,
                files.paths,
                _raw(target, part),
                size=size,
                report=report,
                advance=advance,
            )
    _check_broken(path, n + len(listing.skipped), report)
    for part, files in listing.splits.items():
        kept = np.flatnonzero(readable[part])
        _check_kept(path, part, listing.classes, files.rows(kept))
        _finish(_raw(target, part), images_file(target, part), kept, 1 if report.grey else 3)
        write_labels(target, part, files.labels[kept])
    train = np.load(images_file(target, "train"), mmap_mode="r")
    write_facts(target, Facts(len(listing.classes), *pixel_statistics(train)))


def _raw(target: Path, part: str) -> Path:
    return target / f"{part}-raw.npy"


def _check_broken(path: Path, n: int, report: Report) -> None:
    if not report.broken:
        return
    some = broken_in_words(report.broken)
    words = f"{shown(path)}: {len(report.broken)} of {n} images cannot be read, e.g. {some}"
    if len(report.broken) > _BROKEN * n:
        raise DatasetError(f"{words}. At most {_BROKEN:.0%} are skipped; repair or remove them.")
    warnings.warn(f"{words}. They are skipped.", stacklevel=2)


def _check_kept(path: Path, part: str, classes: list[str], files: Files) -> None:
    missing = np.flatnonzero(np.bincount(files.labels, minlength=len(classes)) == 0)
    if len(missing):
        raise DatasetError(
            f"{shown(path)}: no image of class {classes[missing[0]]!r} can be read for the {part} "
            "split; repair or remove the broken ones, or add others."
        )


def _finish(raw: Path, final: Path, kept: np.ndarray, n_channels: int) -> None:
    """Turn the decoded array into the final one: without broken rows and equal channels."""
    pixels = np.load(raw, mmap_mode="r")
    if len(kept) == len(pixels) and n_channels == pixels.shape[1]:
        del pixels  # an open file cannot be renamed on Windows
        raw.rename(final)
        return
    with final.open("wb") as file:
        write_header(file, (len(kept), n_channels, *pixels.shape[2:]))
        for start in range(0, len(kept), 2048):
            file.write(pixels[kept[start : start + 2048], :n_channels].tobytes())
    del pixels
    raw.unlink()
