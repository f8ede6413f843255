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
    draws = torch.rand(3, len(images), generator=generator)
    pad = _reach(images)
    padded = functional.pad(images, [pad] * 4)
    return _crop(padded, images.shape, pad, draws[:2], draws[2] < 0.5)


def shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Augment a batch of images: shift by up to an eighth of their size; the border is repeated.

    For digits, which a mirror would turn into something else.
    """
    draws = torch.rand(2, len(images), generator=generator)
    pad = _reach(images)
    padded = functional.pad(images, [pad] * 4, mode="replicate")
    return _crop(padded, images.shape, pad, draws, torch.zeros(len(images), dtype=torch.bool))


def _reach(images: torch.Tensor) -> int:
    """How many pixels a batch of images may be shifted by."""
    return max(1, images.shape[2] // 8)


def _crop(
    padded: torch.Tensor, shape: torch.Size, pad: int, draws: torch.Tensor, mirrored: torch.Tensor
) -> torch.Tensor:
    """A window of ``shape`` from each image of a batch that was padded on all sides.

    Args:
        padded: (n, channels, height + 2 pad, width + 2 pad).
        shape: (n, channels, height, width) of the result.
        pad: in pixels.
        draws: (2, n) in [0, 1), the top and the left of the windows.
        mirrored: (n,) bool, True = turn left and right around.

    Returns:
        (n, channels, height, width), channels last in memory.
    """
    n, _, height, width = shape
    top, left = (draws * (2 * pad + 1)).long()  # (n,) each
    rows = top[:, None] + torch.arange(height)  # (n, height)
    columns = left[:, None] + torch.arange(width)  # (n, width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    every = torch.arange(n).view(n, 1, 1).to(padded.device)
    at = rows[:, :, None].to(padded.device), columns[:, None, :].to(padded.device)
    return padded.permute(0, 2, 3, 1)[every, at[0], at[1]].permute(0, 3, 1, 2)
