"""Whether what a file says of a model fits the model that is made of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import TrainFreq
from torch.overrides import TorchFunctionMode

from agents.algorithms.units import Units
from agents.archive import DamageError
from agents.costs import EpisodeCosts
from agents.multipliers.rules import Multiplier, VectorMultiplier

# Attributes that may be several things, or nothing: the kinds that a file may give them.
_KINDS: dict[str, Any] = {
    "_episode_costs": EpisodeCosts,
    "_episode_returns": EpisodeCosts,
    "_last_episode_starts": np.ndarray,
    "_last_obs": (np.ndarray, dict),
    "_last_original_obs": (np.ndarray, dict),
    "action_noise": ActionNoise,
    "action_space": gym.Space,
    "clip_range_vf": (Real, Callable),
    "cost_limit": np.ndarray,
    "cost_n_epochs": int,
    "ent_coef": (Real, str),
    "ep_info_buffer": deque,
    "ep_success_buffer": deque,
    "learning_rate": (Real, Callable),
    "multiplier": (Multiplier, VectorMultiplier),
    "observation_space": gym.Space,
    "replay_buffer_class": type,
    "rollout_buffer_class": type,
    "seed": int,
    "target_entropy": (Real, str),
    "target_kl": Real,
    "tensorboard_log": str,
    "train_freq": (int, TrainFreq),
    "units": Units,
    "violation": np.ndarray,
}
_NEVER_NONE = (
    "action_space",
    "ent_coef",
    "learning_rate",
    "multiplier",
    "observation_space",
    "units",
)
_FREE = 2**24  # elements that any model may take
_PER_ELEMENT = 64  # that are made while networks are: targets, copies, what their beginning takes
_FACTORIES = (th.empty, th.zeros, th.ones, th.full, th.rand, th.randn)


def check_settings(model: Any, settings: Mapping[str, Any]) -> None:
    """Raise a DamageError unless attributes fit those of a model of the same class.

    Args:
        model: Made by its constructor, but not set up.
        settings: What shall become of its attributes.
    """
    own = vars(model)
    for name, value in settings.items():
        if name not in own and (not name.isidentifier() or hasattr(type(model), name)):
            raise DamageError(f"settings.{name} is no attribute of {type(model).__name__}")
        try:
            _check(name, value, own.get(name))
        except ValueError as error:
            raise DamageError(f"settings.{error}") from error


def _check(name: str, value: Any, example: Any) -> None:
    if name in _KINDS:
        fits = isinstance(value, _KINDS[name]) or (value is None and name not in _NEVER_NONE)
    elif isinstance(example, bool | str):
        fits = type(value) is type(example)
    elif isinstance(example, int):
        fits = type(value) is int and abs(value) < 2**63
    elif isinstance(example, float):
        fits = isinstance(value, Real) or callable(value)  # a number, or its schedule
    elif isinstance(example, np.ndarray):
        fits = isinstance(value, np.ndarray) and value.dtype == example.dtype
    else:
        fits = not isinstance(example, list | dict | deque) or type(value) is type(example)
    if fits and isinstance(value, Real) and not isinstance(example, bool):
        fits = not isinstance(value, bool) and math.isfinite(value)
    if fits and isinstance(value, np.ndarray) and not name.startswith("_last"):
        fits = bool(np.isfinite(value).all())
    if not fits:
        words = repr(value)
        raise ValueError(f"{name} is {words[:80]}, which it cannot be")


def check_parameters(model: Any, parameters: Mapping[str, Any]) -> None:
    """Raise a DamageError unless states fit the networks and optimisers of a model.

    Args:
        model: The model, set up.
        parameters: Of every network and optimiser its state, by name.
    """
    own = model.get_parameters()
    _check_names("parameters", parameters, own)
    for name, state in own.items():
        if "param_groups" in state:
            _check_optimiser(f"parameters.{name}", parameters[name], state, _shapes(model, name))
            continue
        _check_names(f"parameters.{name}", parameters[name], state)
        for key, tensor in state.items():
            _check_tensor(f"parameters.{name}.{key}", parameters[name][key], tensor)


def _shapes(model: Any, name: str) -> list[tuple[int, ...]]:
    """Shapes of what an optimiser moves, in its order."""
    optimiser = model
    for part in name.split("."):
        optimiser = getattr(optimiser, part)
    return [tuple(p.shape) for group in optimiser.param_groups for p in group["params"]]


def _check_names(where: str, given: Any, own: Mapping[str, Any]) -> None:
    if not isinstance(given, Mapping):
        raise DamageError(f"{where} is {type(given).__name__}, not a dict")
    for name in [*(set(own) - set(given)), *(set(given) - set(own))]:
        missing = name in own
        raise DamageError(f"{where}.{name} is {'missing' if missing else 'not of this model'}")


def _check_tensor(where: str, given: Any, own: Any) -> None:
    if not isinstance(given, th.Tensor) or (given.shape, given.dtype) != (own.shape, own.dtype):
        raise DamageError(f"{where} is {_form(given)}; the settings make it {_form(own)}")
    _check_finite(where, given)


def _form(value: Any) -> str:
    if isinstance(value, th.Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def _check_finite(where: str, tensor: th.Tensor) -> None:
    if tensor.is_floating_point() and not bool(th.isfinite(tensor).all()):
        raise DamageError(f"{where} holds numbers that are not finite")


def _check_optimiser(
    where: str, given: Any, own: Mapping[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    _check_names(where, given, own)
    groups, state = given["param_groups"], given["state"]
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise DamageError(f"{where}.param_groups is not of this model")
    for group, mine in zip(groups, own["param_groups"], strict=True):
        _check_names(f"{where}.param_groups", group, mine)
        for key, value in mine.items():
            if not (group[key] == value if key == "params" else _is_like(group[key], value)):
                raise DamageError(
                    f"{where}.param_groups.{key} is {str(group[key])[:80]}, not like {value}"
                )
    if not isinstance(state, dict):
        raise DamageError(f"{where}.state is {type(state).__name__}, not a dict")
    for index, entries in state.items():
        if type(index) is not int or not 0 <= index < len(shapes):
            raise DamageError(f"{where}.state.{index} is not of this model")
        if not isinstance(entries, dict):
            raise DamageError(f"{where}.state.{index} is {type(entries).__name__}, not a dict")
        for key, value in entries.items():
            _check_entry(f"{where}.state.{index}.{key}", value, shapes[index])


def _check_entry(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if isinstance(value, th.Tensor):
        if tuple(value.shape) not in ((), shape):
            raise DamageError(f"{name} is {_form(value)}, not of shape {shape}")
        _check_finite(name, value)
    elif not (value is None or isinstance(value, int | float)):
        raise DamageError(f"{name} is {type(value).__name__}, not a tensor")


def _is_like(value: Any, example: Any) -> bool:
    if example is None or value is None:  # as fused, which depends on the device
        return value is None or isinstance(value, bool)
    if isinstance(example, tuple):
        return (
            isinstance(value, tuple)
            and len(value) == len(example)
            and all(map(_is_like, value, example))
        )
    if isinstance(example, bool) or not isinstance(example, int | float):
        return type(value) is type(example)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# -- memory ----------------------------------------------------------------------------------------


class _Bounded(TorchFunctionMode):
    """Raises before more elements are made than allowed; networks make theirs so."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self._left = left

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            size = kwargs.get("size", args[0] if args else ())
            sizes = (size,) if isinstance(size, int) else size
            sizes = args if args and isinstance(args[0], int) else sizes
            self._left -= math.prod(length for length in sizes if isinstance(length, int))
            if self._left < 0:
                raise DamageError("the settings ask for networks that are far too large")
        return func(*args, **kwargs)


def most_elements(parameters: Mapping[str, Any]) -> int:
    """Return how many elements may be made on the way to networks with these parameters."""
    n_elements = sum(
        tensor.numel()
        for state in parameters.values()
        if isinstance(state, Mapping)
        for tensor in state.values()
        if isinstance(tensor, th.Tensor)
    )
    return _FREE + _PER_ELEMENT * n_elements


@contextmanager
def bounded_memory(n_elements: int) -> Iterator[None]:
    """Raise a DamageError before networks take more elements than these."""
    with _Bounded(n_elements):
        yield
