"""Which files of an image folder belong to which split and class."""

from __future__ import annotations

import hashlib
import heapq
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.files import shown
from prune_gym.datasets.holdout import hold_out
from prune_gym.errors import DatasetError

# what torchvision's ImageFolder takes
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VALIDATION = ("validation", "val", "valid")
_ALMOST = ("train", "training", "test", "testing", "eval", *_VALIDATION)  # no classes, surely
Skipped = dict[Path, str]  # by file or folder, the reason
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
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
        skipped: what is no file of images though it looks like one, with the reason: links that
            lead nowhere or round, named pipes, sockets, devices, folders that cannot be read.
    """

    classes: list[str]
    splits: dict[str, Files]
    fingerprint: str
    skipped: Skipped


def list_images(path: Path) -> Listing:
    """Find the image files below a folder; a tenth of each class is held out where needed.

    Raises:
        DatasetError: a layout that is not understood, or a class without images.
    """
    skipped: Skipped = {}
    given = _given_folders(path, skipped)
    names = {part: _subfolders(path / name, skipped) for part, name in given.items()}
    classes = names["train"]
    for part, name in given.items():
        odd = sorted(set(names[part]) ^ set(classes))
        if odd:
            raise DatasetError(
                f"class folders differ: {_some(odd)} only in one of {path / given['train']} and "
                f"{path / name}; both need the same ones."
            )
    stamps = {part: _stamps(path, name, classes, skipped) for part, name in given.items()}
    listed = {
        part: Files(
            [file for rows in found for file, _ in rows],
            np.array([label for label, rows in enumerate(found) for _ in rows], dtype=np.int64),
        )
        for part, found in stamps.items()
    }
    _check_classes(path, given, classes, listed, skipped)
    every = (stamp for found in stamps.values() for rows in found for stamp in rows)
    return Listing(classes, _splits(path, given, classes, listed), _digest(every), skipped)


def _given_folders(path: Path, skipped: Skipped) -> dict[str, str]:
    """The folder of each part, relative: of all three, of some, or "" for an unsplit one."""
    folders = _subfolders(path, skipped)
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


def broken_in_words(broken: Skipped) -> str:
    """The first few of what cannot be read, with the reasons."""
    first = [f"{shown(file)} ({shown(why)})" for file, why in heapq.nsmallest(3, broken.items())]
    return "; ".join(first)


def _check_classes(
    path: Path,
    given: dict[str, str],
    classes: list[str],
    listed: dict[str, Files],
    skipped: Skipped,
) -> None:
    also = f" Not read: {broken_in_words(skipped)}." if skipped else ""
    if not any(files.paths for files in listed.values()):
        raise DatasetError(
            f"no images in the folders below {path}; expected train/CLASS/* and test/CLASS/*, or "
            f"CLASS/*, with files that end in {', '.join(EXTENSIONS)}.{also}"
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
                f"every class folder needs files that end in {', '.join(EXTENSIONS)}.{also}"
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


def _subfolders(path: Path, skipped: Skipped) -> list[str]:
    """Names of the folders in a folder, sorted; without hidden ones."""
    try:
        with os.scandir(path) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DatasetError(
            f"the folder {shown(path)} cannot be read ({error.strerror}); give yourself the right "
            "to read it."
        ) from error
    names = []
    for entry in found:
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            if "." not in entry.name or _is_image(entry.name):  # may have been a class
                skipped[Path(entry.path)] = _why_not(entry, error)
            continue
        if stat.S_ISDIR(mode):
            names.append(entry.name)
    return sorted(names)


def _stamps(
    path: Path, name: str, classes: list[str], skipped: Skipped
) -> list[list[tuple[str, str]]]:
    """Per class: relative path, and size and time of change of every image file, sorted."""
    return [
        sorted(
            (f"{name}/{label}/{below}".lstrip("/"), f"{facts.st_size} {facts.st_mtime_ns}")
            for below, facts in _walk(path / name / label, skipped)
        )
        for label in classes
    ]


def _walk(top: Path, skipped: Skipped) -> Iterator[tuple[str, os.stat_result]]:
    """Image files below a folder, relative; each folder once, however many links lead to it."""
    above = {*top.parents, *top.resolve().parents}  # a link that leads up leads round
    seen = {_identity(folder) for folder in above}
    left = [("", top)]
    while left:
        below, folder = left.pop()
        inner: list[str] = []
        try:
            identity = _identity(folder)
            if identity in seen:
                skipped[folder] = "a folder that is read already, by another name"
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                for entry in entries:
                    facts = _facts(entry, inner, skipped)
                    if facts is not None:
                        yield below + entry.name, facts
        except OSError as error:
            skipped[folder] = error.strerror or str(error)
        names = sorted(inner, reverse=True)
        left += [(f"{below}{name}/", folder / name) for name in names]


def _facts(entry: os.DirEntry[str], inner: list[str], skipped: Skipped) -> os.stat_result | None:
    """Facts of an image file; a folder goes to ``inner``, what only looks like one to `skipped`."""
    if entry.name.startswith("."):
        return None
    try:
        facts = entry.stat()
    except OSError as error:
        if _is_image(entry.name):
            skipped[Path(entry.path)] = _why_not(entry, error)
        return None
    if stat.S_ISDIR(facts.st_mode):
        inner.append(entry.name)
        return None
    if not _is_image(entry.name):
        return None
    if not stat.S_ISREG(facts.st_mode):
        skipped[Path(entry.path)] = _KINDS.get(stat.S_IFMT(facts.st_mode), "no file")
        return None
    return facts


def _identity(folder: Path) -> tuple[int, int]:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _why_not(entry: os.DirEntry[str], error: OSError) -> str:
    if entry.is_symlink():
        return f"a link that leads nowhere: {error.strerror}"
    return error.strerror or str(error)


def _digest(stamps: Iterable[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for stamp in stamps:
        digest.update("\0".join(stamp).encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


def _some(names: list[str]) -> str:
    """The first few of many names."""
    more = len(names) - 5
    return ", ".join(map(shown, names[:5])) + (f" and {more} more" if more > 0 else "")
