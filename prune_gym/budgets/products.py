"""Multiply-adds by the weights that take part in them, read off the operations of a forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from prune_gym.pruning.layer_operations import operation_name
from prune_gym.pruning.operations import tensors_in
from prune_gym.pruning.trace import step_by_step
from prune_gym.utils.trees import call, clone

_MATRICES = ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot")
_CONVOLUTIONS = ("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
_RECURRENT = ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")
_LOOKUPS = ("embedding", "index", "index_select", "gather")  # what they give is no weight


def multiply_adds(network: nn.Module, example: Any) -> dict[str, int]:
    """Multiply-adds of each weight in one forward, by its first name.

    Counted is every product of a feature map with a parameter, or with what is computed from one
    parameter element by element, whichever layer or function asks for it. Products of two feature
    maps, such as an attention's scores, have no weight.

    Args:
        network: in evaluation mode, a copy: caches in it may be filled.
        example: one input batch.
    """
    watch = _Products(network)
    with torch.inference_mode(False), torch.no_grad(), step_by_step(), watch:
        call(network, clone(example))
    return watch.found


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it lasts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, int] = {}
        self._origin: Any = WeakTensorKeyDictionary()  # name of the parameter behind a tensor
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                self._origin[parameter] = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name, taken = operation_name(func), tensors_in([args, kwargs or {}])
        weights = [tensor for tensor in taken if tensor in self._origin]
        if not weights or name in _LOOKUPS:
            return made
        if name in _MATRICES:
            factor = args[-2]  # the left one of two; what is added stands before
            self._add(weights[-1], made.numel() * factor.shape[-1])
        elif name in _CONVOLUTIONS:
            transposed = name in _CONVOLUTIONS[:2] and bool(args[6])
            grid = args[0] if transposed else made  # it multiplies once per input position
            n_places = grid.numel() // grid.shape[1]
            self._add(weights[0], args[1].numel() * n_places)
        elif name in _RECURRENT:
            for weight in weights:
                self._add(weight, weight.numel() * (args[0].numel() // args[0].shape[-1]))
        else:
            self._follow(tensors_in(made), taken, weights[0])
        return made

    def _add(self, weight: torch.Tensor, n: int) -> None:
        name = self._origin[weight]
        self.found[name] = self.found.get(name, 0) + n

    def _follow(
        self, made: list[torch.Tensor], taken: list[torch.Tensor], weight: torch.Tensor
    ) -> None:
        """What has as many numbers as a weight, or is a part of it, is still that weight."""
        others = [tensor for tensor in taken if tensor is not weight]
        if any(tensor.numel() >= weight.numel() for tensor in others):
            return  # it is added to a feature map, say
        place = weight.untyped_storage().data_ptr()
        for tensor in made:
            is_part = tensor.untyped_storage().data_ptr() == place
            if is_part or tensor.numel() == weight.numel():
                self._origin[tensor] = self._origin[weight]
