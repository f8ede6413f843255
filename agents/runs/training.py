"""A training from its first step to its result, in one sitting or several.

``python -m agents.train`` is this module on the command line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

from agents.runs.eval_callback import ConstrainedEvalCallback
from agents.runs.checkpoint import Checkpoint, Checkpoints, TrainingStopped
from agents.runs.episode_log import EpisodeLog, make_logger, summarise
from agents.evaluation import Evaluation, evaluate
from agents.files import write_json
from agents.runs.folder import (
    EVALUATION_SEED,
    RunConfig,
    RunFolder,
    RunFolderError,
    check_costs,
    make_envs,
    make_model,
)
from agents.zoo.make import find_agent
from agents.errors import MissingLibraryError

_LATER = ("result.json", "model.zip", "vecnormalize.pkl")  # of a finished run


class Training:
    """One sitting of a run.

    Make it with `begin` or `resume`, which check everything, then call `run`.

    Args:
        folder: The folder of the run.
        config: The configuration of the run.
        model: The agent, with its environments.
        checkpoint: Where it goes on from; None at the beginning.
        checkpoint_every_s: Seconds between checkpoints; 0 for one at every rollout.
        progress: Whether to show a bar.
        new_episodes: See `Checkpoints`.
        report: Called with a line of words now and then.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        model: Any,
        *,
        checkpoint: Checkpoint | None = None,
        checkpoint_every_s: float = 60.0,
        progress: bool = False,
        new_episodes: bool = False,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.folder, self.config, self.model = folder, config, model
        self._checkpoint = checkpoint
        self._bar = ProgressBarCallback() if progress else None
        self.log = EpisodeLog(
            folder.episodes,
            progress=folder.path / "progress.csv",
            cost_limit=config.cost_limit,
            report=None if progress else report,
        )
        parts: dict[str, Any] = {"episodes": self.log}
        self._evaluations = None if config.eval_freq is None else _evaluations(folder, config)
        if self._evaluations is not None:
            parts["evaluations"] = self._evaluations
        self.checkpoints = Checkpoints(
            folder.checkpoint,
            every_s=checkpoint_every_s,
            parts=parts,
            keeps=("best_model.zip", "best_vecnormalize.pkl", "evaluations.npz"),
            resume_from=checkpoint,
            new_episodes=new_episodes,
        )

    @classmethod
    def begin(cls, config: RunConfig, out: Path | None = None, **options: Any) -> Training:
        """Check everything, then make the folder of a new run.

        Args:
            config: What to train.
            out: The folder; ``runs/ALGO-ENV-SEED`` if left out.
            **options: Further arguments of `Training`.

        Raises:
            ValueError: If something does not fit (names the cure); nothing was made then.
        """
        path = config.default_folder if out is None else out
        RunFolder.check_free(path)
        find_agent(config.algo)
        _check_bar(options)
        check_costs(config)
        model = make_model(config, make_envs(config))
        return cls(RunFolder.create(path, config), config, model, **options)

    @classmethod
    def resume(cls, path: Path, timesteps: int | None = None, **options: Any) -> Training:
        """Go on with a run from its latest checkpoint.

        Args:
            path: The folder of the run.
            timesteps: New total number of steps; as it was if left out.
            **options: Further arguments of `Training`.

        Raises:
            ValueError: If there is no such run, or nothing is left to do.
        """
        folder, config = RunFolder.open(path)
        _check_bar(options)
        checkpoint = Checkpoint.read(folder.checkpoint) if folder.checkpoint.exists() else None
        done = 0 if checkpoint is None else checkpoint.num_timesteps
        total = config.timesteps if timesteps is None else timesteps
        if timesteps is not None and timesteps < done:
            raise RunFolderError(
                f"timesteps is {timesteps}, but {path} has {done} already: give more."
            )
        if folder.result.exists() and done >= total:
            raise RunFolderError(
                f"{path} is finished, with {done} timesteps. To train longer give the new total: "
                f"--resume {path} --timesteps {2 * done}"
            )
        config = replace(config, timesteps=total)
        envs = make_envs(config)
        if checkpoint is None:  # stopped before its first rollout
            model = make_model(config, envs)
        else:
            model = checkpoint.load_model(
                find_agent(config.algo).constructor,
                envs,
                device=config.device,
                new_episodes=options.get("new_episodes", False),
            )
        training = cls(folder, config, model, checkpoint=checkpoint, **options)
        folder.write_config(config)
        for name in _LATER:
            (folder.path / name).unlink(missing_ok=True)
        return training

    def run(self) -> Evaluation:
        """Train to the end and write the results.

        Returns:
            The evaluation of the final policy.

        Raises:
            TrainingStopped: If ``checkpoints.stop`` was set; a checkpoint was taken.
        """
        begun = time.monotonic()
        done = 0
        if self._checkpoint is None:
            for path in (self.folder.episodes, self.folder.path / "progress.csv"):
                path.unlink(missing_ok=True)  # of a sitting that ended before its first checkpoint
            logger = make_logger(self.folder.path)
        else:
            done = self._checkpoint.num_timesteps
            rows = self._checkpoint.state["parts"]["episodes"]["progress_lines"]
            logger = make_logger(self.folder.path, rows=rows, timesteps=done)
        self.model.set_logger(logger)
        try:
            if done < self.config.timesteps:
                self._learn(self.config.timesteps - done, reset=self._checkpoint is None)
                wall_s = self.log.wall_s
            else:  # stopped after its last rollout
                wall_s = self._checkpoint_wall_s() + time.monotonic() - begun
        finally:
            self.log.close()
            logger.close()
        return self._finish(wall_s)

    def _learn(self, timesteps: int, *, reset: bool) -> None:
        callbacks: list[BaseCallback] = [self.log]
        if self._evaluations is not None:
            callbacks.append(self._evaluations)
        callbacks.append(self.checkpoints)
        if self._bar is not None:
            callbacks.append(self._bar)
        every = 1 if isinstance(self.model, OnPolicyAlgorithm) else 4  # rollouts, or episodes
        try:
            self.model.learn(
                timesteps, callback=callbacks, log_interval=every, reset_num_timesteps=reset
            )
        except TrainingStopped:
            if self._bar is not None:
                self._bar.on_training_end()
            raise

    def _checkpoint_wall_s(self) -> float:
        if self._checkpoint is None:
            return 0.0
        return float(self._checkpoint.state["parts"]["episodes"]["wall_s"])

    def _finish(self, wall_s: float) -> Evaluation:
        self.model.save(self.folder.model())
        normaliser = self.model.get_vec_normalize_env()
        if normaliser is not None:
            normaliser.save(str(self.folder.normaliser()))
        envs = make_envs(self.config, n_envs=1, training=False)
        sync_envs_normalization(self.model.get_env(), envs)
        final = evaluate(
            self.model,
            envs,
            self.config.eval_episodes,
            seed=self.config.seed + EVALUATION_SEED,
            cost_limit=self.config.cost_limit,
        )
        envs.close()
        content = {"final": asdict(final), **asdict(summarise(self.folder.episodes))}
        content["best_feasible_return"] = self._best_seen(final, content["best_feasible_return"])
        write_json(self.folder.result, {**content, "wall_s": wall_s})
        return final

    def _best_seen(self, final: Evaluation, trained: float | None) -> float | None:
        """Return the best return of an episode within the limit: trained, evaluated or final."""
        played = [*zip(final.returns, final.costs, strict=True)]
        if self._evaluations is not None:
            for row in zip(
                self._evaluations.evaluations_results,
                self._evaluations.evaluations_costs,
                strict=True,
            ):
                played += zip(*row, strict=True)
        found = [float(earned) for earned, cost in played if cost <= final.cost_limit]
        return max([*found, *([] if trained is None else [trained])], default=None)


