"""PruneVGG-v0 through Safety-Gymnasium's own make, checker and vectors; `guests.py` runs it.

The library has no algorithms: what learns here is a cross-entropy search over prune ratios.
"""

from __future__ import annotations

import argparse

import numpy as np
import safety_gymnasium
from guest_watch import ENV_ID, Row, run, summary

from prune_gym.adapters.safety_gymnasium import register

N_ENVS = 4
ROUND = 16  # episodes
ELITE = 4


def train(given: argparse.Namespace) -> Row:
    """Learn; the cost of each step's third place is held against the environments'."""
    (env_id,) = register(ENV_ID)
    single = safety_gymnasium.make(env_id, **given.env)
    limit, n_steps = single.unwrapped.cost_limit, len(single.unwrapped.problem.groups)
    envs = safety_gymnasium.vector.make(env_id, num_envs=N_ENVS, asynchronous=False, **given.env)
    envs.reset(seed=0)
    generator = np.random.default_rng(0)
    mean, spread = np.zeros(n_steps), np.ones(n_steps)
    seen, true = [], []
    for _ in range(given.steps // (ROUND * n_steps)):
        actions = np.clip(generator.normal(mean, spread, (ROUND, n_steps)), -1.0, 1.0)
        results = np.zeros((ROUND, 2))  # return and cost
        for first in range(0, ROUND, N_ENVS):
            rows = slice(first, first + N_ENVS)
            for step in range(n_steps):
                chosen = actions[rows, step : step + 1].astype(np.float32)
                _, reward, cost, terminated, _, _ = envs.step(chosen)
                results[rows] += np.stack([reward, cost], axis=1)
            if not terminated.all():
                raise SystemExit("an episode has another length than the others")
            true += [charged(env.unwrapped) for env in envs.envs]
        seen += results.tolist()
        score = results[:, 0] - 10.0 * np.maximum(0.0, results[:, 1] - limit)
        best = actions[np.argsort(-score)[:ELITE]]
        mean, spread = best.mean(axis=0), best.std(axis=0) + 0.05
    costs = np.array(seen)[:, 1]
    return summary(
        "cross-entropy", np.array(seen), costs.mean(), float(np.mean(true)), environments=N_ENVS
    )


def charged(env: object) -> float:
    """The cost of the network of the last episode, measured on it."""
    outcome = env.last_outcome()  # type: ignore[attr-defined]
    return outcome.cost


if __name__ == "__main__":
    run(["safety-gymnasium", "mujoco"], {"search": train})
