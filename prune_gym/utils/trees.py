"""Inputs, targets and outputs as they come: a tensor, or tuples, lists and dicts of tensors."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn


def mapped(function: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """The same tree with ``function`` of each tensor in its place; what is no tensor stays.

    >>> mapped(len, {"a": torch.zeros(2), "b": (torch.zeros(3), "words")})
    {'a': 2, 'b': (3, 'words')}
    """
    if isinstance(tree, torch.Tensor):
        return function(tree)
    parts = _parts(tree)
    return tree if parts is None else _like(tree, [mapped(function, part) for part in parts])


def _parts(tree: Any) -> list[Any] | None:
    """What a mapping, a list, a tuple or a dataclass holds, in order; None of anything else."""
    if isinstance(tree, Mapping):
        return list(tree.values())
    if isinstance(tree, list | tuple):
        return list(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [getattr(tree, field.name) for field in dataclasses.fields(tree)]
    return None


def _like(tree: Any, parts: list[Any]) -> Any:
    """The same kind of mapping, list, tuple or dataclass, with other parts."""
    if isinstance(tree, Mapping):
        named = dict(zip(tree, parts, strict=True))
        if type(tree) is dict:
            return named
        try:  # a dict with attributes, as many libraries give it, is to keep them
            return type(tree)(**named)
        except TypeError:
            return named
    if isinstance(tree, list):
        return parts
    if isinstance(tree, tuple):
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    other = copy.copy(tree)
    for field, part in zip(dataclasses.fields(tree), parts, strict=True):
        object.__setattr__(other, field.name, part)
    return other


def without_classes(tree: Any) -> Any:
    """The same tree of tensors in plain tuples, lists and dicts; what is no tensor is left out.

    >>> import collections
    >>> without_classes(collections.UserDict(out=[torch.tensor(1)], hidden=None))
    {'out': [tensor(1)]}
    """
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    if isinstance(tree, Mapping):
        return {key: without_classes(part) for key, part in tree.items() if leaves(part)}
    if isinstance(tree, list | tuple):
        parts = [without_classes(part) for part in tree if leaves(part)]
        return parts if isinstance(tree, list) else tuple(parts)
    return tree


def leaves(tree: Any) -> list[torch.Tensor]:
    """Every tensor in what a network gives or takes, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [tensor for part in _parts(tree) or [] for tensor in leaves(part)]


def rows_of(tree: Any, rows: slice | torch.Tensor) -> Any:
    """Some rows of a batch: of each tensor along its first axis, and of lists."""
    if isinstance(tree, list):
        chosen = range(len(tree))[rows] if isinstance(rows, slice) else rows.tolist()
        return [tree[row] for row in chosen]
    if isinstance(tree, torch.Tensor):
        return tree[rows] if tree.ndim else tree
    parts = _parts(tree)
    return tree if parts is None else _like(tree, [rows_of(part, rows) for part in parts])


def repeated(tree: Any, n: int) -> Any:
    """A batch of ``n`` times its first example."""
    if isinstance(tree, list):
        return tree[:1] * n
    if isinstance(tree, Mapping):
        return {key: repeated(value, n) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(repeated(value, n) for value in tree)
    return tree[:1].expand(n, *tree.shape[1:]).contiguous()


def clone(tree: Any) -> Any:
    """A copy of the tensors: networks may work in place."""
    return mapped(torch.Tensor.clone, tree)


def device_of(tree: Any) -> torch.device:
    """Where the tensors are; the CPU where there are none."""
    return next((tensor.device for tensor in leaves(tree)), torch.device("cpu"))


def in_words(tree: Any) -> str:
    """Shapes and types of a batch, for error messages.

    >>> in_words(torch.zeros(2, 3)), in_words({"ids": torch.zeros(1, 4, dtype=torch.int64)})
    ('(2, 3)', "{'ids': (1, 4) int64}")
    """
    if isinstance(tree, torch.Tensor):
        kind = str(tree.dtype).removeprefix("torch.")
        return f"{tuple(tree.shape)}" + ("" if kind == "float32" else f" {kind}")
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key!r}: {in_words(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list | tuple):
        shown = ", ".join(in_words(value) for value in tree[:4])
        more = f", ... {len(tree)} in all" if len(tree) > 4 else ""
        return f"[{shown}{more}]" if isinstance(tree, list) else f"({shown}{more})"
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        parts = zip(names, _parts(tree) or [], strict=True)
        shown = ", ".join(f"{name}={in_words(part)}" for name, part in parts)
        return f"{type(tree).__name__}({shown})"
    return type(tree).__name__


def joined(parts: Sequence[Any]) -> Any:
    """Batches one after the other: tensors are concatenated, lists go on."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        if first.ndim == 0:
            return torch.stack(list(parts))
        return torch.cat(list(parts)) if len(parts) > 1 else first
    if isinstance(first, list):
        return [value for part in parts for value in part]
    if _parts(first) is None:
        return first if all(part is None for part in parts) else list(parts)
    if isinstance(first, Mapping):
        return _like(first, [joined([part[key] for part in parts]) for key in first])
    columns = zip(*(_parts(part) or [] for part in parts), strict=True)
    return _like(first, [joined(column) for column in columns])


def call(network: nn.Module, inputs: Any) -> Any:
    """Run a network on a batch of inputs.

    A tuple holds several arguments of its forward(), and so does a dict whose keys are names of
    them; a tensor, a list or any other dict is one argument.
    """
    if isinstance(inputs, torch.Tensor):
        return network(inputs)
    positional, named = arguments(network, inputs)
    return network(*positional, **named)


def arguments(network: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs as the arguments of a network: those by position, and those by name; see `call`."""
    if isinstance(inputs, tuple):
        return inputs, {}
    if isinstance(inputs, Mapping) and _takes(type(network).forward, frozenset(inputs)):
        return (), dict(inputs)
    return (inputs,), {}


@lru_cache(maxsize=256)
def _takes(forward: Callable[..., Any], names: frozenset[str]) -> bool:
    """Whether a forward() has these keywords, and needs no other ones."""
    try:
        inspect.signature(forward).bind(None, **dict.fromkeys(names))
    except TypeError:
        return False
    return True
