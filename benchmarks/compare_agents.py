"""Every agent of the zoo and every control on one problem, with equal numbers of evaluations.

    python benchmarks/compare_agents.py --folder RUNS --seeds 0 1 2 3 4

One JSON file per algorithm and seed in the folder; those that are there are not run again. Then
``benchmarks/results/agents.json`` gets all rows and the interquartile means with their 95 %
intervals (stratified bootstrap), and the table is printed. Agents train on the dense cost with the
values of the zoo; the final policy is the one at the end, not the best one. Agents of discrete
actions choose among eleven ratios (`DiscreteRatios`). ``cpu_s`` is the processor time of a run,
which other work on the machine does not lengthen as it does ``wall_s``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from origin import origin
from stable_baselines3.common.vec_env import DummyVecEnv

import prune_gym
from agents import AGENTS, evaluate, make_agent
from agents.files import write_json
from agents.zoo.table import import_object
from prune_gym.problem.archive import Archive
from prune_gym.searches.baselines import BASELINES, masks_of_ratios
from prune_gym.searches.thread_vec_env import ThreadVecEnv
from prune_gym.utils.threads import Workers, one_thread

RESULTS = Path(__file__).parent / "results" / "agents.json"
FINAL_EPISODES = 50  # of the sampled final policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where rows are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--algorithms", nargs="+", default=[*AGENTS, *BASELINES.names()])
    parser.add_argument(
        "--evaluations", type=int, default=752, help="networks per run (whole rollouts of 16)"
    )
    parser.add_argument("--threads", type=int, default=None, help="that judge networks")
    parser.add_argument("--only-run", action="store_true", help="write no results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for algo in arguments.algorithms:
            if algo == "uniform" and seed != arguments.seeds[0]:
                continue  # draws nothing
            path = arguments.folder / f"{algo}-{seed}.json"
            if not path.is_file():
                row = run(algo, seed, arguments.evaluations, arguments.threads)
                write_json(path, row, indent=1)
                print(row, flush=True)
    if not arguments.only_run:
        write_results(arguments.folder, arguments.algorithms, arguments.seeds)


def run(
    algo: str, seed: int, evaluations: int, threads: int | None, problem: Any = None
) -> dict[str, Any]:
    """One run: what it found, what its final policy does, how long it took.

    The problem is made afresh, so that no run profits from what another one judged; whoever hands
    one in takes care of that.
    """
    problem = problem or prune_gym.make_problem()
    began, used = time.monotonic(), time.process_time()
    archive = Archive()
    with one_thread(), Workers(threads) as workers:
        if algo in BASELINES:
            search(algo, seed, problem, archive, evaluations, workers)
            final: dict[str, Any] = {}
        else:
            final = train(algo, seed, problem, archive, evaluations, workers)
    feasible = [index for index, row in enumerate(archive.trials) if row.feasible]
    late = archive.trials[-len(archive.trials) // 10 :]
    return {
        "algo": algo,
        "seed": seed,
        "evaluations": len(archive.trials),
        "cost_limit": problem.cost_limit,
        "best_feasible": None if archive.best is None else archive.best.accuracy,
        "evaluations_to_first_feasible": feasible[0] + 1 if feasible else None,
        "violations": len(archive.trials) - len(feasible),
        "late_violation_rate": float(np.mean([not row.feasible for row in late])),
        **final,
        "wall_s": round(time.monotonic() - began, 1),
        "cpu_s": round(time.process_time() - used, 1),
    }


def train(
    algo: str, seed: int, problem: Any, archive: Archive, evaluations: int, workers: Workers
) -> dict[str, Any]:
    spec = AGENTS[algo]

    def make() -> gym.Env[Any, Any]:
        env = gym.make("PruneVGG-v0", problem=problem, cost_mode="dense")
        if "Box" not in spec.action_spaces:
            env = prune_gym.DiscreteRatios(env)
        return env if spec.wrapper is None else import_object(spec.wrapper)(env)

    venv = ThreadVecEnv([make] * spec.n_envs, workers)
    venv.seed(seed)
    model = make_agent(algo, venv, seed=seed, device="cpu")

    def record(scope: dict[str, Any], _: dict[str, Any]) -> bool:
        for index in np.flatnonzero(scope["dones"]):
            env: Any = venv.envs[index].unwrapped
            archive.add(env.last_masks(), env.last_outcome())
        return True

    model.learn(evaluations * len(problem.groups), callback=record)
    trained = time.monotonic()
    env = DummyVecEnv([make])
    policy = evaluate(model, env, 1, deterministic=True)
    sampled = evaluate(model, env, FINAL_EPISODES, deterministic=False, seed=10_000 + seed)
    return {
        "policy_return": policy.return_mean,
        "policy_cost": policy.cost_mean,
        "policy_feasible": policy.violation_rate == 0.0,
        "sampled_return": sampled.return_mean,
        "sampled_violation_rate": sampled.violation_rate,
        "multiplier": float(model.multiplier.value) if hasattr(model, "multiplier") else None,
        "judging_the_policy_s": round(time.monotonic() - trained, 1),
    }


def search(
    algo: str, seed: int, problem: Any, archive: Archive, evaluations: int, workers: Workers
) -> None:
    proposer = BASELINES.get(algo)(len(problem.groups), evaluations, np.random.default_rng(seed))
    batch = next(proposer, None)
    while batch is not None:
        masks = [masks_of_ratios(problem, ratios) for ratios in batch]
        judged = []
        for mask, outcome in zip(masks, workers.map(problem.evaluate, masks), strict=True):
            archive.add(mask, outcome)
            judged.append((outcome.accuracy, outcome.cost, outcome.feasible))
        try:
            batch = proposer.send(judged)
        except StopIteration:
            batch = None


def write_results(folder: Path, algorithms: list[str], seeds: list[int]) -> None:
    from agents.compare import compare_scores

    paths = [folder / f"{algo}-{seed}.json" for algo in algorithms for seed in seeds]
    rows = [json.loads(path.read_text()) for path in paths if path.is_file()]
    by_algo = {algo: [row for row in rows if row["algo"] == algo] for algo in algorithms}
    by_algo = {algo: own for algo, own in by_algo.items() if own}
    scores = {a: [row["best_feasible"] or 0.0 for row in own] for a, own in by_algo.items()}
    table = []
    for row in compare_scores(scores).rows:
        own = by_algo[row.algorithm]
        table.append(
            {
                "algo": row.algorithm,
                "seeds": row.seeds,
                "iqm": row.score.value,
                "iqm_95": [row.score.low, row.score.high],
                "median": row.median,
                "evaluations_to_first_feasible": _median(own, "evaluations_to_first_feasible"),
                "final_policies_feasible": _mean(own, "policy_feasible"),
                "sampled_violation_rate": _mean(own, "sampled_violation_rate"),
                "cpu_s": _mean(own, "cpu_s"),
            }
        )
    write_json(
        RESULTS,
        {
            **origin(),
            "table": table,
            "rows": rows,
        },
        indent=1,
    )
    for line in table:
        print(line)


def _median(rows: list[dict[str, Any]], name: str) -> float:
    """Median over runs; infinite where most have none."""
    return float(np.median([np.inf if row[name] is None else row[name] for row in rows]))


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    """Mean over runs; None for controls, which have no policy."""
    known = [float(row[name]) for row in rows if row.get(name) is not None]
    return float(np.mean(known)) if known else None


if __name__ == "__main__":
    main()
