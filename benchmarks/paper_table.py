"""The paper's table, row by row: dense accuracy, what a search keeps, and the controls beside it.

    python benchmarks/paper_table.py --folder RUNS --rows vgg11 --dataset cifar10 --device auto

Trains the dense network of a row (`prune-gym pretrain`), then runs `prune-gym prune` for every
column, algorithm and seed. Everything is resumable: finished runs are not repeated, interrupted
ones go on, and ``--minutes`` stops in good order. Results of this call are merged by run into
``benchmarks/results/paper_table.json`` (or ``--out``), so that rows can be run on several machines
and put together with ``--merge``. A cell that was not run says so.

Columns: ``paper`` is the coarse variant of arXiv 2110.08558 (single weights, 7.1 % kept for VGG,
24.9 % for ResNet18); ``filters-10`` and ``filters-5`` remove whole filters, one ratio per layer;
``fine-10`` and ``fine-5`` decide filter by filter. Numbers of different structures are never
compared: a network with zeroed weights is no faster. All algorithms of a column judge the same
number of networks; the controls choose one ratio per layer, so they have no fine columns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prune_gym.networks import build
from prune_gym.pretrained import cache_dir, checkpoint_path
from prune_gym.pruning.groups import find_filter_groups, find_weight_groups

ROWS = ("vgg11", "vgg16", "vgg19", "resnet18")
ALGORITHMS = ("ppo_lag", "uniform", "random", "cem")
RESULTS = Path(__file__).parent / "results" / "paper_table.json"
COMMAND = [sys.executable, "-m", "prune_gym"]


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


class TimeIsUpError(RuntimeError):
    """The time limit was reached; what was begun can be resumed."""


def main() -> None:
    arguments = parse()
    dataset = unpacked(arguments.archive, arguments.folder) or arguments.dataset
    cells = {cell["run"]: cell for cell in read(arguments.out)["cells"]}
    for path in arguments.merge:
        cells |= {cell["run"]: cell for cell in read(path)["cells"]}
    ends = time.monotonic() + 60.0 * arguments.minutes
    try:
        for network in () if arguments.merge else arguments.rows:
            train_dense(network, dataset, arguments, ends)
            for name in arguments.columns:
                column = COLUMNS[name]
                for algo in (a for a in arguments.algorithms if a in column.algorithms):
                    for seed in arguments.seeds[:1] if algo == "uniform" else arguments.seeds:
                        cell = run(network, name, algo, seed, dataset, arguments, ends)
                        cells[cell["run"]] = cell
                        write(arguments.out, cells)
    except TimeIsUpError as error:
        print(f"time is up: {error}")
    write(arguments.out, cells)
    print(table(list(cells.values())))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="registered networks")
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dataset", default="cifar10", help="what prune-gym takes")
    parser.add_argument("--archive", type=Path, help="tar file of an image folder, instead")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time limit")
    parser.add_argument("--epochs", type=int, help="of dense training; default: prune-gym's")
    parser.add_argument("--evaluations", type=int, default=1_500, help="networks per search")
    parser.add_argument("--evaluation-samples", type=int, default=2_000)
    parser.add_argument("--finetune-steps", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--merge", type=Path, nargs="+", default=[], help="results to add; no runs")
    return parser.parse_args()


def unpacked(archive: Path | None, folder: Path) -> str | None:
    """``folder:PATH`` of an archive's images, unpacked once."""
    if archive is None:
        return None
    target = folder / archive.name.split(".")[0]
    if not target.is_dir():
        partial = target.with_name(target.name + ".partial")
        with tarfile.open(archive) as file:
            file.extractall(partial, filter="data")
        partial.rename(target)
    return f"folder:{target.resolve()}"


def train_dense(network: str, dataset: str, arguments: argparse.Namespace, ends: float) -> None:
    path = checkpoint_path(cache_dir(), network, dataset)
    if path.is_file():
        return
    command = ["pretrain", network, "--dataset", dataset, "--device", arguments.device]
    if arguments.epochs:
        command += ["--epochs", str(arguments.epochs)]
    if path.with_name(f"{path.stem}.training.safetensors").is_file():
        command.append("--resume")
    call(command, ends)


def run(
    network: str,
    column: str,
    algo: str,
    seed: int,
    dataset: str,
    arguments: argparse.Namespace,
    ends: float,
) -> dict[str, Any]:
    name = f"{network}-{column}-{algo}-{seed}"
    out, chosen = arguments.folder / name, COLUMNS[column]
    if (out / "config.json").is_file():
        command = ["prune", "--resume", str(out)]
    else:
        timesteps = arguments.evaluations * n_groups(network, chosen.structure)
        options = {
            "env": chosen.env,
            "network": network,
            "dataset": dataset,
            "structure": chosen.structure,
            "budget": f"params={chosen.limit(network):g}",
            "algo": algo,
            "seed": seed,
            "timesteps": timesteps,
            "evaluation-samples": arguments.evaluation_samples,
            "finetune-steps": arguments.finetune_steps,
            "device": arguments.device,
            "out": out,
        }
        command = ["prune", *(word for k, v in options.items() for word in (f"--{k}", str(v)))]
    if not (out / "metrics.json").is_file():
        call(command, ends)
    return cell_of(out, network, column, arguments.device)


