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
import json
import statistics
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from decision import estimate
from origin import origin
from peer_fastnas import fastnas
from peer_pruners import Found, TorchPruning, amc, feature_map_rank, rank_of_maps
from peer_tasks import DISTILLATION, TASKS, packed, unpacked
from torch import nn

import prune_gym
from agents.files import write_json
from prune_gym.budgets import count
from prune_gym.budgets.processor_time import processor_ms
from prune_gym.problem.outcome import OutcomeMemory
from prune_gym.searches.fine_tuning import fine_tune

RESULTS = Path(__file__).parent / "results" / "peers.json"
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
SPLITS = ("validation", "test")
MEASUREMENTS = 3  # of a latency
KEY = ("problem", "method", "seed")  # of a row
Row = dict[str, Any]


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="*", choices=TASKS, default=list(TASKS)[:2])
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
    for method in chosen:
        for seed in seeds_of(method, seeds):
            key = {"problem": bench.name, "method": method, "seed": seed}
            table.add("rows", key, bench.row)
    for n in epochs:
        for method in chosen:
            for seed in range(seeds):
                key = {"problem": bench.name, "method": method, "seed": seed, "epochs": n}
                pruned = table.row(bench.name, method, seed)
                if pruned["masks"] is not None:
                    table.add("tuned", key, bench.tuned, pruned)


def seeds_of(method: str, seeds: int) -> range:
    """One seed of what draws no random numbers."""
    return range(seeds if any(fnmatch.fnmatch(method, word) for word in DRAWING) else 1)


