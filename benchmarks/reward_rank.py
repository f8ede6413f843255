"""Is the cheap reward right? What a search sees, against what fine-tuning makes of it.

    python benchmarks/reward_rank.py --data folder:DIR --images 6000
    python benchmarks/reward_rank.py --problems params-5 --epochs 20
    python benchmarks/reward_rank.py --show

So many networks within one limit are made: every other one keeps random shares of its groups, the
others are steps around the network of the sensitivity scan, as a search takes them. Each is scored
as a search may score it, on the validation images: right after its BatchNorm statistics are
recomputed (accuracy, loss, and how near its outputs are to the dense network's, which needs no
labels), and after 32 and 128 steps of the recovery ``finetune``. Then it is fine-tuned by the
project's fine-tuning for ``--epochs`` of the first ``--images`` training images (all, where none
are said), and judged on the test split. The first few networks are fine-tuned once more with
another seed, which says how much of an order is chance.

``--show`` prints Kendall's tau of every score with the fine-tuned accuracy, with bootstrap
intervals over networks, of each kind apart and their mean: over both at once, telling the kinds
apart is most of it. Rows that are there are not made again, and each is written as it comes.
``resnet20-macs`` needs the images of CIFAR-10 in folders. Writes
``benchmarks/results/reward_rank.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from decision import PROBLEMS
from numpy.typing import NDArray
from peer_tasks import DISTILLATION
from result_rows import ResultRows, Row
from torch import nn
from torch.nn import functional

from agents.comparison.strata import as_estimate, resampled_weights
from prune_gym.pruning.masks import Masks
from prune_gym.searches.fine_tuning import fine_tune
from prune_gym.tasks.named_metrics import share_right
from prune_gym.training.loop import MANY
from prune_gym.training.recovery import RECOVERIES, recover

RESULTS = Path(__file__).parent / "results" / "reward_rank.json"
STEP = 0.3  # standard deviation of the logarithm of kept filters, as in `evolution`
SAMPLES = 10_000  # of the bootstrap
STEPS = (32, 128)  # of the recovery `finetune`
LOWER_IS_BETTER = ("loss", "divergence", "distance")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="*", default=["resnet20-macs"], choices=PROBLEMS)
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--again", type=int, default=8, help="so many with another seed")
    parser.add_argument("--images", type=int, help="of the training split; default: all")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning, on those")
    parser.add_argument("--data", default="cifar10", help="images of resnet20-macs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--show", action="store_true", help="print the table, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rows = ResultRows(asked.out, "rows")
    for name in [] if asked.show else asked.problems:
        bench = Bench(name, asked.data, asked.images, asked.epochs, asked.device)
        n = asked.networks
        parts: list[tuple[str, int, Callable[[int], Row]]] = [
            ("tuned", n, bench.tuned),
            *((f"{steps} steps", n, partial(bench.trained, steps)) for steps in STEPS),
            ("tuned again", asked.again, partial(bench.tuned, seed=1)),
        ]
        for part, n, what in parts:
            for number in range(n):
                key = {**bench.key, "network": number, "part": part}
                rows.add("rows", key, partial(what, number))
    show(rows.of["rows"])


class Bench:
    """One problem: its networks, their scores, and what they come to.

    Args:
        name: in ``decision.py``.
        data: images of ``resnet20-macs``.
        images: of the training split that are used; None = all.
        epochs: passes over those.
        device: where networks are judged and trained.
    """

    def __init__(
        self, name: str, data: str, images: int | None, epochs: int, device: str = "cpu"
    ) -> None:
        problem = PROBLEMS[name][0](data, device)
        if images is not None:
            train = problem.data.train.subset(images)
            problem = replace(problem, data=replace(problem.data, train=train))
        self.problem, n = problem, len(problem.data.train)
        batch = 128 if n >= MANY else 100  # of the project's fine-tuning
        self.steps = epochs * (n // batch)
        self.key = {"problem": name, "images": n, "epochs": epochs}

    @cached_property
    def teacher(self) -> torch.Tensor:
        """Outputs of the dense network on the validation split, (n, n_classes)."""
        found: torch.Tensor = self.problem.evaluator.validation.logits(self.problem.network)
        return found

    def masks(self, number: int) -> Masks:
        """Keep masks of a network."""
        problem, generator = self.problem, np.random.default_rng(number)
        allocation = problem.allocation
        if number % 2:
            wanted = np.maximum(1.0, generator.random(len(problem.sizes)) * problem.sizes)
        else:
            steps = STEP * generator.standard_normal(len(problem.sizes))
            wanted = allocation.counts() * np.exp(steps)
        found: Masks = problem.masks_of(allocation.fitted(wanted, problem.limits))
        return found

    def tuned(self, number: int, seed: int = 0) -> Row:
        """Score a network as it is judged without training, fine-tune it, and test it."""
        problem, masks = self.problem, self.masks(number)
        row: Row = {
            "kind": "random" if number % 2 else "near the scan's",
            "kept": [int(mask.sum()) for mask in masks],
            "costs": problem.costs(masks).tolist(),
        }
        began = time.monotonic()
        network = problem.recover(problem.compact(masks))
        row["scores"] = self.judged(network)
        scored = time.monotonic()
        found = fine_tune(network, problem, steps=self.steps, seed=seed, distillation=DISTILLATION)
        return {
            **row,
            "seconds": round(scored - began, 2),
            "tuned_seconds": round(time.monotonic() - scored, 1),
            "tuned_kept": found.kept,
            "tuned_validation": round(found.accuracy, 5),
            "tuned_test": round(problem.judge(network, problem.data.test), 5),
        }

    def trained(self, steps: int, number: int) -> Row:
        """Score a network after some steps of the recovery that trains."""
        problem, began = self.problem, time.monotonic()
        network, train = problem.compact(self.masks(number)), problem.data.train
        recovery = RECOVERIES.get("finetune")
        recover(network, recovery, train, seed=0, steps=steps, task=problem.task)
        found = self.judged(network)
        scores = {key: found[key] for key in ("accuracy", "loss")}
        return {"scores": scores, "seconds": round(time.monotonic() - began, 2)}

    def judged(self, network: nn.Module) -> dict[str, float]:
        """Scores of a network on the validation split."""
        validation, teacher = self.problem.evaluator.validation, self.teacher
        found = validation.logits(network)
        logs, taught = (functional.log_softmax(x, dim=1) for x in (found, teacher))
        # logits may be shifted without a change
        centred, wanted = (x - x.mean(dim=1, keepdim=True) for x in (found, teacher))
        divergence = functional.kl_div(logs, taught, log_target=True, reduction="batchmean")
        return {
            "accuracy": round(share_right(found, validation.labels), 5),
            "loss": round(float(functional.cross_entropy(found, validation.labels)), 5),
            "agreement": round(share_right(found, teacher.argmax(1)), 5),
            "divergence": round(float(divergence), 5),
            "distance": round(float(functional.mse_loss(centred, wanted)), 5),
        }


# -- table -----------------------------------------------------------------------------------------


def taus(
    scores: NDArray[np.float64], truth: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Kendall's tau-b of two columns, (n,), for every row of weights, (n_rows, n).

    Of a bootstrap sample no network is compared with its own copy.
    """
    signs = [np.sign(x[:, None] - x[None]) for x in (scores, truth)]
    both, one, other = (
        np.einsum("ri,ij,rj->r", weights, pairs, weights)
        for pairs in (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))
    )
    found: NDArray[np.float64] = both / np.sqrt(np.maximum(one * other, 1e-30))
    return found


