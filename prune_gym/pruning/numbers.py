"""Whole numbers that the code of a network holds, followed to the axes that they lay out.

A forward that says ``x.reshape(b, n, self.num_heads, self.head_dim)`` is right for a smaller
network only where ``num_heads`` falls with the heads. So numbers that modules hold are replaced,
while a network is traced, by ones that know where they come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


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
        is_scaled = isinstance(made, int) and not isinstance(other, OwnNumber)
        return OwnNumber.of(made, self.module, self.attribute) if is_scaled else made


class NumberWatch(TorchFunctionMode):  # type: ignore[no-untyped-call]
    """Remembers the numbers in the arguments of the function that runs.

    Attributes:
        arguments: whole numbers among them, in their order, those in lists as well.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.arguments: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.arguments = list(_numbers([*args[1:], *kwargs.values()]))
        return func(*args, **kwargs)


def _numbers(values: Any) -> Iterator[int]:
    for value in values:
        if isinstance(value, int):
            yield value
        elif isinstance(value, list | tuple):
            yield from _numbers(value)


@contextlib.contextmanager
def own_numbers(network: nn.Module) -> Iterator[NumberWatch]:
    """Replace the numbers above 1 that modules hold (but for torch's own), for a while."""
    before: list[tuple[nn.Module, str, int]] = []
    for name, module in network.named_modules():
        if not type(module).__module__.startswith("torch.nn."):
            for attribute, value in vars(module).items():
                if type(value) is int and value > 1:
                    before.append((module, attribute, value))
                    vars(module)[attribute] = OwnNumber.of(value, name, attribute)
    try:
        with NumberWatch() as watch:
            yield watch
    finally:
        for module, attribute, value in before:
            vars(module)[attribute] = value
