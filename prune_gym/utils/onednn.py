"""A fault of oneDNN that corrupts the heap, and the way around it.

On CPUs without AVX-512 the float32 backward of a convolution with kernel 1, an even stride and
1 to 7 inputs writes past its memory where images or weights lie channels-last (PyTorch issue
136348). The process then dies, later and elsewhere, or computes with wrong numbers, so that no
trial within the process can tell. What lies contiguous is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d, torch.convolution}
_SAFE_FROM = 16  # inputs: one vector of the widest CPUs; the fault was seen with 1 to 7


class SoundConvolutions(TorchFunctionMode):
    """Within it, gradients of every convolution can be computed without harm, on any CPU.

    Convolutions that could be struck, by their shapes, get images and weights that lie contiguous;
    all others, and all that needs no gradients, run as they are. It looks at the calls themselves,
    so that layers of any class, and functions, are seen.

    >>> images = torch.ones(2, 3, 8, 8).to(memory_format=torch.channels_last)
    >>> layer = torch.nn.Conv2d(3, 8, 1, stride=2)
    >>> with SoundConvolutions():
    ...     layer(images).is_contiguous()
    True
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``; a convolution that could be struck gets contiguous tensors."""
        if func in _CONVOLUTIONS:
            args, kwargs = _sound(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _sound(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    *args: Any,
    **kwargs: Any,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a convolution; those of one that could be struck lie contiguous."""
    steps = (stride,) if isinstance(stride, int) else stride
    if (
        max(steps, default=1) > 1
        and weight.shape[2:].numel() == 1
        and weight.shape[1] < _SAFE_FROM
        and input.device.type == "cpu"
        and torch.is_grad_enabled()
    ):
        input, weight = _contiguous(input), _contiguous(weight)
    return (input, weight, bias, stride, *args), kwargs


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with a contiguous tensor's own strides.

    `torch.Tensor.contiguous` leaves the strides of (n, c, 1, 1) as they are, which are those of
    channels-last where it was so once: oneDNN goes by them.
    """
    return tensor.reshape(-1).view(tensor.shape)
