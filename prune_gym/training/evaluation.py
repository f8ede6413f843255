"""Evaluation: what a network gets right, and how long it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from prune_gym.datasets import Split
from prune_gym.pruning.inference import InferenceLayout
from prune_gym.utils.devices import tf32
from prune_gym.utils.memory import memory_bound
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.threads import one_thread

# Examples of a forward come to at most so many numbers (512 images of 3x32x32): small enough for
# the caches, and a few hundred megabytes of feature maps with images of any size.
BATCH_ELEMENTS = 512 * 3 * 32 * 32
MEASURED_S = 0.3  # for how long batch sizes are tried in turns, if one turn takes no longer


@torch.inference_mode()
def logits(network: nn.Module, split: Split, batch_size: int | None = None) -> torch.Tensor:
    """Outputs of the network in evaluation mode, (n, n_classes): the plain way, in float32.

    The network's training flag is set to evaluation and stays there; hand in a copy if that
    matters.

    Args:
        network: what is judged.
        split: the examples.
        batch_size: examples a forward; None = by the size of an example.
    """
    network.eval()
    size = batch_size or largest_batch(split)

    def forward(start: int) -> torch.Tensor:
        check_stop()
        outputs: torch.Tensor = network(split.batch(slice(start, start + size)))
        return outputs

    with memory_bound(_too_many(size)), tf32(split.images.device, False):
        return torch.cat([forward(start) for start in range(0, len(split), size)])


def accuracy(network: nn.Module, split: Split, batch_size: int | None = None) -> float:
    """Fraction of ``split`` that the network classifies rightly, in [0, 1]: the plain way."""
    predicted = logits(network, split, batch_size).argmax(dim=1)
    return float((predicted == split.labels).double().mean())


def largest_batch(split: Split) -> int:
    """Most examples of a split that a forward takes."""
    return max(1, min(len(split), BATCH_ELEMENTS // max(1, split.images[0].numel())))


@dataclass(frozen=True, eq=False)
class PreparedSplit:
    """A split made ready once, on which networks of one kind are judged again and again.

    Attributes:
        layout: of the networks and the images.
        images: (n, ...) normalised, on the device, in that layout.
        labels: (n,).
        batch_size: images a forward.
    """

    layout: InferenceLayout
    images: torch.Tensor
    labels: torch.Tensor
    batch_size: int

    @classmethod
    def of(
        cls, split: Split, layout: InferenceLayout, batch_size: int | None = None
    ) -> PreparedSplit:
        """Make a split ready; without ``batch_size``, `with_fastest_batch` finds it."""
        with memory_bound(f"{len(split)} images are too many; set evaluation_samples"):
            step = largest_batch(split)
            parts = []
            for start in range(0, len(split), step):
                check_stop()
                parts.append(layout.to_layout(split.batch(slice(start, start + step))))
            images = torch.cat(parts) if len(parts) > 1 else parts[0]
        return cls(layout, images, split.labels, batch_size or step)

    @torch.inference_mode()
    def logits(self, network: nn.Module) -> torch.Tensor:
        """Outputs of a network in evaluation mode, (n, n_classes); it stays as it is."""
        fast, is_coarse = self.layout.convert(network), self.layout.precision == "tf32"
        with memory_bound(_too_many(self.batch_size)), tf32(self.images.device, is_coarse):
            return torch.cat([fast(batch) for batch in self._batches(self.images)])

    def accuracy(self, network: nn.Module) -> float:
        """Fraction that a network in evaluation mode classifies rightly, in [0, 1]."""
        n_right = (self.logits(network).argmax(dim=1) == self.labels).sum()
        return int(n_right) / len(self.labels)

    @torch.inference_mode()
    def with_fastest_batch(self, network: nn.Module) -> PreparedSplit:
        """The same split with the best batch size for networks such as this one.

        Whole fractions of the largest batch are tried in turn, on its images, on one core as in
        searches. The smallest that takes at most 5 % longer than the fastest is the best: feature
        maps take less memory. Outputs do not depend on the choice but for the rounding of their
        last bit.
        """
        fast, images = self.layout.convert(network), self.images[: self.batch_size]
        sizes = {-(-len(images) // parts) for parts in (1, 2, 4, 8, 16)}
        sizes = {size for size in sizes if size >= min(16, len(images))}
        times = dict.fromkeys(sorted(sizes, reverse=True), float("inf"))
        began = time.perf_counter()
        with one_thread():
            fast(next(self._batches(images, min(sizes))))  # warms up
            while time.perf_counter() - began < MEASURED_S or min(times.values()) == float("inf"):
                for size in times:
                    start = time.perf_counter()
                    for batch in self._batches(images, size):
                        fast(batch)
                    wait_for(images.device)
                    times[size] = min(times[size], time.perf_counter() - start)
        best = min(size for size in times if times[size] <= 1.05 * min(times.values()))
        return PreparedSplit(self.layout, self.images, self.labels, best)

    def _batches(self, images: torch.Tensor, size: int | None = None) -> Iterator[torch.Tensor]:
        for batch in torch.split(images, size or self.batch_size):
            check_stop()
            yield batch.clone() if self.layout.in_place else batch


def _too_many(size: int) -> str:
    return f"{size} images at a time are too many here; use smaller images"


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
    cure = f"a batch of {len(images)} is too large here"
    with one_thread(), torch.inference_mode(), memory_bound(cure):
        for turn in range(repeats + 3):
            check_stop()
            for name, network in networks.items():
                wait_for(images.device)
                start = time.perf_counter()
                network(images.clone())
                wait_for(images.device)
                if turn >= 3:
                    times[name].append(1000.0 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
