"""Augmentation of training images: whole batches at once, on their device, drawn per image."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def shift_and_rotate(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Augment a batch of images: rotate up to 12 degrees, scale and shift up to 10 %."""
    n = len(images)
    draws = 2.0 * torch.rand(4, n, generator=generator) - 1.0  # (4, n) in [-1, 1]
    angle = draws[0] * math.radians(12.0)
    scale = 1.0 + 0.1 * draws[1]
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle) * scale
    theta[:, 0, 1] = -torch.sin(angle) * scale
    theta[:, 1, 0] = torch.sin(angle) * scale
    theta[:, :, 2] = 0.2 * draws[2:].T  # the image is 2 wide in these coordinates
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def flip_and_shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Augment a batch of images: mirror every second one, shift by up to an eighth of its size.

    What CIFAR papers do (a crop of the padded image); the border is filled with zeros, the mean.
    """
    n, _, height, width = images.shape
    pad = max(1, height // 8)
    draws = torch.rand(3, n, generator=generator)
    top = (draws[0] * (2 * pad + 1)).long()  # (n,)
    left = (draws[1] * (2 * pad + 1)).long()
    rows = top[:, None] + torch.arange(height)  # (n, height)
    columns = left[:, None] + torch.arange(width)  # (n, width)
    columns = torch.where(draws[2][:, None] < 0.5, columns.flip(1), columns)
    padded = functional.pad(images, [pad] * 4).permute(0, 2, 3, 1)  # (n, h + 2 pad, w + 2 pad, c)
    every = torch.arange(n).view(n, 1, 1).to(images.device)
    at = rows[:, :, None].to(images.device), columns[:, None, :].to(images.device)
    return padded[every, at[0], at[1]].permute(0, 3, 1, 2)  # channels last in memory
