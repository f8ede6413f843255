"""Residual blocks that can go whole, and what stands in their place.

A block adds something to its own input: ``x + f(x)``. Where a filter group inside of f keeps none,
f adds nothing any more: all of its layers go, and the block is the identity. In the masked network
that is f with every one of its parameters at zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Block:
    """What goes when one of the filter groups inside of a residual block keeps none.

    Attributes:
        name: the module that goes, or the last of several.
        tensors: all parameters and buffers that go, by every name in ``own_tensors(network)``.
        replaced: what stands in the place of each module that goes, a key of `IN_PLACE`, by the
            module's name; none of them is inside of another.
    """

    name: str
    tensors: frozenset[str]
    replaced: tuple[tuple[str, str], ...]


class Zeros(nn.Module):
    """Gives zeros of its input's shape, as a branch does that adds nothing."""

    def forward(self, source: torch.Tensor, *others: Any, **more: Any) -> torch.Tensor:
        """Zeros, whatever else a caller gives."""
        return torch.zeros_like(source)


class NoAttention(nn.Module):
    """Stands for an `nn.MultiheadAttention` that adds nothing, and gives no weights."""

    def forward(
        self, query: torch.Tensor, *others: Any, **more: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Zeros of the query's shape, and None in the place of the attention's weights."""
        return torch.zeros_like(query), None


IN_PLACE: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "zeros": Zeros,
    "no_attention": NoAttention,
}


def replace_modules(network: nn.Module, replaced: Mapping[str, str]) -> None:
    """Put what `Block.replaced` says in the place of modules of a network, in place."""
    for name, kind in replaced.items():
        parent, _, key = name.rpartition(".")
        made = IN_PLACE[kind]().train(network.get_submodule(name).training)
        network.get_submodule(parent)._modules[key] = made


def is_inside(name: str, modules: Collection[str]) -> bool:
    """Whether a tensor or module, by its name, is one of some modules or in one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
