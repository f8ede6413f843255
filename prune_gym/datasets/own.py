"""Splits from what users have: tensors, arrays and torch datasets, checked at the door."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from prune_gym.datasets.augment import shift_and_rotate
from prune_gym.datasets.base import Dataset, Split
from prune_gym.datasets.holdout import hold_out
from prune_gym.errors import InvalidValueError
from prune_gym.utils.randomness import seeded
from prune_gym.utils.stopping import check_stop

READ_TWICE = 32  # examples, to see whether they come out the same
OWN = "custom"  # the name of data that is given as tensors


def own_dataset(train: Any, validation: Any, test: Any = None) -> Dataset:
    """A dataset from a user's splits; images with pixels are augmented when they are trained on.

    Where the examples of a torch dataset come out differently each time, as with random transforms,
    training reads them anew in every epoch, and augments no further. Validation and test are read
    once, with a warning: every network is to be judged on the same examples.

    Args:
        train: what `as_split` takes.
        validation: likewise, held out of training.
        test: likewise, or None.

    Raises:
        ValueError: splits that are none, or that do not belong together.
    """
    parts = (as_split("train", train), as_split("validation", validation))
    held_out = None if test is None else as_split("test", test)
    check_splits(*parts, held_out)
    n_classes = int(parts[0].labels.max()) + 1
    is_augmented = parts[0].images.ndim == 4 and parts[0].read is None
    augment = shift_and_rotate if is_augmented else None
    judged = (_frozen("validation", parts[1]), held_out and _frozen("test", held_out))
    return Dataset(OWN, parts[0], *judged, n_classes, augment)


def _frozen(name: str, split: Split) -> Split:
    """A split that networks are judged on, which is never read anew."""
    if split.read is not None:
        warnings.warn(
            f"{name}: its examples come out differently each time they are read (random "
            "transforms?); they are read once, so that every network is judged on the same ones. "
            "Better give it a dataset without random transforms.",
            stacklevel=3,
        )
    return replace(split, read=None)


def as_split(name: str, data: Any) -> Split:
    """A split from what users have: a `Split`, a pair (images, labels), or a torch dataset.

    uint8 images are pixels: they stay uint8 and are divided by 255 as they are used. Images of any
    other type become float32 as they are. Examples that are sorted by class, as an ``ImageFolder``
    has them, are shuffled once with a fixed seed. A dataset whose examples come out differently
    each time gives a split that is read anew where it is trained on (`Split.fresh`).

    Args:
        name: the argument's name, for error messages.
        data: images (n, channels, height, width) and labels (n,) as tensors or arrays, or a
            map-style ``torch.utils.data.Dataset`` of (image, label) pairs, where an image is a
            tensor, an array or a PIL image.

    Raises:
        ValueError: shapes that do not fit, an empty split, values that are not finite, or labels
            that are not whole numbers from 0.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        given: tuple[Any, Any] = data.tensors
    elif isinstance(data, TorchDataset):
        return _read_split(name, data)
    elif isinstance(data, tuple | list) and len(data) == 2:
        given = data[0], data[1]
    else:
        raise InvalidValueError(
            f"{name}: expected a pair (images, labels) or a torch Dataset, got "
            f"{type(data).__name__}."
        )
    return _shuffled(_checked(name, *given))


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads rows of a torch dataset: images and labels as `as_split` has them."""

    name: str
    data: TorchDataset[Any]

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        split = _checked(self.name, *_collect(self.name, self.data, rows.tolist()))
        return split.images, split.labels


def _read_split(name: str, data: TorchDataset[Any]) -> Split:
    """The split of a torch dataset, which is read once, and in parts a second time."""
    reader = _Reader(name, data)
    with seeded(0):
        split = Split(*reader(torch.arange(_length(name, data))))
    rows = split.spread(READ_TWICE)
    with seeded(1):
        images, labels = reader(rows)
    if not (torch.equal(images, split.images[rows]) and torch.equal(labels, split.labels[rows])):
        split = replace(split, read=reader)
    return _shuffled(split)


def _shuffled(split: Split) -> Split:
    """A split that is sorted by class in a mixed order; any other one as it is."""
    steps = split.labels.diff()
    if not bool((steps >= 0).all() and (steps > 0).any()):
        return split
    nothing = np.zeros(int(split.labels[-1]) + 1, dtype=np.int64)
    order = torch.from_numpy(hold_out(split.labels.numpy(force=True), nothing, seed=0)[0])
    return split.of(order)


def _checked(name: str, given_images: Any, given_labels: Any) -> Split:
    images, labels = _tensor(name, "images", given_images), _tensor(name, "labels", given_labels)
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.shape[:1] == images.shape[:1]:
        raise InvalidValueError(
            f"{name}: labels of shape {tuple(labels.shape)} look one-hot; expected the numbers of "
            "the classes, (n,), e.g. labels.argmax(1)."
        )
    if images.ndim < 2 or labels.shape != images.shape[:1] or len(labels) == 0:
        raise InvalidValueError(
            f"{name}: images of shape {tuple(images.shape)} and labels of shape "
            f"{tuple(labels.shape)} do not fit; expected (n, ...) and (n,) with n > 0."
        )
    return Split(_images(name, images), _labels(name, labels))


def check_splits(train: Split, validation: Split, test: Split | None) -> None:
    """Check that splits belong together.

    Raises:
        ValueError: images of different shapes, or a class beyond those of the training split.
    """
    known = _classes(train)
    for name, split in (("validation", validation), ("test", test)):
        if split is None:
            continue
        shape, expected = tuple(split.images.shape[1:]), tuple(train.images.shape[1:])
        if shape != expected:
            raise InvalidValueError(
                f"{name}: images of shape {shape}, but those of train are {expected}; prepare "
                "both alike."
            )
        if split.images.dtype != train.images.dtype:
            raise InvalidValueError(
                f"{name}: images are {split.images.dtype}, but those of train are "
                f"{train.images.dtype}; uint8 pixels are divided by 255 and floats are not: give "
                "both alike."
            )
        strange = sorted(_classes(split) - known)
        if strange and strange[-1] > max(known):
            raise InvalidValueError(
                f"{name}: holds class {strange[-1]}, but the classes of train are 0 to "
                f"{max(known)}; number both alike, and give images of every class to train."
            )
        if strange:
            warnings.warn(
                f"{name} holds class {strange[0]}, of which train has no images.", stacklevel=3
            )


def _classes(split: Split) -> set[int]:
    return set(split.labels.tolist())


def check_dataset(data: Dataset) -> None:
    """Check a dataset that somebody made.

    Raises:
        ValueError: an empty split, images and labels that do not fit, or a label that is no class.
    """
    for name, split in (
        ("train", data.train),
        ("validation", data.validation),
        ("test", data.test),
    ):
        if split is None:
            continue
        if len(split.images) != len(split.labels) or len(split) == 0:
            raise InvalidValueError(
                f"dataset {data.name!r}: {name} holds {len(split.images)} images and "
                f"{len(split.labels)} labels; expected as many of both, at least one."
            )
        least, most = int(split.labels.min()), int(split.labels.max())
        if least < 0 or most >= data.n_classes:
            raise InvalidValueError(
                f"dataset {data.name!r}: {name} holds label {least if least < 0 else most}, but "
                f"n_classes={data.n_classes}; labels are 0 to {data.n_classes - 1}."
            )


def _length(name: str, data: TorchDataset[Any]) -> int:
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError as error:
        raise InvalidValueError(
            f"{name}: {type(data).__name__} has no length; expected a map-style torch Dataset, or "
            "a pair (images, labels)."
        ) from error


def _collect(name: str, data: TorchDataset[Any], rows: list[int]) -> tuple[torch.Tensor, list[Any]]:
    """Images, (n, ...), and labels of rows of a map-style dataset."""
    images, labels = torch.empty(0), []
    for place, row in enumerate(rows):
        check_stop()
        item = data[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InvalidValueError(
                f"{name}: item {row} of {type(data).__name__} is {_words(item)}; expected an "
                "(image, label) pair."
            )
        image = _item(name, row, item[0])
        if place == 0:
            images = torch.empty((len(rows), *image.shape), dtype=image.dtype)
        if image.shape != images.shape[1:] or image.dtype != images.dtype:
            raise InvalidValueError(
                f"{name}: image {row} is {image.dtype} of shape {tuple(image.shape)}, but image "
                f"{rows[0]} is {images.dtype} of {tuple(images.shape[1:])}; make them equal, e.g. "
                "by transforms.Resize and CenterCrop."
            )
        images[place] = image
        labels.append(item[1])
    return images, labels


def _item(name: str, row: int, image: Any) -> torch.Tensor:
    """One image as a tensor; PIL images become (channels, height, width) uint8."""
    from PIL import Image

    if isinstance(image, Image.Image):
        grey = image.mode in ("1", "L")
        pixels = np.array(image.convert("L" if grey else "RGB"))
        return torch.from_numpy(pixels[None] if grey else pixels.transpose(2, 0, 1))
    return _tensor(name, f"image {row}", image).detach()


def _words(item: Any) -> str:
    """What an item is, in a few words."""
    length = f" of {len(item)}" if isinstance(item, tuple | list | dict) else ""
    return f"{type(item).__name__}{length}"


def _tensor(name: str, what: str, values: Any) -> torch.Tensor:
    """Values as a tensor that may be written to."""
    if isinstance(values, torch.Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
        if array.dtype.byteorder not in "=|":
            array = array.astype(array.dtype.newbyteorder("="))
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValueError(
            f"{name}: {what} of type {type(values).__name__} cannot be made a tensor "
            f"({str(error).splitlines()[0]}); expected a tensor or an array of numbers."
        ) from error


def _images(name: str, images: torch.Tensor) -> torch.Tensor:
    if images.dtype != torch.uint8:
        images = images.float()
        if not torch.isfinite(images).all():
            raise InvalidValueError(f"{name}: images hold NaN or infinity; clean them first.")
        return images
    if images.ndim == 3:
        raise InvalidValueError(
            f"{name}: uint8 images of shape {tuple(images.shape)}; expected (n, channels, height, "
            "width), e.g. images[:, None] of grey ones."
        )
    if images.ndim == 4 and images.shape[1] > 4 and images.shape[3] <= 4:
        raise InvalidValueError(
            f"{name}: uint8 images of shape {tuple(images.shape)} have their channels last; "
            "expected (n, channels, height, width): images.transpose(0, 3, 1, 2) of an array, "
            "images.permute(0, 3, 1, 2) of a tensor."
        )
    return images


def _labels(name: str, labels: torch.Tensor) -> torch.Tensor:
    found = labels.real.long()
    wrong = found < 0
    if labels.is_floating_point() or labels.is_complex():
        wrong = wrong | (found != labels)
    if bool(wrong.any()):
        row = int(wrong.int().argmax())
        raise InvalidValueError(
            f"{name}: label {row} is {labels[row].item()!r}; expected whole numbers from 0."
        )
    return found
