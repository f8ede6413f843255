"""What a dataset is here: three splits of examples, each a batch at a time.

`Examples` is the contract: inputs and targets by row. `Split` holds them in memory, as tensors or
tuples and dicts of tensors; `prune_gym.datasets.streamed.StreamedSplit` reads them as they are
used. Images are float32 and normalised already, or uint8 pixels, a quarter of the memory, which are
normalised as they are used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from prune_gym.datasets.rows import spread_rows
from prune_gym.utils.randomness import seeded
from prune_gym.utils.registry import Registry
from prune_gym.utils.trees import clone, device_of, leaves, mapped

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
Read = Callable[[torch.Tensor], tuple[Any, Any]]
Rows = slice | torch.Tensor
Self = TypeVar("Self", bound="Examples")


class Examples(ABC):
    """Inputs and targets by row: the contract of a split.

    Both are what the network, the metric and the loss take: a tensor whose first axis is the batch,
    tuples, lists and dicts of such, or what a ``collate`` function makes of examples. A tuple of
    inputs is several arguments of the network; see `prune_gym.utils.trees.call`.
    """

    channels_last: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where batches are."""

    @property
    @abstractmethod
    def n_elements(self) -> int:
        """How many numbers the inputs of one example hold."""

    @property
    @abstractmethod
    def classes(self) -> NDArray[np.int64] | None:
        """The class of each example, (n,), where targets are single classes."""

    @abstractmethod
    def read(self, rows: Rows) -> tuple[Any, Any]:
        """Inputs and targets of some rows, always the same; a copy, as networks work in place."""

    @abstractmethod
    def fresh(self, rows: torch.Tensor, generator: torch.Generator) -> tuple[Any, Any]:
        """Inputs and targets of rows for a step of a training, read anew where that matters.

        Args:
            rows: (n,) int64.
            generator: a CPU generator, from which the seed of what is read anew is drawn.
        """

    @abstractmethod
    def of(self: Self, rows: torch.Tensor) -> Self:
        """The examples of some rows, (n,) int64, in their order."""

    @abstractmethod
    def to(self: Self, device: torch.device | str) -> Self:
        """The same split on a device."""

    def batch(self, rows: Rows) -> Any:
        """Inputs of the network for some rows."""
        return self.read(rows)[0]

    def targets(self, rows: Rows) -> Any:
        """What metric and loss get beside the outputs for some rows."""
        return self.read(rows)[1]

    @property
    def example(self) -> Any:
        """Inputs of one example, a batch of it."""
        return self.batch(self.spread(1))

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """All rows in the order of an epoch of a training, (n,)."""
        return torch.randperm(len(self), generator=generator)

    def to_layout(self, inputs: Any) -> Any:
        """A batch, perhaps augmented, as it is fastest for the network."""
        return mapped(_channels_last, inputs) if self.channels_last else inputs

    def spread(self, n: int) -> torch.Tensor:
        """Rows of ``n`` examples that stand for all, as many of every class as can be, (n,).

        The same ones at every call; see `prune_gym.datasets.rows`.
        """
        if n not in self._spread:
            self._spread[n] = spread_rows(len(self), n, self.classes).to(self.device)
        return self._spread[n]

    @cached_property
    def _spread(self) -> dict[int, torch.Tensor]:
        return {}

    def calibration(self, n: int) -> tuple[Any, Any]:
        """Inputs and targets of `spread` rows; a copy, as networks work in place."""
        return self.read(self.spread(n))

    def first(self: Self, n: int) -> Self:
        """The first ``n`` examples; `subset` gives some that stand for all."""
        return self if n >= len(self) else self.of(torch.arange(n))

    def subset(self: Self, n: int) -> Self:
        """``n`` examples that stand for all, each class as frequent as in all of them."""
        if n >= len(self):
            return self
        rows = spread_rows(len(self), n, self.classes, in_proportion=True)
        return self.of(rows.sort().values)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim != 4 or not tensor.is_floating_point():
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class Split(Examples):
    """Examples in memory.

    Attributes:
        images: inputs: (n, channels, height, width) uint8 pixels, a tensor (n, ...) of any other
            type, or tuples and dicts of tensors (n, ...).
        labels: targets: (n,) int64 classes, or a tensor (n, ...), or tuples and dicts of them.
        mean: per channel, of uint8 pixels / 255; without it they are only divided by 255.
        std: likewise.
        channels_last: whether networks get the images channels-last in memory; see `to_layout`.
        reader: reads rows anew, (n,) int64 -> inputs and targets like these, where examples come
            out differently each time, as with random transforms: training does, see `fresh`.
    """

    images: Any
    labels: Any
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels_last: bool = False
    reader: Read | None = None

    def __len__(self) -> int:
        return len(leaves(self.labels)[0])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return device_of(self.images)

    @property
    def n_elements(self) -> int:
        """How many numbers the inputs of one example hold."""
        return sum(tensor[0].numel() for tensor in leaves(self.images))

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """The class of each example, (n,), where targets are single classes."""
        labels = self.labels
        if not isinstance(labels, torch.Tensor) or labels.ndim != 1 or labels.is_floating_point():
            return None
        found: NDArray[np.int64] = labels.numpy(force=True).astype(np.int64)
        return found

    def batch(self, rows: Rows) -> Any:
        """Inputs of the network for some rows, pixels as float32, normalised.

        A copy, as networks may work in place.
        """
        images = mapped(lambda tensor: tensor[rows], self.images)
        if is_pixels(images):
            return normalised(images, self.mean, self.std)
        return clone(images) if isinstance(rows, slice) else images

    def targets(self, rows: Rows) -> Any:
        """What metric and loss get beside the outputs for some rows."""
        return mapped(lambda tensor: tensor[rows], self.labels)

    def read(self, rows: Rows) -> tuple[Any, Any]:
        """Inputs and targets of some rows."""
        return self.batch(rows), self.targets(rows)

    def fresh(self, rows: torch.Tensor, generator: torch.Generator) -> tuple[Any, Any]:
        """Inputs and targets of rows for a step of a training; see `Examples.fresh`."""
        if self.reader is None:
            return self.read(rows)
        with seeded(int(torch.randint(2**31, (1,), generator=generator))):
            images, labels = self.reader(rows.cpu())
        return replace(self, images=images, labels=labels).to(self.device).read(slice(None))

    def of(self, rows: torch.Tensor) -> Split:
        """The examples of some rows, (n,) int64, in their order."""
        reader = self.reader and partial(_read_of, self.reader, rows)
        at = rows.to(self.device)
        images, labels = (mapped(lambda t: t[at], tree) for tree in (self.images, self.labels))
        return replace(self, images=images, labels=labels, reader=reader)

    def to(self, device: torch.device | str) -> Split:
        """The same split on a device."""
        images, labels = (mapped(lambda t: t.to(device), x) for x in (self.images, self.labels))
        return replace(self, images=images, labels=labels)


