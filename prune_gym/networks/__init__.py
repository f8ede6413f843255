"""Networks by name: a table of widths, one VGG class, one residual class."""

from __future__ import annotations

from prune_gym.networks.residual import small_resnet
from prune_gym.networks.vgg import NETWORKS, VGG, small

__all__ = ["NETWORKS", "VGG", "small", "small_resnet"]
