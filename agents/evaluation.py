"""What a policy earns and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecNormalize,
    unwrap_vec_normalize,
)

from agents.costs import check_cost_limit, read_cost, read_cost_limit
from agents.lagrangian import LagrangianVecEnv, layers


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        return_mean: Mean episodic return, unpenalised.
        return_std: Standard deviation of the episodic return.
        cost_mean: Mean episodic cost.
        cost_limit: The limit it is compared with.
        violation_rate: Fraction of episodes that cost more than the limit, without tolerance.
        mean_excess: Mean of ``max(0, episodic cost - limit)``.
        episodes: Number of episodes.
    """

    return_mean: float
    return_std: float
    cost_mean: float
    cost_limit: float
    violation_rate: float
    mean_excess: float
    episodes: int


class _Recorder:
    """Hook of ``evaluate_policy``: collects unpenalised returns and costs of the counted steps."""

    def __init__(self, env: VecEnv) -> None:
        self._penalised = any(isinstance(layer, LagrangianVecEnv) for layer in layers(env))
        self._normaliser: VecNormalize | None = unwrap_vec_normalize(env)
        self._running = np.zeros((env.num_envs, 2))
        self.returns: list[float] = []
        self.costs: list[float] = []

    def __call__(self, scope: dict[str, Any], _: dict[str, Any]) -> None:
        index, info = scope["i"], scope["info"]
        self._running[index] += self._raw_reward(scope, info), read_cost(info, index)
        if scope["done"]:
            self.returns.append(float(self._running[index, 0]))
            self.costs.append(float(self._running[index, 1]))
            self._running[index] = 0.0

    def _raw_reward(self, scope: Mapping[str, Any], info: Mapping[str, Any]) -> float:
        if self._penalised:
            return float(info["reward"])
        if self._normaliser is not None:
            return float(self._normaliser.get_original_reward()[scope["i"]])
        return float(scope["reward"])


def evaluate(
    model: PolicyPredictor,
    env: gym.Env[Any, Any] | VecEnv,
    n_episodes: int = 20,
    *,
    deterministic: bool = True,
    seed: int | None = None,
    cost_limit: float | None = None,
) -> Evaluation:
    """Play episodes and report unpenalised return and cost.

    The episodes are shared out evenly among the environments of a vector, so that short episodes
    are not over-represented. The vector may be penalised or reward-normalised: returns are
    reported as the environment paid them. Switch ``VecNormalize.training`` off yourself.

    Args:
        model: Anything with the ``predict`` of Stable-Baselines3.
        env: An environment or a vector of environments; it is reset.
        n_episodes: Number of episodes, at least 1.
        deterministic: Whether the policy takes its most likely action or samples.
        seed: Seed of the first reset; a vector seeds its environments by counting up from it.
        cost_limit: Limit on the episodic cost; read from the environment if left out.

    Raises:
        ValueError: If ``n_episodes`` is not positive, or cost or limit cannot be read.
    """
    if n_episodes < 1:
        raise ValueError(f"n_episodes is {n_episodes!r}; it must be at least 1. Try 20.")
    limit = read_cost_limit(env) if cost_limit is None else check_cost_limit(cost_limit)
    venv = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    if seed is not None:
        venv.seed(seed)
    recorder = _Recorder(venv)
    evaluate_policy(
        model,
        venv,
        n_eval_episodes=n_episodes,
        deterministic=deterministic,
        callback=recorder,
        warn=False,
    )
    returns, costs = np.array(recorder.returns), np.array(recorder.costs)
    return Evaluation(
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        cost_mean=float(costs.mean()),
        cost_limit=limit,
        violation_rate=float((costs > limit).mean()),
        mean_excess=float(np.maximum(costs - limit, 0.0).mean()),
        episodes=len(costs),
    )
