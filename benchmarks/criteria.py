"""Every criterion on the default problem, under three searchers with equal numbers of evaluations.

    python benchmarks/criteria.py --folder RUNS

The searchers are an agent (``ppo_lag``), uniform ratios and random search; the score of a run is
the best validation accuracy of a network within the limit. One JSON file per criterion, searcher
and seed in the folder; those that are there are not run again. A second part selects pixels: a
perceptron on digits whose first group of filters are the pixels, pruned to so many of them and
fine-tuned, by the criterion that was made for it, by magnitude and by chance. All rows go to
``benchmarks/results/criteria.json``; tables and which criterion to use are printed. For a try:

    python benchmarks/criteria.py --folder TRY --evaluations 16 --seeds 0 --only-run
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from origin import origin
from torch import nn

import prune_gym
from agents.files import write_json
from prune_gym import CRITERIA
from prune_gym.training.loop import Recipe, fit

RESULTS = Path(__file__).parent / "results" / "criteria.json"
SEARCHERS = ("ppo_lag", "uniform", "random")
PIXEL_CRITERIA = ("relchanet", "l1", "random")
PIXELS = (8, 16, 32, 64)  # that are kept, of 256
HIDDEN = 64
PIXEL_STEPS = 300  # of the dense training
TUNING_STEPS = 200  # after the selection

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where rows are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--criteria", nargs="+", default=CRITERIA.names())
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS))
    parser.add_argument(
        "--evaluations", type=int, default=752, help="networks per run (whole rollouts of 16)"
    )
    parser.add_argument("--only-run", action="store_true", help="write no results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows, pixels = [], []
    for seed in arguments.seeds:
        for criterion in arguments.criteria:
            for searcher in arguments.searchers:
                path = arguments.folder / f"{criterion}-{searcher}-{seed}.json"
                words = (criterion, searcher, seed, arguments.evaluations)
                rows.append(once(path, searched, *words))
        for criterion in PIXEL_CRITERIA:
            path = arguments.folder / f"pixels-{criterion}-{seed}.json"
            pixels.append(once(path, selected, criterion, seed))
    check_equal(rows, arguments.evaluations)
    summary = summarise(rows, arguments.criteria, arguments.searchers)
    if not arguments.only_run:
        found = {**origin(), "seeds": arguments.seeds, "evaluations": arguments.evaluations}
        found |= {"summary": summary, "rows": rows, "pixels": pixels}
        write_json(RESULTS, found, indent=1)
    show_pixels(pixels)


def once(path: Path, function: Any, *words: Any) -> Row:
    """The row in a file, which is made where it is not there."""
    if not path.is_file():
        row = function(*words)
        write_json(path, row, indent=1)
        print(row, flush=True)
    return json.loads(path.read_text())


def searched(criterion: str, searcher: str, seed: int, evaluations: int) -> Row:
    """What one searcher finds with one criterion; the seed is the criterion's, too."""
    began = time.monotonic()
    problem = prune_gym.make_problem(criterion=criterion, seed=seed)
    made, used = time.monotonic(), time.process_time()
    networks = prune_gym.search(problem, searcher, evaluations=evaluations, seed=seed).networks
    accuracies = networks["accuracy"][networks["feasible"]]
    return {
        "criterion": criterion,
        "asked": evaluations,
        "making_the_problem_s": round(made - began, 2),
        "algo": searcher,
        "seed": seed,
        "evaluations": len(networks),
        "best_feasible": float(accuracies.max()) if accuracies.size else None,
        "violations": int((~networks["feasible"]).sum()),
        "wall_s": round(time.monotonic() - made, 1),
        "cpu_s": round(time.process_time() - used, 1),
    }


def check_equal(rows: list[Row], evaluations: int) -> None:
    """Rows of an earlier call may be of searches of another length."""
    others = sorted({row["asked"] for row in rows} - {evaluations})
    if others:
        raise SystemExit(
            f"the folder has rows of {others} evaluations, not {evaluations}; choose another "
            "--folder, or the same --evaluations."
        )


# -- pixels ----------------------------------------------------------------------------------------


