"""What it brings that residual blocks can go whole: latency at an equal loss of accuracy.

    python benchmarks/depth.py --dataset folder:cifar10-jpeg --weights resnet56.safetensors

The same plain procedure prunes a residual network with ``depth=True`` and without. Each filter
group alone is cut by each prune ratio of a grid (a ratio of 1 leaves one filter without depth, and
nothing of the block with it). Then cuts are made one after the other, those first that cost the
least accuracy for the multiply-adds they save; every few cuts the network is judged, and timed in
turns with the unpruned one. For each loss of accuracy the row says the lowest latency of either way
among the networks that lose no more: validation accuracy after norms are recomputed, before any
fine-tuning; latency of one image in one thread, as a fraction of the unpruned network's.

Writes ``benchmarks/results/depth.json``; rows of other networks stay.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from origin import origin

import prune_gym
from agents.files import write_json

RESULTS = Path(__file__).parent / "results" / "depth.json"
RATIOS = (0.5, 1.0)
LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2)
REPEATS = 15  # timings of a network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--dataset", required=True, help="e.g. folder:cifar10-jpeg")
    parser.add_argument("--weights", type=Path, required=True, help="trained ones: a file")
    parser.add_argument("--samples", type=int, default=500, help="validation images")
    parser.add_argument("--every", type=int, default=4, help="cuts from network to network")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    found = {depth: pruned(asked, depth) for depth in (False, True)}
    unpruned = found[False][0]["accuracy"]
    row = {
        "network": asked.network,
        "dataset": asked.dataset.rpartition("/")[2],
        "validation_images": asked.samples,
        "unpruned_accuracy": unpruned,
        "at_equal_loss": [
            {
                "loss_at_most": loss,
                "without_depth": fastest(found[False], unpruned - loss),
                "with_depth": fastest(found[True], unpruned - loss),
            }
            for loss in LOSSES
        ],
        "networks_without_depth": found[False],
        "networks_with_depth": found[True],
        "wall_s": time.monotonic() - began,
        **origin(),
    }
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    write_json(
        RESULTS,
        {"rows": [one for one in rows if one["network"] != asked.network] + [row]},
        indent=1,
    )
    print(json.dumps(row["at_equal_loss"], indent=1))


def pruned(asked: argparse.Namespace, depth: bool) -> list[dict[str, Any]]:
    """Networks from the unpruned one on, each with more cuts than the one before."""
    problem = prune_gym.make_problem(
        asked.network,
        asked.dataset,
        weights=asked.weights,
        budgets={"macs": 1.0},
        evaluation_samples=asked.samples,
        depth=depth,
    )
    rows = [judged(problem, np.zeros(len(problem.groups)))]
    moves = []
    for index in range(len(problem.groups)):
        for ratio in RATIOS:
            alone = np.zeros(len(problem.groups))
            alone[index] = ratio
            outcome = problem.evaluate(problem.masks_of(problem.kept_counts(alone)))
            loss = max(0.0, rows[0]["accuracy"] - outcome.accuracy)
            moves.append(((loss + 1e-3) / (1.0 - outcome.costs["macs"]), index, ratio))
        print(f"depth={depth}: {index + 1} of {len(problem.groups)} groups", flush=True)
    ratios = np.zeros(len(problem.groups))
    for number, (_, index, ratio) in enumerate(sorted(moves), start=1):
        ratios[index] = max(ratios[index], ratio)
        if number % asked.every == 0:
            rows.append(judged(problem, ratios))
            print(f"depth={depth}: {number} cuts, {rows[-1]}", flush=True)
            if rows[-1]["accuracy"] < rows[0]["accuracy"] - 2.0 * max(LOSSES):
                break
    return rows


def judged(problem: Any, ratios: Any) -> dict[str, Any]:
    """Accuracy, cost, latency and blocks that went of a network."""
    outcome = problem.evaluate(problem.masks_of(problem.kept_counts(ratios)))
    pairs = zip(problem.groups, outcome.kept, strict=True)
    return {
        "accuracy": outcome.accuracy,
        "latency": latency(outcome.network, problem.network, problem.example),
        "macs": outcome.costs["macs"],
        "blocks_gone": len({group.block.name for group, kept in pairs if kept == 0.0}),
    }


@torch.inference_mode()
def latency(network: Any, unpruned: Any, example: Any) -> float:
    """Seconds of a forward / those of the unpruned network: medians, measured in turns."""
    pairs = [[seconds(one, example) for one in (network, unpruned)] for _ in range(REPEATS)]
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
