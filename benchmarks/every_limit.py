"""One agent for every limit, against agents that were each trained for one.

    python benchmarks/every_limit.py --folder RUNS --seeds 0 1 2

For each seed one agent is trained on ``PruneVGGAnyLimit-v0``, whose limit is drawn anew for every
episode, and four on ``PruneVGG-v0`` with limits of 5, 10, 20 and 40 % of the parameters. All five
get the same number of evaluated networks: the one agent N for all limits together, each of the
others N for its own. Two things are compared at each limit, on the validation split: the best
network within it among all that were evaluated, and what the final policy does (deterministic).

All train under `prune_gym.ProjectionWrapper`, so that no limit is ever broken, as the zoo's
``ppo_lag`` with a multiplier of 0 (plain PPO); ``--bare`` leaves the wrapper out and lets
``ppo_lag`` learn the limit. One JSON file per agent and seed in the folder; those that are there
are not run again. Then ``benchmarks/results/every_limit.json`` gets all rows and the differences.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import prune_gym
from agents import FixedMultiplier, make_agent
from prune_gym.parallel import Workers, one_thread
from prune_gym.search.archive import Archive
from prune_gym.search.threads import ThreadVecEnv

RESULTS = Path(__file__).parent / "results" / "every_limit.json"
LIMITS = (0.05, 0.1, 0.2, 0.4)
N_ENVS = 8
GOAL = 0.02  # of the final policy's accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where rows are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--agents", nargs="+", default=["any", *map(str, LIMITS)], help="any, or a limit"
    )
    parser.add_argument("--evaluations", type=int, default=1504, help="networks of each agent")
    parser.add_argument("--threads", type=int, default=None, help="that judge networks")
    parser.add_argument("--bare", action="store_true", help="no projection: the limit is learned")
    parser.add_argument("--only-run", action="store_true", help="write no results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for agent in arguments.agents:
            path = arguments.folder / f"{agent}-{seed}.json"
            if not path.is_file():
                row = run(agent, seed, arguments)
                path.write_text(json.dumps(row, indent=1) + "\n")
                print(row, flush=True)
    if not arguments.only_run:
        write_results(arguments.folder, arguments.seeds)


def run(agent: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one agent; what it found and what its policy does at its limits."""
    # afresh: no run profits from what another one judged
    limit = 0.1 if agent == "any" else float(agent)
    problem = prune_gym.make_problem(budgets={"params": limit})
    problem.prepare()
    archive = Archive()

    def make() -> gym.Env[Any, Any]:
        env_id = "PruneVGGAnyLimit-v0" if agent == "any" else "PruneVGG-v0"
        env = gym.make(env_id, problem=problem, cost_mode="dense")
        return env if arguments.bare else prune_gym.ProjectionWrapper(env)

    def record(scope: dict[str, Any], _: dict[str, Any]) -> bool:
        for index in np.flatnonzero(scope["dones"]):
            env: Any = venv.envs[index].unwrapped
            archive.add(env.last_masks(), env.last_outcome())
        return True

    began = time.monotonic()
    with one_thread(), Workers(arguments.threads) as workers:
        venv = ThreadVecEnv([make] * N_ENVS, workers)
        venv.seed(seed)
        own = {} if arguments.bare else {"multiplier": FixedMultiplier(0.0)}
        model = make_agent("ppo_lag", venv, seed=seed, device="cpu", **own)
        model.learn(arguments.evaluations * len(problem.groups), callback=record)
        trained_s = time.monotonic() - began
        limits = LIMITS if agent == "any" else (limit,)
        at = {f"{x:g}": judge(model, make(), archive, x, agent == "any") for x in limits}
    return {
        "agent": agent,
        "seed": seed,
        "projected": not arguments.bare,
        "evaluations": len(archive.episodes),
        "infeasible_evaluations": sum(not row.feasible for row in archive.episodes),
        "at_limit": at,
        "trained_s": round(trained_s, 1),
    }


def judge(
    model: Any, env: gym.Env[Any, Any], archive: Archive, limit: float, is_any: bool
) -> dict[str, Any]:
    """At one limit: the best network found within it, and an episode of the final policy."""
    found = [one.accuracy for one in archive.front if one.is_within({"params": limit})]
    observation, info = env.reset(seed=0, options={"limit": limit} if is_any else None)
    ended = False
    while not ended:
        action, _ = model.predict(observation, deterministic=True)
        observation, _, ended, _, info = env.step(action)
    return {
        "best_found": max(found, default=None),
        "policy_accuracy": info["accuracy"],
        "policy_feasible": info["feasible"],
        "policy_params": info["params"] / float(env.unwrapped.problem.dense_values[0]),  # type: ignore[attr-defined]
    }


def write_results(folder: Path, seeds: list[int]) -> None:
    names = ["any", *(f"{limit:g}" for limit in LIMITS)]
    paths = [folder / f"{name}-{seed}.json" for name in names for seed in seeds]
    rows = [json.loads(path.read_text()) for path in paths if path.is_file()]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    packages = ("torch", "stable-baselines3", "gymnasium", "numpy")
    summary = {f"{limit:g}": compare(rows, f"{limit:g}") for limit in LIMITS}
    content = {
        "command": " ".join(["python", "benchmarks/every_limit.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in packages},
        "note": "one agent for every limit against one agent per limit; each agent, the one for "
        "all limits as well, evaluated as many networks as its row says; validation accuracy",
        "summary": summary,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    for limit, row in summary.items():
        print(limit, row)


def compare(rows: list[dict[str, Any]], limit: str) -> dict[str, Any]:
    """Means over the seeds at one limit, and whether the one agent is within the goal."""
    compared: dict[str, Any] = {}
    for which in ("policy_accuracy", "best_found"):
        one = [r["at_limit"][limit][which] or 0.0 for r in rows if r["agent"] == "any"]
        own = [r["at_limit"][limit][which] or 0.0 for r in rows if r["agent"] == limit]
        if one and own:
            compared[which] = {
                "any_limit": round(float(np.mean(one)), 4),
                "single_limit": round(float(np.mean(own)), 4),
                "within_2_points": bool(np.mean(one) >= np.mean(own) - GOAL),
            }
    broken = [r["at_limit"][limit]["policy_feasible"] for r in rows if limit in r["at_limit"]]
    return {**compared, "infeasible_policies": sum(not feasible for feasible in broken)}


if __name__ == "__main__":
    main()
