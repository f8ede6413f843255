"""PruneBench with an algorithm of Stable-Baselines3: its class, and what it needs around it.

From this folder, ``python -m agents.benchmark 17_benchmark_sb3:train --name sac_penalty`` runs the
whole of it.
"""

import tempfile
from contextlib import suppress

from stable_baselines3 import SAC

import agents
from agents import FixedPenalty
from agents.benchmark import EvaluationsSpent


def train(make_env, seed, budget):
    env = FixedPenalty(make_env(), 2.0)  # SAC knows of no constraint: cost is taken off the reward
    model = SAC(
        "MlpPolicy", env, gamma=1.0, learning_starts=300, train_freq=8, seed=seed, device="cpu"
    )
    with suppress(EvaluationsSpent):  # raised where all evaluations are spent
        model.learn(budget * make_env.n_steps)
    # actions and observations of the model are those of the environment; otherwise:
    # return model, lambda env: MyWrapper(env)
    return model


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        agents.benchmark(
            train,
            name="sac_penalty",
            tasks="table-vgg-shapes-10",
            seeds=0,
            out=folder,
            report=print,
        )
