"""Every built-in budget: a search that meets it, and what the network it returns measures.

    prune-gym pretrain vgg11 --dataset folder:cifar10-jpeg --epochs 2
    python benchmarks/budgets.py --folder RUNS --dataset folder:cifar10-jpeg

Runs ``prune-gym prune`` for each budget, on the default problem and on VGG11; runs that are
finished are not repeated. Costs and values are those of ``metrics.json``: of the returned network,
after fine-tuning; noisy budgets are measured five times anew, in turns with the unpruned network.
Rows go to ``benchmarks/results/budgets.json``. Budgets of a GPU are left out where there is none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from origin import origin

from agents.files import write_json

RESULTS = Path(__file__).parent / "results" / "budgets.json"
LIMITS = {
    "small": {
        "params": 0.1,
        "macs": 0.2,
        "size_bytes": 0.1,
        "activation_bytes": 0.5,
        "energy_uj": 0.15,
        "latency_ms": 0.5,
        "onnx_latency_ms": 0.5,
        "cuda_latency_ms": 0.9,
        "cuda_memory_bytes": 0.5,
    },
    "vgg11": {
        "params": 0.1,
        "macs": 0.2,
        "size_bytes": 0.1,
        "activation_bytes": 0.5,
        "energy_uj": 0.15,
        "latency_ms": 0.3,
        "onnx_latency_ms": 0.3,
        "cuda_latency_ms": 0.9,
        "cuda_memory_bytes": 0.3,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--networks", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--budgets", nargs="+", default=list(LIMITS["small"]))
    parser.add_argument("--dataset", default="cifar10", help="of VGG11")
    parser.add_argument("--algo", default="cem")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--evaluation-samples", type=int, default=500, help="of VGG11")
    parser.add_argument("--only-run", action="store_true", help="write no results")
    arguments = parser.parse_args()
    rows = []
    for network in arguments.networks:
        for budget in arguments.budgets:
            if budget.startswith("cuda") and not torch.cuda.is_available():
                print(f"{budget}: no GPU here, left out")
                continue
            rows.append(run(network, budget, arguments))
            print(rows[-1], flush=True)
    if not arguments.only_run:
        write_json(RESULTS, {**origin(), "rows": rows}, indent=1)


def run(network: str, budget: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One search; what its returned network costs."""
    folder, limit = arguments.folder / f"{network}-{budget}", LIMITS[network][budget]
    n_groups = 8  # filter groups of both networks: a search spends one step on each
    options = ["--network", network, "--algo", arguments.algo, "--budget", f"{budget}={limit}"]
    options += ["--timesteps", str(arguments.evaluations * n_groups)]
    if network == "vgg11":
        options += ["--dataset", arguments.dataset, "--finetune-steps", "100"]
        options += ["--evaluation-samples", str(arguments.evaluation_samples)]
    if not (folder / "metrics.json").is_file():
        options = ["--resume", str(folder)] if folder.is_dir() else [*options, "--out", str(folder)]
        subprocess.run([sys.executable, "-m", "prune_gym", "prune", *options], check=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        "network": network,
        "budget": budget,
        "limit": limit,
        "cost": metrics["costs"][budget],
        "unpruned_value": metrics["unpruned_values"][budget],
        "value": metrics["costs"][budget] * metrics["unpruned_values"][budget],
        "unit": metrics["units"][budget],
        "measured": metrics.get("measured", {}).get(budget),
        "validation_accuracy": metrics["accuracy"]["recovered_validation"],
        "test_accuracy": metrics["accuracy"]["finetuned_test"],
        "evaluations": metrics["evaluations"],
        "wall_s": round(metrics["wall_s"], 1),
    }


if __name__ == "__main__":
    main()
