"""Residual networks for small images: a 3x3 stem, no pooling before the last one.

He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385). `resnet18`,
`resnet34` and `resnet50` are the ImageNet networks behind a stem for 32x32 images; `resnet56` is
the paper's own CIFAR network, the standard of the pruning literature. Shortcuts that change shape
are 1x1 convolutions (option B), because padding with zeros (option A) cannot be pruned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from prune_gym.networks.vgg import NETWORKS


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut couples the block's output filters."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Feature maps (n, width, height / stride, width / stride)."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, four times as wide at the end, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Feature maps (n, 4 * width, height / stride, width / stride)."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = functional.relu(self.bn2(self.conv2(hidden)))
        return functional.relu(self.bn3(self.conv3(hidden)) + self.shortcut(images))


class ResNet(nn.Module):
    """A 3x3 stem, stages of residual blocks, global average pooling, one linear layer.

    Args:
        widths: filters per stage; every stage but the first halves the feature map.
        depths: blocks per stage.
        block: `BasicBlock` or `Bottleneck`.
        in_channels: channels of the images.
        n_classes: number of classes.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        *,
        in_channels: int,
        n_classes: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(block(channels, width, stride))
                channels = width * block.expansion
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, n_classes) of images (n, in_channels, height, width)."""
        hidden = functional.relu(self.bn(self.stem(images)))
        return self.classifier(self.blocks(hidden).mean(dim=(2, 3)))  # type: ignore[no-any-return]


@NETWORKS.register
def small_resnet(*, in_channels: int = 1, n_classes: int = 10) -> ResNet:
    """A residual network of 7 convolutions, 16 to 64 wide, 77 k parameters, for 16x16 images."""
    return ResNet((16, 32, 64), (1, 1, 1), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def resnet20(*, in_channels: int = 3, n_classes: int = 10) -> ResNet:
    """The CIFAR residual network of 3 stages of 3 blocks, 16 to 64 wide, 0.27 M parameters."""
    return ResNet((16, 32, 64), (3, 3, 3), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def resnet32(*, in_channels: int = 3, n_classes: int = 10) -> ResNet:
    """The CIFAR residual network of 3 stages of 5 blocks, 16 to 64 wide, 0.47 M parameters."""
    return ResNet((16, 32, 64), (5, 5, 5), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def resnet44(*, in_channels: int = 3, n_classes: int = 10) -> ResNet:
    """The CIFAR residual network of 3 stages of 7 blocks, 16 to 64 wide, 0.66 M parameters."""
    return ResNet((16, 32, 64), (7, 7, 7), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def tiny_resnet(*, in_channels: int = 1, n_classes: int = 10) -> ResNet:
    """A residual network of 7 convolutions, 8 to 32 wide, 20 k parameters, for 16x16 images."""
    return ResNet((8, 16, 32), (1, 1, 1), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def resnet56(*, in_channels: int = 3, n_classes: int = 10) -> ResNet:
    """The CIFAR residual network of 3 stages of 9 blocks, 16 to 64 wide, 0.86 M parameters."""
    return ResNet((16, 32, 64), (9, 9, 9), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def resnet110(*, in_channels: int = 3, n_classes: int = 10) -> ResNet:
    """The CIFAR residual network of 3 stages of 18 blocks, 16 to 64 wide, 1.7 M parameters."""
    return ResNet((16, 32, 64), (18, 18, 18), in_channels=in_channels, n_classes=n_classes)


_WIDTHS = (64, 128, 256, 512)


@NETWORKS.register
def resnet18(*, in_channels: int = 3, n_classes: int = 10) -> ResNet:
    """ResNet-18 with a stem for 32x32 images, 11.2 M parameters."""
    return ResNet(_WIDTHS, (2, 2, 2, 2), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def resnet34(*, in_channels: int = 3, n_classes: int = 10) -> ResNet:
    """ResNet-34 with a stem for 32x32 images, 21.3 M parameters."""
    return ResNet(_WIDTHS, (3, 4, 6, 3), in_channels=in_channels, n_classes=n_classes)


@NETWORKS.register
def resnet50(*, in_channels: int = 3, n_classes: int = 10) -> ResNet:
    """ResNet-50 (bottlenecks) with a stem for 32x32 images, 23.5 M parameters."""
    return ResNet(_WIDTHS, (3, 4, 6, 3), Bottleneck, in_channels=in_channels, n_classes=n_classes)
