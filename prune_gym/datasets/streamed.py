"""Splits whose batches are made as they are used: of any items, and of sets larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from prune_gym.datasets.base import Examples, Rows, is_pixels, normalised
from prune_gym.datasets.items import Items, in_tensors, pair_of
from prune_gym.errors import InvalidValueError
from prune_gym.utils.trees import clone, in_words, leaves, mapped
from prune_gym.utils.user_code import user_code

Collate: TypeAlias = Callable[[list[Any]], Any]  # items -> (inputs, targets)

READ_TWICE = 32  # items, to see whether they come out the same
IN_MEMORY = 2**31  # bytes of a split; what is larger is read as it is used


@dataclass(frozen=True, eq=False)
class StreamedSplit(Examples):
    """Examples that are read, and made into batches, as they are used.

    Attributes:
        items: what is read.
        collate: makes inputs and targets of a list of items.
        rows: which of the items, in order.
        held: the items themselves, by their number, where they fit into memory.
        is_random: whether items come out differently each time: training reads them anew; all
            others get them as drawn from a seed of their own.
        listed: whether the inputs, and the targets, that ``collate`` makes are one of each example,
            as ``zip(*items)`` gives them: they are handed on as a list.
        labels: the class of each item, (n,), where that is known; see `classes`.
        place: device of the batches.
        channels_last: see `Examples.to_layout`.
    """

    items: Items
    collate: Collate
    rows: torch.Tensor
    held: Sequence[Any] | None = None
    is_random: bool = False
    listed: tuple[bool, bool] = (False, False)
    labels: NDArray[np.int64] | None = None
    place: torch.device | str = "cpu"
    channels_last: bool = False

    @classmethod
    def of_items(cls, items: Items, collate: Collate | None = None) -> StreamedSplit:
        """All items; they are held in memory where they fit and are always the same.

        Raises:
            ValueError: there are none, or batches that are no pair.
        """
        n = len(items)
        if n == 0:
            raise InvalidValueError(f"{items.name}: {type(items.data).__name__} is empty.")
        split = cls(items, _Pairs(items) if collate is None else collate, torch.arange(n))
        labels = _whole_numbers(getattr(items.data, "targets", None), n)
        split = replace(split, listed=split._find_listed(), labels=labels)
        one, other = ([*items.read(_some(n), seed=seed)] for seed in (0, n))
        if not same(one, other):
            return replace(split, is_random=True)
        if n * n_bytes(one) > IN_MEMORY * len(one):
            return split
        split = replace(split, held=[*items.read(range(n))])
        return replace(split, labels=split._labels_of_batches())

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return torch.device(self.place)

    @property
    def n_elements(self) -> int:
        """How many numbers the inputs of the first example hold."""
        return sum(tensor.numel() for tensor in leaves(self.batch(slice(1))))

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """The class of each example, (n,).

        Where batches of what is in memory hold them, or else where the dataset has ``targets``.
        """
        return None if self.labels is None else self.labels[self.rows.numpy()]

    def read(self, rows: Rows) -> tuple[Any, Any]:
        """Inputs and targets of some rows, always the same."""
        chosen = self._chosen(rows)
        if self.held is not None:
            return self._batch([self.held[row] for row in chosen])
        return self._batch([*self.items.read(chosen, seed=0 if self.is_random else None)])

    def fresh(self, rows: torch.Tensor, generator: torch.Generator) -> tuple[Any, Any]:
        """Inputs and targets of rows for a step of a training; see `Examples.fresh`."""
        if not self.is_random:
            return self.read(rows)
        seed = int(torch.randint(2**30, (1,), generator=generator))
        return self._batch([*self.items.read(self._chosen(rows), seed=seed)])

    def calibration(self, n: int) -> tuple[Any, Any]:
        """Inputs and targets of `spread` rows, which are read once."""
        if n not in self._calibration:
            self._calibration[n] = self.read(self.spread(n).sort().values)
        inputs, targets = self._calibration[n]
        return clone(inputs), targets

    @cached_property
    def _calibration(self) -> dict[int, tuple[Any, Any]]:
        return {}

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """All rows in the order of an epoch: as they come where they can only be read in order."""
        if self.items.is_iterable and self.held is None:
            return torch.arange(len(self))
        return super().order(generator)

    def of(self, rows: torch.Tensor) -> StreamedSplit:
        """The examples of some rows, (n,) int64, in their order."""
        return replace(self, rows=self.rows[rows.cpu()])

    def to(self, device: torch.device | str) -> StreamedSplit:
        """The same split on a device."""
        return replace(self, place=device)

    def _chosen(self, rows: Rows) -> list[int]:
        found: list[int] = self.rows[rows if isinstance(rows, slice) else rows.cpu()].tolist()
        return found

    def _labels_of_batches(self) -> NDArray[np.int64] | None:
        """The targets of all items, where they are a whole number each."""
        found = []
        for start in range(0, len(self), READ_TWICE):
            n = min(READ_TWICE, len(self) - start)
            found.append(_whole_numbers(self.targets(slice(start, start + n)), n))
            if found[-1] is None:
                return None
        return np.concatenate([labels for labels in found if labels is not None])

    def _find_listed(self) -> tuple[bool, bool]:
        """Which parts of a batch grow with it; a tuple that does not is several arguments."""
        sizes = (2, 3) if len(self.items) > 2 else (1, 2)
        if len(self.items) < 2:
            return False, False
        made = [(n, self._made([*self.items.read(range(n), seed=0)])) for n in sizes]
        one, other = (
            all(isinstance(pair[part], tuple) and len(pair[part]) == n for n, pair in made)
            for part in (0, 1)
        )
        return one, other

    def _batch(self, items: list[Any]) -> tuple[Any, Any]:
        inputs, targets = (
            mapped(lambda tensor: tensor.to(self.place), list(part) if is_listed else part)
            for part, is_listed in zip(self._made(items), self.listed, strict=True)
        )
        return (normalised(inputs) if is_pixels(inputs) else inputs), targets

    def _made(self, items: list[Any]) -> tuple[Any, Any]:
        """What ``collate`` makes of items: a pair, inputs and targets."""
        name = self.items.name
        with user_code(f"{name}: collate", InvalidValueError):
            made = self.collate(items)
        if not isinstance(made, tuple | list) or len(made) != 2:
            words = in_words(made) if leaves(made) else type(made).__name__
            raise InvalidValueError(
                f"{name}: a batch is {words}; expected a pair, the inputs and the targets: give "
                "collate=, a function (list of items) -> (inputs, targets)."
            )
        return made[0], made[1]


@dataclass(frozen=True)
class _Pairs:
    """Makes a batch of (input, target) items of equal shapes."""

    items: Items

    def __call__(self, items: list[Any]) -> Any:
        name, kind = self.items.name, type(self.items.data).__name__
        pairs = [pair_of(name, row, item, kind) for row, item in enumerate(items)]
        return default_collate(
            [tuple(in_tensors(name, "a part of an item", x) for x in pair) for pair in pairs]
        )


def same(one: Any, other: Any) -> bool:
    """Whether two readings are equal, in every tensor, array, picture and number."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and same([*one.items()], [*other.items()])
    if isinstance(one, list | tuple):
        return (
            isinstance(other, list | tuple)
            and len(one) == len(other)
            and all(same(x, y) for x, y in zip(one, other, strict=True))
        )
    if isinstance(one, np.ndarray) or hasattr(one, "__array__"):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return bool(one == other) or (one != one and other != other)


def n_bytes(item: Any) -> int:
    """About how much memory an item takes."""
    if isinstance(item, dict):
        return sum(n_bytes(value) for value in item.values())
    if isinstance(item, list | tuple):
        return sum(n_bytes(value) for value in item)
    if hasattr(item, "nbytes"):
        return int(item.nbytes)
    return int(np.prod(getattr(item, "size", (64,)))) * 4  # a picture, or a number


def _whole_numbers(targets: Any, n: int) -> NDArray[np.int64] | None:
    """Targets as an array of whole numbers, one of each of ``n`` examples; None where they differ.

    Args:
        targets: what a dataset or a batch has.
        n: how many examples there are.
    """
    if not isinstance(targets, list | np.ndarray | torch.Tensor) or len(targets) != n:
        return None
    try:
        found = np.asarray(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found.astype(np.int64) if found.ndim == 1 and found.dtype.kind in "iu" else None


def _some(n: int) -> list[int]:
    """Rows of some items, all over the set and in order."""
    return sorted({n * i // READ_TWICE for i in range(READ_TWICE)})
