"""Whether splits and datasets are what they should be."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from prune_gym.datasets.base import Dataset, Examples, Split
from prune_gym.errors import InvalidValueError
from prune_gym.utils.trees import leaves


def check_alike(parts: Mapping[str, Examples]) -> None:
    """Raise ValueError where inputs in memory differ in shape or type from those of train.

    Args:
        parts: splits by the name of the argument; one is ``"train"``.
    """
    train = parts["train"]
    for name, split in parts.items():
        if not isinstance(split, Split) or not isinstance(train, Split):
            continue
        for tensor, wanted in zip(leaves(split.images), leaves(train.images), strict=False):
            shape, expected = tuple(tensor.shape[1:]), tuple(wanted.shape[1:])
            if shape != expected:
                raise InvalidValueError(
                    f"{name}: images of shape {shape}, but those of train are {expected}; prepare "
                    "both alike."
                )
            if tensor.dtype != wanted.dtype:
                raise InvalidValueError(
                    f"{name}: images are {tensor.dtype}, but those of train are {wanted.dtype}; "
                    "uint8 pixels are divided by 255 and floats are not: give both alike."
                )
        if len(leaves(split.images)) != len(leaves(train.images)):
            raise InvalidValueError(
                f"{name}: {len(leaves(split.images))} inputs, but train has "
                f"{len(leaves(train.images))}; give the same ones."
            )


def check_splits(train: Examples, validation: Examples, test: Examples | None) -> None:
    """Check that splits of single classes belong together.

    Raises:
        ValueError: images of different shapes, or a class beyond those of the training split.
    """
    others = (
        {"validation": validation} if test is None else {"validation": validation, "test": test}
    )
    check_alike({"train": train, **others})
    known = _classes(train)
    for name, split in others.items():
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


def _classes(split: Examples) -> set[int]:
    found = split.classes
    return set() if found is None else set(found.tolist())


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
        if isinstance(split, Split):
            n_inputs = {len(tensor) for tensor in leaves(split.images)}
            if n_inputs != {len(split)} or len(split) == 0:
                raise InvalidValueError(
                    f"dataset {data.name!r}: {name} holds {max(n_inputs, default=0)} images and "
                    f"{len(split)} labels; expected as many of both, at least one."
                )
        labels = split.classes
        if labels is None or data.n_classes == 0:
            continue
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= data.n_classes:
            raise InvalidValueError(
                f"dataset {data.name!r}: {name} holds label {least if least < 0 else most}, but "
                f"n_classes={data.n_classes}; labels are 0 to {data.n_classes - 1}."
            )
