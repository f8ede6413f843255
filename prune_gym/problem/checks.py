"""Validation of what `prune_gym.make_problem` is given; errors name argument, value and cure."""

from __future__ import annotations

import json
import numbers
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prune_gym.budgets import (
    Budget,
    Limit,
    as_budget,
    budget_key,
    budgets_to_json,
    parse_limit,
)
from prune_gym.datasets import absolute_name
from prune_gym.errors import InvalidTypeError, InvalidValueError
from prune_gym.pruning.groups import FilterGroup
from prune_gym.utils.arguments import (
    MOST_BATCH,
    MOST_FILTERS,
    MOST_IMAGES,
    MOST_SEED,
    MOST_STEPS,
    whole_number,
)
from prune_gym.utils.files import user_path
from prune_gym.utils.registry import unknown_name
from prune_gym.utils.words import shortened

STRUCTURES = ("filter", "weight")
AUTO = "auto"  # of multiples: the one that is fast
_TAKEN = (
    "accuracy",
    "cost",
    "costs",
    "episode_cost",
    "executed",
    "feasible",
    "kept",
    "limit",
    "multiplier",
    "projected",
    "reward",
)


def written_down(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of `make_problem` that a file can hold; None where one is an object that it cannot.

    Paths become absolute, and programs get their folder, so that they mean the same everywhere.
    """
    plain = from_anywhere(arguments)
    budgets: Any = plain.pop("budgets")
    try:
        written: dict[str, Any] = json.loads(json.dumps(plain, default=_as_list))
        given = dict(budgets).items()
        budgets = {budget_key(k) if isinstance(k, str) else k: limit for k, limit in given}
        json.dumps(budgets_to_json(budgets))
    except (TypeError, ValueError):
        return None
    return {**written, "budgets": budgets}


def from_anywhere(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `make_problem` whose paths mean the same from any working directory."""
    plain = {k: _absolute(v) if isinstance(v, Path) else v for k, v in arguments.items()}
    if isinstance(plain.get("weights"), str):
        plain["weights"] = _absolute(plain["weights"])
    if isinstance(plain.get("dataset"), str):
        plain["dataset"] = absolute_name(plain["dataset"])
    return plain


def _absolute(path: str | Path) -> str:
    return str(user_path(path).resolve())


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def check_numbers(
    recovery_steps: int,
    round_to: int | str,
    evaluation_samples: int | None,
    batch_size: int | None,
    seed: int,
) -> None:
    """Raise InvalidValueError for a number that is not possible whatever the network."""
    whole_number("recovery_steps", recovery_steps, 0, MOST_STEPS)
    check_multiple(round_to)
    whole_number("seed", seed, 0, MOST_SEED)
    if evaluation_samples is not None:
        whole_number("evaluation_samples", evaluation_samples, 1, MOST_IMAGES)
    if batch_size is not None:
        whole_number("batch_size", batch_size, 1, MOST_BATCH)


def check_multiple(round_to: Any) -> None:
    """Raise InvalidValueError unless it is ``"auto"`` or a number of filters."""
    if isinstance(round_to, str):
        if round_to != AUTO:
            raise InvalidValueError(
                f"round_to={shortened(round_to)} must be a whole number of at least 1, or 'auto': "
                "the multiple that is fast here."
            )
        return
    whole_number("round_to", round_to, 1, MOST_FILTERS)


def check_structure(structure: str, round_to: int | str, depth: bool = False) -> None:
    """Raise unless the structure is known and goes with multiples and depth."""
    if not isinstance(depth, bool | np.bool_):
        raise InvalidTypeError(
            f"depth={depth!r}: expected True (residual blocks can go whole) or False."
        )
    if structure == "weight" and depth:
        raise InvalidValueError(
            "depth=True with structure='weight': single weights set to zero make no block go; "
            "leave depth out, or use structure='filter'."
        )
    if structure not in STRUCTURES:
        raise InvalidValueError(f"structure={structure!r} must be one of {', '.join(STRUCTURES)}.")
    if structure == "weight" and round_to not in (1, AUTO):
        raise InvalidValueError(
            f"round_to={round_to!r} with structure='weight': single weights have no use for "
            "multiples; leave it at 1, or use structure='filter'."
        )


def check_round_to(round_to: int | str, groups: Sequence[FilterGroup]) -> None:
    """Raise where multiples are so large that no group can lose a filter."""
    widest = max(group.n_filters for group in groups)
    if not isinstance(round_to, str) and round_to > 1 and round_to >= widest:
        raise InvalidValueError(
            f"round_to={round_to} leaves every filter group whole: the widest has {widest} "
            f"filters; give at most {widest - 1}."
        )


def check_budgets(budgets: Any, structure: str) -> dict[Budget, Limit]:
    """Limits by budget from what the user gave (raises ValueError, TypeError)."""
    if not isinstance(budgets, Mapping) or not budgets:
        raise InvalidValueError(
            f"budgets={budgets!r}: expected limits by budget, e.g. {{'params': 0.1}}."
        )
    checked: dict[Budget, Limit] = {}
    for key, given in budgets.items():
        budget = as_budget(key)
        limit = parse_limit(given, budget)
        if structure == "weight" and budget.name != "params":
            raise InvalidValueError(
                f"budgets: {budget.name!r} with structure='weight'; single weights set to zero "
                "make no network smaller, so only 'params' can be limited. Use structure='filter'."
            )
        if budget.name in _TAKEN:
            raise InvalidValueError(
                f"budgets: the name {budget.name!r} is taken by the environments' info; rename it."
            )
        if budget.name in {other.name for other in checked}:
            raise InvalidValueError(
                f"budgets: two of them are named {budget.name!r}; rename one (a program that is "
                "named by text goes by its file's name; command_budget(..., name=...) can have "
                "another)."
            )
        checked[budget] = limit
    return checked


def check_unpruned_values(values: Any, names: Sequence[str]) -> None:
    """Raise unless these are None, or numbers above 0 by some of the ``names``."""
    if values is None:
        return
    if not isinstance(values, Mapping):
        raise InvalidTypeError(
            f"unpruned_values={values!r}: expected a number by budget, e.g. {{'latency_ms': 2.5}}."
        )
    for name, value in values.items():
        if name not in names:
            raise unknown_name("budget in unpruned_values", name, list(names))
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not 0.0 < float(value) < float("inf"):
            raise InvalidValueError(
                f"unpruned_values: that of {name!r} is {value!r}; it must be a finite number "
                "above 0, in the budget's unit."
            )


def check_ignore(ignore: Any) -> None:
    """Raise for one name where names are expected, or what is no list of names."""
    if isinstance(ignore, str):
        raise InvalidTypeError(
            f"ignore={ignore!r}: expected a list of layer names, e.g. [{ignore!r}]."
        )
    if not isinstance(ignore, Collection) or any(not isinstance(name, str) for name in ignore):
        raise InvalidTypeError(
            f"ignore={shortened(ignore)}: expected a list of layer names, e.g. ['classifier']."
        )
