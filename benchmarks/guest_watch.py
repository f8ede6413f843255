"""What really happened in the environments that a guest trains on, to hold its numbers against.

`watch` puts a wrapper into Gymnasium's registry around every environment of an id. It looks at the
finished network itself, not at ``info["cost"]``. The guests' programs (``guest_*.py``) run inside
the virtual environments that `guests.py` makes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import WrapperSpec

import prune_gym

ENV_ID = "PruneVGG-v0"
WINDOW = 32  # episodes that "first" and "last" are means of
WATCHED: list[Watch] = []

Row = dict[str, Any]


class Watch(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the return and the true cost of every finished episode."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes: list[tuple[float, float, float]] = []  # when it ended, return, cost
        WATCHED.append(self)

    def step(self, action: Any) -> Any:
        """Step; a finished episode is kept."""
        step = self.env.step(action)
        if step[2]:
            base: Any = self.env.unwrapped
            outcome = base.last_outcome()
            cost = outcome.cost
            self.episodes.append((perf_counter(), outcome.accuracy, float(cost)))
        return step


def watch() -> None:
    """From now on every environment of the id is watched."""
    spec = gym.registry[ENV_ID]
    spec.additional_wrappers = (WrapperSpec("Watch", "guest_watch:Watch", {}),)


def episodes(watched: list[Watch]) -> np.ndarray:
    """Return and cost of their episodes in the order in which they ended, (n, 2)."""
    seen = sorted(episode for env in watched for episode in env.episodes)
    return np.array([episode[1:] for episode in seen]).reshape(-1, 2)


def summary(algorithm: str, seen: np.ndarray, reported: float, true: float, **more: Any) -> Row:
    """A row of the results; raises where the guest's cost is not that of the environment."""
    row = {
        "algorithm": algorithm,
        "episodes": len(seen),
        "first": mean(seen[:WINDOW]),
        "last": mean(seen[-WINDOW:]),
        "reported_cost": float(reported),
        "true_cost": float(true),
        **more,
    }
    print(json.dumps(row), flush=True)
    if not np.isclose(reported, true, rtol=1e-4):
        raise SystemExit(f"{algorithm} reports cost {reported}, the environment charged {true}")
    if not true > 0.0:
        raise SystemExit(f"{algorithm}: the environment charged nothing")
    return row


def mean(seen: np.ndarray) -> dict[str, float]:
    """Mean return and cost."""
    values = np.round(seen.mean(axis=0), 5).tolist()
    return dict(zip(("return", "cost"), values, strict=True))


def arguments() -> argparse.Namespace:
    """The command line of a guest's program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    given.steps = 256 if given.quick else 2048
    # the quick run charges the cost where it is lost most easily, at the last step
    given.env = {"cost_mode": "terminal" if given.quick else "dense"}
    return given


def run(packages: list[str], algorithms: dict[str, Callable[[argparse.Namespace], Row]]) -> None:
    """Train with each algorithm and write the rows."""
    given = arguments()
    limit = gym.make(ENV_ID).unwrapped.cost_limit  # type: ignore[attr-defined]
    watch()
    rows = []
    for train in algorithms.values():
        WATCHED.clear()
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - guests draw from it
        torch.manual_seed(0)
        began = perf_counter()
        row = train(given)
        rows.append({**row, "wall_s": round(perf_counter() - began, 1)})
    names = [*packages, "prune_gym", "gymnasium", "torch", "numpy"]
    versions = {
        name: prune_gym.__version__ if name == "prune_gym" else version(name) for name in names
    }
    result = {"env": given.env, "cost_limit": limit, "versions": versions, "rows": rows}
    given.out.write_text(json.dumps(result), encoding="utf-8")