class _Evaluations(ConstrainedEvalCallback):
    """Evaluates during the training; its state belongs into checkpoints."""

    _state = (
        "n_calls",
        "best",
        "last",
        "best_mean_reward",
        "last_mean_reward",
        "evaluations_timesteps",
        "evaluations_results",
        "evaluations_length",
        "evaluations_costs",
        "evaluations_limit",
    )

    def get_state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._state}

    def set_state(self, state: dict[str, Any], *, new_episodes: bool) -> None:
        vars(self).update(state)


class _SaveNormaliser(BaseCallback):
    """Saves the statistics that belong to a new best model."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _on_step(self) -> bool:
        normaliser = self.model.get_vec_normalize_env()
        if isinstance(normaliser, VecNormalize):
            normaliser.save(str(self._path))
        return True


def _evaluations(folder: RunFolder, config: RunConfig) -> _Evaluations:
    envs: VecEnv = make_envs(config, n_envs=1, training=False)
    return _Evaluations(
        envs,
        eval_freq=max(1, (config.eval_freq or 1) // config.n_envs),  # counted in calls
        n_eval_episodes=config.eval_episodes,
        seed=config.seed + EVALUATION_SEED,
        cost_limit=config.cost_limit,
        log_path=folder.path,
        best_model_save_path=folder.path,
        callback_on_new_best=_SaveNormaliser(folder.normaliser("best")),
    )


def _check_bar(options: dict[str, Any]) -> None:
    if options.get("progress"):
        try:
            ProgressBarCallback()
        except ImportError as error:
            raise MissingLibraryError(
                'progress needs tqdm and rich: pip install "prune-gym[agents]".'
            ) from error
