"""Recoveries: what repairs a freshly compacted network inside an episode, before it is judged.

A recovery gets a network of its own, in evaluation mode, and may change it. Randomness comes from
the generator handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from prune_gym.datasets import Examples
from prune_gym.errors import InvalidValueError
from prune_gym.tasks.task import CLASSIFICATION, Task
from prune_gym.training.loop import Recipe, fit, flat
from prune_gym.utils.memory import memory_bound
from prune_gym.utils.registry import Registry
from prune_gym.utils.trees import call
from prune_gym.utils.user_code import user_code

BN_IMAGES = 256  # enough for stable statistics on the default problem, milliseconds to run
BN_ELEMENTS = 50_000_000  # numbers that they come to at most (then there are fewer, ...
BN_FEWEST = 16  # ... but not below so many)


class Recovery(Protocol):
    """``recovery(network, train, generator=..., steps=...)`` repairs ``network`` in place."""

    def __call__(
        self, network: nn.Module, train: Examples, *, generator: torch.Generator, steps: int
    ) -> None:
        """Repair ``network`` in place."""


RECOVERIES: Registry[Callable[..., None]] = Registry("recovery")


@RECOVERIES.register
def none(network: nn.Module, train: Examples, *, generator: torch.Generator, steps: int) -> None:
    """Judge the compact network as it is."""


@RECOVERIES.register
def bn(network: nn.Module, train: Examples, *, generator: torch.Generator, steps: int) -> None:
    """Recompute BatchNorm statistics on 256 training images (milliseconds, no gradients).

    The idea of adaptive BatchNorm in EagleEye (Li et al., ECCV 2020, arXiv 2007.02491): after
    pruning, the stored statistics belong to another network. The images are always the same, as
    many of every class as can be, in whatever order the data comes (`Split.spread`).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the one batch replaces what was stored
        norm.training = True
    with torch.inference_mode(), memory_bound("recovery='none' needs less, or smaller images"):
        n = min(BN_IMAGES, max(BN_FEWEST, BN_ELEMENTS // max(1, train.n_elements)))
        call(network, train.to_layout(train.calibration(n)[0]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.training = False


@RECOVERIES.register
def finetune(
    network: nn.Module,
    train: Examples,
    *,
    generator: torch.Generator,
    steps: int,
    task: Task = CLASSIFICATION,
) -> None:
    """Train for a few steps with a fresh Adam, as the paper does (batch 60, learning rate 3e-4)."""
    recipe = Recipe(batch_size=60, peak_lr=3e-4, schedule=flat, keep_zeros=True)
    fit(network, train, recipe, steps=steps, generator=generator, task=task)
    if steps:  # the statistics lag behind weights that have changed
        bn(network, train, generator=generator, steps=0)


def is_fixed(recovery: Callable[..., None]) -> bool:
    """Whether a recovery is known to draw nothing and to take no steps: equal in, equal out."""
    return recovery in (none, bn)


def recover(
    network: nn.Module,
    recovery: Callable[..., None],
    train: Examples,
    *,
    seed: int,
    steps: int,
    task: Task = CLASSIFICATION,
) -> nn.Module:
    """Repair a network of one's own in place; returns it, in evaluation mode.

    Args:
        network: in evaluation mode.
        recovery: how; a `Recovery`.
        train: the training split.
        seed: of the recovery's random numbers.
        steps: optimizer steps of a recovery that trains.
        task: whose loss it trains by.
    """
    generator = torch.Generator().manual_seed(seed)
    if recovery is finetune:
        finetune(network, train, generator=generator, steps=steps, task=task)
        return network.eval()
    if is_fixed(recovery):
        recovery(network, train, generator=generator, steps=steps)
        return network
    who = f"recovery {getattr(recovery, '__name__', type(recovery).__name__)!r}"
    with user_code(who, InvalidValueError):
        recovery(network, train, generator=generator, steps=steps)
    return network.eval()
