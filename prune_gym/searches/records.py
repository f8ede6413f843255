"""What the files of a run folder must hold; see `prune_gym.utils.records`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from prune_gym import ENVIRONMENTS
from prune_gym.errors import RunFolderError
from prune_gym.utils.arguments import MOST_ROUNDS
from prune_gym.utils.records import (
    Amount,
    Count,
    Positive,
    Record,
    Script,
    Text,
    Whole,
    shortened,
)
from prune_gym.utils.registry import unknown_name

MOST_LOG_BYTES = 2**29  # of episodes.csv


def _registered(env: str) -> str:
    if env not in ENVIRONMENTS:
        raise unknown_name("environment", env, list(ENVIRONMENTS))
    return env


_Share = Annotated[float, Field(gt=0.0, le=1.0)]
_Limit = float | Text
_Device = Annotated[str, StringConstraints(pattern=r"^(auto|(cpu|cuda|mps|xpu)(:\d{1,3})?)$")]
_Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]


class _Program(Record):
    """A budget that a program measures: a limit, and a `CommandSpec`."""

    limit: _Limit
    command: Script
    folder: Text = ""
    name: Text = ""
    unit: Text = ""
    timeout_s: Annotated[float, Field(gt=0.0, le=1e9)] = 60.0
    retries: Annotated[int, Field(ge=0, le=10**6)] = 1
    monotone: bool = False
    deterministic: bool = False
    in_turns: bool = False


class _Problem(Record):
    """Arguments of `make_problem`, which names those that are unknown here."""

    model_config = ConfigDict(extra="allow")

    network: Text | None = ""  # None: an object
    dataset: Text = ""
    budgets: dict[Script, _Program | _Limit] = Field(default_factory=dict)
    criterion: Text = ""
    recovery: Text = ""
    recovery_steps: Whole = 0
    structure: Literal["filter", "weight"] = "filter"
    round_to: Count = 1
    depth: bool = False
    evaluation_samples: Count | None = None
    precision: Literal["float32", "bfloat16", "tf32"] = "float32"
    batch_size: Count | None = None
    device: _Device = "cpu"
    weights: Text | None = None
    ignore: list[Text] = Field(default_factory=list)
    unpruned_values: dict[Text, Positive] | None = None
    seed: _Seed = 0


class Config(Record):
    """``config.json``; those of earlier versions lack what has a default."""

    env: Annotated[Text, AfterValidator(_registered)]
    algo: Text
    timesteps: Count
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    finetune_steps: Whole | None
    problem: _Problem
    distillation: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    candidates: Count = 1
    hard: bool = False
    racing: bool = False
    folder: Text = ""
    limits: dict[Text, _Share] = Field(default_factory=dict)
    groups: dict[Text, Annotated[int, Field(ge=1, le=2**40)]] = Field(default_factory=dict)
    begun: Whole = 0
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 1
    measure_on: Text | None = None


class _State(Record):
    wall_s: Amount = 0.0
    remembered: Whole = 0


class _Metric(Record):
    name: Text
    higher_is_better: bool


class _Measured(Record):
    lowest: Amount
    median: Amount
    highest: Amount
    measurements: Count


class _Metrics(Record):
    """What is told of a finished run; it may hold more than what is known here."""

    model_config = ConfigDict(extra="allow")

    feasible: bool
    costs: dict[Text, Amount]
    limits: dict[Text, _Share]
    measured: dict[Text, _Measured] = Field(default_factory=dict)
    unpruned_values: dict[Text, Positive] = Field(default_factory=dict)
    units: dict[Text, Text] = Field(default_factory=dict)
    metric: _Metric | None = None
    accuracy: dict[Text, float | None]
    evaluations: Whole
    remembered_evaluations: Whole = 0
    feasible_evaluations: Whole = 0
    infeasible_evaluations: Whole = 0
    partial_evaluations: Whole = 0
    hard: bool = False
    algo: Text
    timesteps: Whole
    seed: _Seed
    structure: Literal["filter", "weight"]
    dense: dict[Text, Amount]
    pruned: dict[Text, Amount]
    latency_ms: dict[Text, Amount]
    latency_batch: Count
    latency_device: Text = "cpu"
    finetune_steps: Whole
    candidates: Count = 1
    search_s: Amount = 0.0
    wall_s: Amount
    picked_from: Text = ""


class _Versions(Record):
    model_config = ConfigDict(extra="allow")

    python: Text = ""


RECORDS: dict[str, type[Record]] = {
    "config.json": Config,
    "state.json": _State,
    "metrics.json": _Metrics,
    "versions.json": _Versions,
}


def reward_of(row: Mapping[str, str]) -> float:
    """The reward of a row: its accuracy, where that is the metric."""
    return float(row["reward"] if "reward" in row else row["accuracy"])


def check_row(path: Path, number: int, row: Mapping[Any, Any]) -> None:
    """Raise RunFolderError unless a row of ``episodes.csv`` holds what it must hold."""
    if None in row or None in row.values():
        raise _wrong_row(path, number, "it has too many or too few columns")
    for name in ("reward" if "reward" in row else "accuracy", "cost", "feasible", "multiplier"):
        if name not in row:
            raise _wrong_row(path, number, f"{name} is missing")
    for name, text in row.items():
        try:
            value = float(text)
        except ValueError:
            raise _wrong_row(path, number, f"{name} is {shortened(text)}, no number") from None
        if not _is_allowed(str(name), text, value):
            raise _wrong_row(path, number, f"{name} is {shortened(text)}, which cannot be")


def _is_allowed(name: str, text: str, value: float) -> bool:
    if name == "multiplier" or name.startswith("metric_"):
        return True  # searches that do not learn have none; ruined networks may have no number
    if name == "feasible":
        return text in ("0", "1")
    if name.startswith("kept_"):
        return 0.0 <= value <= 1.0
    if name == "judged":
        return 0.0 < value <= 1.0
    if name.startswith("cost"):
        return math.isfinite(value) and value >= 0.0
    return math.isfinite(value)


def _wrong_row(path: Path, number: int, words: str) -> RunFolderError:
    return RunFolderError(
        f"{path} is damaged: in row {number} {words}. Put the file back as it was."
    )
