"""scikit-learn's handwritten digits, enlarged to 16x16: real images without a download.

1,797 images of 8x8 pixels from the UCI repository (Alpaydin and Kaynak, 1998). They come with
scikit-learn's wheel, so the default problem works offline.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from prune_gym.datasets.augment import shift_and_rotate
from prune_gym.datasets.base import DATASETS, Dataset, Split

_MEAN, _STD = 0.305, 0.36  # what the shipped weights were trained with; pixels in [0, 1]


@DATASETS.register
def digits() -> Dataset:
    """Handwritten digits, 16x16 grey, 10 classes: 997 train, 400 validation, 400 test."""
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16.0
    images = functional.interpolate(images, size=16, mode="bilinear", align_corners=False)
    images = (images - _MEAN) / _STD
    labels = torch.from_numpy(targets).long()
    # The splits interleave, so that every writer (a run of the file) is in each of them.
    turn = torch.arange(len(labels)) % 9
    parts = [
        Split(images[chosen].contiguous(), labels[chosen].contiguous())
        for chosen in (turn >= 4, turn < 2, (turn == 2) | (turn == 3))
    ]
    return Dataset("digits", parts[0], parts[1], parts[2], n_classes=10, augment=shift_and_rotate)
