"""torchvision's small image sets by name, downloaded once per machine.

Images stay uint8 pixels. Of the training split, 5,000 images are held out for validation, class by
class and the same on every machine; the test split is torchvision's. MNIST and Fashion-MNIST are
padded with black from 28x28 to 32x32 pixels, as networks with five poolings need, and keep their
one channel.

Sources: CIFAR-10 and CIFAR-100, Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images" (2009); MNIST, LeCun et al., "Gradient-Based Learning Applied to Document Recognition"
(Proc. IEEE 1998); Fashion-MNIST, Xiao et al. (arXiv 1708.07747); SVHN, Netzer et al., "Reading
Digits in Natural Images with Unsupervised Feature Learning" (NIPS workshop 2011).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune_gym.datasets.augment import flip_and_shift, shift
from prune_gym.datasets.base import DATASETS, Augment, Dataset
from prune_gym.datasets.holdout import hold_out, shares
from prune_gym.datasets.store import Facts, images_file, stored, write_facts, write_labels
from prune_gym.errors import DatasetError
from prune_gym.utils.cache import cache_dir

N_VALIDATION = 5000
_SEED = 0  # of what is held out


@dataclass(frozen=True)
class Row:
    """One of torchvision's sets.

    Attributes:
        words: its line in listings.
        kind: its class in ``torchvision.datasets``.
        files: what its class looks for in the folder it is given, and downloads.
        n_classes: number of classes.
        mean: per channel, of training pixels in [0, 1], padding included.
        std: likewise.
        augment: of training images.
    """

    words: str
    kind: str
    files: str
    n_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment


TORCHVISION = {
    "cifar10": Row(
        "CIFAR-10, 32x32 colour, 10 classes: 45,000 train, 5,000 validation, 10,000 test.",
        "CIFAR10",
        "cifar-10-python.tar.gz",
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        flip_and_shift,
    ),
    "cifar100": Row(
        "CIFAR-100, 32x32 colour, 100 classes: 45,000 train, 5,000 validation, 10,000 test.",
        "CIFAR100",
        "cifar-100-python.tar.gz",
        100,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        flip_and_shift,
    ),
    "mnist": Row(
        "MNIST digits, 32x32 grey, 10 classes: 55,000 train, 5,000 validation, 10,000 test.",
        "MNIST",
        "MNIST/raw/*-ubyte.gz",
        10,
        (0.1000,),
        (0.2752,),
        shift,
    ),
    "fashion_mnist": Row(
        "Fashion-MNIST, 32x32 grey, 10 classes: 55,000 train, 5,000 validation, 10,000 test.",
        "FashionMNIST",
        "FashionMNIST/raw/*-ubyte.gz",
        10,
        (0.2190,),
        (0.3318,),
        flip_and_shift,
    ),
    "svhn": Row(
        "SVHN digits, 32x32 colour, 10 classes: 68,257 train, 5,000 validation, 26,032 test.",
        "SVHN",
        "train_32x32.mat and test_32x32.mat",
        10,
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
        shift,
    ),
}


def load(name: str) -> Dataset:
    """One of `TORCHVISION` from the cache; downloaded and decoded where it is not there.

    Raises:
        DatasetError: it can be neither found nor downloaded.
    """
    row = TORCHVISION[name]
    _, splits = stored(name, "torchvision", lambda target: _make(name, row, target))
    return Dataset(
        name,
        splits["train"],
        splits["validation"],
        splits["test"],
        n_classes=row.n_classes,
        augment=row.augment,
    )


def _register(name: str) -> None:
    def loader() -> Dataset:
        return load(name)

    loader.__name__ = loader.__qualname__ = name
    loader.__doc__ = TORCHVISION[name].words
    DATASETS.register(loader)


for _name in TORCHVISION:
    _register(_name)


def _make(name: str, row: Row, target: Path) -> None:
    """Write the three parts of a set into the files of `stored`."""
    folder = cache_dir() / "datasets" / "downloads" / name
    if folder.is_dir():  # somebody put the files there
        made = _fetch(name, row, folder, folder)
    else:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target) as partial:
            made = _fetch(name, row, Path(partial), folder)
    (images, labels), (test_images, test_labels) = made
    rest, held = hold_out(labels, shares(labels, N_VALIDATION), _SEED)
    for part, pixels, numbers in (
        ("train", images[rest], labels[rest]),
        ("validation", images[held], labels[held]),
        ("test", test_images, test_labels),
    ):
        np.save(images_file(target, part), pixels)
        write_labels(target, part, numbers)
    write_facts(target, Facts(row.n_classes, list(row.mean), list(row.std)))


def _fetch(
    name: str, row: Row, root: Path, folder: Path
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Pixels and labels of torchvision's training and test split.

    Args:
        name: of the set.
        row: of the set.
        root: where torchvision looks for the files, and downloads what it misses.
        folder: where users put the files, for the error message.
    """
    try:
        from torchvision import datasets

        kind = getattr(datasets, row.kind)
        with warnings.catch_warnings():
            # CIFAR's files are pickles of an old NumPy, which 2.4 warns of (pytorch/vision 9340)
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            return _arrays(_open(kind, root, "train")), _arrays(_open(kind, root, "test"))
    except Exception as error:  # network, disk, archive, pickle, import: all kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"dataset {name!r}: torchvision cannot load or download it ({reason}). Try again; or "
            f"put {row.files} into {folder}; or take images of your own, folder:PATH."
        ) from error


def _open(kind: Callable[..., Any], root: Path, part: str) -> Any:
    if getattr(kind, "split_list", None):  # SVHN's classes take the split by name
        return kind(str(root), split=part, download=True)
    return kind(str(root), train=part == "train", download=True)


def _arrays(made: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, (n, channels, 32, 32) uint8, and labels, (n,), of one of torchvision's datasets."""
    pixels = np.asarray(made.data)
    labels = np.asarray(made.targets if hasattr(made, "targets") else made.labels)
    if pixels.ndim == 3:
        pixels = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))[:, None]
    elif pixels.shape[3] == 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels), labels
