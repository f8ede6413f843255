"""One agent for every limit, against agents that were each trained for one.

    python benchmarks/every_limit.py --folder RUNS --seeds 0 1 2

For each seed one agent is trained on ``PruneVGGAnyLimit-v0``, whose limit is drawn anew for every
episode, and others on ``PruneVGG-v0`` with limits of 5, 10, 20 and 40 % of the parameters. The one
agent evaluates as many networks as the four agents that it stands for together: 4 N, and each of
them N. Two things are compared at each limit, on the validation split: the best network within
it among all that were evaluated, and what the final policy does (deterministic; a policy that
breaks the limit counts as 0).

The one agent trains under `prune_gym.ProjectionWrapper`, its actions scaled to what is safe, so
that no limit is ever broken, as the zoo's ``ppo_lag`` with a multiplier of 0 (plain PPO). The
others train in both ways, like this and, ``-bare``, as ``ppo_lag`` that has to learn the limit; at
each limit the better of the two is what the one agent is held against. One JSON file per agent and
seed in the folder; those that are there are not run again. Then
``benchmarks/results/every_limit.json`` gets all rows and the differences.
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

import prune_gym
from agents import FixedMultiplier, make_agent
from agents.files import write_json
from prune_gym.problem.archive import Archive
from prune_gym.searches.thread_vec_env import ThreadVecEnv
from prune_gym.utils.threads import Workers, one_thread

RESULTS = Path(__file__).parent / "results" / "every_limit.json"
LIMITS = (0.05, 0.1, 0.2, 0.4)
AGENTS = ("any", *(f"{limit:g}{way}" for limit in LIMITS for way in ("", "-bare")))
N_ENVS = 8
GOAL = 0.02  # of the final policy's accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where rows are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--agents", nargs="+", default=AGENTS, choices=[*AGENTS, "any-bare"])
    parser.add_argument(
        "--evaluations", type=int, default=752, help="networks of an agent of one limit"
    )
    parser.add_argument("--threads", type=int, default=None, help="that judge networks")
    parser.add_argument("--only-run", action="store_true", help="write no results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for agent in arguments.agents:
            path = arguments.folder / f"{agent}-{seed}.json"
            if not path.is_file():
                row = run(agent, seed, arguments)
                write_json(path, row, indent=1)
                print(row, flush=True)
    if not arguments.only_run:
        write_results(arguments.folder, arguments.seeds)


def run(agent: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one agent; what it found and what its policy does at its limits."""
    # afresh: no run profits from what another one judged
    which, _, bare = agent.partition("-")
    is_any = which == "any"
    limit = 0.1 if is_any else float(which)
    problem = prune_gym.make_problem(budgets={"params": limit})
    archive = Archive()

    def make() -> gym.Env[Any, Any]:
        env_id = "PruneVGGAnyLimit-v0" if is_any else "PruneVGG-v0"
        env = gym.make(env_id, problem=problem, cost_mode="dense")
        return env if bare else prune_gym.ProjectionWrapper(env, mode="scale")

    def record(scope: dict[str, Any], _: dict[str, Any]) -> bool:
        for index in np.flatnonzero(scope["dones"]):
            env: Any = venv.envs[index].unwrapped
            archive.add(env.last_masks(), env.last_outcome())
        return True

    began = time.monotonic()
    with one_thread(), Workers(arguments.threads) as workers:
        venv = ThreadVecEnv([make] * N_ENVS, workers)
        venv.seed(seed)
        own = {} if bare else {"multiplier": FixedMultiplier(0.0)}
        model = make_agent("ppo_lag", venv, seed=seed, device="cpu", **own)
        evaluations = arguments.evaluations * (len(LIMITS) if is_any else 1)
        model.learn(evaluations * len(problem.groups), callback=record)
        trained_s = time.monotonic() - began
        limits = LIMITS if is_any else (limit,)
        at = {f"{x:g}": judge(model, make(), archive, x, is_any) for x in limits}
    return {
        "agent": agent,
        "seed": seed,
        "projected": not bare,
        "evaluations": len(archive.trials),
        "infeasible_evaluations": sum(not row.feasible for row in archive.trials),
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
        "policy_params": info["params"] / float(env.unwrapped.problem.unpruned_values[0]),  # type: ignore[attr-defined]
    }


def write_results(folder: Path, seeds: list[int]) -> None:
    paths = [folder / f"{name}-{seed}.json" for name in AGENTS for seed in seeds]
    rows = [json.loads(path.read_text()) for path in paths if path.is_file()]
    summary = {f"{limit:g}": compare(rows, f"{limit:g}") for limit in LIMITS}
    content = {
        **origin(),
        "note": "one agent for every limit against one agent per limit; it evaluated as many "
        "networks as those of the four limits together; validation accuracy",
        "summary": summary,
        "rows": rows,
    }
    write_json(RESULTS, content, indent=1)
    for limit, row in summary.items():
        print(limit, row)


def compare(rows: list[dict[str, Any]], limit: str) -> dict[str, Any]:
    """Means over the seeds at one limit, and whether the one agent is within the goal."""
    compared: dict[str, Any] = {}
    for which, score in (("policy", policy_score), ("best_found", found_score)):
        means = {
            name: float(np.mean([score(row["at_limit"][limit]) for row in own]))
            for name in ("any", limit, f"{limit}-bare")
            if (own := [row for row in rows if row["agent"] == name])
        }
        single = max((mean for name, mean in means.items() if name != "any"), default=0.0)
        compared[which] = {
            **{name: round(mean, 4) for name, mean in means.items()},
            "within_2_points": means.get("any", 0.0) >= single - GOAL,
        }
    return compared


def policy_score(row: dict[str, Any]) -> float:
    return row["policy_accuracy"] if row["policy_feasible"] else 0.0


def found_score(row: dict[str, Any]) -> float:
    return row["best_found"] or 0.0


if __name__ == "__main__":
    main()
