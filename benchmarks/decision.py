"""What the decision is worth: agents, evolution and other searches under equal evaluations.

    python benchmarks/decision.py
    python benchmarks/decision.py --problems resnet20-macs --data folder:DIR
    python benchmarks/decision.py --show

Every search of every problem is run with so many networks, the sensitivity scan's included, with
each seed; nothing is trained. A row holds the best accuracy within the limit after each network
(validation), and the accuracy of the last best network on the test split, which is looked at once,
at the end. ``--show`` prints interquartile means over seeds with bootstrap intervals, of all rows
that are there. Rows that are there are not run again. ``latency-50`` is half of the latency of
32 images by the processor's clock, so that other programs of the machine do not count.
``resnet20-macs`` needs the images of CIFAR-10 in folders, and the weights that stand in
``benchmarks/weights``. Writes ``benchmarks/results/decision.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from origin import origin

import prune_gym
from agents.comparison.strata import interquartile_mean_of, resampled_weights
from agents.files import write_json
from prune_gym.budgets.processor_time import processor_ms
from prune_gym.problem.outcome import OutcomeMemory

RESULTS = Path(__file__).parent / "results" / "decision.json"
WEIGHTS = Path(__file__).parent / "weights"
SEARCHES = (
    *("ppo_lag", "bayesian", "evolution", "cmaes", "cem", "random", "uniform"),
    *("scan", "lamp", "equal_width"),
)


def black_box(network: Any) -> float:
    """A budget of which nothing is declared: parameters, but nobody says so."""
    return float(sum(parameter.numel() for parameter in network.parameters()))


def digits(budgets: dict[Any, Any]) -> Callable[..., Any]:
    """The default problem with other budgets."""
    return lambda data, device="cpu": prune_gym.make_problem(
        criterion="auto", budgets=budgets, device=device
    )


def resnet20(data: str, device: str = "cpu") -> Any:
    """ResNet20 on the images of CIFAR-10, half of the MACs, judged on 1,000 of them."""
    return prune_gym.make_problem(
        "resnet20",
        data,
        weights=WEIGHTS / "resnet20.safetensors",
        criterion="auto",
        budgets={"macs": 0.5},
        evaluation_samples=1000,
        device=device,
    )


# name: how it is made, granularity, evaluations
PROBLEMS: dict[str, tuple[Callable[..., Any], str, int]] = {
    "params-10": (digits({"params": 0.1}), "layer", 110),
    "params-5": (digits({"params": 0.05}), "layer", 150),
    "params-3": (digits({"params": 0.03}), "layer", 200),
    "latency-50": (digits({processor_ms: 0.5}), "layer", 110),
    "black-box-10": (digits({black_box: 0.1}), "layer", 110),
    "filters-10": (digits({"params": 0.1}), "filter", 300),
    "layers-10-300": (digits({"params": 0.1}), "layer", 300),
    "resnet20-macs": (resnet20, "layer", 150),
}
# what is compared with a search that had more networks
LONGER = {("latency-50", "cem"): 752, ("black-box-10", "cem"): 752}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS)[:-1])
    parser.add_argument("--searches", nargs="*", default=list(SEARCHES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", default="cifar10", help="images of resnet20-macs")
    parser.add_argument("--show", action="store_true", help="print the table, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rows = json.loads(asked.out.read_text())["rows"] if asked.out.is_file() else []
    if not asked.show:
        for name in asked.problems:
            make, granularity, evaluations = PROBLEMS[name]
            problem = make(asked.data)
            for search in asked.searches:
                budget = LONGER.get((name, search), evaluations)
                is_fixed = search in ("scan", "lamp", "equal_width", "uniform")
                for seed in range(1 if is_fixed else asked.seeds):
                    key = {"problem": name, "search": search, "seed": seed, "evaluations": budget}
                    if not any(key.items() <= row.items() for row in rows):
                        rows.append({**key, **run(problem, search, granularity, budget, seed)})
                        write_json(asked.out, {**origin(), "rows": rows}, indent=1)
    show(rows)


def run(problem: Any, name: str, granularity: str, evaluations: int, seed: int) -> dict[str, Any]:
    """One search: its best accuracy after each network, and the test accuracy in the end."""
    problem.evaluator.memory = OutcomeMemory()  # every search judges its own networks
    began = time.monotonic()
    result = prune_gym.search(
        problem, name, evaluations=evaluations, seed=seed, granularity=granularity
    )
    seconds = time.monotonic() - began
    if result.stopped:
        raise SystemExit(130)
    networks = result.networks
    within = np.where(networks["feasible"], networks["accuracy"], 0.0)
    best = np.maximum.accumulate(within)
    is_there = bool(networks["feasible"].any())
    test = problem.judge(result.network, problem.data.test) if is_there else None
    return {
        "curve": [round(float(x), 6) for x in best],
        "test": test,
        "infeasible": int((~networks["feasible"]).sum()),
        "seconds": round(seconds, 2),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print interquartile means over seeds, with intervals."""
    for problem in dict.fromkeys(row["problem"] for row in rows):
        print(f"\n{problem}: best within the limit, validation (test), by networks judged")
        own = [row for row in rows if row["problem"] == problem]
        for search in dict.fromkeys(row["search"] for row in own):
            runs = [row for row in own if row["search"] == search]
            n = max(row["evaluations"] for row in runs)
            places = [k for k in (34, 50, 75, 110, 150, 200, 300, 752) if k <= n]
            cells = [
                f"{k}: {estimate([row['curve'][min(k, len(row['curve'])) - 1] for row in runs])}"
                for k in places[-4:]
            ]
            tests = estimate([row["test"] or 0.0 for row in runs])
            seconds = np.median([row["seconds"] for row in runs])
            print(f"  {search:12} {'  '.join(cells)}  test {tests}  {seconds:.0f} s")


def estimate(values: list[float]) -> str:
    """Interquartile mean and its interval, in words."""
    scores = np.array(values, dtype=np.float64)
    if len(scores) == 1:
        return f"{scores[0]:.3f}"
    found = interquartile_mean_of(scores, resampled_weights([len(scores)], 2000, 0))
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    main()
