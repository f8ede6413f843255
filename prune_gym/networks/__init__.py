"""Networks by name: a table of widths, one VGG class, one residual class."""

from __future__ import annotations

import inspect

from torch import nn

from prune_gym.errors import InvalidTypeError
from prune_gym.networks.residual import ResNet, small_resnet
from prune_gym.networks.vgg import NETWORKS, VGG, small

__all__ = ["NETWORKS", "VGG", "ResNet", "build", "small", "small_resnet"]


def build(name: str, *, in_channels: int, n_classes: int) -> nn.Module:
    """An untrained network by name.

    Args:
        name: a registered name, or a ``"module:function"`` that returns a module.
        in_channels: channels of the images; handed on where the function has such a parameter.
        n_classes: number of classes; likewise.

    Raises:
        UnknownNameError: nothing answers to the name.
        TypeError: the function returned something else, or needs other arguments.

    >>> build("vgg11", in_channels=1, n_classes=7).classifier.out_features
    7
    """
    builder = NETWORKS.get(name)
    wanted = inspect.signature(builder).parameters
    given = {"in_channels": in_channels, "n_classes": n_classes}
    try:
        module = builder(**{key: value for key, value in given.items() if key in wanted})
    except TypeError as error:
        raise InvalidTypeError(
            f"network {name!r} cannot be built: {error}. Give a function without required "
            "arguments (other than in_channels and n_classes)."
        ) from error
    if not isinstance(module, nn.Module):
        raise InvalidTypeError(
            f"network {name!r} gave {type(module).__name__}; expected an nn.Module."
        )
    return module
