"""Guards around a black box: a time limit, and whether it left the network as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Fingerprint = dict[str, tuple[Any, ...]]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per element


class BudgetError(ValueError):
    """A budget that raised, or returned something that cannot be a cost; names the budget."""


def within(timeout_s: float, function: Callable[[], Any]) -> Any:
    """What a function returns or raises, if it takes no longer.

    Args:
        timeout_s: seconds it may take.
        function: called in a thread of its own; after the time it is left behind there.

    Raises:
        BudgetError: it took longer.
    """
    returned: list[Any] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(function())
        except BaseException as error:  # it is raised where it is waited for
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if raised:
        raise raised[0]
    if not returned:
        raise BudgetError(
            f"no number after timeout_s={timeout_s:g} s; it goes on in the background, as Python "
            "cannot end it. Mend it, or give it more time (a program of its own, "
            "command_budget(...), is ended for real)."
        )
    return returned[0]


def fingerprint(network: nn.Module) -> Fingerprint:
    """What a budget must leave as it is, cheap to take: identities, versions and sums of bits."""
    found: Fingerprint = {}
    for name, module in network.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        found[f"module {name or '(the network)'!r}"] = id(module), module.training, hooks
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        version = 0 if tensor.is_inference() else tensor._version
        form = (tuple(tensor.shape), tensor.dtype, tensor.device, tensor.requires_grad)
        found[f"tensor {name!r}"] = (id(tensor), *form, _bits(tensor), version)
    return found


def _bits(tensor: torch.Tensor) -> int:
    """A sum over the bits of a tensor: writing through ``.data`` changes no version."""
    held = tensor.detach()
    if held.layout != torch.strided or held.is_meta or held.is_quantized:
        return 0
    if held.is_complex():
        held = torch.view_as_real(held)
    bits = held.view(_BITS[held.element_size()])
    return int(bits.sum(dtype=torch.int64))


def differences(before: Fingerprint, after: Fingerprint) -> str:
    """The first difference of two fingerprints, in words; empty where there is none."""
    for place in dict.fromkeys([*before, *after]):
        old, new = before.get(place), after.get(place)
        if old is None or new is None:
            return f"{place} is {'new' if old is None else 'gone'}"
        if old == new:
            continue
        if place.startswith("module"):
            what = ("another module", "in another mode (train/eval)", "left with other hooks")
            return f"{place} is {what[_first_difference(old, new)]}"
        if old[0] != new[0]:
            return f"{place} was replaced"
        if old[1:5] != new[1:5]:
            return f"{place} has another shape, type, device or requires_grad"
        return f"{place} was written to"
    return ""


def _first_difference(one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
    return next(index for index in range(len(one)) if one[index] != other[index])
