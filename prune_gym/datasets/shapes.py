"""Drawn shapes, 16x16: a second set of images that needs no download, and no library either."""

from __future__ import annotations

import math

import torch

from prune_gym.datasets.augment import shift_and_rotate
from prune_gym.datasets.base import DATASETS, Dataset, Split

SHAPES = ("disc", "ring", "square", "frame", "triangle", "cross", "bars", "corner")
_SIDE, _NOISE = 16, 0.25
_SIZES = [1200, 400, 400]  # training, validation, test


@DATASETS.register
def shapes() -> Dataset:
    """Drawn shapes, 16x16 grey, noisy, 8 classes: 1,200 train, 400 validation, 400 test."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(sum(_SIZES)) % len(SHAPES)
    images = _drawn(labels, generator)
    images = (images - images[: _SIZES[0]].mean()) / images[: _SIZES[0]].std()
    parts = zip(torch.split(images, _SIZES), torch.split(labels, _SIZES), strict=True)
    train, validation, test = (Split(one.contiguous(), own.contiguous()) for one, own in parts)
    return Dataset(
        "shapes", train, validation, test, n_classes=len(SHAPES), augment=shift_and_rotate
    )


def _drawn(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(n, 1, 16, 16) float32: a shape each, somewhere, turned, of some size and brightness."""

    def draw(low: float, high: float) -> torch.Tensor:
        drawn = torch.rand(len(labels), 1, 1, generator=generator, dtype=torch.float64)
        return low + (high - low) * drawn

    angle, radius = draw(-math.pi / 8, math.pi / 8), draw(3.5, 6.5)
    centres, brightness = (draw(5.5, 9.5), draw(5.5, 9.5)), draw(0.4, 1.0)
    rows, columns = torch.meshgrid(*[torch.arange(_SIDE).double()] * 2, indexing="ij")
    down, right = rows - centres[0], columns - centres[1]  # (n, 16, 16)
    y = (down * angle.cos() - right * angle.sin()) / radius  # the shape fills [-1, 1]
    x = (down * angle.sin() + right * angle.cos()) / radius
    images = torch.zeros_like(x)
    for kind, name in enumerate(SHAPES):
        mine = labels == kind
        images[mine] = _inside(name, x[mine], y[mine]).double()
    images = images * brightness
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    return (images + _NOISE * noise).float().unsqueeze(1)


def _inside(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Which points belong to a shape, bool."""
    far, round_ = torch.maximum(x.abs(), y.abs()), (x * x + y * y).sqrt()
    return {
        "disc": round_ < 0.9,
        "ring": (round_ < 1.0) & (round_ > 0.55),
        "square": far < 0.8,
        "frame": (far < 0.95) & (far > 0.5),
        "triangle": (y > -0.9) & (y < 0.9) & (x.abs() < 0.5 * (y + 0.9)),
        "cross": (far < 1.0) & (torch.minimum(x.abs(), y.abs()) < 0.3),
        "bars": (far < 1.0) & (y.abs() > 0.4),
        "corner": (far < 1.0) & ((x < -0.4) | (y < -0.4)),
    }[name]
