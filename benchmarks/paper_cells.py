"""What `paper_table.py` runs, what it keeps of a run, and the table it makes of that."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from origin import origin

from agents.files import write_json
from prune_gym.datasets import load_dataset
from prune_gym.networks import build_network
from prune_gym.pruning.groups import find_filter_groups, find_weight_groups
from prune_gym.searches.learning import N_ENVS
from prune_gym.searches.run_folder import RunFolder
from prune_gym.utils.devices import resolve_device

ROWS = ("vgg11", "vgg16", "vgg19", "resnet18", "resnet50")
ALGORITHMS = ("ppo_lag", "uniform", "random", "cem")
KEY = ("row", "column", "algo", "seed", "dataset", "evaluations", "finetune_steps")
SCORES = {  # of a cell, and what metrics.json calls them
    "dense_test": "dense_test",
    "raw_validation": "raw_validation",
    "searched_validation": "recovered_validation",
    "finetuned_validation": "finetuned_validation",
    "finetuned_test": "finetuned_test",
}


@dataclass(frozen=True)
class Column:
    """What is removed, by which environment, and how much may stay."""

    env: str
    structure: str
    limits: dict[str, float]  # by the beginning of the network's name
    algorithms: tuple[str, ...] = ALGORITHMS

    def limit(self, network: str) -> float:
        """Share of the parameters that may stay."""
        return next(limit for name, limit in self.limits.items() if network.startswith(name))


COLUMNS = {
    "paper": Column("PruneVGG-v0", "weight", {"resnet": 0.249, "": 0.071}),
    "filters-10": Column("PruneVGG-v0", "filter", {"": 0.10}),
    "filters-5": Column("PruneVGG-v0", "filter", {"": 0.05}),
    "fine-10": Column("PruneVGGFilters-v0", "filter", {"": 0.10}, ("ppo_lag",)),
    "fine-5": Column("PruneVGGFilters-v0", "filter", {"": 0.05}, ("ppo_lag",)),
}


@dataclass(frozen=True)
class Task:
    """One search of the table, in its run folder."""

    network: str
    column: str
    algo: str
    seed: int
    folder: Path  # where runs are kept

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.folder / f"{self.network}-{self.column}-{self.algo}-{self.seed}"

    @property
    def benchmark(self) -> Path:
        """The file of facts beside the run folder."""
        return self.folder / f"{self.out.name}.benchmark.json"

    def asked(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """What config.json of the run has to say."""
        column = COLUMNS[self.column]
        groups = n_groups(self.network, column.structure, arguments.dataset)
        return {
            "env": column.env,
            "network": self.network,
            "dataset": arguments.dataset,
            "structure": column.structure,
            "budgets": {"params": column.limit(self.network)},
            "algo": self.algo,
            "seed": self.seed,
            "timesteps": arguments.evaluations * groups,
            "evaluation_samples": arguments.evaluation_samples,
            "finetune_steps": arguments.finetune_steps,
        }

    def command(self, arguments: argparse.Namespace) -> list[str]:
        """The words after ``prune-gym``: begin the run, or go on with it."""
        if (self.out / "config.json").is_file():
            return ["prune", "--resume", str(self.out)]
        options = self.asked(arguments)
        options["budget"] = f"params={options.pop('budgets')['params']:g}"
        options |= {"device": arguments.device, "out": self.out}
        words = ((f"--{k.replace('_', '-')}", str(v)) for k, v in options.items())
        return ["prune", *(word for pair in words for word in pair)]

    def difference(self, arguments: argparse.Namespace) -> str:
        """Why the run that is there is not the one that is asked for; empty where it is."""
        file = self.out / "config.json"
        if not file.is_file():
            return ""
        config = json.loads(file.read_text())
        has = config | config.get("problem", {})
        others = [
            f"{name} was {has.get(name)!r}, is {value!r}"
            for name, value in self.asked(arguments).items()
            if has.get(name) != value
        ]
        if not others:
            return ""
        return f"{self.out} is another run: {'; '.join(others)}. Choose another --folder."

    def begun(self, device: str) -> None:
        """Write down what a new run is made with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.benchmark, facts(device), indent=1)

    def facts(self) -> dict[str, Any]:
        """What `begun` wrote; "unknown" where it did not."""
        found = dict.fromkeys(("commit", "dirty", "device", "machine"), "unknown")
        if self.benchmark.is_file():
            found |= json.loads(self.benchmark.read_text())
        return found

    def found_nothing(self, evaluations: int) -> bool:
        """Whether the search judged what it may, and nothing of that is within the limit.

        An agent may end with as many networks half decided as it has environments.
        """
        rows = RunFolder(self.out).read_episodes()
        spent = len(rows) >= max(1, evaluations - N_ENVS)
        return spent and all(row["feasible"] == "0" for row in rows)

    def note_nothing(self) -> None:
        """Remember that the search is spent, so that it is not resumed again."""
        write_json(self.benchmark, {**self.facts(), "nothing_feasible": True}, indent=1)

    def done(self) -> bool:
        """Whether there is a result, be it that nothing was found."""
        return (self.out / "metrics.json").is_file() or "nothing_feasible" in self.facts()

    def cell(self, evaluations: int) -> dict[str, Any]:
        """What the table keeps of a run that is done."""
        folder, facts = RunFolder(self.out), self.facts()
        config, metrics = folder.read_json("config.json"), folder.read_json("metrics.json")
        facts.pop("nothing_feasible", None)
        return {
            "run": self.out.name,
            "row": self.network,
            "column": self.column,
            "algo": self.algo,
            "seed": self.seed,
            "dataset": short(config["problem"]["dataset"]),
            "evaluations": evaluations,
            "finetune_steps": config["finetune_steps"],
            "evaluation_samples": config["problem"]["evaluation_samples"],
            "structure": config["problem"]["structure"],
            "limit": config["problem"]["budgets"]["params"],
            **(results(metrics) if metrics else no_results(folder)),
            **facts,
            "versions": folder.read_json("versions.json"),
            "commands": shortened((self.out / "command.txt").read_text()),
        }


