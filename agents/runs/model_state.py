"""What a running training holds beside its model: what the model's own ``save`` leaves out."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch as th
from numpy import random as numpy_random
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution

_NORMALISER = ("obs_rms", "ret_rms", "returns", "old_obs", "old_reward")
_PENDING = ("name_to_value", "name_to_count", "name_to_excluded")  # logged, not yet written


def get_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Return where a training stands between two rollouts, but for model and replay buffer.

    Args:
        model: The model; its environments are `agents.runs.replayable.Replayable`.
    """
    vector: Any = model.env
    return {
        "envs": vector.env_method("episode_state"),
        "normaliser": _normaliser_state(model),
        "lstm": getattr(model, "_last_lstm_states", None),
        "action_noise": _noise_state(model),
        "exploration": [
            (one.exploration_mat.detach(), one.exploration_matrices.detach())
            for one in _explorations(model)
        ],
        "pending": {name: dict(getattr(model.logger, name)) for name in _PENDING},
        "random": _random_states(model),
    }


def set_state(model: BaseAlgorithm, state: Mapping[str, Any], *, new_episodes: bool) -> None:
    """Put a training back to where `get_state` found it.

    Args:
        model: The model, loaded, with environments of the same kind.
        state: What `get_state` returned.
        new_episodes: Whether the environments stay where they are, at the beginning of an episode.

    Raises:
        EpisodeMismatchError: If an environment cannot be brought back to its episode.
    """
    vector: Any = model.env
    if not new_episodes:
        for index, episode in enumerate(state["envs"]):
            vector.env_method("restore_episode", episode, indices=index)
    normaliser = model.get_vec_normalize_env()
    if normaliser is not None:
        begun = ("returns", "old_obs", "old_reward") if new_episodes else ()
        for name, value in state["normaliser"].items():
            if name not in begun:
                setattr(normaliser, name, value)
    if state["lstm"] is not None:
        model._last_lstm_states = state["lstm"]  # type: ignore[attr-defined]
    if state["action_noise"] is not None:  # in place: the loop holds the object already
        vars(model.action_noise).update(state["action_noise"])
    for one, matrices in zip(_explorations(model), state["exploration"], strict=True):
        one.exploration_mat, one.exploration_matrices = matrices
    for name, pending in state["pending"].items():
        getattr(model.logger, name).update(pending)
    _set_random_states(model, state["random"])  # last: all of the above may draw


def _normaliser_state(model: BaseAlgorithm) -> dict[str, Any]:
    normaliser = model.get_vec_normalize_env()
    if normaliser is None:
        return {}
    return {name: value for name, value in vars(normaliser).items() if name in _NORMALISER}


def _noise_state(model: BaseAlgorithm) -> dict[str, Any] | None:
    noise = getattr(model, "action_noise", None)
    return None if noise is None else vars(noise)


def _explorations(model: BaseAlgorithm) -> list[StateDependentNoiseDistribution]:
    """Return what holds the noise matrices of state-dependent exploration (gSDE), if any does."""
    found = [getattr(module, "action_dist", None) for module in model.policy.modules()]
    return [
        one
        for one in found
        if isinstance(one, StateDependentNoiseDistribution) and hasattr(one, "exploration_mat")
    ]


def _random_states(model: BaseAlgorithm) -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": numpy_random.get_state(),  # noqa: NPY002 - Stable-Baselines3 draws from it
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
        "action_space": model.action_space.np_random.bit_generator.state,
    }


def _set_random_states(model: BaseAlgorithm, states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    numpy_random.set_state(states["numpy"])  # noqa: NPY002
    th.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all(states["cuda"])
    model.action_space.np_random.bit_generator.state = states["action_space"]
