"""Our searches against other pruners, on one protocol.

    python benchmarks/peers.py
    python benchmarks/peers.py --problems resnet20-macs --data folder:DIR
    python benchmarks/peers.py --methods evolution scan "tp-global-lamp-*" --epochs 1 5
    python benchmarks/peers.py --show

Every method prunes the same dense network to the same limit. What it keeps is cut out of that
network in the same way, its BatchNorm statistics are recomputed on the same images, and it is
judged on the same validation images; one that draws random numbers has three seeds. ``--epochs``
fine-tunes the networks that are there, by the project's fine-tuning. Each network is judged on the
test split once, when nothing is chosen any more. A pruning ratio is bisected until the limit holds
as tightly as it can.

Rows that are there are not run again, and each is written as it comes. ``--show`` prints the table
of all of them. torch-pruning is needed for the methods whose names begin with ``tp-``
(``pip install torch-pruning``), and ``--modelopt-python`` for ``fastnas`` (`peer_fastnas.py`).
``--latency`` measures that of all networks again, one after the other, for when the machine has
nothing else to do, ``--latency missing`` of those that came from a ``--device`` which is no CPU,
where it is not measured. ``--merge`` adds the rows of other files, such as other machines'.
Networks on CIFAR-10 need its images in folders, VGG11 its weights as well. Writes
``benchmarks/results/peers.json``.
"""

from __future__ import annotations

import argparse
import fnmatch
import statistics
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from origin import processor
from peer_fastnas import fastnas
from peer_pruners import Found, TorchPruning, amc, feature_map_rank, rank_of_maps
from peer_rows import Table
from peer_tables import show
from peer_tasks import DISTILLATION, TASKS, methods, packed, seeds_of, unpacked
from result_rows import Row
from torch import nn

import prune_gym
from prune_gym.budgets import count
from prune_gym.budgets.processor_time import processor_ms
from prune_gym.problem.outcome import OutcomeMemory
from prune_gym.searches.fine_tuning import fine_tune, recipe_for

