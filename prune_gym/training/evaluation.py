"""Evaluation: how well a network does, and how long it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from prune_gym.datasets import Examples, Split
from prune_gym.pruning.inference import InferenceLayout
from prune_gym.tasks.metrics import Tally
from prune_gym.tasks.named_metrics import is_accuracy, share_right
from prune_gym.tasks.task import CLASSIFICATION, Task
from prune_gym.training.racing import Race
from prune_gym.utils.devices import tf32
from prune_gym.utils.memory import memory_bound
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.threads import one_thread
from prune_gym.utils.trees import call, clone, device_of, joined, mapped, rows_of

# Examples of a forward come to at most so many numbers (512 images of 3x32x32): small enough for
# the caches, and a few hundred megabytes of feature maps with images of any size.
BATCH_ELEMENTS = 512 * 3 * 32 * 32
MEASURED_S = 0.3  # for how long batch sizes are tried in turns, if one turn takes no longer


@torch.inference_mode()
def logits(network: nn.Module, split: Examples, batch_size: int | None = None) -> torch.Tensor:
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
    with memory_bound(_too_many(size)), tf32(split.device, False):
        return torch.cat([call(network, inputs) for inputs, _ in _in_batches(split, size)])


def accuracy(network: nn.Module, split: Examples, batch_size: int | None = None) -> float:
    """Fraction of ``split`` that the network classifies rightly, in [0, 1]: the plain way."""
    found = logits(network, split, batch_size)
    return share_right(found, split.targets(slice(None)))


@torch.inference_mode()
def measured(
    network: nn.Module, split: Examples, task: Task, batch_size: int | None = None
) -> float:
    """The metric of a network on a split, in its unit: the plain way, in float32.

    Args:
        network: what is judged; it is left in evaluation mode.
        split: the examples.
        task: what is asked of it.
        batch_size: examples a forward; None = by the size of an example.

    Raises:
        MetricError: it raised, or gave no number.
    """
    network.eval()
    size = batch_size or largest_batch(split)
    tally = Tally(task.metric, split.device)
    with memory_bound(_too_many(size)), tf32(split.device, False):
        for inputs, targets in _in_batches(split, size):
            tally.add(task.run(network, inputs), targets)
        return tally.value()


def _in_batches(split: Examples, size: int) -> Iterator[tuple[Any, Any]]:
    for start in range(0, len(split), size):
        check_stop()
        yield split.read(slice(start, start + size))


def largest_batch(split: Examples) -> int:
    """Most examples of a split that a forward takes."""
    return max(1, min(len(split), BATCH_ELEMENTS // max(1, split.n_elements)))


@dataclass(frozen=True, eq=False)
class PreparedSplit:
    """A split made ready once, on which networks of one kind are judged again and again.

    Attributes:
        layout: of the networks and the inputs.
        images: inputs, (n, ...) normalised, on the device, in that layout; None where they are
            read as they are used.
        labels: targets, (n, ...); likewise.
        batch_size: examples a forward.
        task: what is asked of a network.
        split: where they come from.
    """

    layout: InferenceLayout
    images: Any
    labels: Any
    batch_size: int
    task: Task
    split: Examples

    @classmethod
    def of(
        cls,
        split: Examples,
        layout: InferenceLayout,
        batch_size: int | None = None,
        task: Task = CLASSIFICATION,
    ) -> PreparedSplit:
        """Make a split ready; without ``batch_size``, `with_fastest_batch` finds it."""
        step = largest_batch(split)
        images = labels = None
        if isinstance(split, Split):
            with memory_bound(f"{len(split)} images are too many; set evaluation_samples"):
                batches = _in_batches(split, step)
                images = joined([mapped(layout.to_layout, inputs) for inputs, _ in batches])
            labels = split.labels
        return cls(layout, images, labels, batch_size or step, task, split)

    @property
    def device(self) -> torch.device:
        """Where networks are judged."""
        return self.split.device

    @torch.inference_mode()
    def logits(self, network: nn.Module) -> torch.Tensor:
        """Outputs of a network in evaluation mode, (n, n_classes); it stays as it is."""
        fast, is_coarse = self.layout.convert(network), self.layout.precision == "tf32"
        with memory_bound(_too_many(self.batch_size)), tf32(self.device, is_coarse):
            return torch.cat([call(fast, inputs) for inputs, _ in self._batches()])

    def accuracy(self, network: nn.Module) -> float:
        """Fraction that a network in evaluation mode classifies rightly, in [0, 1]."""
        n_right = (self.logits(network).argmax(dim=1) == self.labels).sum()
        return int(n_right) / len(self.labels)

    @cached_property
    def race(self) -> Race | None:
        """How networks race on it; None where that saves nothing, or the reward is no accuracy.

        Looks are the same whatever the batches: what a seeded search finds must not depend on
        which batch is the fastest here.
        """
        classes = self.split.classes
        if not is_accuracy(self.task.metric) or self.task.output is not None or classes is None:
            return None
        race = Race.over(classes, self.device)
        return race if race.looks else None

    @torch.inference_mode()
    def raced(self, race: Race, network: nn.Module, bar: float) -> tuple[float, float]:
        """Accuracy of a network in evaluation mode; it stays as it is.

        Args:
            race: of this split.
            network: what is judged.
            bar: the accuracy that it has to exceed; it is dropped when it hardly can any more.

        Returns:
            The accuracy on the examples that were judged, and their share of all: 1.0 where it was
            not dropped.
        """
        fast, is_coarse = self.layout.convert(network), self.layout.precision == "tf32"
        n, right = len(self.split), 0
        with memory_bound(_too_many(self.batch_size)), tf32(self.device, is_coarse):
            for stage in race.stages:
                for rows in torch.split(race.order[stage], self.batch_size):
                    check_stop()
                    inputs, targets = self._some(rows)
                    right += int((call(fast, inputs).argmax(dim=1) == targets).sum())
                if stage.stop < n and race.is_lost(right, stage.stop, bar):
                    return right / stage.stop, stage.stop / n
        return right / n, 1.0

    def reward(self, network: nn.Module) -> float:
        """The reward of a network in evaluation mode, which stays as it is; see `Metric`."""
        if is_accuracy(self.task.metric) and self.task.output is None and self.images is not None:
            return self.accuracy(network)
        return self.task.metric.reward(self.measured(network))

    @torch.inference_mode()
    def measured(self, network: nn.Module) -> float:
        """The metric of a network in evaluation mode, in its unit; it stays as it is."""
        fast, is_coarse = self.layout.convert(network), self.layout.precision == "tf32"
        tally = Tally(self.task.metric, self.device)
        with memory_bound(_too_many(self.batch_size)), tf32(self.device, is_coarse):
            for inputs, targets in self._batches():
                tally.add(self.task.run(fast, inputs), targets)
        return tally.value()

    @torch.inference_mode()
    def with_fastest_batch(self, network: nn.Module) -> PreparedSplit:
        """The same split with the best batch size for networks such as this one.

        Whole fractions of the largest batch are tried in turn, on its images, on one core as in
        searches. The smallest that takes at most 5 % longer than the fastest is the best: feature
        maps take less memory. Outputs do not depend on the choice but for the rounding of their
        last bit. Where examples are read as they are used, the largest batch is taken.
        """
        if self.images is None:
            return self
        fast, n = self.layout.convert(network), min(self.batch_size, len(self.split))
        sizes = {-(-n // parts) for parts in (1, 2, 4, 8, 16)}
        sizes = {size for size in sizes if size >= min(16, n)}
        times = dict.fromkeys(sorted(sizes, reverse=True), float("inf"))
        began = time.perf_counter()
        with one_thread():
            call(fast, next(self._batches(min(sizes), n))[0])  # warms up
            while time.perf_counter() - began < MEASURED_S or min(times.values()) == float("inf"):
                for size in times:
                    start = time.perf_counter()
                    for inputs, _ in self._batches(size, n):
                        call(fast, inputs)
                    wait_for(self.device)
                    times[size] = min(times[size], time.perf_counter() - start)
        best = min(size for size in times if times[size] <= 1.05 * min(times.values()))
        return replace(self, batch_size=best)

    def _some(self, rows: torch.Tensor) -> tuple[Any, Any]:
        """Inputs and targets of some rows, a copy."""
        if self.images is None:
            inputs, targets = self.split.read(rows)
            return mapped(self.layout.to_layout, inputs), targets
        return rows_of(self.images, rows), rows_of(self.labels, rows)

    def _batches(self, size: int | None = None, n: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Inputs and targets of the first ``n`` examples, ``size`` at a time."""
        size, n = size or self.batch_size, n or len(self.split)
        for start in range(0, n, size):
            check_stop()
            rows = slice(start, min(start + size, n))
            if self.images is None:
                inputs, targets = self.split.read(rows)
                yield mapped(self.layout.to_layout, inputs), targets
            else:
                inputs, targets = rows_of(self.images, rows), rows_of(self.labels, rows)
                yield (clone(inputs) if self.layout.in_place else inputs), targets


def _too_many(size: int) -> str:
    return f"{size} images at a time are too many here; use smaller images"


def paired_latency_ms(
    networks: dict[str, nn.Module], images: Any, repeats: int = 30
) -> dict[str, float]:
    """Median milliseconds of one forward per network, in turns so that ratios hold.

    On the CPU, of one thread; on an accelerator, until it has finished.

    Args:
        networks: what to measure, by name.
        images: one batch of inputs.
        repeats: forwards per network that count; three more warm up.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    cure, device = "a batch of so many examples is too large here", device_of(images)
    with one_thread(), torch.inference_mode(), memory_bound(cure):
        for turn in range(repeats + 3):
            check_stop()
            for name, network in networks.items():
                wait_for(device)
                start = time.perf_counter()
                call(network, clone(images))
                wait_for(device)
                if turn >= 3:
                    times[name].append(1000.0 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
