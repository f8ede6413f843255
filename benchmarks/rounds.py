"""Is it better to prune in rounds? Equal networks judged, equal steps trained, one to four rounds.

    python benchmarks/rounds.py
    python benchmarks/rounds.py --show
    python benchmarks/rounds.py --ema

The default problem within 3 and within 1 % of its parameters, by `evolution`: so many networks
judged and so many steps of fine-tuning in all, in one search or shared out among rounds. ``--ema``
compares averages of weights in the fine-tuning of the network of the sensitivity scan instead, on
the default problem and, with the images of CIFAR-10 in folders, on ResNet20. Test accuracy is
looked at once, at the end. Rows that are there are not run again, and each is written as it comes.
``--show`` prints means over seeds with bootstrap intervals, and of differences between the same
seeds. Writes ``benchmarks/results/rounds.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from decision import PROBLEMS
from result_rows import ResultRows, Row

import prune_gym
from agents.comparison.strata import as_estimate, resampled_weights
from prune_gym.searches.fine_tuning import fine_tune

RESULTS = Path(__file__).parent / "results" / "rounds.json"
ROUNDS = (1, 2, 4)
LIMITS = (0.03, 0.01)
EVALUATIONS = 160  # of the scan in each round there are half of a round's at most
DECAYS = (0.0, 0.9, 0.98)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", nargs="*", type=int, default=[120], help="in all rounds")
    parser.add_argument("--ema", action="store_true", help="compare averages of weights instead")
    parser.add_argument("--problems", nargs="*", default=["params-1"], help="of --ema")
    parser.add_argument("--data", default="cifar10", help="images of resnet20-macs")
    parser.add_argument("--show", action="store_true", help="print the tables, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    table = Table(asked.out)
    if asked.ema and not asked.show:
        for name in asked.problems:
            averages(table, name, asked)
    elif not asked.show:
        for seed in range(asked.seeds):
            for steps in asked.steps:
                for limit in LIMITS:
                    for rounds in ROUNDS:
                        key = {"limit": limit, "steps": steps, "rounds": rounds, "seed": seed}
                        table.add("rounds", key, partial(in_rounds, key))
    table.show()


class Table(ResultRows):
    """The rows of the results file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rounds", "ema")

    def show(self) -> None:
        """Print the tables: means over seeds, and differences from the first column's."""
        self._show("rounds", ("limit", "steps"), "rounds")
        self._show("ema", ("problem", "steps"), "ema")

    def _show(self, kind: str, given: tuple[str, str], varied: str) -> None:
        rows = self.of[kind]
        for key in dict.fromkeys(tuple(row[name] for name in given) for row in rows):
            own = [row for row in rows if tuple(row[name] for name in given) == key]
            said = ", ".join(f"{name} {value}" for name, value in zip(given, key, strict=True))
            print(f"\n{said}\n\n| {varied} | seeds | test | beside the first | seconds |")
            print("|---|---|---|---|---|")
            first: dict[int, float] = {}
            for value in sorted({row[varied] for row in own}):
                scores = {row["seed"]: row["test"] for row in own if row[varied] == value}
                first = first or scores
                shared = [seed for seed in scores if seed in first]
                gaps = [scores[seed] - first[seed] for seed in shared]
                seconds = np.median([row["seconds"] for row in own if row[varied] == value])
                gap = "" if scores is first else words(gaps, "+")
                print(
                    f"| {value} | {len(scores)} | {words(list(scores.values()))} | {gap} "
                    f"| {seconds:.0f} |"
                )


def in_rounds(key: Row) -> Row:
    """Prune the default problem in so many rounds; one round is a search and its fine-tuning."""
    began = time.monotonic()
    settings: dict[str, Any] = {"evaluations": EVALUATIONS, "seed": key["seed"]}
    given: dict[str, Any] = {"criterion": "auto", "budgets": {"params": key["limit"]}}
    found: Any
    if key["rounds"] == 1:
        problem = prune_gym.make_problem(**given)
        result = prune_gym.search(problem, "evolution", **settings)
        found = result.fine_tune(key["steps"], seed=key["seed"])
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = prune_gym.search_in_rounds(
                key["rounds"],
                Path(folder) / "run",
                "evolution",
                finetune_steps=key["steps"],
                **settings,
                **given,
            )
    return {
        "validation": found.validation_accuracy,
        "test": found.test_accuracy,
        "costs": found.costs,
        "seconds": round(time.monotonic() - began, 1),
    }


def averages(table: Table, name: str, asked: argparse.Namespace) -> None:
    """Fine-tune the scan's network of a problem with every decay."""
    if name == "params-1":
        problem = prune_gym.make_problem(criterion="auto", budgets={"params": 0.01})
    else:
        problem = PROBLEMS[name][0](asked.data)
    masks = problem.masks_of(problem.allocation.counts())
    for seed in range(asked.seeds):
        for steps in asked.steps:
            for ema in DECAYS:
                key = {"problem": name, "steps": steps, "ema": ema, "seed": seed}
                table.add("ema", key, partial(averaged, problem, masks, key))


def averaged(problem: Any, masks: Any, key: Row) -> Row:
    """One fine-tuning."""
    network, began = problem.recover(problem.compact(masks)), time.monotonic()
    found = fine_tune(network, problem, steps=key["steps"], seed=key["seed"], ema=key["ema"])
    test = problem.judge(network, problem.data.test)
    return {
        "validation": found.accuracy,
        "test": test,
        "seconds": round(time.monotonic() - began, 1),
    }


def words(values: list[float], sign: str = "") -> str:
    """The mean and its interval."""
    if len(values) < 2:
        return f"{values[0]:{sign}.4f}"
    found = as_estimate(resampled_weights([len(values)], 10_000, 0) @ np.array(values))
    return f"{found.value:{sign}.4f} [{found.low:{sign}.4f}, {found.high:{sign}.4f}]"


if __name__ == "__main__":
    main()
