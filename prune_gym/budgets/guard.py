"""Guards around a black box: a time limit, and whether it left the network as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from prune_gym.errors import BudgetError

Fingerprint = dict[str, tuple[Any, ...]]

_CHUNK = 2**15  # words of 8 bytes; their weights fit into a cache
_SIMPLE = (bool, int, float, str, tuple, type(None))


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
        torch.set_num_threads(n_threads)  # where later threads begin

    n_threads = torch.get_num_threads()

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
    """What a budget must leave as it is, cheap to take: identities, versions and sums of bits.

    Of what modules hold beside tensors, it sees the settings that their classes list as constants
    (``__constants__``, as torch's layers do), ``forward``, and functions: other attributes may be
    what a forward of theirs notes down.
    """
    found: Fingerprint = {}
    for name, module in network.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        place = f"module {name or '(the network)'!r}"
        found[place] = id(module), module.training, hooks, module.forward
        found.update({f"{key!r} of {place}": (value,) for key, value in _settings(module).items()})
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        version = 0 if tensor.is_inference() else tensor._version
        form = (tuple(tensor.shape), tensor.dtype, tensor.device, tensor.requires_grad)
        has_gradient = tensor.is_leaf and tensor.grad is not None
        found[f"tensor {name!r}"] = (id(tensor), *form, _bits(tensor), version, has_gradient)
    return found


def _settings(module: nn.Module) -> dict[str, Any]:
    """Constants of a module by their words (NaN equals itself there), functions by identity."""
    constants = getattr(type(module), "__constants__", ())
    held = vars(module)
    simple = {k: repr(held[k]) for k in constants if isinstance(held.get(k, ...), _SIMPLE)}
    functions = {k: id(value) for k, value in held.items() if callable(value) and k != "forward"}
    return simple | functions


@lru_cache(maxsize=4)
def _weights(device: torch.device) -> torch.Tensor:
    """(_CHUNK,) odd int64, one for each place of a chunk."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**62), 2**62, (_CHUNK,), generator=generator)
    return (2 * drawn + 1).to(device)


def _bits(tensor: torch.Tensor) -> int:
    """A sum over the bits of a tensor, weighted by place.

    Writing through ``.data`` changes no version, and swapping elements no plain sum.
    """
    held = tensor.detach()
    if held.layout != torch.strided or held.is_meta or held.is_quantized:
        return 0
    octets = held.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
    if octets.storage_offset() % 8:  # of a view; words begin at multiples
        octets = octets.clone()
    end = len(octets) // 8 * 8
    weights = _weights(held.device)
    total = (octets[end:] * weights[: len(octets) - end]).sum()
    for chunk in torch.split(octets[:end].view(torch.int64), _CHUNK):
        total = total * 3 + (chunk * weights[: len(chunk)]).sum()  # it wraps around
    return int(total)


def differences(before: Fingerprint, after: Fingerprint) -> str:
    """The first difference of two fingerprints, in words; empty where there is none."""
    for place in dict.fromkeys([*before, *after]):
        old, new = before.get(place), after.get(place)
        if old is None or new is None:
            return f"{place} is {'new' if old is None else 'gone'}"
        if old == new:
            continue
        if place.startswith("'"):
            return f"{place} is another"
        if place.startswith("module"):
            what = (
                "another module",
                "in another mode (train/eval)",
                "left with other hooks",
                "left with another forward",
            )
            return f"{place} is {what[_first_difference(old, new)]}"
        if old[0] != new[0]:
            return f"{place} was replaced"
        if old[1:5] != new[1:5]:
            return f"{place} has another shape, type, device or requires_grad"
        if old[:-1] == new[:-1]:
            return f"{place} {'lost its gradient' if old[-1] else 'is left with a gradient'}"
        return f"{place} was written to"
    return ""


def _first_difference(one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
    return next(index for index in range(len(one)) if one[index] != other[index])
