"""Losses by name: what fine-tuning, recoveries and gradients go by. They are torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from prune_gym.tasks.matching import classes, values
from prune_gym.utils.registry import Registry

Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]  # (outputs, targets) of a batch -> ()

LOSSES: Registry[Loss] = Registry("loss")


@LOSSES.register
def cross_entropy(outputs: Any, targets: Any) -> torch.Tensor:
    """Of logits (n, n_classes, ...) and classes (n, ...)."""
    return functional.cross_entropy(*classes(outputs, targets))


@LOSSES.register
def binary_cross_entropy_with_logits(outputs: Any, targets: Any) -> torch.Tensor:
    """Of logits and targets 0 or 1, of one shape: one output, or several labels."""
    return functional.binary_cross_entropy_with_logits(*values(outputs, targets))


@LOSSES.register
def binary_cross_entropy(outputs: Any, targets: Any) -> torch.Tensor:
    """Of probabilities and targets 0 or 1, of one shape."""
    return functional.binary_cross_entropy(*values(outputs, targets))


@LOSSES.register
def mse(outputs: Any, targets: Any) -> torch.Tensor:
    """Mean squared error of numbers."""
    return functional.mse_loss(*values(outputs, targets))


@LOSSES.register
def l1(outputs: Any, targets: Any) -> torch.Tensor:
    """Mean absolute error of numbers."""
    return functional.l1_loss(*values(outputs, targets))


@LOSSES.register
def huber(outputs: Any, targets: Any) -> torch.Tensor:
    """Huber's loss of numbers: squared near 0, absolute from 1 on."""
    return functional.huber_loss(*values(outputs, targets))
