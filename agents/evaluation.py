"""What a policy earns and what it costs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
    unwrap_vec_normalize,
)

from agents.arguments import MOST_EPISODES, whole_number
from agents.costs import check_cost_limit, read_cost, read_cost_limit
from agents.env_checks import as_vec_env, unwrapped_ids
from agents.errors import InvalidValueError
from agents.stopping import check_stop


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        return_mean: Mean episodic return, unpenalised.
        return_std: Standard deviation of the episodic return.
        cost_mean: Mean episodic cost.
        cost_limit: The limit it is compared with.
        cost_ratio: Mean cost / limit; above 1.0 means too expensive. The general form,
            ``1 + (mean cost - limit) / |limit|``, keeps that meaning for a negative limit; for a
            limit of 0 it is 1.0 where the mean cost is 0 too, else infinite with its sign.
        violation_rate: Fraction of episodes that cost more than the limit, without tolerance.
        mean_excess: Mean of ``max(0, episodic cost - limit)``.
        episodes: Number of episodes.
        returns: Unpenalised return of every episode.
        costs: Cost of every episode.
        lengths: Steps of every episode.
    """

    return_mean: float
    return_std: float
    cost_mean: float
    cost_limit: float
    cost_ratio: float
    violation_rate: float
    mean_excess: float
    episodes: int
    returns: tuple[float, ...] = field(repr=False)
    costs: tuple[float, ...] = field(repr=False)
    lengths: tuple[int, ...] = field(repr=False)

    @classmethod
    def of_episodes(
        cls,
        returns: Sequence[float],
        costs: Sequence[float],
        lengths: Sequence[int],
        cost_limit: float,
    ) -> Evaluation:
        """Sum up episodes: their returns, costs and lengths, in the same order.

        >>> result = Evaluation.of_episodes([1.0, 3.0], [0.2, 0.6], [8, 8], cost_limit=0.5)
        >>> result.return_mean, result.violation_rate, result.feasible
        (2.0, 0.5, False)
        """
        return_array = np.asarray(returns, dtype=np.float64)
        cost_array = np.asarray(costs, dtype=np.float64)
        cost_mean = float(cost_array.mean())
        return cls(
            return_mean=float(return_array.mean()),
            return_std=float(return_array.std()),
            cost_mean=cost_mean,
            cost_limit=float(cost_limit),
            cost_ratio=_cost_ratio(cost_mean, cost_limit),
            violation_rate=float((cost_array > cost_limit).mean()),
            mean_excess=float(np.maximum(cost_array - cost_limit, 0.0).mean()),
            episodes=len(cost_array),
            returns=tuple(map(float, return_array)),
            costs=tuple(map(float, cost_array)),
            lengths=tuple(map(int, lengths)),
        )

    @property
    def feasible(self) -> bool:
        """Whether no episode cost more than the limit (so that the mean cost does not either)."""
        return self.violation_rate == 0.0

    def summary(self) -> str:
        """Say it in one line.

        >>> print(Evaluation.of_episodes([1.0, 3.0], [0.2, 0.6], [8, 8], 0.5).summary())
        2 episodes: return 2 ± 1, cost 0.4 (limit 0.5), 50% over the limit
        """
        verdict = "feasible" if self.feasible else f"{self.violation_rate:.0%} over the limit"
        return (
            f"{self.episodes} episodes: return {self.return_mean:.4g} ± {self.return_std:.2g}, "
            f"cost {self.cost_mean:.4g} (limit {self.cost_limit:.4g}), {verdict}"
        )

    @property
    def rank(self) -> tuple[bool, float, float]:
        """What policies are chosen by, larger is better.

        Feasible before infeasible; the infeasible by least excess; then by return.
        """
        return self.feasible, -self.mean_excess, self.return_mean


def _cost_ratio(cost: float, limit: float) -> float:
    if limit > 0.0:
        return cost / limit
    excess = cost - limit
    if limit < 0.0:
        return 1.0 + excess / -limit
    return math.copysign(math.inf, excess) if excess else 1.0