def show(rows: list[Row]) -> None:
    """Print a table per problem."""
    kinds = ("problem", "images", "epochs")
    for key in dict.fromkeys(tuple(row[kind] for kind in kinds) for row in rows):
        own = [row for row in rows if tuple(row[kind] for kind in kinds) == key]
        print("\n" + "\n".join(lines_of(own)))


def lines_of(rows: list[Row]) -> list[str]:
    """The table of one problem: tau of every score, of the kinds of networks apart and together."""
    parts: dict[str, dict[int, Row]] = {}
    for row in rows:
        parts.setdefault(row["part"], {})[row["network"]] = row
    tuned, again = parts["tuned"], parts.get("tuned again", {})
    truth = np.array([row["tuned_test"] for row in tuned.values()])
    head = ", ".join(f"{name} {rows[0][name]}" for name in ("problem", "images", "epochs"))
    is_near = np.array([row["kind"] != "random" for row in tuned.values()], dtype=np.float64)
    by_kind = taus(is_near, truth, np.full((1, len(truth)), 1 / len(truth)))
    lines = [
        f"{head}: test accuracy after fine-tuning of {len(tuned)} networks: "
        f"{truth.min():.4f} to {truth.max():.4f}, mean {truth.mean():.4f}",
        "",
        "| score | networks | near the scan's | random | mean of both | beside accuracy at once "
        "| all | its best comes to | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for part in ("tuned", *(f"{steps} steps" for steps in STEPS)):
        own = parts.get(part, {})
        if len(own) > 2:
            after = "at once" if part == "tuned" else f"after {part}"
            lines += [line(name, after, own, tuned) for name in next(iter(own.values()))["scores"]]
    lines += ["", f"All, by the kind alone: {by_kind[0]:.2f}."]
    for kind in dict.fromkeys(row["kind"] for row in tuned.values()):
        pairs = [
            (tuned[number]["tuned_test"], row["tuned_test"])
            for number, row in again.items()
            if tuned[number]["kind"] == kind
        ]
        if len(pairs) > 1:
            one, other = np.array(pairs).T
            agreed = taus(one, other, np.full((1, len(one)), 1 / len(one)))[0]
            lines.append(
                f"Two fine-tunings of {len(one)} networks, {kind}: tau {agreed:.2f}, and "
                f"{np.abs(one - other).max():.4f} apart at most."
            )
    return lines


def line(name: str, after: str, own: dict[int, Row], tuned: dict[int, Row]) -> str:
    """The row of one score; its sign is turned where less is better."""
    sign = -1.0 if name in LOWER_IS_BETTER else 1.0
    numbers = sorted(own, key=lambda number: tuned[number]["kind"] == "random")
    scores, first, truth = (
        np.array(column)
        for column in (
            [sign * own[number]["scores"][name] for number in numbers],
            [tuned[number]["scores"]["accuracy"] for number in numbers],
            [tuned[number]["tuned_test"] for number in numbers],
        )
    )
    n_near = sum(tuned[number]["kind"] != "random" for number in numbers)
    weights = resampled_weights([n_near, len(numbers) - n_near], SAMPLES, 0)
    kinds = slice(n_near), slice(n_near, None)
    inner, beside = (
        [taus(column[kind], truth[kind], weights[:, kind]) for kind in kinds]
        for column in (scores, first)
    )
    seconds = np.percentile([row["seconds"] for row in own.values()], 25)  # others had to wait
    cells = [
        f"{name}, {after}",
        str(len(own)),
        *(words(found) for found in inner),
        words((inner[0] + inner[1]) / 2),
        words((inner[0] + inner[1] - beside[0] - beside[1]) / 2),
        words(taus(scores, truth, weights)),
        f"{truth[scores.argmax()]:.4f}",
        f"{seconds:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def words(numbers: NDArray[np.float64]) -> str:
    """The first number, and the interval of the others."""
    found = as_estimate(numbers)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    main()
