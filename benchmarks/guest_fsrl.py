"""FSRL on PruneVGG-v0; `guests.py` runs it."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import gymnasium as gym
from fsrl.agent import PPOLagAgent, SACLagAgent
from guest_watch import ENV_ID, WATCHED, Row, episodes, run, summary

from prune_gym.adapters.fsrl import cost_limit_of, vector_env

N_ENVS = 4
PER_COLLECT = 8  # episodes


def train(agent_type: Any, given: argparse.Namespace) -> Row:
    """Learn; FSRL's mean cost of the last epoch is held against that of the environments."""
    env: Any = gym.make(ENV_ID, **given.env)
    env.reset()
    WATCHED.clear()
    envs = vector_env(ENV_ID, N_ENVS, **given.env)
    agent = agent_type(
        env, cost_limit=cost_limit_of(env), thread=1, seed=0, lagrangian_pid=(5.0, 0.5, 0.1)
    )
    n_epochs = 2 if given.quick else 8
    per_epoch = given.steps // n_epochs // env.unwrapped.steps_left  # episodes
    _, stats, _ = agent.learn(
        envs,
        epoch=n_epochs,
        step_per_epoch=given.steps // n_epochs,
        episode_per_collect=PER_COLLECT,
        save_ckpt=False,
        verbose=False,
        show_progress=False,
    )
    seen = episodes(WATCHED)
    return summary(
        agent_type.__name__.removesuffix("Agent"),
        seen,
        stats["train/cost"],
        seen[-per_epoch:, 1].mean(),
        environments=N_ENVS,
    )


if __name__ == "__main__":
    run(
        ["fast-safe-rl", "tianshou"],
        {agent.__name__: partial(train, agent) for agent in (PPOLagAgent, SACLagAgent)},
    )