def is_pixels(inputs: Any) -> bool:
    """Whether inputs are pixels, which are normalised as they are used: one uint8 tensor."""
    return isinstance(inputs, torch.Tensor) and inputs.dtype == torch.uint8


def normalised(
    pixels: torch.Tensor, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> torch.Tensor:
    """Pixels, (n, channels, height, width) uint8, as a network takes them, float32."""
    images = pixels.float().div_(255.0)
    if mean:
        means, stds = (images.new_tensor(values).view(-1, 1, 1) for values in (mean, std))
        images = images.sub_(means).div_(stds)
    return images


def _read_of(read: Read, rows: torch.Tensor, chosen: torch.Tensor) -> tuple[Any, Any]:
    """Read some of the rows of a larger set."""
    return read(rows[chosen])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits: training, validation (the reward), and test (reports only).

    Attributes:
        name: for file names and reports.
        train: for training and recovery.
        validation: held out of training; the reward is measured on it.
        test: touched by reports only; None where the user gave none.
        n_classes: number of classes; 0 where targets are no single classes.
        augment: maps a batch of normalised images and a CPU generator to an augmented batch;
            None = training sees the images as they are.
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples | None = None
    n_classes: int = 0
    augment: Augment | None = None

    def to(self, device: torch.device | str) -> Dataset:
        """The same dataset on a device."""
        return self._each(lambda split: split.to(device))

    def channels_last(self) -> Dataset:
        """The same dataset; networks get its images channels-last."""
        return self._each(lambda split: replace(split, channels_last=True))  # type: ignore[type-var]

    def _each(self, function: Callable[[Examples], Examples]) -> Dataset:
        return replace(
            self,
            train=function(self.train),
            validation=function(self.validation),
            test=None if self.test is None else function(self.test),
        )


DATASETS: Registry[Callable[[], Dataset]] = Registry("dataset")
