"""VGG networks for small images: 3x3 convolutions with BatchNorm, one linear layer.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
(arXiv 1409.1556), in the form that CIFAR papers use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from prune_gym.registry import Registry

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")


class VGG(nn.Module):
    """Convolutions (bias, BatchNorm, ReLU), max pooling, global average pooling, one linear layer.

    Args:
        widths: output channels per convolution; ``"M"`` is a 2x2 max pooling.
        in_channels: channels of the images.
        n_classes: number of classes.
    """

    def __init__(self, widths: Sequence[int | str], *, in_channels: int, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for width in widths:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, n_classes) of images (n, in_channels, height, width)."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))  # type: ignore[no-any-return]


@NETWORKS.register
def small(*, in_channels: int = 1, n_classes: int = 10) -> VGG:
    """A VGG of 8 convolutions, 16 to 128 wide, 0.58 M parameters, for 16x16 images."""
    widths = (16, "M", 32, "M", 64, 64, "M", 128, 128, 128, 128)
    return VGG(widths, in_channels=in_channels, n_classes=n_classes)