class PixelNet(nn.Module):
    """A perceptron behind a linear layer that is the identity: its filters are the pixels."""

    def __init__(self, n_pixels: int) -> None:
        super().__init__()
        self.select = nn.Linear(n_pixels, n_pixels, bias=False)
        self.hidden = nn.Linear(n_pixels, HIDDEN)
        self.out = nn.Linear(HIDDEN, 10)
        with torch.no_grad():
            self.select.weight.copy_(torch.eye(n_pixels))
        self.select.weight.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, 10) of images (n, 1, height, width)."""
        return self.out(self.hidden(self.select(images.flatten(1))).relu())


def selected(criterion: str, seed: int) -> Row:
    """Validation accuracy with so many pixels, chosen by a criterion."""
    data = prune_gym.DATASETS.get("digits")()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PixelNet(data.train.images[0].numel())
    generator = torch.Generator().manual_seed(seed)
    fit(network, data.train, Recipe(), steps=PIXEL_STEPS, generator=generator)
    began = time.monotonic()
    problem = prune_gym.make_problem(
        network=network, dataset=data, criterion=criterion, recovery="finetune",
        recovery_steps=TUNING_STEPS, budgets={"params": 1.0}, seed=seed,
    )  # fmt: skip
    scored = time.monotonic() - began
    kept = [problem.masks_of([n_pixels, HIDDEN]) for n_pixels in PIXELS]
    accuracies = [problem.evaluate(masks, seed=seed).accuracy for masks in kept]
    return {
        "criterion": criterion,
        "seed": seed,
        "all_pixels": problem.accuracy(problem.network),
        "accuracy": dict(zip(map(str, PIXELS), accuracies, strict=True)),
        "making_the_problem_s": round(scored, 1),
    }


# -- tables ----------------------------------------------------------------------------------------


def scores_of(rows: list[Row], searcher: str, criteria: list[str]) -> dict[str, list[float]]:
    """Best accuracy within the limit by criterion, one per seed; 0 where nothing was."""
    mine = [row for row in rows if row["algo"] == searcher]
    return {
        name: [row["best_feasible"] or 0.0 for row in mine if row["criterion"] == name]
        for name in criteria
    }


def summarise(rows: list[Row], criteria: list[str], searchers: list[str]) -> dict[str, Any]:
    """Print a table per searcher and what to use; the figures of the verdicts come back."""
    from agents.compare import compare_scores, table

    summary = {}
    for searcher in searchers:
        scores = scores_of(rows, searcher, criteria)
        print(f"\n## {searcher}\n")
        print(table(compare_scores(scores)) if len(scores) > 1 else scores)
        summary[searcher] = verdict(scores)
        print(f"\n{summary[searcher]['words']}")
    return summary


def verdict(scores: dict[str, list[float]]) -> dict[str, Any]:
    """Which criterion is best, and which others are within the spread between seeds.

    The spread is the standard deviation between seeds, pooled over the criteria that vary (uniform
    ratios and a criterion that draws nothing give the same with every seed).
    """
    means = {name: float(np.mean(own)) for name, own in scores.items()}
    variances = [float(np.var(own, ddof=1)) for own in scores.values() if len(own) > 1]
    varying = [variance for variance in variances if variance > 0.0]
    spread = float(np.sqrt(np.mean(varying))) if varying else 0.0
    ranked = sorted(means, key=lambda name: -means[name])
    best = ranked[0]
    level = [name for name in ranked[1:] if means[best] - means[name] <= spread]
    words = f"Use {best}: {means[best]:.3f} on average; the spread between seeds is {spread:.3f}. "
    words += f"Within it: {', '.join(level)}." if level else "No other is within it."
    if "random" in means:
        gain = means[best] - means["random"]
        clear = "more" if gain > spread else "no more"
        words += f" It gains {gain:.3f} over random scores, {clear} than the spread."
    return {"best": best, "means": means, "spread": spread, "within": level, "words": words}


def show_pixels(rows: list[Row]) -> None:
    """Print the accuracy by criterion and number of pixels, means over seeds."""
    print("\n## pixels kept, of 256\n")
    print("| criterion | " + " | ".join(map(str, PIXELS)) + " |\n|" + " --- |" * (len(PIXELS) + 1))
    for name in PIXEL_CRITERIA:
        mine = [list(row["accuracy"].values()) for row in rows if row["criterion"] == name]
        print(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in np.mean(mine, axis=0)) + " |")


if __name__ == "__main__":
    main()
