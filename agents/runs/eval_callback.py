"""Evaluation during training that knows about costs.

>>> from stable_baselines3 import PPO
>>> from agents import BudgetToyEnv, constrain
>>> from agents.runs.eval_callback import ConstrainedEvalCallback
>>> callback = ConstrainedEvalCallback(BudgetToyEnv(), eval_freq=256, n_eval_episodes=2)
>>> model = constrain(PPO, BudgetToyEnv(), n_steps=128, seed=0).learn(512, callback=callback)
>>> callback.evaluations_timesteps
[256, 512]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import (
    VecEnv,
    sync_envs_normalization,
    unwrap_vec_normalize,
)

from agents.archive import Array, DamageError, open_archive
from agents.costs import check_cost_limit, read_cost_limit
from agents.env_checks import as_vec_env, unwrapped_ids
from agents.errors import InvalidValueError
from agents.evaluation import Evaluation, evaluate
from agents.files import replacing


class ConstrainedEvalCallback(EvalCallback):
    """Evaluates every ``eval_freq`` calls and keeps the best feasible model.

    An evaluation is feasible if none of its episodes cost more than the limit; so its mean cost
    does not either. Models are compared by `Evaluation.rank`: feasible before infeasible, the
    infeasible by least excess, then by unpenalised return. ``best_model.zip`` is thus the best
    feasible model, or the one of least excess as long as nothing feasible was found. When the
    limit has changed the best so far is judged again, by the new limit.

    Logged are ``eval/mean_reward`` (unpenalised), ``eval/mean_cost``, ``eval/cost_ratio``,
    ``eval/violation_rate``, ``eval/mean_excess`` and ``eval/mean_ep_length``.
    ``evaluations.npz`` has one row per evaluation: ``timesteps``, ``results`` (unpenalised returns
    of the episodes) and ``ep_lengths`` as Stable-Baselines3 writes them, ``costs`` of the episodes
    and ``cost_limit``.

    A later ``learn(..., reset_num_timesteps=False)`` goes on where this one ends, with the same
    callback or with a new one of the same folders, which reads what it finds there.

    Args:
        eval_env: An environment or a vector of them, apart from those of the training. If the
            training normalises observations (VecNormalize), this one has to as well; the
            statistics of the training are copied before every evaluation.
        eval_freq: Number of calls between evaluations; one call is a step of every environment of
            the training.
        n_eval_episodes: Number of episodes of an evaluation.
        deterministic: Whether the policy takes its most likely action (True) or samples (False).
        seed: Seeds ``eval_env`` before every evaluation, so that all see the same episodes.
        cost_limit: Limit on the episodic cost; if left out it is read from ``eval_env``, before
            every evaluation.
        log_path: Folder of ``evaluations.npz``; None writes none.
        best_model_save_path: Folder of ``best_model.zip``; None saves none.
        callback_on_new_best: Called after a new best model.
        callback_after_eval: Called after every evaluation.
        verbose: 1 writes a line to the log at every new best.

    Attributes:
        best: The evaluation of the best model, None before the first.
        last: The latest evaluation, None before the first.
        best_mean_reward: Return of the best *feasible* model, ``-inf`` as long as there is none:
            what callbacks of Stable-Baselines3 that stop the training look at.

    Raises:
        InvalidValueError: If a number is out of range; from ``learn``, if ``eval_env`` is an
            environment of the training, or normalises in another way.
        InvalidTypeError: If ``eval_env`` is no environment.
    """

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv,
        *,
        eval_freq: int = 10_000,
        n_eval_episodes: int = 5,
        deterministic: bool = True,
        seed: int | None = None,
        cost_limit: float | None = None,
        log_path: str | os.PathLike[str] | None = None,
        best_model_save_path: str | os.PathLike[str] | None = None,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        verbose: int = 0,
    ) -> None:
        for name, value in {"eval_freq": eval_freq, "n_eval_episodes": n_eval_episodes}.items():
            if not isinstance(value, int) or value < 1:
                raise InvalidValueError(f"{name} is {value!r}; it must be an integer >= 1.")
        super().__init__(
            as_vec_env(eval_env, "eval_env"),
            callback_on_new_best=callback_on_new_best,
            callback_after_eval=callback_after_eval,
            n_eval_episodes=n_eval_episodes,
            eval_freq=eval_freq,
            log_path=None if log_path is None else os.fspath(log_path),
            best_model_save_path=(
                None if best_model_save_path is None else os.fspath(best_model_save_path)
            ),
            deterministic=deterministic,
            verbose=verbose,
        )
        self.seed = seed
        self.cost_limit = None if cost_limit is None else check_cost_limit(cost_limit)
        self.best: Evaluation | None = None
        self.last: Evaluation | None = None
        self.evaluations_costs: list[list[float]] = []
        self.evaluations_limit: list[float] = []

    # -- before the training -------------------------------------------------------------------

    def _init_callback(self) -> None:
        if unwrapped_ids(self.training_env) & unwrapped_ids(self.eval_env):
            raise InvalidValueError(
                "eval_env is an environment of the training (the same object, perhaps wrapped): "
                "evaluations would break into the episodes that are being learned from. Make a "
                "second one: eval_env=gymnasium.make(...)."
            )
        self._sync_normalisation()  # now, so that an error comes before the training
        if self.cost_limit is None:
            read_cost_limit(self.eval_env)
        for folder in (self.best_model_save_path, self.log_path and os.path.dirname(self.log_path)):
            if folder:
                os.makedirs(folder, exist_ok=True)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)

    def _sync_normalisation(self) -> None:
        """Give ``eval_env`` the statistics by which the training normalises."""
        normalisers = [unwrap_vec_normalize(env) for env in (self.training_env, self.eval_env)]
        if normalisers == [None, None]:
            return
        try:
            if None in normalisers:
                raise AttributeError("one of them has no VecNormalize")
            sync_envs_normalization(self.training_env, self.eval_env)
        except (AssertionError, AttributeError) as error:
            raise InvalidValueError(
                f"eval_env is not normalised as the environment of the training is ({error}). "
                "Wrap both in the same layers, such as VecNormalize(eval_env, training=False, "
                "norm_reward=False)."
            ) from error

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if self.model.num_timesteps > 0 and not self.evaluations_timesteps:
            self._restore()

    def _restore(self) -> None:
        """Read what an earlier callback of the same folders left."""
        path = None if self.log_path is None else Path(f"{self.log_path}.npz")
        if path is None or not path.exists():
            return
        rows = self._read_rows(path)
        past = rows["timesteps"] <= self.model.num_timesteps  # not after an older checkpoint
        self.evaluations_timesteps = rows["timesteps"][past].tolist()
        self.evaluations_results = rows["results"][past].tolist()
        self.evaluations_length = rows["ep_lengths"][past].tolist()
        self.evaluations_costs = rows["costs"][past].tolist()
        self.evaluations_limit = rows["cost_limit"][past].tolist()
        self.n_calls = self.model.num_timesteps // self.training_env.num_envs
        if self.evaluations_timesteps:
            self.last = self._past(-1)
        folder = self.best_model_save_path
        if folder is None or Path(folder, "best_model.zip").exists():
            for index in range(len(self.evaluations_timesteps)):
                self._take_if_best(self._past(index))

    def _read_rows(self, path: Path) -> dict[str, Array]:
        """Return the columns of a file that an earlier callback wrote."""
        names = ("timesteps", "results", "ep_lengths", "costs", "cost_limit")
        try:
            with open_archive(path) as archive:
                rows = {name: archive.array(name) for name in names}
        except DamageError as error:
            raise InvalidValueError(
                f"log_path: {path} cannot be continued ({error}). Pass another log_path."
            ) from error
        n_rows = len(np.atleast_1d(rows["timesteps"]))
        shapes = {(n_rows,), (n_rows, self.n_eval_episodes)}
        if {values.shape for values in rows.values()} - shapes or rows["costs"].ndim != 2:
            raise InvalidValueError(
                f"log_path: {path} cannot be continued: its rows are not the costs of "
                f"{self.n_eval_episodes} episodes each. Pass the n_eval_episodes it was "
                "written with, or another log_path."
            )
        return rows

    def _past(self, index: int) -> Evaluation:
        return Evaluation.of_episodes(
            self.evaluations_results[index],
            self.evaluations_costs[index],
            self.evaluations_length[index],
            self.evaluations_limit[index],
        )

    # -- during the training -------------------------------------------------------------------

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq != 0:
            return True
        self._sync_normalisation()
        self.last = evaluate(
            self.model,
            self.eval_env,
            self.n_eval_episodes,
            deterministic=self.deterministic,
            seed=self.seed,
            cost_limit=self.cost_limit,
        )
        self.last_mean_reward = self.last.return_mean
        self._keep(self.last)
        self._log(self.last)
        go_on = True
        if self._take_if_best(self.last):
            self._save_best(self.last)
            if self.callback_on_new_best is not None:
                go_on = self.callback_on_new_best.on_step()
        return self._on_event() and go_on

    def _keep(self, result: Evaluation) -> None:
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(list(result.returns))
        self.evaluations_length.append(list(result.lengths))
        self.evaluations_costs.append(list(result.costs))
        self.evaluations_limit.append(result.cost_limit)
        if self.log_path is not None:
            with replacing(Path(f"{self.log_path}.npz")) as path, path.open("wb") as file:
                np.savez(
                    file,
                    timesteps=self.evaluations_timesteps,
                    results=self.evaluations_results,
                    ep_lengths=self.evaluations_length,
                    costs=self.evaluations_costs,
                    cost_limit=self.evaluations_limit,
                )

    def _log(self, result: Evaluation) -> None:
        self.logger.record("eval/mean_reward", result.return_mean)
        self.logger.record("eval/mean_cost", result.cost_mean)
        self.logger.record("eval/cost_ratio", result.cost_ratio)
        self.logger.record("eval/violation_rate", result.violation_rate)
        self.logger.record("eval/mean_excess", result.mean_excess)
        self.logger.record("eval/mean_ep_length", float(np.mean(result.lengths)))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _take_if_best(self, result: Evaluation) -> bool:
        """Remember ``result`` if it ranks above the best so far, under the limit of today."""
        best = self.best
        if best is not None and best.cost_limit != result.cost_limit:
            best = Evaluation.of_episodes(best.returns, best.costs, best.lengths, result.cost_limit)
        better = best is None or result.rank > best.rank
        self.best = result if better else best
        if self.best is not None:
            self.best_mean_reward = self.best.return_mean if self.best.feasible else -np.inf
        return better

    def _save_best(self, result: Evaluation) -> None:
        if self.verbose >= 1:
            what = "feasible" if result.feasible else f"excess {result.mean_excess:.4g}"
            self.logger.info(f"New best model: return {result.return_mean:.4g}, {what}")
        if self.best_model_save_path is not None:
            path = Path(self.best_model_save_path, "best_model.zip")
            with replacing(path) as partial, partial.open("wb") as file:
                self.model.save(file)
