"""What searches: agents and baselines by name, and the environment that they search in."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from prune_gym import ENVIRONMENTS
from prune_gym.errors import InvalidValueError
from prune_gym.problem.problem import PruningProblem
from prune_gym.searches.baselines import BASELINES
from prune_gym.searches.config import SearchConfig
from prune_gym.utils.registry import unknown_name
from prune_gym.wrappers.projection import ProjectionWrapper

PRETRAINED = "pretrained"


def agent_of(algo: str) -> str | None:
    """The agent of `agents.AGENTS` that an algorithm is, or goes on with; None for baselines."""
    if algo == PRETRAINED:
        return "ppo_lag"
    return None if algo in BASELINES else algo


def algorithms() -> dict[str, str]:
    """Every search algorithm with its description: agents first, then baselines.

    Agents that need other actions than prune ratios, or a wrapper, are for ``agents.train``.
    """
    from agents import AGENTS

    able = {n: spec for n, spec in AGENTS.items() if "Box" in spec.action_spaces}
    agents = {n: spec.description for n, spec in able.items() if spec.wrapper is None}
    more = {PRETRAINED: "ppo_lag from a policy that was trained on other networks (-v1 ids)"}
    return {**agents, **more, **BASELINES.describe()}


def usual_algorithm(env: str) -> str:
    """What searches in a registered environment where no algorithm is named.

    What finds the most accurate networks: ``"bayesian"``. It decides layer by layer beside the
    prior; elsewhere it is ``"ppo_lag"``.
    """
    by_layer = ENVIRONMENTS[env]["granularity"] == "layer"
    beside_prior = ENVIRONMENTS[env].get("decision") == "prior"
    return "bayesian" if by_layer and beside_prior else "ppo_lag"


def check_algorithm(name: str) -> None:
    """Raise UnknownNameError, with the nearest name, for an unknown algorithm."""
    if name not in list(algorithms()):
        raise unknown_name("algorithm", name, list(algorithms()))


def check_config(config: SearchConfig, problem: PruningProblem) -> None:
    """Raise where the environment of a search cannot be made; nothing is judged for it.

    Raises:
        ValueError: an environment that does not go with the problem, or with ``hard``.
    """
    if "limit_range" in ENVIRONMENTS[config.env]:
        raise InvalidValueError(
            f"--env {config.env!r} draws a limit for every episode; a search has one. Search in "
            "PruneVGG-v1 (`prune-gym pick` then answers for other limits), or train one policy for "
            f"all of them: python -m agents.train --env prune_gym:{config.env}."
        )
    if config.hard and config.scans:
        raise InvalidValueError(
            f"hard with algo={config.algo!r} in {config.env}: it begins with a sensitivity scan, "
            "whose networks are above the limits. Use random, uniform, cem, lamp or equal_width, "
            f"or an agent in "
            f"{config.env.replace('-v1', '-v0')}; agents of -v1 keep counted limits without it."
        )
    if config.algo == PRETRAINED:
        _check_pretrained(config, problem)
    if config.decision == "ratio":
        make_config_env(config, problem).close()
    elif problem.structure != "filter":
        raise InvalidValueError(
            f"structure={problem.structure!r} in {config.env}: decisions beside a prior remove "
            f"whole filters. Search in {config.env.replace('-v1', '-v0')}."
        )


def _check_pretrained(config: SearchConfig, problem: PruningProblem) -> None:
    """Raise unless the policy that comes with the package fits a search."""
    why = ""
    if problem.structure != "filter":
        why = f"structure={problem.structure!r}, and it removes whole filters"
    elif config.hard:
        why = "hard, and its networks are within counted limits without it"
    elif config.decision == "ratio" or config.granularity != "layer":
        why = f"{config.env}, and it decides beside a prior, layer by layer: PruneVGG-v1"
    elif len(problem.budgets) > 1:
        why = f"{len(problem.budgets)} budgets, and it knows one limit"
    if why:
        raise InvalidValueError(f"algo={PRETRAINED!r} with {why}. Leave that out, or use ppo_lag.")


def make_config_env(config: SearchConfig, problem: PruningProblem) -> gym.Env[Any, Any]:
    """The environment of a search, around a problem that is built already."""
    granularity = config.granularity
    by_filter = granularity == "filter"  # then only what is counted has a dense cost
    dense = all(
        budget.monotone and not (by_filter and budget.counted is None) for budget in problem.budgets
    )
    env = gym.make(
        f"Prune-{config.env.rpartition('-')[2]}",
        granularity=granularity,
        problem=problem,
        cost_mode="dense" if dense else "terminal",
    )
    if not config.hard:
        return env
    return ProjectionWrapper(env, "scale" if granularity == "layer" else "clip")
