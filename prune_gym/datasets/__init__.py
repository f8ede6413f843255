"""Datasets by name: three fixed splits of images and labels, in memory or memory-mapped."""

from __future__ import annotations

from prune_gym.datasets.base import DATASETS, Dataset, Examples, Split
from prune_gym.datasets.checks import check_splits
from prune_gym.datasets.digits import digits
from prune_gym.datasets.folders import folder
from prune_gym.datasets.load import absolute_name, file_name, load_dataset
from prune_gym.datasets.own import as_split, own_dataset
from prune_gym.datasets.shapes import shapes
from prune_gym.datasets.vision import TORCHVISION
from prune_gym.errors import DatasetError

__all__ = [
    "DATASETS",
    "TORCHVISION",
    "Dataset",
    "DatasetError",
    "Examples",
    "Split",
    "absolute_name",
    "as_split",
    "check_splits",
    "digits",
    "file_name",
    "folder",
    "load_dataset",
    "own_dataset",
    "shapes",
]