class Table:
    """The rows of a results file, written as they come; each names its place in ``origins``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = json.loads(path.read_text()) if path.is_file() else {}
        self.rows: list[Row] = found.get("rows", [])
        self.tuned: list[Row] = found.get("tuned", [])
        self.origins: list[Row] = found.get("origins", [])

    def add(self, kind: str, key: Row, make: Any, *words: Any) -> None:
        """Make a row and write it, unless it is there."""
        rows = getattr(self, kind)
        if not any(key.items() <= row.items() for row in rows):
            rows.append({**key, **make(key, *words), "origin": self._origin(origin())})
            self._write()
            print({name: value for name, value in rows[-1].items() if name != "masks"}, flush=True)

    def merge(self, path: Path) -> None:
        """Add the rows of another file that are not here."""
        other = Table(path)
        for kind, key in (("rows", KEY), ("tuned", (*KEY, "epochs"))):
            own = getattr(self, kind)
            there = {tuple(row[name] for name in key) for row in own}
            for row in getattr(other, kind):
                if tuple(row[name] for name in key) not in there:
                    own.append({**row, "origin": self._origin(other.origins[row["origin"]])})
        self._write()

    def _origin(self, wanted: Row) -> int:
        """Place of an origin, which is added if it is new."""
        if wanted not in self.origins:
            self.origins.append(wanted)
        return self.origins.index(wanted)

    def _write(self) -> None:
        found = {"origins": self.origins, "rows": self.rows, "tuned": self.tuned}
        write_json(self._path, found, indent=1)

    def measure_again(self, problem: str, bench: Bench, anew: bool = True) -> None:
        """Latency of all networks of a problem, or of those that have none."""
        for row in self.rows:
            is_asked = row["problem"] == problem and row["masks"] is not None
            if is_asked and (anew or row["latency"] is None):
                row["latency"] = bench.latency(bench.compact(row))
                print(problem, row["method"], row["seed"], row["latency"], flush=True)
                self._write()

    def row(self, problem: str, method: str, seed: int) -> Row:
        """The pruned network of a method; all seeds of one that draws nothing are the same."""
        own = [r for r in self.rows if (r["problem"], r["method"]) == (problem, method)]
        return next((row for row in own if row["seed"] == seed), own[0])


# -- one row ---------------------------------------------------------------------------------------


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
        if found.masks is not None:
            row["masks"] = packed(found.masks)
            network = problem.evaluate(found.masks).network
        elif found.network is not None:
            network = problem.recover(found.network)
        else:
            return {**row, "validation": None}  # nothing within the limit
        return {**row, **self.judged(network), **self.sizes(network)}

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
        on_cpu = problem.device.type == "cpu"
        return {**found, "latency": self.latency(network) if on_cpu else None}

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
        batch = 128 if self._task.pictures else 100  # of the project's fine-tuning
        steps = key["epochs"] * (len(problem.data.train) // batch)
        began = time.monotonic()
        found = fine_tune(
            network, problem, steps=steps, seed=key["seed"], distillation=DISTILLATION
        )
        seconds = round(time.monotonic() - began, 1)
        return {**self.judged(network), "kept": found.kept, "steps": steps, "seconds": seconds}


# -- tables ----------------------------------------------------------------------------------------


def show(table: Table) -> None:
    """Print a table per problem, the best before fine-tuning first."""
    for problem in dict.fromkeys(row["problem"] for row in table.rows):
        rows = [row for row in table.rows if row["problem"] == problem]
        tuned = [row for row in table.tuned if row["problem"] == problem]
        print("\n".join(lines_of(problem, rows, tuned)))


def lines_of(problem: str, rows: list[Row], tuned: list[Row]) -> Iterator[str]:
    """The table of one problem: interquartile means over seeds, with 95 % intervals.

    Methods are ordered, and the best of them are told, by validation; the test split chooses none.
    """
    budgets = TASKS[problem].budgets
    limits = ", ".join(
        f"{getattr(name, '__name__', name)} {limit:.3g}" for name, limit in budgets.items()
    )
    yield f"\n### {problem}: at most {limits}\n"
    epochs = sorted({row["epochs"] for row in tuned})
    heads = [f"{n} epoch{'s' * (n > 1)}, {split}" for n in epochs for split in ("val", "test")]
    shares = ["MACs", "parameters", "latency", "networks judged", "seconds"]
    cells = ["method", "seeds", "val", "test", *heads, *shares]
    yield "| " + " | ".join(cells) + " |"
    yield "|" + " --- |" * len(cells)
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    means = {
        method: float(np.mean([row["validation"] or 0.0 for row in own]))
        for method, own in by_method.items()
    }
    for method in sorted(means, key=lambda name: -means[name]):
        own = by_method[method]
        within = [row for row in own if row["validation"] is not None]
        if not within:
            nothing = ["nothing within the limit", *["-"] * (len(cells) - 5)]
            seconds = f"{np.median([row['seconds'] for row in own]):.0f}"
            yield "| " + " | ".join([method, str(len(own)), *nothing, "-", seconds]) + " |"
            continue
        line = [method, str(len(own)), *(estimate([r[k] for r in within]) for k in SPLITS)]
        for n in epochs:
            trained = [r for r in tuned if (r["method"], r["epochs"]) == (method, n)]
            line += [estimate([r[k] for r in trained]) if trained else "-" for k in SPLITS]
        line += [mean_of([r[k] for r in within]) for k in ("macs", "params", "latency")]
        line += [f"{np.median([row[k] for row in own]):.0f}" for k in ("evaluations", "seconds")]
        yield "| " + " | ".join(line) + " |"
    yield from ("", *verdicts(by_method, tuned))


def mean_of(shares: list[float | None]) -> str:
    """The mean of those that were measured."""
    measured = [share for share in shares if share is not None]
    return f"{np.mean(measured):.3f}" if measured else "-"


def verdicts(by_method: dict[str, list[Row]], tuned: list[Row]) -> Iterator[str]:
    """What the rows say."""
    yield from leaders("Before fine-tuning", by_method)
    for n in sorted({row["epochs"] for row in tuned}):
        of_epochs: dict[str, list[Row]] = {}
        for row in tuned:
            if row["epochs"] == n:
                of_epochs.setdefault(row["method"], []).append(row)
        yield from leaders(f"After {n} epoch{'s' * (n > 1)}", of_epochs)
    slow = [
        name
        for name, own in by_method.items()
        for row in own
        if name != "dense" and row["validation"] is not None and (row["latency"] or 0.0) > 0.95
    ]
    if slow:
        yield f"Not faster than the dense network: {', '.join(dict.fromkeys(slow))}."


def leaders(when: str, by_method: dict[str, list[Row]]) -> Iterator[str]:
    """The best search and the best of the others by validation, and their gap on the test split."""
    means = {
        method: float(np.mean([row["validation"] or 0.0 for row in own]))
        for method, own in by_method.items()
    }
    ours = [name for name in means if name in SEARCHES]
    others = [name for name in means if name not in (*SEARCHES, "dense", "narrowest")]
    if ours and others:
        own, other = (max(names, key=lambda name: means[name]) for names in (ours, others))
        tests = [np.mean([r.get("test") or 0.0 for r in by_method[m]]) for m in (own, other)]
        gap = 100.0 * (tests[0] - tests[1])
        yield (
            f"{when} the best search, `{own}`, is {abs(gap):.1f} points "
            f"{'ahead of' if gap >= 0 else 'behind'} the best other, `{other}`, on the test split."
        )


if __name__ == "__main__":
    main()