class _Recorder:
    """Hook of ``evaluate_policy``: collects unpenalised returns and costs of the counted steps."""

    def __init__(self, env: VecEnv) -> None:
        self._normaliser: VecNormalize | None = unwrap_vec_normalize(env)
        self._running = np.zeros((env.num_envs, 3))
        self.returns: list[float] = []
        self.costs: list[float] = []
        self.lengths: list[int] = []

    def __call__(self, scope: dict[str, Any], _: dict[str, Any]) -> None:
        check_stop()
        index, info = scope["i"], scope["info"]
        self._running[index] += self._raw_reward(scope), read_cost(info, index), 1
        # With a Monitor the end of an episode is where Monitor says so: ``done`` may be a lost life
        if scope["done"] and (not scope["is_monitor_wrapped"] or "episode" in info):
            episode_return, cost, length = self._running[index]
            self.returns.append(float(episode_return))
            self.costs.append(float(cost))
            self.lengths.append(int(length))
            self._running[index] = 0.0

    def _raw_reward(self, scope: dict[str, Any]) -> float:
        index, info = scope["i"], scope["info"]
        if "reward" in info:
            reward = info["reward"]
            if not isinstance(reward, Real) or not math.isfinite(reward):
                raise InvalidValueError(
                    f'info["reward"] of env {index} is {reward!r}; it must be a finite number: '
                    "wrappers that penalise keep the unpenalised reward there. If yours means "
                    "something else by it, give it another key."
                )
            return float(reward)
        if self._normaliser is not None:
            return float(self._normaliser.get_original_reward()[index])
        return float(scope["reward"])


@contextmanager
def _frozen_normalisation(env: VecEnv) -> Iterator[None]:
    """Keep every VecNormalize around ``env`` from learning while the context lasts."""
    frozen = []
    layer = env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize) and layer.training:
            frozen.append(layer)
        layer = layer.venv
    for normaliser in frozen:
        normaliser.training = False
    try:
        yield
    finally:
        for normaliser in frozen:
            normaliser.training = True


def _evaluator(model: PolicyPredictor) -> Callable[..., Any]:
    """Return the ``evaluate_policy`` for a model: sb3-contrib's for those that take masks."""
    if "action_masks" in inspect.signature(model.predict).parameters:  # MaskablePPO, its policies
        masked: Callable[..., Any] = import_module(
            "sb3_contrib.common.maskable.evaluation"
        ).evaluate_policy
        return masked
    return evaluate_policy


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
    are not over-represented. The environment may penalise or normalise rewards: what counts is
    ``info["reward"]`` where a step has it (wrappers that penalise keep the unpenalised reward
    there), else ``VecNormalize``'s original reward, else the reward. The statistics of a
    ``VecNormalize`` stand still during the evaluation. Recurrent policies keep their states, and
    models that take action masks (``MaskablePPO``) get those of the environment.

    An environment with several costs is judged by the scalar ``info["cost"]``: the worst of
    cost / limit, with a limit of 1.0. It is above 1.0 exactly where any cost is over its limit.

    Args:
        model: Anything with the ``predict`` of Stable-Baselines3.
        env: An environment or a vector of environments, not those the model learns in: an
            evaluation would break into episodes that are being learned from.
        n_episodes: Number of episodes, at least 1.
        deterministic: Whether the policy takes its most likely action (True) or samples (False).
        seed: Seed of the first reset; a vector seeds its environments by counting up from it.
        cost_limit: Limit on the episodic cost; read from the environment if left out.

    Raises:
        InvalidValueError: If ``n_episodes`` is not positive, cost or limit cannot be read, or the
            model learns in ``env``.
        InvalidTypeError: If ``env`` is no environment of Gymnasium or vector of Stable-Baselines3.
    """
    whole_number("n_episodes", n_episodes, 1, MOST_EPISODES)
    venv = as_vec_env(env)
    training: Any = getattr(model, "env", None)  # a policy alone has none
    if isinstance(training, VecEnv) and unwrapped_ids(training) & unwrapped_ids(venv):
        raise InvalidValueError(
            "env is an environment that the model learns in (the same object, perhaps wrapped): "
            "the evaluation would break into episodes that are being learned from. Make a second "
            "one: evaluate(model, gymnasium.make(...))."
        )
    limit = read_cost_limit(env) if cost_limit is None else check_cost_limit(cost_limit)
    if seed is not None:
        venv.seed(seed)
    recorder = _Recorder(venv)
    with _frozen_normalisation(venv):
        _evaluator(model)(
            model,
            venv,
            n_eval_episodes=n_episodes,
            deterministic=deterministic,
            callback=recorder,
            warn=False,
        )
    return Evaluation.of_episodes(recorder.returns, recorder.costs, recorder.lengths, limit)
