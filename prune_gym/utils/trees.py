"""Inputs, targets and outputs as they come: a tensor, or tuples, lists and dicts of tensors."""

from __future__ import annotations

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
    if isinstance(tree, Mapping):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [mapped(function, value) for value in tree]
    if isinstance(tree, tuple):
        values = (mapped(function, value) for value in tree)
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    return tree


def leaves(tree: Any) -> list[torch.Tensor]:
    """Every tensor in what a network gives or takes, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return leaves(list(tree.values()))
    if isinstance(tree, list | tuple):
        return [tensor for value in tree for tensor in leaves(value)]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return leaves([getattr(tree, field.name) for field in dataclasses.fields(tree)])
    return []


def rows_of(tree: Any, rows: slice | torch.Tensor) -> Any:
    """Some rows of a batch: of each tensor along its first axis, and of lists."""
    if isinstance(tree, list):
        chosen = range(len(tree))[rows] if isinstance(rows, slice) else rows.tolist()
        return [tree[row] for row in chosen]
    if isinstance(tree, tuple | dict):
        values = tree.values() if isinstance(tree, dict) else tree
        found = [rows_of(value, rows) for value in values]
        return dict(zip(tree, found, strict=True)) if isinstance(tree, dict) else tuple(found)
    return tree[rows] if isinstance(tree, torch.Tensor) and tree.ndim else tree


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
    return type(tree).__name__


def joined(parts: Sequence[Any]) -> Any:
    """Batches one after the other: tensors are concatenated, lists go on."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        if first.ndim == 0:
            return torch.stack(list(parts))
        return torch.cat(list(parts)) if len(parts) > 1 else first
    if isinstance(first, Mapping):
        return {key: joined([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple) and not hasattr(first, "_fields"):
        return tuple(joined([part[i] for part in parts]) for i in range(len(first)))
    if isinstance(first, list):
        return [value for part in parts for value in part]
    return list(parts)


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
