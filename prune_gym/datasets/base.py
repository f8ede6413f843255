"""What a dataset is here: three splits of normalised images and labels, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from prune_gym.registry import Registry


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels.

    Attributes:
        images: (n, channels, height, width) float32, normalised.
        labels: (n,) int64.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int) -> Split:
        """The first ``n`` examples."""
        return Split(self.images[:n], self.labels[:n])

    def to(self, device: torch.device | str) -> Split:
        """The same split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits: training, validation (the reward), and test (reports only).

    Attributes:
        name: for file names and reports.
        train: for training and recovery.
        validation: held out of training; the reward is measured on it.
        test: touched by reports only; None where the user gave none.
        n_classes: number of classes.
    """

    name: str
    train: Split
    validation: Split
    test: Split | None
    n_classes: int

    def to(self, device: torch.device | str) -> Dataset:
        """The same dataset on a device."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=None if self.test is None else self.test.to(device),
        )


DATASETS: Registry[Callable[[], Dataset]] = Registry("dataset")


def as_split(name: str, data: Any) -> Split:
    """A split from what users have: a `Split`, a pair (images, labels), or a torch dataset.

    Args:
        name: the argument's name, for error messages.
        data: images (n, channels, height, width) and labels (n,) as tensors or arrays, or a
            map-style ``torch.utils.data.Dataset`` of (image tensor, label) pairs.

    Raises:
        ValueError: shapes that do not fit, an empty split, or values that are not finite.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, TorchDataset):
        pairs = [data[index] for index in range(len(data))]  # type: ignore[arg-type]
        images = torch.stack([torch.as_tensor(np.asarray(image)) for image, _ in pairs])
        labels = torch.tensor([int(label) for _, label in pairs])
    elif isinstance(data, tuple | list) and len(data) == 2:
        images, labels = torch.as_tensor(data[0]), torch.as_tensor(data[1])
    else:
        raise ValueError(
            f"{name}: expected a pair (images, labels) or a torch Dataset, got "
            f"{type(data).__name__}."
        )
    if images.ndim < 2 or labels.shape != images.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"{name}: images of shape {tuple(images.shape)} and labels of shape "
            f"{tuple(labels.shape)} do not fit; expected (n, ...) and (n,) with n > 0."
        )
    images = images.float()
    if not torch.isfinite(images).all():
        raise ValueError(f"{name}: images hold NaN or infinity; clean them first.")
    return Split(images, labels.long())
