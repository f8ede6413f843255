"""Memory of feature maps: the most that is alive at once in one forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prune_gym.budgets.base import BUDGETS, Budget
from prune_gym.utils.trees import call, clone, leaves, repeated


@BUDGETS.register
def activation_bytes() -> Budget:
    """Peak bytes of feature maps in one forward of one image.

    Every floating-point tensor of a forward in evaluation mode is followed from the operator that
    makes it to the moment when nothing uses it any more (its input included, from the start to the
    end, as whoever calls holds it); the number is the largest sum at any moment. In-place operators
    and views take nothing. Not counted: parameters and buffers, indices of pooling, and the work
    space inside an operator. (Monotone where a network runs the same operators at any size.)
    """
    return Budget(
        "activation_bytes",
        unit="bytes",
        monotone=True,
        deterministic=True,
        measure_on=peak_activation_bytes,
    )


def peak_activation_bytes(network: nn.Module, example: Any) -> float:
    """See `activation_bytes`; of the first example.

    Args:
        network: in evaluation mode.
        example: (n, ...).
    """
    own = (*network.parameters(), *network.buffers())
    inputs = clone(repeated(example, 1))
    with torch.no_grad(), _Peak({t.untyped_storage()._cdata for t in own}) as peak:
        peak.note(leaves(inputs))
        call(network, inputs)
    return float(peak.largest)


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators make; ``largest`` is the most bytes alive at once."""

    def __init__(self, ignored: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ignored = ignored
        self._alive: dict[int, tuple[Any, int]] = {}
        self.largest = 0

    def note(self, tensors: list[Any]) -> None:
        """Add new tensors, forget those that are gone."""
        weak: Any = StorageWeakRef
        gone = [key for key, (storage, _) in self._alive.items() if storage.expired()]
        for key in gone:
            del self._alive[key]
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                storage = tensor.untyped_storage()
                if storage._cdata not in self._ignored:
                    self._alive[storage._cdata] = weak(storage), storage.nbytes()
        self.largest = max(self.largest, sum(size for _, size in self._alive.values()))

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note(tree_leaves(result))
        return result
