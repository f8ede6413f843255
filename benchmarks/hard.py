"""Random episodes with and without the projection: how many networks break a limit.

    python benchmarks/hard.py

1,000 episodes of random actions in each granularity, on the default problem with three limits at
once (params, macs, size_bytes), under `prune_gym.ProjectionWrapper` and without it. What is counted
does not depend on accuracy, so networks are judged on 8 images and not recovered. Costs are
checked anew by counting in the compact networks of every tenth episode. Writes
``benchmarks/results/hard.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
from origin import origin

import prune_gym
from agents.files import write_json

RESULTS = Path(__file__).parent / "results" / "hard.json"
LIMITS = {"params": 0.1, "macs": 0.2, "size_bytes": 0.15}
GRANULARITIES = ("layer", "filter", "network")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    problem = prune_gym.make_problem(budgets=LIMITS, recovery="none", evaluation_samples=8)
    rows = [
        run(problem, granularity, projected, arguments.episodes, arguments.seed)
        for granularity in GRANULARITIES
        for projected in (True, False)
    ]
    content = {
        **origin(),
        "limits": LIMITS,
        "note": "random actions; no recovery and 8 images per network, since costs do not depend "
        "on accuracy",
        "rows": rows,
    }
    write_json(RESULTS, content, indent=1)


def run(
    problem: Any, granularity: str, projected: bool, episodes: int, seed: int
) -> dict[str, Any]:
    """Play random episodes; count what broke a limit and what was moved."""
    env = gym.make("PruneVGG-v0", problem=problem, granularity=granularity)
    env = prune_gym.ProjectionWrapper(env) if projected else env
    env.action_space.seed(seed)
    env.reset(seed=seed)
    infeasible = recounted = steps = moved = 0
    for episode in range(episodes):
        env.reset()
        ended, info = False, {}
        while not ended:
            *_, ended, _, info = env.step(env.action_space.sample())
            steps += 1
            moved += info.get("projected", False)
        infeasible += not info["feasible"]
        if episode % 10 == 0:
            recounted += is_over(problem, env.unwrapped.compact_network())  # type: ignore[attr-defined]
    row = {
        "granularity": granularity,
        "projected": projected,
        "episodes": episodes,
        "infeasible": infeasible,
        "infeasible_in_a_tenth_by_counting_tensors": recounted,
        "steps": steps,
        "steps_moved": moved,
        "seed": seed,
    }
    print(row, flush=True)
    return row


def is_over(problem: Any, network: Any) -> bool:
    """Whether a compact network is over a limit, counted in itself and not by masks."""
    return any(
        prune_gym.count(name, network, problem.example)
        > limit * prune_gym.count(name, problem.network, problem.example)
        for name, limit in LIMITS.items()
    )


if __name__ == "__main__":
    main()
