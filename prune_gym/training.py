"""Training: one loop for dense training and fine-tuning, and the recoveries inside an episode.

A recovery repairs a freshly compacted network before it is judged. It gets a network of its own
and may change it. Randomness comes from the generator handed in; every optimizer is fresh.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from prune_gym.datasets import Split
from prune_gym.registry import Registry

BN_IMAGES = 256  # enough for stable statistics on the default problem, milliseconds to run


class Recovery(Protocol):
    """``recovery(network, train, generator=..., steps=...)`` repairs ``network`` in place."""

    def __call__(
        self, network: nn.Module, train: Split, *, generator: torch.Generator, steps: int
    ) -> None:
        """Repair ``network`` in place."""


RECOVERIES: Registry[Callable[..., None]] = Registry("recovery")


@RECOVERIES.register
def none(network: nn.Module, train: Split, *, generator: torch.Generator, steps: int) -> None:
    """Judge the compact network as it is."""


@RECOVERIES.register
def bn(network: nn.Module, train: Split, *, generator: torch.Generator, steps: int) -> None:
    """Recompute BatchNorm statistics on 256 training images (milliseconds, no gradients).

    The idea of adaptive BatchNorm in EagleEye (Li et al., ECCV 2020, arXiv 2007.02491): after
    pruning, the stored statistics belong to another network.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.momentum = 1.0  # the one batch replaces what was stored
        norm.train()
    with torch.inference_mode():
        network(train.batch(slice(BN_IMAGES)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@RECOVERIES.register
def finetune(network: nn.Module, train: Split, *, generator: torch.Generator, steps: int) -> None:
    """Train for a few steps with a fresh Adam, as the paper does (batch 60, learning rate 3e-4)."""
    fit(
        network, train, steps=steps, generator=generator, batch_size=60, peak_lr=3e-4, schedule=flat
    )


def flat(progress: float) -> float:
    """Learning-rate factor that stays 1."""
    return 1.0


def one_cycle(progress: float) -> float:
    """Learning-rate factor that climbs for 30 % of the training and falls to 0 along a cosine.

    Smith and Topin, "Super-Convergence" (arXiv 1708.07120).
    """
    if progress < 0.3:
        return 0.05 + 0.95 * progress / 0.3
    return 0.5 * (1.0 + math.cos(math.pi * (progress - 0.3) / 0.7))


def fit(
    network: nn.Module,
    train: Split,
    *,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 100,
    peak_lr: float = 3e-3,
    schedule: Callable[[float], float] = one_cycle,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``network`` in place with a fresh Adam and cross-entropy; leaves it in eval mode.

    Weights that are exactly zero stay zero, so that a network pruned by single weights keeps its
    sparsity.

    Args:
        network: trained in place.
        train: training split.
        steps: optimizer steps.
        generator: source of the batches' order and of augmentation (a CPU generator).
        batch_size: images a step.
        peak_lr: learning rate at the schedule's top.
        schedule: factor of the learning rate by progress in [0, 1).
        augment: maps a batch of images to an augmented one.
        on_step: called with (steps done, loss of the step).
    """
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    pruned = [(p, p != 0) for p in trained if p.ndim > 1 and bool((p == 0).any())]
    optimizer = torch.optim.Adam(trained, lr=peak_lr)
    for step, rows in enumerate(
        itertools.islice(_batches(len(train), batch_size, generator), steps)
    ):
        for settings in optimizer.param_groups:
            settings["lr"] = peak_lr * schedule(step / steps)
        images = train.batch(rows)
        if augment is not None:
            images = augment(images, generator)
        loss = functional.cross_entropy(network(images), train.labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            for parameter, alive in pruned:
                parameter.mul_(alive)
        if on_step is not None:
            on_step(step + 1, float(loss.detach()))
    network.eval()


def _batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Endless index batches, every example once per epoch; the last partial batch is dropped."""
    size = min(batch_size, n)
    while True:
        order = torch.randperm(n, generator=generator)
        yield from torch.split(order[: n - n % size], size)