def n_groups(network: str, structure: str) -> int:
    """Decisions per episode of a layer environment."""
    module = build(network, in_channels=3, n_classes=10)
    if structure == "weight":
        return len(find_weight_groups(module))
    return len(find_filter_groups(module, torch.zeros(1, 3, 32, 32)))


def call(command: list[str], ends: float) -> None:
    """Run ``prune-gym``; stop it as Ctrl-C does when the time is up."""
    print("+ prune-gym", shlex.join(command), flush=True)
    if time.monotonic() >= ends:
        raise TimeIsUpError(f"not begun: prune-gym {shlex.join(command)}")
    process = subprocess.Popen([*COMMAND, *command])
    try:
        code = process.wait(None if ends == float("inf") else ends - time.monotonic())
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise TimeIsUpError(f"stopped: prune-gym {shlex.join(command)}") from error
    if code != 0:
        raise SystemExit(f"prune-gym {shlex.join(command)} ended with exit status {code}.")


def cell_of(out: Path, network: str, column: str, device: str) -> dict[str, Any]:
    metrics = json.loads((out / "metrics.json").read_text())
    config = json.loads((out / "config.json").read_text())
    scores, dense, pruned = metrics["accuracy"], metrics["dense"], metrics["pruned"]
    return {
        "run": out.name,
        "row": network,
        "column": column,
        "algo": metrics["algo"],
        "seed": metrics["seed"],
        "structure": metrics["structure"],
        "dataset": Path(config["problem"]["dataset"]).name,
        "feasible": metrics["feasible"],
        "limit": metrics["limits"]["params"],
        "dense_test": scores["dense_test"],
        "raw_validation": scores["raw_validation"],
        "searched_validation": scores["recovered_validation"],
        "finetuned_validation": scores["finetuned_validation"],
        "finetuned_test": scores["finetuned_test"],
        "params": pruned["params"] / dense["params"],
        "macs": pruned["macs"] / dense["macs"],
        "latency": metrics["latency_ms"]["pruned"] / metrics["latency_ms"]["dense"],
        "episodes": metrics["evaluations"],
        "finetune_steps": metrics["finetune_steps"],
        "search_s": round(metrics["search_s"], 1),
        "wall_s": round(metrics["wall_s"], 1),
        "device": device_name(device),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": json.loads((out / "versions.json").read_text()),
        "commands": shortened((out / "command.txt").read_text(), out.parent, config),
        "commit": commit(),
    }


def shortened(commands: str, folder: Path, config: dict[str, Any]) -> list[str]:
    """Command lines without this machine's folders."""
    data = config["problem"]["dataset"].removeprefix("folder:")
    found = commands.replace(str(folder), "RUNS")
    return found.replace(str(Path(data).parent) + "/", "DATA/").splitlines()


def device_name(device: str) -> str:
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "cpu"


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return found.stdout.strip() or "unknown"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {"cells": []}


def write(path: Path, cells: dict[str, dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "cells": list(cells.values()),
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown: a line for every cell that was run or is missing."""
    lines = [
        "| network | column | algorithm (seed) | dense test | searched, validation | fine-tuned "
        "test | params | MACs | latency | networks | search, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    networks = list(dict.fromkeys([*ROWS, *(cell["row"] for cell in cells)]))
    for network in networks:
        for column in COLUMNS:
            own = [c for c in cells if (c["row"], c["column"]) == (network, column)]
            ran = {cell["algo"] for cell in own}
            lines += [line(cell) for cell in own]
            lines += [
                f"| {network} | {column} | {algo} | not run | | | | | | | |"
                for algo in COLUMNS[column].algorithms
                if algo not in ran
            ]
    return "\n".join(lines)


def line(cell: dict[str, Any]) -> str:
    latency = "-" if cell["structure"] == "weight" else f"{cell['latency']:.3f}"
    macs = "-" if cell["structure"] == "weight" else f"{cell['macs']:.3f}"
    return (
        f"| {cell['row']} | {cell['column']} | {cell['algo']} ({cell['seed']}) | "
        f"{cell['dense_test']:.4f} | {cell['searched_validation']:.4f} | "
        f"{cell['finetuned_test']:.4f} | {cell['params']:.4f} | {macs} | {latency} | "
        f"{cell['episodes']} | {cell['search_s']:.0f} |"
    )


if __name__ == "__main__":
    main()
