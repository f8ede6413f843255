"""A small residual network: the shortest example of coupled filter groups.

He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from prune_gym.networks.vgg import NETWORKS


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut couples the block's output filters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Feature maps (n, out_channels, height / stride, width / stride)."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks, global average pooling, one linear layer."""

    def __init__(
        self, widths: tuple[int, ...], blocks: int, *, in_channels: int, n_classes: int
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        layers = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, n_classes) of images (n, in_channels, height, width)."""
        hidden = functional.relu(self.bn(self.stem(images)))
        return self.classifier(self.blocks(hidden).mean(dim=(2, 3)))  # type: ignore[no-any-return]


@NETWORKS.register
def small_resnet(*, in_channels: int = 1, n_classes: int = 10) -> ResNet:
    """A residual network of 7 convolutions, 16 to 64 wide, 77 k parameters, for 16x16 images."""
    return ResNet((16, 32, 64), 1, in_channels=in_channels, n_classes=n_classes)
