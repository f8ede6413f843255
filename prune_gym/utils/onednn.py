"""A fault of oneDNN that corrupts the heap, and the way around it.

On CPUs without AVX-512 the float32 backward of a convolution with kernel 1, an even stride and
1 to 7 inputs writes past its memory where images or weights lie channels-last (PyTorch issue
136348). The process then dies, later and elsewhere, or computes with wrong numbers, so that no
trial within the process can tell. What lies contiguous is safe.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_BACKWARD = torch.ops.aten.convolution_backward.default
# The fault was seen with fewer inputs than a vector of 8 numbers holds; wider CPUs have 16.
_SAFE_FROM = 16


class SoundConvolutions(TorchDispatchMode):
    """Within it, the backward of every convolution is computed without harm, on any CPU.

    It looks at the operations themselves, whoever calls them: layers of any class, functions,
    scripts, and what is computed anew in a backward. The backward of a convolution that could be
    struck, by its shapes, gets tensors that lie contiguous; all else runs as it is. It costs a few
    microseconds an operation, so put it around the backward alone.

    >>> images = torch.ones(2, 3, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    >>> outputs = torch.nn.Conv2d(3, 8, 1, stride=2)(images)
    >>> with SoundConvolutions():
    ...     (slopes,) = torch.autograd.grad(outputs.sum(), images)
    >>> slopes.is_contiguous()
    True
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``; a backward that could be struck gets contiguous tensors."""
        if func is _BACKWARD:
            args = _sound(*args)
        return func(*args, **(kwargs or {}))


def _sound(
    slopes: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    *others: Any,
) -> tuple[Any, ...]:
    """The arguments of a convolution's backward; those of one that could be struck contiguous."""
    is_pointwise = weight.shape[2:].numel() == 1
    if (
        is_pointwise
        and max(stride) > 1
        and weight.shape[1] < _SAFE_FROM
        and images.device.type == "cpu"
    ):
        slopes, images, weight = _contiguous(slopes), _contiguous(images), _contiguous(weight)
    return (slopes, images, weight, bias_sizes, stride, *others)


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with a contiguous tensor's own strides.

    `torch.Tensor.contiguous` leaves the strides of (n, c, 1, 1) as they are, which are those of
    channels-last where it was so once: oneDNN goes by them.
    """
    return tensor.reshape(-1).view(tensor.shape)
