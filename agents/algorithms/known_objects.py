"""The classes and objects that files of this package may hold: each stands here by its name.

A file names a class or an object by ``"module:Class"``. What a name means is looked up in these
tables and never imported because a file says so; an object is written as the values below, and made
of them by its own constructor, which checks them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule
from stable_baselines3.common.utils import LinearSchedule as FractionSchedule

from agents.algorithms.schedules import LinearSchedule
from agents.algorithms.units import Units
from agents.costs import EpisodeCosts
from agents.evaluation import Evaluation
from agents.multipliers.penalties import BarrierMultiplier, PenaltyMultiplier
from agents.multipliers.rules import (
    AdamMultiplier,
    FixedMultiplier,
    GradientMultiplier,
    PIDMultiplier,
    VectorMultiplier,
)
from agents.multipliers.solved import SolvedMultiplier

# -- classes ---------------------------------------------------------------------------------------

_CLASSES = {
    "torch.nn.modules.activation": (
        "CELU ELU GELU Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish PReLU RReLU ReLU "
        "ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink"
    ),
    "torch.nn.modules.linear": "Identity",
    "torch.optim.adam": "Adam",
    "torch.optim.adamw": "AdamW",
    "torch.optim.adamax": "Adamax",
    "torch.optim.nadam": "NAdam",
    "torch.optim.radam": "RAdam",
    "torch.optim.rmsprop": "RMSprop",
    "torch.optim.sgd": "SGD",
    "stable_baselines3.common.sb2_compat.rmsprop_tf_like": "RMSpropTFLike",
    "stable_baselines3.common.torch_layers": "CombinedExtractor FlattenExtractor NatureCNN",
    "stable_baselines3.common.buffers": "DictRolloutBuffer RolloutBuffer",
    "sb3_contrib.common.maskable.buffers": "MaskableDictRolloutBuffer MaskableRolloutBuffer",
    "sb3_contrib.common.recurrent.buffers": "RecurrentDictRolloutBuffer RecurrentRolloutBuffer",
    "agents.algorithms.penalty_loss": "BatchDictRolloutBuffer BatchRolloutBuffer",
    "agents.algorithms.replay_buffer": (
        "CostDictReplayBuffer CostNStepReplayBuffer CostReplayBuffer"
    ),
}
CLASSES = frozenset(
    f"{module}:{name}" for module, names in _CLASSES.items() for name in names.split()
)


def name_of(kind: type[Any]) -> str:
    """Return the name of a class, ``"module:Class"``."""
    return f"{kind.__module__}:{kind.__qualname__}"


def find_class(name: str) -> type[Any]:
    """Return a class of the table (raises KeyError for any other name)."""
    if name not in CLASSES:
        raise KeyError(name)
    module, _, attribute = name.partition(":")
    found: type[Any] = getattr(import_module(module), attribute)
    return found


# -- objects ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """How objects of a class are written and made.

    Attributes:
        take: Returns what an object consists of, by name.
        make: Returns an object of that; raises where it is not allowed.
    """

    take: Callable[[Any], dict[str, Any]]
    make: Callable[..., Any]


def _attributes(kind: Callable[..., Any], **attributes: str) -> Form:
    """Objects that their constructor makes of these attributes, by its arguments' names."""

    def take(thing: Any) -> dict[str, Any]:
        return {name: getattr(thing, attribute) for name, attribute in attributes.items()}

    return Form(take, kind)


def _record(kind: Any) -> Form:
    """A dataclass: its constructor checks the arguments; what it has become goes in behind it."""
    arguments = {field.name for field in fields(kind) if field.init}

    def take(thing: Any) -> dict[str, Any]:
        return {field.name: getattr(thing, field.name) for field in fields(kind)}

    def make(**values: Any) -> Any:
        # Earlier versions did not have every argument and memory: those have their defaults.
        thing = kind(**{name: values.pop(name) for name in arguments if name in values})
        for name in {field.name for field in fields(kind)} - arguments:
            if name in values:
                check_alike(name, values[name], getattr(thing, name))
                setattr(thing, name, values.pop(name))
        if values:
            raise ValueError(f"{next(iter(values))!r} is no field of it")
        return thing

    return Form(take, make)


