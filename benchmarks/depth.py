"""What it brings that residual blocks can go whole: latency at an equal loss of accuracy.

    python benchmarks/depth.py --dataset folder:CIFAR10 --weights resnet56.safetensors

The same search (the cross-entropy method, as many networks each) prunes a residual network to a
share of its multiply-adds, once with ``depth=True`` and once without. Then every network of both
fronts is timed, each next to the unpruned one and both ways in turns, so that what disturbs the
machine disturbs both. For each loss of accuracy the row says the lowest latency among the networks
of either way that lose no more (validation accuracy after norms are recomputed, before any
fine-tuning; latency of one image in one thread, a fraction of the unpruned network's). Writes
``benchmarks/results/depth.json``; networks that are there already stay, those of the same name are
replaced.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from origin import origin

import prune_gym
from agents.files import write_json

RESULTS = Path(__file__).parent / "results" / "depth.json"
LOSSES = (0.02, 0.05, 0.1, 0.2, 0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--dataset", required=True, help="e.g. folder:cifar10-jpeg")
    parser.add_argument("--weights", type=Path, required=True, help="trained ones: a file")
    parser.add_argument("--limits", type=float, nargs="+", default=[0.8, 0.6, 0.4])
    parser.add_argument("--evaluations", type=int, default=120, help="networks of each search")
    parser.add_argument("--samples", type=int, default=500, help="validation images")
    parser.add_argument("--repeats", type=int, default=15, help="timings of each network")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    networks = {depth: searched(asked, depth) for depth in (False, True)}
    problem = networks[False][0]
    unpruned = problem.evaluate(problem.masks_of(problem.sizes)).accuracy
    timed = {depth: timings(*networks[depth], asked.repeats) for depth in networks}
    row = {
        "network": asked.network,
        "dataset": problem.data.name,
        "unpruned_accuracy": unpruned,
        "limits_macs": asked.limits,
        "evaluations_of_each_search": asked.evaluations,
        "validation_images": asked.samples,
        "seed": asked.seed,
        "at_equal_loss": [
            {
                "loss_at_most": loss,
                "without_depth": fastest(timed[False], unpruned - loss),
                "with_depth": fastest(timed[True], unpruned - loss),
            }
            for loss in LOSSES
        ],
        "wall_s": time.monotonic() - began,
        **origin(),
    }
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [one for one in rows if one["network"] != asked.network] + [row]
    write_json(RESULTS, {"rows": rows}, indent=1)
    print(json.dumps(row["at_equal_loss"], indent=1))


def searched(asked: argparse.Namespace, depth: bool) -> tuple[Any, list[Any]]:
    """A problem, and keep masks of the fronts of searches at all limits."""
    found: list[Any] = []
    for limit in asked.limits:
        problem = prune_gym.make_problem(
            asked.network,
            asked.dataset,
            weights=asked.weights,
            budgets={"macs": limit},
            evaluation_samples=asked.samples,
            depth=depth,
        )
        result = prune_gym.search(
            problem, "cem", evaluations=asked.evaluations, seed=asked.seed, finetune_steps=0
        )
        found += [one.masks for one in result.archive.front]
        print(f"depth={depth} macs={limit}: {len(found)} networks so far", flush=True)
    return problem, found


def timings(problem: Any, networks: list[Any], repeats: int) -> list[dict[str, Any]]:
    """Accuracy, blocks that went and latency of each network."""
    rows = []
    for masks in networks:
        outcome = problem.evaluate(masks)
        share = latency(outcome.network, problem.network, problem.example, repeats)
        kept = outcome.kept
        gone = {g.block.name for g, n in zip(problem.groups, kept, strict=True) if n == 0.0}
        rows.append(
            {
                "accuracy": outcome.accuracy,
                "latency": share,
                "macs": outcome.costs["macs"],
                "blocks_gone": len(gone),
            }
        )
    return rows


@torch.inference_mode()
def latency(network: Any, unpruned: Any, example: Any, repeats: int) -> float:
    """Median of seconds a forward / that of the unpruned network, measured in turns."""
    pairs = []
    for _ in range(repeats):
        pairs.append([seconds(one, example) for one in (network, unpruned)])
    ours, theirs = zip(*pairs, strict=True)
    return statistics.median(ours) / statistics.median(theirs)


def seconds(network: Any, example: Any) -> float:
    """Of one forward: the fastest of three."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        network(example)
        times.append(time.perf_counter() - began)
    return min(times)


def fastest(rows: list[dict[str, Any]], accuracy: float) -> dict[str, Any] | None:
    """The network of lowest latency among those at least so accurate; None where none is."""
    able = [row for row in rows if row["accuracy"] >= accuracy]
    return min(able, key=lambda row: row["latency"], default=None)


if __name__ == "__main__":
    main()
