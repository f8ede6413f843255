"""Torch datasets, item by item: map-style and iterable ones, and what their items hold."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from prune_gym.errors import InvalidValueError
from prune_gym.utils.randomness import seeded
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.trees import leaves, mapped


class Items:
    """The items of a torch dataset by row. Iterable ones are read from their beginning.

    Args:
        name: the argument's name, for error messages.
        data: a map-style dataset, or an iterable one; with a length.

    Raises:
        ValueError: it has no length.
    """

    def __init__(self, name: str, data: TorchDataset[Any]) -> None:
        self.name, self.data = name, data
        self.is_iterable = isinstance(data, IterableDataset)
        try:
            self._n = len(data)  # type: ignore[arg-type]
        except TypeError as error:
            raise InvalidValueError(
                f"{name}: {type(data).__name__} has no length; expected a map-style torch Dataset, "
                "an IterableDataset with a __len__, or a pair (inputs, targets)."
            ) from error
        self._lock = threading.Lock()
        self._iterator: Iterator[Any] | None = None
        self._at = 0  # row that the iterator gives next

    def __len__(self) -> int:
        return self._n

    def __getstate__(self) -> dict[str, Any]:
        """All but where an iterable one stands."""
        return {**vars(self), "_lock": None, "_iterator": None, "_at": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The way back."""
        vars(self).update(state, _lock=threading.Lock())

    def read(self, rows: Sequence[int], seed: int | None = None) -> Iterator[Any]:
        """The items of some rows.

        Args:
            rows: in any order; of an iterable dataset quickest in ascending order.
            seed: of random transforms: each item is the same whenever it is read with the same
                seed; None = they draw from the generators as they are.
        """
        for row in rows:
            check_stop()
            if seed is None:
                yield self._item(row)
            else:
                with seeded(seed + row):
                    item = self._item(row)
                yield item

    def _item(self, row: int) -> Any:
        if not self.is_iterable:
            return self.data[row]
        with self._lock:
            if self._iterator is None or row < self._at:
                self._iterator, self._at = iter(self.data), 0
            while True:
                try:
                    item = next(self._iterator)
                except StopIteration:
                    self._iterator = None
                    raise InvalidValueError(
                        f"{self.name}: {type(self.data).__name__} says that it holds {self._n} "
                        f"items, but ends after {self._at}; mend its __len__."
                    ) from None
                self._at += 1
                if self._at == row + 1:
                    return item


def in_tensors(name: str, what: str, value: Any) -> Any:
    """A part of an item with tensors in place of arrays, numbers and pictures.

    PIL images become (channels, height, width) uint8.
    """
    if isinstance(value, Mapping):
        return {key: in_tensors(name, f"{what}[{key!r}]", part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(in_tensors(name, f"{what}[{i}]", part) for i, part in enumerate(value))
    if isinstance(value, bool | int | float):
        return torch.tensor(value)
    from PIL import Image

    if isinstance(value, Image.Image):
        grey = value.mode in ("1", "L")
        pixels = np.array(value.convert("L" if grey else "RGB"))
        return torch.from_numpy(pixels[None] if grey else pixels.transpose(2, 0, 1))
    return as_tensor(name, what, value)


def as_tensor(name: str, what: str, values: Any) -> torch.Tensor:
    """Values as a tensor that may be written to, of the type that they have.

    Raises:
        ValueError: they are no numbers.
    """
    if isinstance(values, torch.Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
        if isinstance(values, list | tuple) and array.dtype == np.float64:
            array = array.astype(np.float32)  # Python's numbers have no type to be kept
        if array.dtype.byteorder not in "=|":
            array = array.astype(array.dtype.newbyteorder("="))
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValueError(
            f"{name}: {what} of type {type(values).__name__} cannot be made a tensor "
            f"({str(error).splitlines()[0]}); expected a tensor or an array of numbers."
            f"{of_list(values)}"
        ) from error


def of_list(values: Any) -> str:
    """What to do with a list of tensors that does not fit; empty for anything else."""
    if not isinstance(values, list) or not all(getattr(part, "ndim", 0) for part in values):
        return ""
    return " A list stands for examples of equal shape; several inputs are a tuple, (one, other)."


def pair_of(name: str, row: int, item: Any, kind: str) -> tuple[Any, Any]:
    """An item's input and target.

    Raises:
        ValueError: the item is no pair.
    """
    if not isinstance(item, tuple | list) or len(item) != 2:
        length = f" of {len(item)}" if isinstance(item, tuple | list | dict) else ""
        raise InvalidValueError(
            f"{name}: item {row} of {kind} is {type(item).__name__}{length}; expected an (input, "
            "target) pair. For others, give collate=, a function (list of "
            "items) -> (inputs, targets)."
        )
    return item[0], item[1]


def stacked(name: str, what: str, parts: Iterable[tuple[int, Any]], n: int) -> Any:
    """One tree of tensors (n, ...) from the trees of ``n`` rows.

    Args:
        name: the argument's name, for error messages.
        what: the parts are.
        parts: row, and its tree of tensors.
        n: how many.

    Raises:
        ValueError: parts of different shapes or types.
    """
    whole: list[torch.Tensor] = []
    first: tuple[int, Any] = (0, None)
    for place, (row, part) in enumerate(parts):
        tensors = leaves(part)
        if place == 0:
            first, whole = (row, part), [torch.empty((n, *t.shape), dtype=t.dtype) for t in tensors]
        if len(tensors) != len(whole):
            raise InvalidValueError(
                f"{name}: {what} {row} holds {len(tensors)} tensors, but {what} {first[0]} "
                f"{len(whole)}; make them equal."
            )
        for tensor, every in zip(tensors, whole, strict=True):
            if tensor.shape != every.shape[1:] or tensor.dtype != every.dtype:
                raise InvalidValueError(
                    f"{name}: {what} {row} is {tensor.dtype} of shape {tuple(tensor.shape)}, but "
                    f"{what} {first[0]} is {every.dtype} of {tuple(every.shape[1:])}; make them "
                    "equal, e.g. by transforms.Resize and CenterCrop, or give collate=, a function "
                    "(list of items) -> (inputs, targets)."
                )
            every[place] = tensor
    made = iter(whole)
    return mapped(lambda _: next(made), first[1])
