"""Which pruners `peers.py` compares, on what, and how a network is written down."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import prune_gym
from prune_gym.budgets.processor_time import processor_ms
from prune_gym.pruning.masks import Masks

WEIGHTS = Path(__file__).parent / "weights"
DISTILLATION = 0.5  # of all fine-tuning: best of ``finetune_schedule.py``

SEARCHES = ("scan", "bayesian", "evolution", "ppo_lag", "pretrained", "cem", "random")  # ours
DRAWING = (
    "bayesian",
    "evolution",
    "ppo_lag",
    "pretrained",
    "cem",
    "random",
    "amc",
    "tp-*-random-*",
)
SCORES = ("l1", "l2", "bnscale", "taylor", "lamp", "hessian", "fpgm", "random")


@dataclass(frozen=True)
class Task:
    """A network to be pruned, and how far.

    Attributes:
        network: its registered name.
        budgets: limits.
        evaluations: networks that each search judges.
        pictures: whether it is on the images of CIFAR-10; else on digits.
        weights: its file in ``benchmarks/weights``; None = the shipped ones, or ``--weights``.
    """

    network: str
    budgets: dict[Any, float]
    evaluations: int
    pictures: bool = True
    weights: str | None = None

    @property
    def is_counted(self) -> bool:
        """Whether every limit is on something counted, the same at each look."""
        return all(isinstance(name, str) for name in self.budgets)

    def takes(self, method: str) -> bool:
        """Whether a method can go by its limits: some know none that are measured."""
        return self.is_counted or method not in ("amc", "fastnas")

    def problem(
        self, data: str, weights: Path | None, criterion: Any = "auto", device: str = "cpu"
    ) -> Any:
        """The pruning problem; on pictures it judges on 1,000 validation images."""
        if not self.pictures:
            return prune_gym.make_problem(
                self.network,
                criterion=criterion,
                budgets=self.budgets,
                weights=weights,
                device=device,
            )
        return prune_gym.make_problem(
            self.network,
            data,
            weights=WEIGHTS / self.weights if weights is None and self.weights else weights,
            criterion=criterion,
            budgets=self.budgets,
            evaluation_samples=1000,
            device=device,
        )


TASKS = {
    "small-params": Task("small", {"params": 0.1}, 110, pictures=False),
    "small-latency": Task("small", {processor_ms: 0.6}, 110, pictures=False),
    "small-macs": Task("small", {"macs": 0.5}, 110, pictures=False),
    "resnet20-macs": Task("resnet20", {"macs": 0.5}, 150, weights="resnet20.safetensors"),
    "resnet20-params": Task("resnet20", {"params": 1 / 3}, 150, weights="resnet20.safetensors"),
    "resnet56-macs": Task("resnet56", {"macs": 0.5}, 250, weights="resnet56.safetensors"),
    "vgg11-macs": Task("vgg11", {"macs": 0.5}, 110),
}


def methods(modelopt: bool = True) -> list[str]:
    """Names of all methods, the quickest first; without ``fastnas`` where it is not there."""
    of_library = [
        f"tp-{scope}-{score}-{steps}"
        for steps in (1, 10)
        for scope in ("global", "local")
        for score in SCORES
    ]
    quick = [
        "dense",
        "narrowest",
        "equal_width",
        "lamp",
        "lamp_widths",
        "rank",
        "tp-local-l1first-1",
    ]
    return [*quick, *of_library, "uniform", *SEARCHES, "amc", *["fastnas"] * modelopt]


def seeds_of(method: str, seeds: int) -> range:
    """One seed of what draws no random numbers."""
    return range(seeds if any(fnmatch.fnmatch(method, word) for word in DRAWING) else 1)


def packed(masks: Masks) -> str:
    """Keep masks as hexadecimal digits."""
    return np.packbits(np.concatenate(masks)).tobytes().hex()


def unpacked(digits: str, problem: Any) -> Masks:
    """Keep masks of a problem."""
    sizes = problem.sizes
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=sizes.sum())
    return tuple(np.split(bits.astype(np.bool_), np.cumsum(sizes)[:-1]))