RESULTS = Path(__file__).parent / "results" / "peers.json"
MEASUREMENTS = 3  # of a latency


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="*", choices=TASKS, default=["small-params"])
    parser.add_argument(
        "--methods", nargs="*", default=["*"], help="names or patterns, in that order"
    )
    parser.add_argument("--epochs", nargs="*", type=int, default=[], help="of fine-tuning")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="cifar10", help="images of CIFAR-10")
    parser.add_argument("--weights", type=Path, help="of the dense network, if not our own")
    parser.add_argument("--modelopt-python", type=Path, help="a Python that has nvidia-modelopt")
    parser.add_argument(
        "--latency",
        nargs="?",
        choices=("all", "missing"),
        const="all",
        help="measure the rows' again, or where it is missing; run none",
    )
    parser.add_argument("--device", default="cpu", help="where networks are judged and trained")
    parser.add_argument("--merge", nargs="*", type=Path, default=[], help="files of other rows")
    parser.add_argument("--show", action="store_true", help="print the table, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    known = methods(asked.modelopt_python is not None)
    chosen = list(dict.fromkeys(m for w in asked.methods for m in fnmatch.filter(known, w)))
    if not chosen:
        parser.error(
            f"--methods {' '.join(asked.methods)}: none of {', '.join(known)} (fastnas needs "
            "--modelopt-python)"
        )
    for path in asked.merge:
        if not path.is_file():
            parser.error(f"--merge: there is no file {path}")
    table = Table(asked.out)
    for path in asked.merge:
        table.merge(path)
    for name in [] if asked.show or asked.merge else asked.problems:
        bench = Bench(name, asked.data, asked.weights, asked.modelopt_python, asked.device)
        if asked.latency:
            table.measure_again(name, bench, asked.latency == "all")
        else:
            run(table, bench, chosen, asked.seeds, sorted(asked.epochs))
    show(table)


def run(table: Table, bench: Bench, chosen: list[str], seeds: int, epochs: list[int]) -> None:
    """Add a problem's rows to the table, the ones without fine-tuning first."""
    chosen = [method for method in chosen if TASKS[bench.name].takes(method)]
    for method in chosen:
        for seed in seeds_of(method, seeds):
            key = {"problem": bench.name, "method": method, "seed": seed}
            table.add("rows", key, partial(bench.row, key))
    for n in epochs:
        for method in chosen:
            for seed in range(seeds):
                key = {"problem": bench.name, "method": method, "seed": seed, "epochs": n}
                pruned = table.row(bench.name, method, seed)
                if pruned["masks"] is not None:
                    table.add("tuned", key, partial(bench.tuned, key, pruned))


class Bench:
    """One task: its dense network, and how networks are found, judged and fine-tuned."""

    def __init__(
        self,
        name: str,
        data: str,
        weights: Path | None,
        modelopt: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self.name, self._task = name, TASKS[name]
        self._data, self._weights, self._modelopt = data, weights, modelopt
        self._device = device

    @cached_property
    def problem(self) -> Any:
        """The pruning problem, made when the first row is."""
        return self._made()

    def _made(self, criterion: Any = "auto") -> Any:
        return self._task.problem(self._data, self._weights, criterion, self._device)

    def row(self, key: Row) -> Row:
        """Prune by one method, and judge what it came to."""
        problem = self.problem
        problem.evaluator.memory = OutcomeMemory()  # every method judges its own networks
        began = time.monotonic()
        found = self.found(key["method"], key["seed"])
        seconds = round(time.monotonic() - began, 1)
        row = {"evaluations": found.evaluations, "seconds": seconds, "masks": None}
        if not self.is_within(key["method"], found):
            return {**row, "validation": None}
        row["masks"] = packed(found.masks)
        network = problem.evaluate(found.masks).network
        return {**row, **self.judged(network), **self.sizes(network)}

    def is_within(self, method: str, found: Found) -> bool:
        """Whether a network was found within the limits; a measured one is as it was found."""
        if found.masks is None:
            return False
        if method in ("dense", "narrowest") or not self._task.is_counted:
            return True
        return bool(self.problem.feasible(self.problem.costs(found.masks)))

    def found(self, method: str, seed: int) -> Found:
        """What a method keeps."""
        problem, evaluations = self.problem, self._task.evaluations
        if method == "dense":
            return Found(problem.masks_of(problem.sizes), evaluations=0)
        if method == "narrowest":  # a filter per layer: what no pruning of filters takes off
            return Found(problem.masks_of(np.ones_like(problem.sizes)), evaluations=0)
        if method == "rank":
            return rank_of_maps(problem, self._made(feature_map_rank))
        if method == "lamp_widths":  # with the filters that the problem's own order keeps
            lamp = prune_gym.search(problem, "lamp", evaluations=1).masks
            return Found(problem.masks_of(np.array([mask.sum() for mask in lamp])))
        if method == "amc":
            return amc(problem, evaluations, seed)
        if method == "fastnas":
            words = [self.name, "--data", self._data]
            words += ["--weights", str(self._weights)] if self._weights else []
            return fastnas(problem, self._modelopt, words)
        if method.startswith("tp-"):
            _, scope, score, steps = method.split("-")
            return TorchPruning(problem, score, scope == "global", int(steps), seed)()
        result = prune_gym.search(problem, method, evaluations=evaluations, seed=seed)
        if result.stopped:
            raise SystemExit(130)
        return Found(result.masks if result.feasible else None, evaluations=len(result))

    def judged(self, network: nn.Module) -> Row:
        """Validation and test accuracy."""
        test = self.problem.judge(network, self.problem.data.test)
        return {"validation": round(self.problem.judge(network), 5), "test": round(test, 5)}

    def sizes(self, network: nn.Module) -> Row:
        """Shares of the dense network's MACs, parameters and latency."""
        problem = self.problem
        shares = {
            name: count(name, network, problem.example)
            / count(name, problem.network, problem.example)
            for name in ("macs", "params")
        }
        found = {name: round(share, 4) for name, share in shares.items()}
        if problem.device.type != "cpu":
            return {**found, "latency": None}
        return {**found, "latency": self.latency(network), "latency_on": processor()}

    def latency(self, network: nn.Module) -> float:
        """Share of the dense network's latency, of 32 images on one core, both in turns.

        By the processor's clock: what other programs do meanwhile does not count. The median of
        three measurements, each of 30 turns or more.
        """
        of = self.problem.network, self.problem.example
        found = [processor_ms.compare(network, *of) for _ in range(MEASUREMENTS)]
        return round(statistics.median(found), 4)

    def compact(self, row: Row) -> nn.Module:
        """The network of a row, with recomputed statistics."""
        problem = self.problem
        return problem.recover(problem.compact(unpacked(row["masks"], problem)))

    def tuned(self, key: Row, pruned: Row) -> Row:
        """Fine-tune a network that is there for some epochs."""
        problem = self.problem
        network = self.compact(pruned)
        steps = key["epochs"] * (len(problem.data.train) // recipe_for(problem).batch_size)
        began = time.monotonic()
        found = fine_tune(
            network, problem, steps=steps, seed=key["seed"], distillation=DISTILLATION
        )
        seconds = round(time.monotonic() - began, 1)
        return {**self.judged(network), "kept": found.kept, "steps": steps, "seconds": seconds}


if __name__ == "__main__":
    main()
