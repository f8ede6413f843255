"""Splits from what users have: tensors, arrays and torch datasets, checked at the door."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from prune_gym.datasets.augment import shift_and_rotate
from prune_gym.datasets.base import Dataset, Split
from prune_gym.datasets.holdout import hold_out
from prune_gym.errors import InvalidValueError
from prune_gym.utils.stopping import check_stop

OWN = "custom"  # the name of data that is given as tensors


def own_dataset(train: Any, validation: Any, test: Any = None) -> Dataset:
    """A dataset from a user's splits; images with pixels are augmented when they are trained on.

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
    augment = shift_and_rotate if parts[0].images.ndim == 4 else None
    return Dataset(OWN, *parts, held_out, n_classes, augment)


def as_split(name: str, data: Any) -> Split:
    """A split from what users have: a `Split`, a pair (images, labels), or a torch dataset.

    uint8 images are pixels: they stay uint8 and are divided by 255 as they are used. Images of any
    other type become float32 as they are. Examples that are sorted by class, as an ``ImageFolder``
    has them, are shuffled once with a fixed seed, so that the first so many images of the split
    hold every class.

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
        given = _collect(name, data)
    elif isinstance(data, tuple | list) and len(data) == 2:
        given = data[0], data[1]
    else:
        raise InvalidValueError(
            f"{name}: expected a pair (images, labels) or a torch Dataset, got "
            f"{type(data).__name__}."
        )
    images, labels = _tensor(name, "images", given[0]), _tensor(name, "labels", given[1])
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
    split = Split(_images(name, images), _labels(name, labels))
    steps = split.labels.diff()
    if bool((steps >= 0).all() and (steps > 0).any()):
        nothing = np.zeros(int(split.labels[-1]) + 1, dtype=np.int64)
        order = torch.from_numpy(hold_out(split.labels.numpy(force=True), nothing, seed=0)[0])
        return Split(split.images[order], split.labels[order])
    return split


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


def _collect(name: str, data: TorchDataset[Any]) -> tuple[torch.Tensor, list[Any]]:
    """All images, (n, ...), and labels of a map-style dataset."""
    try:
        n = len(data)  # type: ignore[arg-type]
    except TypeError as error:
        raise InvalidValueError(
            f"{name}: {type(data).__name__} has no length; expected a map-style torch Dataset, or "
            "a pair (images, labels)."
        ) from error
    images, labels = torch.empty(0), []
    for row in range(n):
        check_stop()
        item = data[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InvalidValueError(
                f"{name}: item {row} of {type(data).__name__} is {_words(item)}; expected an "
                "(image, label) pair."
            )
        image = _item(name, row, item[0])
        if row == 0:
            images = torch.empty((n, *image.shape), dtype=image.dtype)
        if image.shape != images.shape[1:] or image.dtype != images.dtype:
            raise InvalidValueError(
                f"{name}: image {row} is {image.dtype} of shape {tuple(image.shape)}, but image 0 "
                f"is {images.dtype} of {tuple(images.shape[1:])}; make them equal, e.g. by "
                "transforms.Resize and CenterCrop."
            )
        images[row] = image
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
