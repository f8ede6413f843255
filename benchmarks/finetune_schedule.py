"""The schedule of fine-tuning, tuned once: peak rates, with and without distillation.

    python benchmarks/finetune_schedule.py --data folder:DIR
    python benchmarks/finetune_schedule.py --show

The network of the sensitivity scan, the simplest of the searches that `peers.py` compares, is
fine-tuned with each setting, and judged on the whole validation split as training leaves it:
statistics are not recomputed, and nothing is put back. The test split has no say, nor have the
seeds of a table. Rows that are there are not run again, and each is written as it comes. Writes
``benchmarks/results/finetune_schedule.json``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_tasks import TASKS
from result_rows import ResultRows, Row

from prune_gym.datasets import load_dataset
from prune_gym.searches.fine_tuning import recipe_for
from prune_gym.training.loop import Training

RESULTS = Path(__file__).parent / "results" / "finetune_schedule.json"
SETTINGS = ((0.01, 0.0), (0.02, 0.0), (0.05, 0.0), (0.1, 0.0), (0.02, 0.5), (0.05, 0.5))
FIRST_SEED = 100  # no seed of a table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pictures = [name for name, task in TASKS.items() if task.pictures]
    parser.add_argument("--problems", nargs="*", choices=pictures, default=["resnet20-macs"])
    parser.add_argument("--epochs", nargs="*", type=int, default=[1, 5])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", default="cifar10", help="images of CIFAR-10")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--show", action="store_true", help="print the table, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rows = ResultRows(asked.out, "rows")
    for name in [] if asked.show else asked.problems:
        bench = Bench(name, asked.data, asked.device)
        for key in keys(name, asked.epochs, asked.seeds):
            rows.add("rows", key, partial(bench.row, key))
    show(rows.of["rows"])


def keys(name: str, epochs: list[int], seeds: int) -> list[Row]:
    """What is asked for, one after the other."""
    return [
        {"problem": name, "epochs": n, "peak": peak, "distillation": share, "seed": seed}
        for n in epochs
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        for peak, share in SETTINGS
    ]


class Bench:
    """One problem, and the network that is fine-tuned."""

    def __init__(self, name: str, data: Any, device: str = "cpu") -> None:
        self._name, self._data, self._device = name, data, device

    @cached_property
    def problem(self) -> Any:
        """The pruning problem, made when the first row is."""
        return TASKS[self._name].problem(self._data, None, device=self._device)

    def row(self, key: Row) -> Row:
        """Fine-tune by one setting."""
        problem, began = self.problem, time.monotonic()
        masks = problem.masks_of(problem.allocation.counts())
        network = problem.recover(problem.compact(masks))
        recipe = replace(recipe_for(problem), peak_lr=key["peak"], distillation=key["distillation"])
        training = Training(
            network,
            problem.data.train,
            recipe,
            steps=key["epochs"] * (len(problem.data.train) // recipe.batch_size),
            teacher=problem.network,
            generator=torch.Generator().manual_seed(key["seed"]),
            augment=problem.data.augment,
            task=problem.task,
        )
        while training.step_number < training.steps:
            training.step()
        training.finish()
        whole = load_dataset(self._data).validation.to(problem.device)
        validation = round(problem.judge(network, whole), 5)
        return {"validation": validation, "seconds": round(time.monotonic() - began, 1)}


def show(rows: list[Row]) -> None:
    """Print the mean of each setting."""
    epochs = sorted({row["epochs"] for row in rows})
    heads = ["problem", "peak rate", "distillation", *(f"epochs: {n}" for n in epochs)]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    names = ("problem", "peak", "distillation")
    for setting in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in names) == setting]
        found = [[r["validation"] for r in own if r["epochs"] == n] for n in epochs]
        means = [f"{np.mean(one):.4f} ({len(one)})" if one else "-" for one in found]
        print("| " + " | ".join([*map(str, setting), *means]) + " |")


if __name__ == "__main__":
    main()