def check_alike(name: str, value: Any, example: Any) -> None:
    """Raise a ValueError unless a value is of the kind of an example, with finite numbers."""
    if isinstance(example, bool):
        fits = isinstance(value, bool)
    elif isinstance(example, int):
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(example, float):
        fits = isinstance(value, float | int) and bool(np.isfinite(value))
    elif isinstance(example, np.ndarray):
        fits = (
            isinstance(value, np.ndarray)
            and (value.dtype, value.shape) == (example.dtype, example.shape)
            and bool(np.isfinite(value).all())
        )
    elif hasattr(example, "maxlen"):  # a deque of numbers
        fits = type(value) is type(example) and value.maxlen == example.maxlen
        for index, item in enumerate(value if fits else ()):
            check_alike(f"{name}[{index}]", item, 0.0)
    else:
        fits = type(value) is type(example)
        if fits and isinstance(example, tuple):
            for item, other in zip(value, example, strict=True):
                check_alike(name, item, other)
    if not fits:
        raise ValueError(f"{name} is {_short(value)}; it must be like {_short(example)}")


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:60]}..."


def _mean_and_variance(mean: Any, var: Any, count: float) -> RunningMeanStd:
    made = RunningMeanStd(shape=mean.shape)
    check_alike("mean", np.asarray(mean), made.mean)  # a number that moves is no array any more
    check_alike("var", np.asarray(var), made.var)
    check_alike("count", count, 1.0)
    if (var < 0.0).any() or count < 0.0:
        raise ValueError("var or count is negative")
    made.mean, made.var, made.count = mean, var, count
    return made


def _number_schedule(**values: float) -> Any:
    for name, value in values.items():
        check_alike(name, value, 1.0)
    if "val" in values:
        return ConstantSchedule(**values)
    if "end_fraction" in values:
        return FractionSchedule(**values)
    return LinearSchedule(**values)


def _float_schedule(value_schedule: Any) -> FloatSchedule:
    made = FloatSchedule(value_schedule)
    check_alike("its value", made(1.0), 1.0)
    return made


def _noises(base_noise: Any, noises: list[Any]) -> VectorizedActionNoise:
    made = VectorizedActionNoise(base_noise, len(noises))
    made.noises = noises
    return made


def _walk(noise_prev: Any, **values: Any) -> OrnsteinUhlenbeckActionNoise:
    made = OrnsteinUhlenbeckActionNoise(**values)
    check_alike("noise_prev", noise_prev, np.asarray(made._mu, dtype=noise_prev.dtype))
    made.noise_prev = noise_prev
    return made


def _running_costs(running: Any) -> EpisodeCosts:
    made = EpisodeCosts(*running.shape)
    check_alike("running", running, made.running)
    made.running = running
    return made


def _units(**values: Any) -> Units:
    example = Units.of(len(values["costs"]))
    made = Units(**values)
    for name in vars(example):
        check_alike(name, getattr(made, name), getattr(example, name))
    if not (made.reward > 0.0 and (made.costs > 0.0).all() and made.episodes >= 0):
        raise ValueError("a unit or a number of episodes is not positive")
    if made.return_square < 0.0 or (made.cost_square < 0.0).any():
        raise ValueError("a sum of squares is negative")
    return made


def _solved(value: float, violation: float | None) -> SolvedMultiplier:
    check_alike("value", value, 1.0)
    if violation is not None:
        check_alike("violation", violation, 1.0)
    return SolvedMultiplier(value, violation)


