"""RLlib's PPO on PruneVGG-v0, the cost among its metrics; `guests.py` runs it."""

from __future__ import annotations

import argparse

import ray
from guest_watch import ENV_ID, WATCHED, Row, episodes, run, summary
from ray.rllib.algorithms.ppo import PPOConfig

from prune_gym.adapters.rllib import log_cost, register

N_ENVS = 4


def train(given: argparse.Namespace) -> Row:
    """Learn; the mean cost in RLlib's metrics is held against the environments'."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    register()
    config = (
        PPOConfig()
        .environment(ENV_ID, env_config=given.env)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=N_ENVS)
        .training(train_batch_size_per_learner=128, minibatch_size=64, num_epochs=4, lr=1e-3)
        .callbacks(on_episode_end=log_cost)
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    steps = 0
    while steps < given.steps:
        metrics = algorithm.train()["env_runners"]
        steps = int(metrics["num_env_steps_sampled_lifetime"])
    algorithm.stop()
    ray.shutdown()
    seen = episodes(WATCHED)
    return summary(
        "PPO",
        seen,
        metrics["episode_cost"],
        seen[-int(metrics["num_episodes"]) :, 1].mean(),
        environments=N_ENVS,
        cost_over_limit=float(metrics["episode_cost_over_limit"]),
        violation=float(metrics["episode_violation"]),
    )


if __name__ == "__main__":
    run(["ray"], {"PPO": train})
