"""What a run was asked for, in words: the settings of its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents import AGENTS
from prune_gym.budgets import amount
from prune_gym.searches.algorithms import algorithms
from prune_gym.searches.config import SearchConfig

# argument of `make_problem`, what it is called, and its default, which is not worth a row
_PROBLEM: tuple[tuple[str, str, Any], ...] = (
    ("structure", "structure", "filter"),
    ("round_to", "filters in multiples of", 1),
    ("depth", "residual blocks can go whole", False),
    ("ignore", "layers that stay whole", []),
    ("weights", "weights", None),
    ("evaluation_samples", "judged on images", None),
    ("precision", "judged in", "float32"),
    ("device", "device", "cpu"),
)


def settings_rows(config: SearchConfig, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything that shaped a run.

    Args:
        config: of the run.
        metrics: of its network.
    """
    problem = config.problem
    network, data = (problem.get(name, "an object") for name in ("network", "dataset"))
    recovery = str(problem.get("recovery", "an object"))
    if recovery == "finetune":
        recovery += f", {problem.get('recovery_steps')} steps"
    share = config.distillation
    distilled = f", {share:g} of the loss by the unpruned network's outputs" if share else ""
    averaged = f", weights averaged (decay {config.ema:g})" if config.ema else ""
    chosen = _candidates(config, metrics)
    rows = [
        ("network", f"{network} on {data}"),
        ("limits", "; ".join(_limit(name, metrics) for name in metrics["limits"])),
        ("criterion", str(problem.get("criterion", "an object"))),
        ("recovery", recovery),
        ("environment", config.env),
        ("algorithm", f"{config.algo}: {algorithms().get(config.algo, 'unknown here')}"),
        *_algorithm_rows(config.algo),
        ("seed", str(config.seed)),
        ("timesteps", f"{config.timesteps:,}"),
        ("networks evaluated", f"{metrics['evaluations']:,}{_partial(metrics)}"),
        ("kept within the limits", "each network (hard)" if config.hard else "the returned one"),
        *([("rounds", str(config.rounds))] if config.rounds > 1 else []),
        ("fine-tuning", f"{metrics['finetune_steps']:,} steps{distilled}{averaged}{chosen}"),
    ]
    for name, words, default in _PROBLEM:
        value = problem.get(name, default)
        if value != default or name in ("structure", "device"):
            rows.append((words, ", ".join(value) if isinstance(value, list) else str(value)))
    return rows


def _candidates(config: SearchConfig, metrics: Mapping[str, Any]) -> str:
    n = metrics.get("candidates", 1)
    if n == 1:
        return ""
    if config.rounds > 1:
        return f", the best of at most {n:,} candidates in each round"
    return f", the best of {n:,} candidates"


def _partial(metrics: Mapping[str, Any]) -> str:
    n = metrics.get("partial_evaluations", 0)
    return (
        f", {n:,} of them on a part of the images, as others were far ahead (racing)" if n else ""
    )


def _limit(name: str, metrics: Mapping[str, Any]) -> str:
    limit, unit = metrics["limits"][name], metrics["units"][name]
    return f"{name} {limit:g} ({amount(limit * metrics['unpruned_values'][name], unit)})"


def _algorithm_rows(name: str) -> list[tuple[str, str]]:
    """The values of an agent that are not the defaults of its algorithm."""
    if name not in AGENTS:
        return []
    spec = AGENTS[name]
    values = dict(spec.kwargs)
    if spec.rollout_size is not None:
        values["rollout_size"] = spec.rollout_size
    if spec.noise is not None:
        values["noise"] = spec.noise
    rows = [("its values", values), ("its multiplier", dict(spec.multiplier_kwargs))]
    return [(words, _in_words(kept)) for words, kept in rows if kept]


def _in_words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in sorted(values.items()))


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_in_words(value)})"
    start, end = getattr(value, "start", None), getattr(value, "end", None)
    return f"{value}" if start is None or end is None else f"{start:g} falling to {end:g}"
