"""TorchRL: an environment whose tensordicts carry the cost next to the reward.

To be installed with ``pip install torchrl``:

    from prune_gym.adapters.torchrl import make_env
    env = make_env("PruneVGG-v0", cost_mode="dense")
    env.rollout(8)["next", "cost"].sum()
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch

from prune_gym.adapters.base import require

INSTALL = "torchrl"
KEY = "cost"


def make_env(env_id: str, *, device: str | torch.device = "cpu", **env_arguments: Any) -> Any:
    """A ``GymWrapper`` with the key ``"cost"``, (1,) float32, at reset and every step.

    Args:
        env_id: a registered id.
        device: of the tensordicts.
        env_arguments: what ``gym.make`` takes for that id.

    Raises:
        MissingLibraryError: TorchRL is missing; says how to install it.
    """
    wrapper = require("torchrl.envs", "TorchRL", INSTALL).GymWrapper
    env = wrapper(gym.make(env_id, **env_arguments), device=device)
    env.set_info_dict_reader(cost_reader(device))
    return env


def cost_reader(device: str | torch.device = "cpu") -> Any:
    """What reads ``info["cost"]``, a Python float, which TorchRL's default reader refuses."""
    bases = require("torchrl.envs.gym_like", "TorchRL", INSTALL)
    specs = require("torchrl.data", "TorchRL", INSTALL)
    spec = specs.Composite({KEY: specs.Unbounded((1,), dtype=torch.float32, device=device)})
    reader = type(
        "CostReader",
        (bases.BaseInfoDictReader,),
        {"__call__": _read, "info_spec": property(lambda self: spec)},
    )
    return reader()


def _read(self: Any, info: dict[str, Any], tensordict: Any) -> Any:
    return tensordict.set(KEY, torch.tensor([info[KEY]], dtype=torch.float32))
