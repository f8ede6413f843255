"""Whole numbers that the code of a network holds or reads, followed to the axes they lay out.

A forward that says ``x.reshape(b, n, self.num_heads, self.head_dim)`` is right for a smaller
network only where ``num_heads`` falls with the heads, and one that says ``b, n, c = x.shape`` and
``attended.reshape(b, n, c)`` only where both lose as many. So numbers that modules hold, and those
of shapes, are replaced, while a network is traced, by ones that know where they come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from prune_gym.pruning.labels import Facets, axes_of


def read_number(module: nn.Module, attribute: str) -> int | None:
    """A whole number that a module holds; None where it holds none by that name.

    Args:
        module: what holds it.
        attribute: its name, with a place where it is one of several, e.g. ``"sizes.0"``.
    """
    name, _, place = attribute.partition(".")
    value: Any = vars(module).get(name)
    if place and type(value) in (list, tuple):
        value = value[int(place)] if place.isdecimal() and int(place) < len(value) else None
    return value if type(value) is int else None


def write_number(module: nn.Module, attribute: str, number: int) -> None:
    """Set a number that `read_number` reads."""
    name, _, place = attribute.partition(".")
    if not place:
        vars(module)[name] = number
        return
    values = list(vars(module)[name])
    values[int(place)] = number
    vars(module)[name] = type(vars(module)[name])(values)


class OwnNumber(int):
    """A whole number that a module holds, or a multiple or fraction of one.

    Attributes:
        module: name of the module.
        attribute: of the module.
    """

    module: str
    attribute: str

    @classmethod
    def of(cls, value: int, module: str, attribute: str) -> OwnNumber:
        """The number, and where it comes from."""
        number = cls(value)
        number.module, number.attribute = module, attribute
        return number

    def __deepcopy__(self, memo: Any) -> OwnNumber:
        return self

    def __mul__(self, other: Any) -> Any:
        made = int.__mul__(self, other)
        is_scaled = isinstance(made, int) and not isinstance(other, OwnNumber)
        return OwnNumber.of(made, self.module, self.attribute) if is_scaled else made

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        made = int.__floordiv__(self, other)
        is_whole = isinstance(made, int)
        return OwnNumber.of(made, self.module, self.attribute) if is_whole else made

    def __rfloordiv__(self, other: Any) -> Any:
        made = int.__rfloordiv__(self, other)
        return QuotientNumber(made) if isinstance(made, int) else made


class QuotientNumber(int):
    """A number over one that a module holds, such as a width over the number of heads."""


class FixedLength(int):
    """The length of an axis along which nothing can go."""

    def __floordiv__(self, other: Any) -> Any:
        made = int.__floordiv__(self, other)
        return QuotientNumber(made) if isinstance(other, OwnNumber) else made


class ShapeNumber(int):
    """The length of an axis with labels, or a fraction of it.

    Attributes:
        row: labels along the axis.
        divisor: of the fraction.
    """

    row: torch.Tensor
    divisor: int

    @classmethod
    def of(cls, row: torch.Tensor, divisor: int = 1) -> ShapeNumber:
        """The length of a row of labels, over a divisor."""
        number = cls(len(row) // divisor)
        number.row, number.divisor = row, divisor
        return number

    def __floordiv__(self, other: Any) -> Any:
        made = int.__floordiv__(self, other)
        is_whole = isinstance(made, int) and self % other == 0
        return ShapeNumber.of(self.row, self.divisor * int(other)) if is_whole else made


class NumberWatch(TorchFunctionMode):
    """Remembers the numbers in the arguments of the function that runs.

    Args:
        facets_of: the facets of a tensor.

    Attributes:
        arguments: whole numbers among them, in their order, those in lists as well.
    """

    def __init__(self, facets_of: Callable[[Any], Facets]) -> None:
        super().__init__()
        self._facets_of = facets_of
        self.arguments: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.arguments = []  # reading a shape moves labels about: none of the numbers before is its
        if getattr(func, "__self__", None) is torch.Tensor.shape:
            return torch.Size(self._shape(args[0], func(*args)))
        if func is torch.Tensor.size:
            whole = self._shape(args[0], args[0].shape)
            place = args[1] if len(args) > 1 else kwargs.get("dim")
            return torch.Size(whole) if place is None else whole[place]
        self.arguments = list(_numbers([*args[1:], *kwargs.values()]))
        return func(*args, **kwargs)

    def _shape(self, tensor: torch.Tensor, shape: Sequence[int]) -> list[int]:
        facets = self._facets_of(tensor)
        labelled = {axis for facet in facets for axis in axes_of(facet)}
        numbers: list[int] = [
            length if axis in labelled else FixedLength(length) for axis, length in enumerate(shape)
        ]
        for facet in facets:
            axes = axes_of(facet)
            if len(axes) == 1:
                row = facet.movedim(axes[0], 0).reshape(facet.shape[axes[0]], -1)[:, 0]
                numbers[axes[0]] = ShapeNumber.of(row)
        return numbers


def _numbers(values: Any) -> Iterator[int]:
    for value in values:
        if isinstance(value, int):
            yield value
        elif isinstance(value, list | tuple):
            yield from _numbers(value)


@contextlib.contextmanager
def own_numbers(network: nn.Module, facets_of: Callable[[Any], Facets]) -> Iterator[NumberWatch]:
    """Replace the numbers above 1 that modules hold (but for torch's own), for a while."""
    before: list[tuple[nn.Module, str, Any]] = []
    for name, module in network.named_modules():
        if not type(module).__module__.startswith("torch.nn."):
            for attribute, value in list(vars(module).items()):
                replaced = _own(value, name, attribute)
                if replaced is not value:
                    before.append((module, attribute, value))
                    vars(module)[attribute] = replaced
    try:
        with NumberWatch(facets_of) as watch:
            yield watch
    finally:
        for module, attribute, value in before:
            vars(module)[attribute] = value


def _own(value: Any, module: str, attribute: str) -> Any:
    """A value that knows where it comes from, where it is a number above 1, or several."""
    if type(value) is int and value > 1:
        return OwnNumber.of(value, module, attribute)
    if type(value) in (list, tuple) and value and all(type(item) is int for item in value):
        return type(value)(
            _own(item, module, f"{attribute}.{place}") for place, item in enumerate(value)
        )
    return value
