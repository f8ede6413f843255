"""Which files of an image folder belong to which split and class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune_gym.datasets.holdout import hold_out
from prune_gym.errors import DatasetError

# what torchvision's ImageFolder takes
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VALIDATION = ("validation", "val", "valid")
_ALMOST = ("train", "training", "test", "testing", "eval", *_VALIDATION)  # no classes, surely
_SEED = 0  # of what is held out, and of the order


@dataclass(frozen=True)
class Files:
    """The image files of one split.

    Attributes:
        paths: relative to the folder.
        labels: (n,) int64.
    """

    paths: list[str]
    labels: np.ndarray

    def rows(self, chosen: np.ndarray) -> Files:
        """Some of them, in the given order."""
        return Files([self.paths[row] for row in chosen], self.labels[chosen])


@dataclass(frozen=True)
class Listing:
    """What an image folder holds.

    Attributes:
        classes: names, in the order of the labels.
        splits: by "train", "validation" and, where there is one, "test".
        fingerprint: differs as soon as a file's path, size or time of change differs.
    """

    classes: list[str]
    splits: dict[str, Files]
    fingerprint: str


def list_images(path: Path) -> Listing:
    """Find the image files below a folder; a tenth of each class is held out where needed.

    Raises:
        DatasetError: a layout that is not understood, or a class without images.
    """
    given = _given_folders(path)
    names = {part: _subfolders(path / name) for part, name in given.items()}
    classes = names["train"]
    for part, name in given.items():
        odd = sorted(set(names[part]) ^ set(classes))
        if odd:
            raise DatasetError(
                f"class folders differ: {_some(odd)} only in one of {path / given['train']} and "
                f"{path / name}; both need the same ones."
            )
    stamps = {part: _stamps(path, name, classes) for part, name in given.items()}
    listed = {
        part: Files(
            [file for rows in found for file, _ in rows],
            np.array([label for label, rows in enumerate(found) for _ in rows], dtype=np.int64),
        )
        for part, found in stamps.items()
    }
    _check_classes(path, given, classes, listed)
    every = (stamp for found in stamps.values() for rows in found for stamp in rows)
    return Listing(classes, _splits(path, given, classes, listed), _digest(every))


def _given_folders(path: Path) -> dict[str, str]:
    """The folder of each part, relative: of all three, of some, or "" for an unsplit one."""
    folders = _subfolders(path)
    validation = [name for name in _VALIDATION if name in folders]
    if len(validation) > 1:
        raise DatasetError(f"{path} holds {' and '.join(validation)}; keep one of them.")
    names = {"train": "train", "validation": "".join(validation), "test": "test"}
    given = {part: name for part, name in names.items() if name in folders}
    almost = [f for f in folders if f.lower() in _ALMOST and f not in given.values()]
    if almost:
        raise DatasetError(
            f"{path} holds {_some(almost)}; folders of splits are named train, test and val (or "
            "validation, or valid). Rename what is a split."
        )
    if given and "train" not in given:
        raise DatasetError(
            f"{path} holds {' and '.join(given.values())} but no train; add train/CLASS/*."
        )
    return given or {"train": ""}


def _check_classes(
    path: Path, given: dict[str, str], classes: list[str], listed: dict[str, Files]
) -> None:
    if not any(files.paths for files in listed.values()):
        raise DatasetError(
            f"no images in the folders below {path}; expected train/CLASS/* and test/CLASS/*, or "
            f"CLASS/*, with files that end in {', '.join(EXTENSIONS)}."
        )
    if len(classes) < 2:
        raise DatasetError(
            f"{path / given['train']} holds one class only ({_some(classes)}); a network is "
            "trained to tell at least two apart. Every class needs a folder of its own."
        )
    for part, name in given.items():
        missing = np.flatnonzero(np.bincount(listed[part].labels, minlength=len(classes)) == 0)
        if len(missing):
            raise DatasetError(
                f"{path / name} holds no images of {_some([classes[row] for row in missing])}; "
                f"every class folder needs files that end in {', '.join(EXTENSIONS)}."
            )


def _splits(
    path: Path, given: dict[str, str], classes: list[str], listed: dict[str, Files]
) -> dict[str, Files]:
    """All parts, each in random order, validation (and test) held out where they are missing."""
    parts = dict(listed)
    sizes = np.bincount(listed["train"].labels)
    tenth = np.maximum(np.round(sizes / 10.0).astype(np.int64), 1)
    missing = ["validation"] if "validation" not in listed else []
    if given["train"] == "":
        missing.append("test")
    few = np.flatnonzero(sizes - len(missing) * tenth < 1)
    if len(few):
        raise DatasetError(
            f"{path}: {_some([f'{classes[row]} has {sizes[row]}' for row in few])}; too few images "
            f"to hold out {' and '.join(missing)}. At least {1 + len(missing)} a class, or give "
            "train/, val/ and test/ folders."
        )
    for part in missing:
        rest, held = hold_out(parts["train"].labels, tenth, _SEED)
        parts[part] = parts["train"].rows(held)
        parts["train"] = parts["train"].rows(rest)
    nothing = np.zeros_like(tenth)
    for part, files in listed.items():
        if part != "train" or not missing:
            parts[part] = files.rows(hold_out(files.labels, nothing, _SEED)[0])
    return parts


def _subfolders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; without hidden ones."""
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _stamps(path: Path, name: str, classes: list[str]) -> list[list[tuple[str, str]]]:
    """Per class: relative path, and size and time of change of every image file, sorted."""
    return [
        sorted(
            (f"{name}/{label}/{below}".lstrip("/"), f"{stat.st_size} {stat.st_mtime_ns}")
            for below, stat in _walk(path / name / label, "")
        )
        for label in classes
    ]


def _walk(folder: Path, below: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{below}{entry.name}/")
            elif entry.name.lower().endswith(EXTENSIONS):
                yield below + entry.name, entry.stat()


def _digest(stamps: Iterable[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for stamp in stamps:
        digest.update("\0".join(stamp).encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


def _some(names: list[str]) -> str:
    """The first few of many names."""
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
