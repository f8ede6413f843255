"""``python -m asked KIND ARGUMENTS``: calls of Python's side, told as the commands tell them.

ARGUMENTS are a Python literal, a dictionary of keywords. An error of the packages' own is one line
and exit code 2; any other keeps its traceback.
"""

from __future__ import annotations

import ast
import sys
from typing import Any

import gymnasium as gym
import numpy as np

import prune_gym
from prune_gym.datasets import load_dataset

NONSENSE = {"nan": float("nan"), "inf": float("inf"), "object": object(), "array": np.zeros(3)}


def problem(**arguments: Any) -> str:
    return str(len(prune_gym.make_problem(**{"evaluation_samples": 20, **arguments}).groups))


def env(**arguments: Any) -> str:
    made = gym.make("PruneVGG-v0", **arguments)
    made.reset(seed=0)
    return str(made.step(made.action_space.sample())[1])


def search(**arguments: Any) -> str:
    given = {"algo": "random", "evaluations": 2, **arguments}
    return str(len(prune_gym.search(prune_gym.make_problem(evaluation_samples=20), **given)))


def table(table: str) -> str:
    made = gym.make("PruneTable-v1", table=table)
    made.reset(seed=0)
    return str(made.step(made.action_space.sample())[1])


def images(dataset: str) -> str:
    data = load_dataset(dataset)
    return f"{len(data.train)} images of {data.n_classes} classes"


def pruned(folder: str) -> str:
    return str(sum(p.numel() for p in prune_gym.load_pruned(folder).parameters()))


KINDS = {f.__name__: f for f in (problem, env, search, table, images, pruned)}

if __name__ == "__main__":
    keywords = ast.literal_eval(sys.argv[2])
    for key, value in keywords.items():
        if isinstance(value, str) and value.startswith("nonsense:"):
            keywords[key] = NONSENSE[value.partition(":")[2]]
    try:
        print(KINDS[sys.argv[1]](**keywords))
    except prune_gym.PruneGymError as error:
        print(f"error: {error}")
        sys.exit(2)
