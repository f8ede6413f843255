"""Every agent of the zoo on the toy whose optimum is known, at two limits and three seeds.

    python benchmarks/toy_table.py

The final deterministic policy is held against the limit and the best return at its cost, the mean
price of cost in the last third of the training against its analytic value; one row per run goes to
``benchmarks/results/toy_table.json``. With ``--limits 2`` the limit is slack. ``--rows FILE`` keeps
rows as they come and does not run again those that are there.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from origin import origin
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from agents import AGENTS, evaluate, make_agent
from agents.files import write_json
from agents.zoo.table import import_object

RESULTS = Path(__file__).parent / "results" / "toy_table.json"
COST_TOLERANCE, RETURN_TOLERANCE, PRICE_TOLERANCE = 0.10, 0.05, 0.25
NO_PRICE = ("ppo_saute", "p3o", "ipo")  # no multiplier, or one that jumps with the last rollout


@dataclass(frozen=True)
class Row:
    """One run; ratios to the limit, to the optimal return, of the price to the analytic one."""

    algo: str
    cost_limit: float
    seed: int
    cost: float
    reward: float
    multiplier: float | None
    holds: bool
    wall_s: float


class Trace(BaseCallback):
    """The price of cost in units of reward, at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def _on_step(self) -> bool:
        if hasattr(self.model, "multiplier"):
            self.values.append(float(self.model.prices[0]))
        return True


def run(algo: str, cost_limit: float, seed: int) -> Row:
    """Train one agent and say what it came to."""
    spec = AGENTS[algo].tuned_for("BudgetToy-v0")
    discrete = "Box" not in spec.action_spaces
    wrapper = None if spec.wrapper is None else import_object(spec.wrapper)
    kwargs = {"cost_limit": cost_limit, "n_actions": 9 if discrete else None}

    def make() -> gym.Env[Any, Any]:
        return gym.make("agents.toy:BudgetToy-v0", **kwargs)

    venv = make_vec_env(make, spec.n_envs, seed=seed, wrapper_class=wrapper)
    began, trace = time.monotonic(), Trace()
    model: Any = make_agent(algo, venv, seed=seed, device="cpu")
    model.learn(spec.timesteps, callback=trace)
    toy = venv.get_attr("unwrapped")[0]
    result = evaluate(model, make_vec_env(make, 1, seed=seed, wrapper_class=wrapper), 1)
    price = float(np.mean(trace.values[-len(trace.values) // 3 :])) if trace.values else None
    cost, reward = result.cost_mean / cost_limit, result.return_mean / toy.optimal_return
    if cost_limit >= 1.0:  # slack: all is kept, and costs nothing
        holds = result.cost_mean > 0.9 and (price is None or price < 0.01)
    else:
        price = None if price is None else price / toy.optimal_multiplier
        holds = abs(cost - 1.0) <= COST_TOLERANCE
        holds = holds and reward >= (1.0 - RETURN_TOLERANCE) * math.sqrt(cost)  # that is the best
        if price is not None and algo not in NO_PRICE:
            holds = holds and abs(price - 1.0) <= PRICE_TOLERANCE
    wall = round(time.monotonic() - began, 1)
    return Row(algo, cost_limit, seed, cost, reward, price, holds, wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithms", nargs="+", default=list(AGENTS))
    parser.add_argument("--limits", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=Path, default=None, help="JSON lines, one per run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known: dict[tuple[str, float, int], Row] = {}
    if arguments.rows is not None and arguments.rows.is_file():
        found = [Row(**json.loads(line)) for line in arguments.rows.read_text().splitlines()]
        known = {(row.algo, row.cost_limit, row.seed): row for row in found}
    rows = []
    for algo, limit, seed in product(arguments.algorithms, arguments.limits, arguments.seeds):
        row = known.get((algo, limit, seed)) or run(algo, limit, seed)
        rows.append(row)
        if arguments.rows is not None and (algo, limit, seed) not in known:
            with arguments.rows.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        print(row, flush=True)
    result = {**origin(), "rows": [asdict(row) for row in rows]}
    write_json(arguments.out, result, indent=1)
    print(f"{sum(row.holds for row in rows)} of {len(rows)} within tolerance")


if __name__ == "__main__":
    main()
