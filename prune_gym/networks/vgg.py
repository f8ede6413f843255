"""VGG networks for small images: 3x3 convolutions with BatchNorm, one linear layer.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
(arXiv 1409.1556), in the form that CIFAR papers use: configurations A, B, D and E with BatchNorm,
and one linear layer where the original has three. Images need 32 pixels a side: five poolings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from prune_gym.utils.registry import Registry

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


def _widths(*convolutions: int) -> tuple[int | str, ...]:
    """Widths of a VGG with so many convolutions at 64, 128, 256, 512 and 512 filters."""
    widths: list[int | str] = []
    for width, n in zip((64, 128, 256, 512, 512), convolutions, strict=True):
        widths += [*[width] * n, "M"]
    return tuple(widths)


@NETWORKS.register
def small(*, in_channels: int = 1, n_classes: int = 10) -> VGG:
    """A VGG of 8 convolutions, 16 to 128 wide, 0.58 M parameters, for 16x16 images."""
    widths = (16, "M", 32, "M", 64, 64, "M", 128, 128, 128, 128)
    return VGG(widths, in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def tiny_vgg(*, in_channels: int = 1, n_classes: int = 10) -> VGG:
    """A VGG of 6 convolutions, 16 to 64 wide, 108 k parameters, for 16x16 images."""
    widths = (16, "M", 32, "M", 32, 64, "M", 64, 64)
    return VGG(widths, in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def vgg11(*, in_channels: int = 3, n_classes: int = 10) -> VGG:
    """VGG-A with BatchNorm, 8 convolutions, 9.2 M parameters, for 32x32 images."""
    return VGG(_widths(1, 1, 2, 2, 2), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def vgg13(*, in_channels: int = 3, n_classes: int = 10) -> VGG:
    """VGG-B with BatchNorm, 10 convolutions, 9.4 M parameters, for 32x32 images."""
    return VGG(_widths(2, 2, 2, 2, 2), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def vgg16(*, in_channels: int = 3, n_classes: int = 10) -> VGG:
    """VGG-D with BatchNorm, 13 convolutions, 14.7 M parameters, for 32x32 images."""
    return VGG(_widths(2, 2, 3, 3, 3), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def vgg19(*, in_channels: int = 3, n_classes: int = 10) -> VGG:
    """VGG-E with BatchNorm, 16 convolutions, 20.0 M parameters, for 32x32 images."""
    return VGG(_widths(2, 2, 4, 4, 4), in_channels=in_channels, n_classes=n_classes)
