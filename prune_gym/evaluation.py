"""Evaluation: what a network gets right, and how long it takes."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from prune_gym.datasets import Split
from prune_gym.memory import memory_bound

# Examples of a forward come to at most so many numbers (500 images of 3x32x32): small enough for
# the caches, and a few hundred megabytes of feature maps with images of any size.
BATCH_ELEMENTS = 500 * 3 * 32 * 32


@torch.inference_mode()
def logits(network: nn.Module, split: Split, batch_size: int | None = None) -> torch.Tensor:
    """Outputs of the network in evaluation mode, (n, n_classes).

    The network's training flag is set to evaluation and stays there; hand in a copy if that
    matters.

    Args:
        network: what is judged.
        split: the examples.
        batch_size: examples a forward; None = by the size of an example.
    """
    network.eval()
    size = batch_size or max(1, min(500, BATCH_ELEMENTS // max(1, split.images[0].numel())))
    rows = range(0, len(split), size)
    with memory_bound(f"{size} images at a time are too many here; use smaller images"):
        return torch.cat([network(split.batch(slice(start, start + size))) for start in rows])


def accuracy(network: nn.Module, split: Split, batch_size: int | None = None) -> float:
    """Fraction of ``split`` that the network classifies rightly, in [0, 1]."""
    predicted = logits(network, split, batch_size).argmax(dim=1)
    return float((predicted == split.labels).double().mean())


def paired_latency_ms(
    networks: dict[str, nn.Module], images: torch.Tensor, repeats: int = 30
) -> dict[str, float]:
    """Median milliseconds of one forward per network, in turns so that ratios hold.

    On the CPU, of one thread; on an accelerator, until it has finished.

    Args:
        networks: what to measure, by name.
        images: one batch, (n, ...).
        repeats: forwards per network that count; three more warm up.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode(), memory_bound(f"a batch of {len(images)} is too large here"):
        for turn in range(repeats + 3):
            for name, network in networks.items():
                _wait_for(images.device)
                start = time.perf_counter()
                network(images.clone())
                _wait_for(images.device)
                if turn >= 3:
                    times[name].append(1000.0 * (time.perf_counter() - start))
    torch.set_num_threads(threads)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
