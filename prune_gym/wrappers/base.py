"""What several wrappers need: the pruning environment that they are around."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from prune_gym.envs.base import PruneEnv
from prune_gym.errors import InvalidTypeError


def pruning_env(env: gym.Env[Any, Any], who: str) -> PruneEnv:
    """The pruning environment inside of all wrappers.

    Args:
        env: wrapped or not.
        who: asks for it, for the message.

    Raises:
        TypeError: there is another environment inside.
    """
    if not isinstance(env.unwrapped, PruneEnv):
        raise InvalidTypeError(f"{who}: expected a pruning environment, got {env}.")
    return env.unwrapped
