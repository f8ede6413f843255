"""What `bench_step.py` measures an episode on, and the references that it is held against."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch_pruning as tp
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import prune_gym
from prune_gym.datasets import Dataset, Split, load_dataset
from prune_gym.errors import CheckpointError
from prune_gym.networks.build import build_for
from prune_gym.networks.checkpoints import find_checkpoint
from prune_gym.networks.weight_files import load_weights
from prune_gym.problem.outcome import OutcomeMemory
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Masks
from prune_gym.training.evaluation import wait_for
from prune_gym.training.recovery import BN_IMAGES, RECOVERIES

PAPER_BATCH = 60
Times = dict[str, list[float]]


def in_turns(functions: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> Times:
    """Seconds of each function, called in turns, so that ratios hold on a busy machine.

    One more turn comes first and does not count.
    """
    times: Times = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            wait_for(device)
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def pictures(n: int, seed: int) -> Split:
    """Smooth random pictures of 3x32x32 pixels, where no real ones are at hand."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, 3, 8, 8), generator=generator)
    pixels = functional.interpolate(coarse, size=32, mode="bilinear").mul(255).byte()
    labels = torch.randint(0, 10, (n,), generator=generator)
    return Split(pixels, labels, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def data_of(name: str | None, n_train: int, n_validation: int) -> Dataset:
    """A dataset cut to size; smooth random pictures without a name."""
    if name is None:
        return Dataset("pictures", pictures(n_train, 0), pictures(n_validation, 1), None, 10)
    data = load_dataset(name)
    return replace(
        data, train=data.train.subset(n_train), validation=data.validation.subset(n_validation)
    )


@dataclass(eq=False)
class Subject:
    """A network at a share of its parameters, on a pruning problem without recovery."""

    problem: PruningProblem
    share: float
    trained: bool
    decision: str = "ratio"  # or "prior": the network of the sensitivity scan

    @classmethod
    def of(cls, network: str, data: Dataset, dataset: str | None, device: str) -> Subject:
        """A named network, trained where there are weights for the dataset, whole."""
        module = build_for(network, data)
        trained = dataset is not None
        try:
            load_weights(module, find_checkpoint(network, dataset or "none"))
        except CheckpointError:
            trained = False
        problem = prune_gym.make_problem(module, data, recovery="none", device=device)
        return cls(problem, 1.0, trained)

    def at(self, share: float) -> Subject:
        """The same at a share of its parameters: one prune ratio for all filter groups."""
        return Subject(self.problem, share, self.trained)

    def changed(self, precision: str = "float32", recovery: str = "none") -> Subject:
        """The same, judged in another precision or recovered."""
        problem = replace(
            self.problem,
            layout=replace(self.problem.layout, precision=precision),
            recovery=RECOVERIES.get(recovery),
        )
        return Subject(problem, self.share, self.trained)

    @property
    def device(self) -> torch.device:
        """Where it is judged."""
        return self.problem.example.device

    @cached_property
    def ratio(self) -> float:
        """The smallest prune ratio that leaves at most the share of the parameters."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = 0.5 * (low + high)
            counts = self.problem.kept_counts([middle] * len(self.problem.groups))
            is_met = self.problem.counted_costs(counts)[0] <= self.share
            low, high = (low, middle) if is_met else (middle, high)
        return high

    @cached_property
    def masks(self) -> Masks:
        """Keep masks at that ratio, or those of the prior."""
        if self.decision == "prior":
            return self.problem.masks_of(self.problem.allocation.counts())
        counts = self.problem.kept_counts([self.ratio] * len(self.problem.groups))
        return self.problem.masks_of(counts)

    @cached_property
    def env(self) -> Any:
        """An environment that judges every network anew."""
        env = gym.make("Prune-v0", problem=self.problem, decision=self.decision).unwrapped
        self.problem.evaluator.memory = OutcomeMemory(0)
        return env

    def episode(self) -> None:
        """One whole episode through the environment."""
        deviation = 0.0 if self.decision == "prior" else 2.0 * self.ratio - 1.0
        action = np.array([deviation], dtype=np.float32)
        self.env.reset()
        terminated = False
        while not terminated:
            _, _, terminated, _, _ = self.env.step(action)

    def parts(self, repeats: int) -> Times:
        """Seconds of an episode by what they are spent on; the rest is steps and observation."""
        _ = self.env
        evaluator = self.problem.evaluator
        held, times = vars(evaluator), {"whole": [], "steps and observation": []}
        originals = {name: getattr(evaluator, name) for name in PARTS.values()}
        for label in PARTS:
            times[label] = []
        for turn in range(repeats + 1):
            spent = dict.fromkeys(PARTS, 0.0)
            for label, name in PARTS.items():
                held[name] = _timed(originals[name], label, spent, self.device)
            start = time.perf_counter()
            self.episode()
            whole = time.perf_counter() - start
            for name in PARTS.values():
                del held[name]
            if turn:
                times["whole"].append(whole)
                times["steps and observation"].append(whole - sum(spent.values()))
                for label, seconds in spent.items():
                    times[label].append(seconds)
        return times

    # -- references --------------------------------------------------------------------------

    def bare_forward(self) -> Callable[[], Any]:
        """The compact network alone, ready made, on the ready made tensors, in the same batches."""
        prepared = self.problem.evaluator.validation
        fast = prepared.layout.convert(self.problem.compact(self.masks))
        return inference(
            lambda: [fast(batch) for batch in prepared.images.split(prepared.batch_size)]
        )

    def bare_recomputation(self) -> Callable[[], Any]:
        """One forward in training mode on the images that BatchNorm is recomputed on."""
        network = self.problem.compact(self.masks).train()
        images = self.problem.data.train.batch(self.problem.data.train.spread(BN_IMAGES))
        return inference(lambda: network(images))

    def plain_forward(self) -> Callable[[], Any]:
        """The compact module as it is (nothing folded, contiguous), on ready made tensors."""
        network = self.problem.compact(self.masks)
        prepared = self.problem.evaluator.validation
        batches = prepared.images.float().contiguous().split(prepared.batch_size)
        return inference(lambda: [network(batch) for batch in batches])

    def masked_forward(self) -> Callable[[], Any]:
        """The dense network with masked weights, on ready made tensors."""
        network = masked(self.problem, self.masks)
        prepared = self.problem.evaluator.validation
        batches = prepared.images.float().contiguous().split(prepared.batch_size)
        return inference(lambda: [network(batch) for batch in batches])

    def removal(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """Seconds of torch-pruning's own removal on a deep copy: without and with its graph."""
        problem = self.problem

        def remove(with_graph: bool) -> float:
            start = time.perf_counter()
            network = copy.deepcopy(problem.network)
            copied = time.perf_counter()
            graph = tp.DependencyGraph().build_dependency(network, problem.example)
            built = time.perf_counter()
            for group, mask in zip(problem.groups, self.masks, strict=True):
                layer = network.get_submodule(group.name)
                prune = graph.get_pruner_of_module(layer).prune_out_channels
                dropped = np.flatnonzero(~mask).tolist()
                graph.get_pruning_group(layer, prune, idxs=dropped).prune()
            seconds = time.perf_counter() - start
            return seconds if with_graph else seconds - (built - copied)

        return lambda: remove(False), lambda: remove(True)


PARTS = {
    "compaction": "compact",
    "recovery": "recover",
    "accuracy": "accuracy",
    "budgets": "values",
}


def _timed(
    function: Callable[..., Any], label: str, spent: dict[str, float], device: torch.device
) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        wait_for(device)
        spent[label] += time.perf_counter() - start
        return result

    return timed


def inference(function: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> None:
        with torch.inference_mode():
            function()

    return run


def masked(problem: PruningProblem, masks: Masks) -> nn.Module:
    """A copy of the dense network in which all that belongs to removed filters is zero."""
    network = copy.deepcopy(problem.network)
    tensors = dict(network.named_parameters())
    with torch.no_grad():
        for group, mask in zip(problem.groups, masks, strict=True):
            for cut in group.slices:
                if cut.tensor in tensors:
                    tensors[cut.tensor].index_fill_(
                        cut.axis, torch.from_numpy(cut.dropped(mask)), 0.0
                    )
    return network.eval()


class Paper:
    """The paper's episode: a masked dense network, images decoded and augmented one by one.

    JPEG files, read by torchvision's ``ImageFolder`` and transforms (crop, flip, normalise) in
    batches of 60; weights loaded anew in every episode; 32 steps of Adam where it fine-tunes, after
    each of which the weights are masked again.
    """

    def __init__(self, subject: Subject, folder: Path, steps: int = 0) -> None:
        self.subject, self.steps = subject, steps
        problem = subject.problem
        transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )
        self.loaders = {}
        for name, split in (("train", problem.data.train), ("validation", problem.data.validation)):
            write_jpegs(split, folder / name)
            files = datasets.ImageFolder(str(folder / name), transform)
            self.loaders[name] = DataLoader(files, PAPER_BATCH, shuffle=name == "train")
        self.network = copy.deepcopy(problem.network)
        self.masked = masked(problem, subject.masks).state_dict()
        self.alive = {key: value != 0 for key, value in self.masked.items() if value.ndim > 1}

    def episode(self) -> None:
        """Mask, fine-tune where asked, judge."""
        self.network.load_state_dict(self.masked)
        if self.steps:
            self._finetune()
        self.network.eval()
        right = 0
        with torch.no_grad():
            for images, labels in self.loaders["validation"]:
                outputs = self.network(images.to(self.subject.device))
                right += int((outputs.argmax(1).cpu() == labels).sum())

    def _finetune(self) -> None:
        self.network.train()
        optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-4)
        batches = iter(self.loaders["train"])
        for _ in range(self.steps):
            images, labels = next(batches)
            outputs = self.network(images.to(self.subject.device))
            loss = functional.cross_entropy(outputs, labels.to(self.subject.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for name, parameter in self.network.named_parameters():
                    if name in self.alive:
                        parameter.mul_(self.alive[name])


def write_jpegs(split: Split, folder: Path) -> None:
    """Pictures as files, one folder per class; nothing is done where they lie already."""
    if folder.exists():
        return
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    rows = zip(split.images.permute(0, 2, 3, 1).cpu().numpy(), split.labels.tolist(), strict=True)
    for index, (pixels, label) in enumerate(rows):
        Image.fromarray(pixels).save(folder / str(label) / f"{index}.jpg", quality=95)
