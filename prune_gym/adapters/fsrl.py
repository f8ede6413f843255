"""FSRL: its agents train on the environments as they are, in a vector environment of Tianshou.

FSRL pins old packages; these install it (tianshou 0.5 is not tianshou 1 or 2):

    pip install --no-deps fast-safe-rl tianshou==0.5.1
    pip install h5py numba packaging pettingzoo pyyaml tensorboard tqdm wandb

    from fsrl.agent import PPOLagAgent
    from prune_gym.adapters.fsrl import cost_limit_of, vector_env
    env = gym.make("PruneVGG-v0", cost_mode="dense")
    agent = PPOLagAgent(env, cost_limit=cost_limit_of(env))  # its default is 10
    agent.learn(vector_env("PruneVGG-v0", 4, cost_mode="dense"))
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym

from prune_gym.adapters.base import cost_limit_of, require
from prune_gym.utils.arguments import MOST_ENVS, whole_number

__all__ = ["cost_limit_of", "vector_env"]

INSTALL = (
    "--no-deps fast-safe-rl tianshou==0.5.1 && pip install h5py numba packaging pettingzoo pyyaml "
    "tensorboard tqdm wandb"
)


def vector_env(env_id: str, n_envs: int = 1, **env_arguments: Any) -> Any:
    """A ``DummyVectorEnv`` of Tianshou around environments of one process.

    Args:
        env_id: a registered id.
        n_envs: number of environments; those made from JSON-able arguments share one problem.
        env_arguments: what ``gym.make`` takes for that id.

    Raises:
        MissingLibraryError: Tianshou is missing; says how to install it.
    """
    whole_number("n_envs", n_envs, 1, MOST_ENVS)
    vector = require("tianshou.env", "Tianshou 0.5, which FSRL stands on,", INSTALL)
    return vector.DummyVectorEnv([partial(gym.make, env_id, **env_arguments)] * n_envs)
