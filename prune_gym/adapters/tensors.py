"""Environments in tensors: what OmniSafe's CMDP is made of."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from prune_gym.errors import InvalidValueError
from prune_gym.utils.arguments import MOST_ENVS, whole_number

Tensors = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]
]


class TensorEnvs:
    """Environments that take and give tensors, as OmniSafe's CMDP does.

    With ``num_envs=1`` tensors have no leading axis and OmniSafe resets. Otherwise they are
    stacked, an environment that ends is reset at once, and its last observation is row i of
    ``info["final_observation"]`` where ``info["_final_observation"]`` is True.

    Args:
        env_id: a registered id.
        num_envs: number of environments; those made from JSON-able arguments share one problem.
        device: of the tensors.
        env_arguments: what ``gym.make`` takes for that id; OmniSafe's ``env_cfgs``.

    Raises:
        ValueError: the spaces are not boxes, which is all that OmniSafe can deal with.
    """

    need_time_limit_wrapper = False

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        device: str | torch.device = "cpu",
        **env_arguments: Any,
    ) -> None:
        whole_number("num_envs", num_envs, 1, MOST_ENVS)
        self.envs: list[gym.Env[Any, Any]] = [
            gym.make(env_id, **env_arguments) for _ in range(num_envs)
        ]
        self._num_envs, self._device = num_envs, torch.device(device)
        self.need_auto_reset_wrapper = num_envs == 1
        self._observation_space = self.envs[0].observation_space
        self._action_space = self.envs[0].action_space
        self._metadata = dict(self.envs[0].metadata)
        for space in (self._observation_space, self._action_space):
            if not isinstance(space, spaces.Box):
                raise InvalidValueError(
                    f"{env_id} has space {space}; OmniSafe deals with Box only."
                )

    def step(self, action: torch.Tensor) -> Tensors:
        """Observation, reward, cost, terminated, truncated (tensors), info."""
        actions = action.detach().cpu().numpy()
        if self._num_envs == 1:
            observation, reward, terminated, truncated, info = self.envs[0].step(actions)
            return (*self._tensors(observation, reward, info["cost"], terminated, truncated), info)
        if len(actions) != self._num_envs:
            raise InvalidValueError(
                f"actions of shape {actions.shape} for {self._num_envs} environments; OmniSafe's "
                "off-policy algorithms draw one for all of them: use vector_env_nums=1."
            )
        rows: list[tuple[Any, ...]] = []
        finals: dict[int, Any] = {}
        for index, env in enumerate(self.envs):
            observation, reward, terminated, truncated, info = env.step(actions[index])
            if terminated or truncated:
                finals[index] = observation
                observation, _ = env.reset()
            rows.append((observation, reward, info["cost"], terminated, truncated))
        columns = self._tensors(*(np.stack(column) for column in zip(*rows, strict=True)))
        return (*columns, self._final_info(finals) if finals else {})

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Start new episodes; environment i gets ``seed + i``."""
        observations = [
            env.reset(seed=None if seed is None else seed + index, options=options)[0]
            for index, env in enumerate(self.envs)
        ]
        stacked = observations[0] if self._num_envs == 1 else np.stack(observations)
        return self._tensor(stacked), {}

    def set_seed(self, seed: int) -> None:
        """Seed the environments' random numbers."""
        self.reset(seed=seed)

    def render(self) -> Any:
        """What the first environment renders."""
        return self.envs[0].render()

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def _tensor(self, value: Any) -> torch.Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=self._device)

    def _tensors(
        self, observation: Any, reward: Any, cost: Any, terminated: Any, truncated: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return (
            self._tensor(observation),
            self._tensor(reward),
            self._tensor(cost),
            torch.as_tensor(terminated, device=self._device),
            torch.as_tensor(truncated, device=self._device),
        )

    def _final_info(self, finals: dict[int, Any]) -> dict[str, Any]:
        nothing = np.zeros_like(next(iter(finals.values())))
        rows = [finals.get(index, nothing) for index in range(self._num_envs)]
        ended = [index in finals for index in range(self._num_envs)]
        return {
            "final_observation": self._tensor(np.stack(rows)),
            "_final_observation": torch.tensor(ended, device=self._device),
        }
