"""Tables against live judgement: are they equal, how fast are they made, how fast are episodes.

    python benchmarks/exact_tables.py --networks 1000
    python benchmarks/exact_tables.py --tables tiny_vgg-digits-l1 --networks 200

Of each table random networks are judged anew by `PruningProblem.evaluate`, on both splits, and
compared: accuracies on both, and every counted budget. Networks whose accuracy differs are named;
two outputs of an example that are equal to their last bits may change places, as sums run in
another order. Seconds are those of one thread's processor time, the best of several rounds in
turns, so that other work on the machine matters little; the walk judges both splits, `evaluate` the
validation split alone. Rows go to ``benchmarks/results/exact_tables.json``, one a table; rows of
tables that were not asked for stay.
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
from agents.files import write_json
from prune_gym import PruneTable, PruningProblem, TabularProblem
from prune_gym.tables.env import TablePruneEnv
from prune_gym.tables.vector import TableVectorEnv
from prune_gym.tables.walk import Walk
from prune_gym.utils.threads import one_thread

RESULTS = Path(__file__).parent / "results" / "exact_tables.json"
LIMITS = (0.1, 0.05, 0.03)
BATCH = 200
ROUNDS = 5
MOST_BELOW = 2000  # networks of a round of the maker
N_EVALUATED = 20  # networks of a round of `evaluate`
N_VECTOR = 1000


def main() -> None:
    known = prune_gym.shipped_tables()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", default=known, choices=known, help="which")
    parser.add_argument("--networks", type=int, default=1000, help="that are judged anew, each")
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the rows go")
    arguments = parser.parse_args()
    for name in arguments.tables:
        with one_thread():
            row = measure(name, arguments.networks, arguments.seed)
        print(json.dumps({"table": name, **row}), flush=True)
        rows = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
        write_json(arguments.out, {**rows, name: {**row, "origin": origin()}}, indent=1)


def measure(name: str, n_networks: int, seed: int) -> dict[str, Any]:
    """All figures of a table."""
    table = prune_gym.load_table(name)
    problem = prune_gym.make_problem(**table.arguments, batch_size=BATCH)
    drawn = np.random.default_rng(seed).choice(len(table), min(n_networks, len(table)), False)
    return {
        "networks": len(table),
        "optimum": {str(limit): best(table, limit) for limit in LIMITS},
        "unpruned": problem.evaluate(problem.masks_of(problem.sizes)).accuracy,
        **compare(table, problem, drawn),
        **rates(table, problem),
        **episodes(table),
    }


def best(table: PruneTable, limit: float) -> dict[str, Any]:
    """The most accurate network within a limit of the parameters, and how many are within."""
    found = table.optimum({"params": limit})
    share = float(table.is_within({"params": limit}).mean())
    return {"accuracy": found.accuracy, "test": found.test_accuracy, "share_within": share}


def compare(table: PruneTable, problem: PruningProblem, drawn: Any) -> dict[str, Any]:
    """Networks of a table, judged anew."""
    model = problem.cost_model.of_budgets([prune_gym.BUDGETS.get(n)() for n in table.counted])
    differing, off_costs = [], 0
    for number in drawn.tolist():
        entry = table.entry(number)
        masks = problem.masks_of(entry.counts)
        outcome = problem.evaluate(masks)
        test = problem.accuracy(outcome.network, problem.data.test)
        if (outcome.accuracy, test) != (entry.accuracy, entry.test_accuracy):
            found = [entry.accuracy, outcome.accuracy, entry.test_accuracy, test]
            differing.append([number, *found])
        off_costs += model.costs(masks).tolist() != list(entry.costs.values())
    return {"compared": len(drawn), "differing": differing, "differing_costs": off_costs}


def rates(table: PruneTable, problem: PruningProblem) -> dict[str, float]:
    """Networks per second of processor time, of the maker and of `evaluate`, in turns."""
    walk = Walk(problem, table.levels)
    depth = int(np.argmax([np.prod(table.shape[k:]) <= MOST_BELOW for k in range(99)]))
    draw = np.random.default_rng(0)

    def make() -> int:
        prefix = [int(draw.integers(n)) for n in table.shape[:depth]]
        return walk.right(prefix)[..., 0].size

    def evaluate() -> int:
        for number in draw.integers(len(table), size=N_EVALUATED).tolist():  # none twice
            problem.evaluate(problem.masks_of(table.entry(number).counts))
        return N_EVALUATED

    pairs = [(per_second(make), per_second(evaluate)) for _ in range(ROUNDS)]
    made, evaluated = (max(column) for column in zip(*pairs, strict=True))
    return {"made_per_s": round(made), "evaluated_per_s": round(evaluated, 1)}


def episodes(table: PruneTable) -> dict[str, float]:
    """Microseconds of an episode with random actions, and episodes a second of a vector."""
    problem = TabularProblem.load(table)
    found: dict[str, float] = {}
    n_groups = len(problem.sizes)
    for cost_mode in ("terminal", "dense"):
        env = TablePruneEnv(problem=problem, cost_mode=cost_mode)
        actions = np.random.default_rng(0).uniform(-1, 1, (20, n_groups, 1)).astype(np.float32)
        of_episodes = [list(own) for own in actions]

        def play(env: Any = env, of_episodes: Any = of_episodes) -> int:
            for own in of_episodes:
                env.reset()
                for action in own:
                    env.step(action)
            return len(of_episodes)

        fastest = max(per_second(play) for _ in range(300))
        found[f"episode_us_{cost_mode}"] = round(1e6 / fastest, 1)
    envs = TableVectorEnv(N_VECTOR, problem=problem, autoreset_mode="SameStep")
    envs.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (n_groups, N_VECTOR, 1)).astype(np.float32)

    def play_many() -> int:
        for own in actions:
            envs.step(own)
        return N_VECTOR

    found["vector_episodes_per_s"] = round(max(per_second(play_many) for _ in range(20)))
    return found


def per_second(work: Callable[[], int]) -> float:
    """What a piece of work does in a second of processor time."""
    began = time.process_time()
    done = work()
    return done / (time.process_time() - began)


if __name__ == "__main__":
    main()
