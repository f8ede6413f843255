"""Reference values of PruneBench: what random search finds, and the best there is.

    python benchmarks/prunebench_references.py
    python benchmarks/prunebench_references.py --tasks 'live-*' --rows RUNS

Writes ``references`` and ``facts`` of the tasks, and what stands for their tables, into the suite's
file; what defines the tasks stays as it is, and so does their hash. 0 of the score is the median
over ``--runs`` runs of random search with the task's number of evaluations (where the final policy
is scored: of a policy that draws its actions). 1 is the exact optimum where the task has a table,
else the best of an evolutionary search with eight times the evaluations, of the rows in ``--rows``,
and of what the file says already: a best known network is never forgotten.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.benchmark.networks import table_digest
from agents.benchmark.rows import read_rows
from agents.benchmark.run import Runner
from agents.benchmark.suite import DATA, DEFAULT_SUITE, Suite, Task, load_suite
from agents.files import write_json
from prune_gym.searches.benchmark import evolution, random

FILE = DATA / f"{DEFAULT_SUITE}.json"
SEEDS = 1_000_000  # of these runs, which are none of the tasks'
LONGER = 8  # times the evaluations of the task, of the search for the best known network
DRAWN = 2000  # random networks by which the share of feasible ones is told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=None, help="by name or pattern")
    parser.add_argument("--runs", type=int, default=51, help="of random search")
    parser.add_argument("--searches", type=int, default=3, help="for the best known network")
    parser.add_argument("--rows", type=Path, default=None, help="folder of rows of the benchmark")
    parser.add_argument("--missing", action="store_true", help="only tasks without references")
    arguments = parser.parse_args()
    suite = load_suite(FILE)
    found = [] if arguments.rows is None else read_rows(arguments.rows, suite)
    names = arguments.tasks or ["*"]
    for task in suite.choose(names):
        if arguments.missing and task.references:
            continue
        print(task.name, flush=True)
        rows = [row for row in found if row["task"] == task.name]
        change = measured(suite, task, arguments.runs, arguments.searches, rows)
        print("  ", change["references"], change["facts"], flush=True)
        write(task.name, change)


def write(name: str, change: dict[str, Any]) -> None:
    """Change one task in the file, which is read anew: others may have changed theirs."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    tables = change.pop("tables")
    for task in [*content["tasks"], *content["tuning_tasks"]]:
        if task["name"] == name:
            task.update(change)
    content["tables"].update(tables)
    write_json(FILE, content, indent=1)


def measured(
    suite: Suite, task: Task, n_runs: int, n_searches: int, rows: list[Any]
) -> dict[str, Any]:
    """References, facts and tables of a task."""
    free = replace(suite, tables={})  # a table that is measured anew may hold other numbers
    runner = Runner(free, task)
    train = drawing if task.by_policy else random
    drawn = [accuracies(runner.run(train, "random", SEEDS + run)) for run in range(n_runs)]
    low = np.median(np.array(drawn), axis=0)
    problems = [runner.problems.arguments(index)["problem"] for index in range(len(task.problems))]
    parts = [(part.get("problem", task.training[0]), part.get("limits")) for part in task.judged]
    own = [dict(zip(one.names, one.limits, strict=True)) for one in problems]
    references, optima = [], []
    exact = all(hasattr(one, "table") for one in problems)
    best = None if exact else best_known(free, task, n_searches, rows)
    for index, (which, limits) in enumerate(parts):
        if exact:
            top = problems[which].table.optimum(limits or own[which])
            optima.append({"counts": list(top.counts), "test_accuracy": top.test_accuracy})
        value = top.accuracy if best is None else best[index]
        references.append({"random": float(low[index]), "best": float(value), "optimum": exact})
    facts: dict[str, Any] = {
        "groups": [one.sizes.tolist() for one in problems],
        "gap": float(np.mean([one["best"] - one["random"] for one in references])),
        "feasible_share": [
            feasible_share(problems[which], limits or own[which]) for which, limits in parts
        ],
    }
    if exact:
        facts["networks"] = [len(one.table) for one in problems]
        facts["optima"] = optima
        facts["levels"] = [[list(x) for x in one.table.levels] for one in problems]
    tables = {
        str(given["table"]): table_digest(one.table)
        for given, one in zip(task.problems, problems, strict=True)
        if "table" in given
    }
    return {"references": references, "facts": facts, "tables": tables}


def accuracies(row: dict[str, Any]) -> list[float]:
    """Of the best networks of a row, 0 where there is none."""
    return [0.0 if part is None else part["accuracy"] for part in row["parts"]]


def best_known(suite: Suite, task: Task, n_searches: int, rows: list[Any]) -> list[float]:
    """The best accuracies of all that is known, by part."""
    longer = Runner(suite, replace(task, evaluations=LONGER * task.evaluations, references=()))
    known = [accuracies(row) for row in rows]
    known += [[one.best for one in task.references]] if task.references else []
    known += [
        accuracies(longer.run(evolution, "evolution", SEEDS + run)) for run in range(n_searches)
    ]
    return [float(value) for value in np.max(np.array(known), axis=0)]


def feasible_share(problem: Any, limits: dict[str, float]) -> float | None:
    """Share of networks of uniform random prune ratios that are within the limits.

    None where costs would have to be measured.
    """
    names = list(problem.names)
    table = getattr(problem, "table", None)
    counts = np.array(
        [problem.kept_counts(ratios) for ratios in _ratios(len(problem.groups))]
    )  # (DRAWN, n_groups)
    within = np.ones(DRAWN, dtype=bool)
    for name, limit in limits.items():
        budget = problem.budgets[names.index(name)]
        if budget.counted is not None:
            costs = problem.counted_costs(counts)[:, names.index(name)]
        elif table is not None:
            costs = table.costs(name).ravel()[[table.number(one) for one in counts]]
        else:
            return None
        within &= costs <= limit
    return float(within.mean())


def _ratios(n_groups: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(SEEDS).random((DRAWN, n_groups))


def drawing(make_env: Any, seed: int, budget: int) -> Any:
    """A policy that learns nothing: it draws every action."""
    generator = np.random.default_rng(seed)
    shape = make_env().action_space.shape
    return lambda observation: generator.uniform(-1.0, 1.0, shape)


if __name__ == "__main__":
    main()