def _evaluation(**values: Any) -> Evaluation:
    for name, example in vars(Evaluation.of_episodes([0.0], [0.0], [1], 1.0)).items():
        if not isinstance(example, tuple):
            check_alike(name, values[name], example)
            continue
        if not isinstance(values[name], tuple):
            raise TypeError(f"{name} is no tuple")
        for number in values[name]:
            check_alike(name, number, 0.0)
    return Evaluation(**values)


def _train_freq(frequency: int, unit: str) -> TrainFreq:
    check_alike("frequency", frequency, 1)
    return TrainFreq(frequency, TrainFrequencyUnit(unit))


def _box(low: Any, high: Any, dtype: Any) -> spaces.Box:
    return spaces.Box(low, high, low.shape, dtype)


def _dtype(space: Any) -> dict[str, Any]:
    return {} if space.dtype == np.int64 else {"dtype": space.dtype.type}


def _dict_space(spaces: dict[str, Any]) -> gym.spaces.Dict:
    return gym.spaces.Dict(OrderedDict(spaces))  # in this order


def _normal(mean: Any, sigma: Any, dtype: Any) -> NormalActionNoise:
    check_alike("mean", mean, np.zeros_like(mean))
    check_alike("sigma", sigma, np.zeros_like(sigma))
    return NormalActionNoise(mean, sigma, dtype)


_WALK = {"mean": "_mu", "sigma": "_sigma", "theta": "_theta", "dt": "_dt", "dtype": "_dtype"}

OBJECTS: dict[str, Form] = {
    **{
        name_of(kind): _record(kind)
        for kind in (
            AdamMultiplier,
            BarrierMultiplier,
            FixedMultiplier,
            GradientMultiplier,
            PIDMultiplier,
            PenaltyMultiplier,
        )
    },
    name_of(SolvedMultiplier): Form(lambda rule: dict(vars(rule)), _solved),
    name_of(VectorMultiplier): _attributes(VectorMultiplier, multipliers="multipliers"),
    name_of(EpisodeCosts): _attributes(_running_costs, running="running"),
    name_of(Units): Form(lambda units: dict(vars(units)), _units),
    name_of(Evaluation): Form(lambda result: dict(vars(result)), _evaluation),
    name_of(RunningMeanStd): Form(lambda found: dict(vars(found)), _mean_and_variance),
    name_of(FloatSchedule): _attributes(_float_schedule, value_schedule="value_schedule"),
    name_of(ConstantSchedule): _attributes(_number_schedule, val="val"),
    name_of(LinearSchedule): _attributes(_number_schedule, start="start", end="end"),
    name_of(FractionSchedule): _attributes(
        _number_schedule, start="start", end="end", end_fraction="end_fraction"
    ),
    name_of(NormalActionNoise): _attributes(_normal, mean="_mu", sigma="_sigma", dtype="_dtype"),
    name_of(OrnsteinUhlenbeckActionNoise): _attributes(
        _walk, **_WALK, initial_noise="initial_noise", noise_prev="noise_prev"
    ),
    name_of(VectorizedActionNoise): _attributes(_noises, base_noise="base_noise", noises="noises"),
    name_of(TrainFreq): Form(
        lambda given: {"frequency": given.frequency, "unit": given.unit.value}, _train_freq
    ),
    name_of(spaces.Box): Form(
        lambda box: {"low": box.low, "high": box.high, "dtype": box.dtype.type}, _box
    ),
    name_of(spaces.Discrete): Form(
        lambda space: {"n": int(space.n), "start": int(space.start), **_dtype(space)},
        spaces.Discrete,
    ),
    name_of(spaces.MultiDiscrete): Form(
        lambda space: {"nvec": space.nvec, "start": space.start, **_dtype(space)},
        spaces.MultiDiscrete,
    ),
    name_of(spaces.MultiBinary): _attributes(spaces.MultiBinary, n="n"),
    name_of(spaces.Dict): Form(lambda space: {"spaces": dict(space.spaces)}, _dict_space),
}
