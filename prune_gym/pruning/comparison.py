"""Outputs of two networks that ought to be the same but for rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.pruning.operations import tensors_in
from prune_gym.pruning.trace import own_randomness, step_by_step
from prune_gym.utils.devices import tf32
from prune_gym.utils.trees import call, clone, device_of, leaves

_CHOOSING = {  # operations that give out numbers by how they compare: rounding may turn the scales
    *("nms", "topk", "sort", "argsort", "argmax", "argmin", "nonzero", "masked_select", "index"),
    *("max", "min", "unique", "_unique2"),
}
_COUNTING = {"nms", "nonzero", "masked_select", "unique", "_unique2"}


def agree(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    """Whether outputs are the same but for rounding (numbers beyond finite ones are left out)."""
    if [one.shape for one in found] != [other.shape for other in expected]:
        return False
    for one, other in zip(found, expected, strict=True):
        finite = one.isfinite() & other.isfinite()
        if one.is_floating_point() and bool(finite.any()):
            atol = _tolerance(one) * float(other[finite].abs().max())
            if not torch.allclose(one[finite], other[finite], rtol=0.0, atol=atol):
                return False
    return True


def _tolerance(outputs: torch.Tensor) -> float:
    """How far rounding may drive outputs apart, as a fraction of their largest."""
    coarsest = max(torch.finfo(outputs.dtype).eps, torch.finfo(torch.float32).eps)
    rounding = float(coarsest)  # a float64 output may have come from float32 layers
    if outputs.device.type not in ("cpu", "cuda"):
        rounding = max(rounding, 2.0**-10)  # other accelerators may multiply as coarsely
    return min(1000.0 * rounding, 3.0 * math.sqrt(rounding))


def outputs_of(network: nn.Module, example: Any) -> list[torch.Tensor]:
    """What a network gives out, from the same random state every time."""
    device = device_of(example)
    with own_randomness(device), tf32(device, False), torch.no_grad():
        return leaves(call(network, clone(example)))  # it may work in place


class Choice(NamedTuple):
    """What an operation that chooses was given, and what it gave.

    Attributes:
        given: its numbers.
        made: its outputs.
        counts: whether the numbers decide how many it gives.
    """

    given: list[torch.Tensor]
    made: list[torch.Tensor]
    counts: bool = False


class _Choices(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what is chosen while a network runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Choice] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]
        if name in _CHOOSING:
            taken = tensors_in(list(args))
            given = [tensor.clone() for tensor in taken if tensor.is_floating_point()]
            by_mask = name == "index" and any(tensor.dtype == torch.bool for tensor in taken[1:])
            self.seen.append(Choice(given, tensors_in([made]), name in _COUNTING or by_mask))
        return made


def choices_of(network: nn.Module, example: Any) -> list[Choice]:
    """What a network chooses by comparing numbers, such as the boxes of a detector, in order."""
    choices = _Choices()
    with step_by_step(), choices:
        outputs_of(network, example)
    return choices.seen


def rounding_decides(found: Sequence[Choice], expected: Sequence[Choice]) -> bool:
    """Whether two networks part where they choose otherwise from the same numbers.

    What they give out then differs, though they compute the same.
    """
    for one, other in zip(found, expected, strict=False):
        if not agree(one.given, other.given):
            return False
        if not all(_is_same(a, b) for a, b in zip(one.made, other.made, strict=True)):
            return True
    return False


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the same was chosen: as many numbers, the same places."""
    return one.shape == other.shape and (one.is_floating_point() or torch.equal(one, other))
