"""Networks by name: a table of widths, one VGG class, one residual class."""

from __future__ import annotations

from prune_gym.networks.build import build_network
from prune_gym.networks.residual import ResNet, small_resnet
from prune_gym.networks.vgg import NETWORKS, VGG, small

__all__ = ["NETWORKS", "VGG", "ResNet", "build_network", "small", "small_resnet"]
