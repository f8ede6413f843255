"""What a dataset is here: three splits of images and labels, in memory.

Images are float32 and normalised already, or uint8 pixels, a quarter of the memory, which
`Split.batch` normalises as they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from prune_gym.datasets.rows import spread_rows
from prune_gym.utils.randomness import seeded
from prune_gym.utils.registry import Registry

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
Read = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels.

    Attributes:
        images: (n, channels, height, width) uint8 pixels, or (n, ...) float32, normalised.
        labels: (n,) int64.
        mean: per channel, of uint8 pixels / 255; without it they are only divided by 255.
        std: likewise.
        channels_last: whether networks get the images channels-last in memory; see `to_layout`.
        read: reads rows anew, (n,) int64 -> images and labels like these, where examples come out
            differently each time, as with random transforms: training does, see `fresh`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels_last: bool = False
    read: Read | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """Inputs of the network: the images of some rows, (n, ...) float32, normalised.

        A copy, as networks may work in place.
        """
        images = self.images[rows]
        if images.dtype != torch.uint8:
            images = images.clone() if isinstance(rows, slice) else images
        else:
            images = images.float().div_(255.0)
            if self.mean:
                mean = images.new_tensor(self.mean).view(-1, 1, 1)
                std = images.new_tensor(self.std).view(-1, 1, 1)
                images = images.sub_(mean).div_(std)
        return images

    def to_layout(self, images: torch.Tensor) -> torch.Tensor:
        """A batch, perhaps augmented, as it is fastest for the network."""
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def fresh(
        self, rows: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels of rows for a step of a training, read anew where that matters.

        Args:
            rows: (n,) int64.
            generator: a CPU generator, from which the seed of what is read anew is drawn.
        """
        if self.read is None:
            return self.batch(rows), self.labels[rows]
        with seeded(int(torch.randint(2**31, (1,), generator=generator))):
            images, labels = self.read(rows.cpu())
        images, labels = images.to(self.images.device), labels.to(self.labels.device)
        return replace(self, images=images).batch(slice(None)), labels

    def spread(self, n: int) -> torch.Tensor:
        """Rows of ``n`` examples that stand for all, as many of every class as can be, (n,).

        The same ones at every call; see `prune_gym.datasets.rows`.
        """
        if n not in self._spread:
            rows = spread_rows(len(self), n, self.labels.numpy(force=True))
            self._spread[n] = rows.to(self.images.device)
        return self._spread[n]

    @cached_property
    def _spread(self) -> dict[int, torch.Tensor]:
        return {}

    def first(self, n: int) -> Split:
        """The first ``n`` examples; `subset` gives some that stand for all."""
        return self if n >= len(self) else self.of(torch.arange(n))

    def subset(self, n: int) -> Split:
        """``n`` examples that stand for all, each class as frequent as in all of them."""
        if n >= len(self):
            return self
        labels = self.labels.numpy(force=True)
        rows = spread_rows(len(self), n, labels, in_proportion=True)
        return self.of(rows.sort().values)

    def of(self, rows: torch.Tensor) -> Split:
        """The examples of some rows, (n,) int64, in their order."""
        read = self.read and partial(_read_of, self.read, rows)
        at = rows.to(self.images.device)
        return replace(self, images=self.images[at], labels=self.labels[at], read=read)

    def to(self, device: torch.device | str) -> Split:
        """The same split on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def _read_of(
    read: Read, rows: torch.Tensor, chosen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
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
        n_classes: number of classes.
        augment: maps a batch of normalised images and a CPU generator to an augmented batch;
            None = training sees the images as they are.
    """

    name: str
    train: Split
    validation: Split
    test: Split | None
    n_classes: int
    augment: Augment | None = None

    def to(self, device: torch.device | str) -> Dataset:
        """The same dataset on a device."""
        return self._each(lambda split: split.to(device))

    def channels_last(self) -> Dataset:
        """The same dataset; networks get its images channels-last."""
        return self._each(lambda split: replace(split, channels_last=True))

    def _each(self, function: Callable[[Split], Split]) -> Dataset:
        return replace(
            self,
            train=function(self.train),
            validation=function(self.validation),
            test=None if self.test is None else function(self.test),
        )


DATASETS: Registry[Callable[[], Dataset]] = Registry("dataset")
