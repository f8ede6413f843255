"""The Lagrangian as a wrapper and a callback, for any on-policy algorithm of Stable-Baselines3.

>>> from stable_baselines3 import PPO
>>> from stable_baselines3.common.env_util import make_vec_env
>>> from agents import BudgetToyEnv, GradientMultiplier, LagrangianCallback, LagrangianVecEnv
>>> env = LagrangianVecEnv(make_vec_env(BudgetToyEnv, n_envs=4), GradientMultiplier())
>>> model = PPO("MlpPolicy", env, n_steps=64, seed=0, device="cpu")
>>> model = model.learn(512, callback=LagrangianCallback())
>>> model.multiplier.value > 1.0  # the first policy is too expensive, so the price of cost rose
True
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from agents.costs import EpisodeCosts, check_cost_limit, read_cost_limit, read_costs
from agents.multipliers import Multiplier, check_multiplier


class LagrangianVecEnv(VecEnvWrapper):
    """Pays ``(reward - multiplier * cost) / (1 + multiplier)`` in place of the reward.

    The division keeps the size of a policy step bounded however large the multiplier grows. The
    step info keeps the unpenalised ``reward`` next to ``cost``, and the last step of an episode
    carries ``episode_cost``, the undiscounted sum. The multiplier only moves when a
    `LagrangianCallback` moves it.

    ``VecNormalize`` belongs outside of this wrapper and must leave rewards alone
    (``norm_reward=False``): the multiplier is a price in units of reward.

    Args:
        venv: The environments.
        multiplier: The multiplier; `GradientMultiplier` with its defaults if left out.
        cost_limit: Limit on the mean episodic cost; if left out it is read from the environments,
            at every update of the multiplier.
    """

    def __init__(
        self,
        venv: VecEnv,
        multiplier: Multiplier | None = None,
        *,
        cost_limit: float | None = None,
    ) -> None:
        for layer in layers(venv):
            if isinstance(layer, VecNormalize):
                raise ValueError(
                    "venv: VecNormalize is inside LagrangianVecEnv; it would scale rewards "
                    "before the cost is subtracted, so that the multiplier has no unit. Wrap the "
                    "other way round: VecNormalize(LagrangianVecEnv(venv), norm_reward=False)."
                )
        super().__init__(venv)
        self.multiplier = check_multiplier(multiplier)
        self._given_limit = None if cost_limit is None else check_cost_limit(cost_limit)
        self._episode_costs = EpisodeCosts(self.num_envs)
        self.read_limit()  # an environment without one is refused here, not at the first update

    def read_limit(self) -> float:
        """Return the limit that holds now: the one given, or else the environments' own."""
        return read_cost_limit(self.venv) if self._given_limit is None else self._given_limit

    def reset(self) -> VecEnvObs:
        """Reset all environments and what was charged so far."""
        self._episode_costs.reset()
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step and replace its rewards by the penalised ones."""
        observations, rewards, dones, infos = self.venv.step_wait()
        costs = read_costs(infos)
        totals = self._episode_costs.add(costs, dones)
        infos = [{**info, "reward": float(r)} for info, r in zip(infos, rewards, strict=True)]
        for info, total in zip(infos, totals, strict=True):
            if total is not None:
                info["episode_cost"] = total
        price = self.multiplier.value
        penalised = (rewards - price * costs) / (1.0 + price)
        return observations, penalised.astype(np.float32), dones, infos


class LagrangianCallback(BaseCallback):
    """Moves the multiplier of a `LagrangianVecEnv` once per rollout.

    The violation is the mean cost of the episodes that ended in the rollout, minus the limit; a
    rollout in which none ended moves nothing. The multiplier is put on the model as
    ``model.multiplier``, so that ``model.save`` keeps it; a model that already has one (it was
    loaded, or trained before) keeps its own and hands it to the environment.

    Logs ``lagrange/multiplier``, ``lagrange/cost`` and ``lagrange/violation_rate``.
    """

    def __init__(self, verbose: int = 0) -> None:
        super().__init__(verbose)
        self._finished: list[float] = []

    def _init_callback(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise TypeError(
                f"model is a {type(self.model).__name__}; LagrangianCallback needs an on-policy "
                "algorithm (PPO, A2C, TRPO, ...). A replay buffer would mix rewards that were "
                "penalised with different multipliers."
            )
        self._env = _find_penalty(self.training_env)
        self._env.multiplier = vars(self.model).setdefault("multiplier", self._env.multiplier)

    def _on_rollout_start(self) -> None:
        self._finished = []

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self._finished += [info["episode_cost"] for info in infos if "episode_cost" in info]
        return True

    def _on_rollout_end(self) -> None:
        dual_step(self._env.multiplier, self._finished, self._env.read_limit(), self.logger)


def dual_step(
    multiplier: Multiplier, episode_costs: Sequence[float], cost_limit: float, logger: Logger
) -> None:
    """Move the multiplier by the mean cost of finished episodes and log what happened.

    Args:
        multiplier: The multiplier; left alone when no episode finished.
        episode_costs: Undiscounted costs of the episodes that finished in this rollout.
        cost_limit: Limit on their mean.
        logger: Receives ``lagrange/*``.
    """
    if episode_costs:
        costs = np.asarray(episode_costs)
        multiplier.update(float(costs.mean()) - cost_limit)
        logger.record("lagrange/cost", float(costs.mean()))
        logger.record("lagrange/violation_rate", float((costs > cost_limit).mean()))
    logger.record("lagrange/multiplier", multiplier.value)


def layers(env: VecEnv) -> Iterator[VecEnv]:
    """Yield a vectorised environment and all that it wraps, outermost first."""
    yield env
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        yield env


def _find_penalty(env: VecEnv) -> LagrangianVecEnv:
    """Return the penalty wrapper of a training environment, after checking what is around it."""
    for layer in layers(env):
        if isinstance(layer, LagrangianVecEnv):
            return layer
        if isinstance(layer, VecNormalize) and layer.norm_reward:
            raise ValueError(
                "norm_reward=True: VecNormalize would scale the penalised reward by a variance "
                "that drifts with the multiplier. Use VecNormalize(..., norm_reward=False)."
            )
    raise ValueError(
        "env: the model's environment has no LagrangianVecEnv, so there is no multiplier to move. "
        "Train on LagrangianVecEnv(venv, GradientMultiplier())."
    )