def tasks(network: str, arguments: argparse.Namespace) -> list[Task]:
    """The searches of a row that are asked for; the uniform grid draws nothing: one seed."""
    return [
        Task(network, column, algo, seed, arguments.folder)
        for column in arguments.columns
        for algo in arguments.algorithms
        if algo in COLUMNS[column].algorithms
        for seed in (arguments.seeds[:1] if algo == "uniform" else arguments.seeds)
    ]


@cache
def n_groups(network: str, structure: str, dataset: str) -> int:
    """Decisions per episode."""
    example, n_classes = (torch.zeros(1, 3, 32, 32), 10) if network in ROWS else shape(dataset)
    module = build_network(network, in_channels=example.shape[1], n_classes=n_classes)
    if structure == "weight":
        return len(find_weight_groups(module))
    return len(find_filter_groups(module, example))


@cache
def shape(dataset: str) -> tuple[torch.Tensor, int]:
    """One input and the number of classes."""
    data = load_dataset(dataset)
    return data.train.batch(slice(1)).clone(), data.n_classes


def short(dataset: str) -> str:
    """A data set's name without this machine's folders."""
    return Path(dataset.removeprefix("folder:")).name


def shortened(commands: str) -> list[str]:
    """Command lines without this machine's folders."""
    lines = []
    for line in commands.splitlines():
        words = shlex.split(line)
        for index, word in enumerate(words):
            if words[index - 1] in ("--out", "--resume"):
                words[index] = f"RUNS/{Path(word).name}"
            elif word.startswith("folder:"):
                words[index] = f"folder:DATA/{short(word)}"
        lines.append(shlex.join(words))
    return lines


def results(metrics: dict[str, Any]) -> dict[str, Any]:
    dense, pruned = metrics["dense"], metrics["pruned"]
    return {
        "feasible": metrics["feasible"],
        "lowest_cost": None,
        **{name: metrics["accuracy"][theirs] for name, theirs in SCORES.items()},
        "params": pruned["params"] / dense["params"],
        "macs": pruned["macs"] / dense["macs"],
        "latency": metrics["latency_ms"]["pruned"] / metrics["latency_ms"]["dense"],
        "episodes": metrics["evaluations"],
        "search_s": round(metrics["search_s"], 1),
        "wall_s": round(metrics["wall_s"], 1),
    }


def no_results(folder: RunFolder) -> dict[str, Any]:
    rows = folder.read_episodes()
    wall_s = round(folder.read_json("state.json").get("wall_s", 0.0), 1)
    return {
        "feasible": False,
        "lowest_cost": min(float(row["cost"]) for row in rows),
        **dict.fromkeys((*SCORES, "params", "macs", "latency")),
        "episodes": len(rows),
        "search_s": wall_s,
        "wall_s": wall_s,
    }


def facts(device: str) -> dict[str, Any]:
    """The code and the machine, as they are now."""
    place = resolve_device(device)
    found = {name: value for name, value in origin().items() if name not in ("command", "versions")}
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    return {**found, "device": name}


def table(cells: list[dict[str, Any]], rows: list[str]) -> str:
    """Markdown: a line for every cell, and one for what a row's column lacks.

    Args:
        cells: of the results.
        rows: networks that are asked for; those of the paper and of the cells are added.
    """
    lines = [
        "| network | data set | column | algorithm (seed) | dense test | searched, validation | "
        "fine-tuned test | params | MACs | latency | networks | fine-tuning steps | search, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for network in dict.fromkeys([*ROWS, *rows, *(cell["row"] for cell in cells)]):
        for name, column in COLUMNS.items():
            own = [c for c in cells if (c["row"], c["column"]) == (network, name)]
            lines += [line(c) for c in sorted(own, key=lambda c: (c["dataset"], c["evaluations"]))]
            missing = [a for a in column.algorithms if a not in {c["algo"] for c in own}]
            if missing:
                lines.append(
                    f"| {network} | - | {name} | {', '.join(missing)} | not run " + "| " * 8 + "|"
                )
    return "\n".join(lines)


def line(cell: dict[str, Any]) -> str:
    head = f"| {cell['row']} | {cell['dataset']} | {cell['column']} | {cell['algo']} "
    head += f"({cell['seed']}) | {number(cell['dense_test'])} | "
    tail = f"{cell['episodes']} | {cell['finetune_steps']} | {cell['search_s']:.0f} |"
    if not cell["feasible"]:
        lowest = "" if cell["lowest_cost"] is None else f": lowest {cell['lowest_cost']:.4f}"
        found = f"nothing within the limit {cell['limit']:g}{lowest}"
        return f"{head}{found} | | | | | {tail}"
    weights = cell["structure"] == "weight"
    macs, latency = (None, None) if weights else (cell["macs"], cell["latency"])
    scores = f"{number(cell['searched_validation'])} | {number(cell['finetuned_test'])}"
    sizes = f"{number(cell['params'])} | {number(macs, 3)} | {number(latency, 3)}"
    return f"{head}{scores} | {sizes} | {tail}"


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
