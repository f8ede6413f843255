"""A training from its first step to its result, in one process or, resumed, in several.

``python -m agents.train`` is this module on the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecNormalize,
    sync_envs_normalization,
)

from agents.arguments import MOST_TIMESTEPS, whole_number
from agents.env_checks import check_costs
from agents.errors import (
    FileError,
    MissingLibraryError,
    ModelFileError,
    RunFolderError,
    TrainingDivergedError,
)
from agents.evaluation import Evaluation, evaluate
from agents.files import is_full, remove_partials, replacing
from agents.locking import locked_folder
from agents.runs.checkpoint import Checkpoint, Checkpoints, TrainingStopped, check_state
from agents.runs.episode_log import EpisodeLog, make_logger, summarise
from agents.runs.eval_callback import ConstrainedEvalCallback
from agents.runs.folder import EVALUATION_SEED, RunConfig, RunFolder, RunResult
from agents.runs.make import MakeVector, make_env, make_envs, make_model
from agents.runs.normaliser import save_statistics
from agents.runs.trust import check_trusted
from agents.stopping import finishing
from agents.zoo.make import check_device, find_agent


class Training:
    """A run in this process, from its beginning or from where it was stopped.

    Make it with `begin` or `resume`, which check everything, then call `run`.

    Args:
        folder: The folder of the run.
        config: The configuration of the run.
        model: The agent, with its environments.
        checkpoint: Where it goes on from; None at the beginning.
        checkpoint_every_s: Seconds between checkpoints; 0 for one at every rollout.
        progress: Whether to show a bar.
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
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.folder, self.config, self.model = folder, config, model
        self._checkpoint = checkpoint
        self._bar = _progress_bar() if progress else None
        self.log = EpisodeLog(
            folder.episodes,
            progress=folder.progress,
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
            keeps=("best_model.zip", "best_vecnormalize.npz", "evaluations.npz"),
        )

    @classmethod
    def begin(
        cls,
        config: RunConfig,
        out: Path | None = None,
        *,
        checkpoint_every_s: float = 60.0,
        progress: bool = False,
        report: Callable[[str], None] | None = None,
        vector: MakeVector = DummyVecEnv,
    ) -> Training:
        """Check everything, then make the folder of a new run.

        Args:
            config: What to train.
            out: The folder; ``runs/ALGO-ENV-SEED`` if left out.
            checkpoint_every_s: See `Training`.
            progress: See `Training`.
            report: See `Training`.
            vector: Makes the vector of the training's environments.

        Raises:
            AgentsError: If something does not fit (names the cure); nothing was made then.
        """
        path = config.default_folder if out is None else out
        config.check_numbers()
        RunFolder.check_free(path)
        find_agent(config.algo)
        check_device(config.device)
        if progress:
            _progress_bar()
        env = make_env(config)
        try:
            check_costs(env, config.seed + EVALUATION_SEED)
        finally:
            env.close()
        model = make_model(config, make_envs(config, vector=vector))
        return cls(
            RunFolder.create(path, config),
            config,
            model,
            checkpoint_every_s=checkpoint_every_s,
            progress=progress,
            report=report,
        )

    @classmethod
    def resume(
        cls,
        path: Path,
        timesteps: int | None = None,
        *,
        trust: bool = False,
        checkpoint_every_s: float = 60.0,
        progress: bool = False,
        report: Callable[[str], None] | None = None,
        vector: MakeVector = DummyVecEnv,
    ) -> Training:
        """Go on with a run from its latest checkpoint, with new episodes.

        Steps of the episodes that were broken off do not count: they are made once more.

        Args:
            path: The folder of the run.
            timesteps: New total number of steps; as it was if left out.
            trust: Whether code that files of the folder name may be run: modules of environments,
                wrappers, and values that were pickled.
            checkpoint_every_s: See `Training`.
            progress: See `Training`.
            report: See `Training`.
            vector: Makes the vector of the training's environments.

        Raises:
            AgentsError: If there is no such run, it is damaged, nothing is left to do, or code
                would be run without ``trust``.
        """
        folder, config = RunFolder.open(path)
        if not trust:
            check_trusted(folder.config, config)
        checkpoint = Checkpoint.read(folder.checkpoint) if folder.checkpoint.exists() else None
        done = 0 if checkpoint is None else checkpoint.num_timesteps
        total = config.timesteps if timesteps is None else timesteps
        whole_number("timesteps", total, 1, MOST_TIMESTEPS)
        if timesteps not in (None, config.timesteps) and total < done:
            raise RunFolderError(
                f"timesteps is {timesteps}, but {path} has {done} already: give more."
            )
        if folder.result.exists() and done >= total:
            raise RunFolderError(
                f"{path} is finished, with {done} timesteps. To train longer give the new total: "
                f"--resume {path} --timesteps {2 * done}"
            )
        config = replace(config, timesteps=total)
        envs = make_envs(config, vector=vector)
        if checkpoint is None:  # stopped before its first rollout
            model = make_model(config, envs)
        else:
            check_device(config.device)
            constructor = find_agent(config.algo).constructor
            model = checkpoint.load_model(constructor, envs, device=config.device, trust=trust)
        training = cls(
            folder,
            config,
            model,
            checkpoint=checkpoint,
            checkpoint_every_s=checkpoint_every_s,
            progress=progress,
            report=report,
        )
        training.check_checkpoint()
        remove_partials(folder.path)
        folder.write_config(config)
        folder.drop_result()
        return training

    def run(self) -> Evaluation:
        """Train to the end and write the results.

        Returns:
            The evaluation of the final policy.

        Raises:
            TrainingStopped: If ``checkpoints.stop`` was set; a checkpoint was taken.
            Stopped: If a stop was asked for while the final policy was evaluated.
            RunFolderError: If another process works in the folder.
            TrainingDivergedError: If the policy's numbers are finite no more.
            FileError: If a file cannot be written, as the disk is full; says how to go on.
        """
        with locked_folder(self.folder.path):
            try:
                return self._run()
            except OSError as error:
                if not isinstance(error, FileError) and not is_full(error):
                    raise  # of the environment
                done, path = self.checkpoints.saved or 0, self.folder.path
                said = error if isinstance(error, FileError) else f"{path}: {error.strerror}."
                raise FileError(
                    error.errno,
                    f"{said} The last checkpoint is of {done} timesteps; once there is room, go on "
                    f"with: python -m agents.train --resume {path}",
                ) from error

    def _run(self) -> Evaluation:
        left = self._restore()
        done = None if self._checkpoint is None else self._checkpoint.num_timesteps
        logger = make_logger(self.folder.path, timesteps=done)
        self.model.set_logger(logger)
        try:
            if left > 0:  # else it was stopped after its last rollout
                with finishing():  # rollouts; the checkpoints look at the flag between them
                    self._learn(left)
        finally:
            self.log.close()
            logger.close()
            if self._evaluations is not None:
                self._evaluations.eval_env.close()
        return self._finish(self.log.wall_s)

    def check_checkpoint(self) -> None:
        """Raise a ModelFileError unless all parts of the training can go on from the checkpoint."""
        if self._checkpoint is None:
            return
        for name, part in self.checkpoints.parts.items():
            state, own = self._checkpoint.parts.get(name), part.get_state()
            try:
                check_state(state, own)
            except ValueError as error:
                raise ModelFileError(
                    f"{self._checkpoint.path} is damaged: parts.{name}.{error}. Start the training "
                    "anew."
                ) from error

    def _restore(self) -> int:
        """Put what the checkpoint knows beside the model back; return how many steps are left."""
        checkpoint = self._checkpoint
        if checkpoint is None:
            for path in (self.folder.episodes, self.folder.progress):
                path.unlink(missing_ok=True)  # of a start without a checkpoint
            return self.config.timesteps
        checkpoint.restore_files(self.checkpoints.keeps)
        for name, part in self.checkpoints.parts.items():
            part.set_state(checkpoint.parts[name])
        self.checkpoints.saved = checkpoint.num_timesteps
        if checkpoint.num_timesteps >= self.config.timesteps:
            return 0
        # other random numbers than at the beginning, which would repeat the same episodes
        self.model.set_random_seed(self.config.seed + checkpoint.num_timesteps)
        self.model.num_timesteps = self.log.finished_steps
        return self.config.timesteps - self.log.finished_steps

    def _learn(self, timesteps: int) -> None:
        callbacks: list[BaseCallback] = [self.log]
        if self._evaluations is not None:
            callbacks.append(self._evaluations)
        callbacks.append(self.checkpoints)
        if self._bar is not None:
            callbacks.append(self._bar)
        every = 1 if isinstance(self.model, OnPolicyAlgorithm) else 4  # rollouts, or episodes
        try:
            self.model.learn(
                timesteps,
                callback=callbacks,
                log_interval=every,
                reset_num_timesteps=self._checkpoint is None,
            )
        except TrainingStopped:
            if self._bar is not None:
                self._bar.on_training_end()
            raise
        except ValueError as error:
            if "Expected parameter" not in str(error):  # torch's distributions refuse NaN
                raise
            raise TrainingDivergedError(
                f"the policy's outputs are no numbers any more after {self.model.num_timesteps} "
                "timesteps: lower learning_rate, e.g. --set learning_rate=1e-4."
            ) from error

    def _finish(self, wall_s: float) -> Evaluation:
        with replacing(self.folder.model()) as partial, partial.open("wb") as file:
            self.model.save(file)
        normaliser = self.model.get_vec_normalize_env()
        if normaliser is not None:
            save_statistics(normaliser, self.folder.normaliser())
        with closing(make_envs(self.config, n_envs=1, training=False)) as envs:
            sync_envs_normalization(self.model.get_env(), envs)
            final = evaluate(
                self.model,
                envs,
                self.config.eval_episodes,
                seed=self.config.seed + EVALUATION_SEED,
                cost_limit=self.config.cost_limit,
            )
        trained = summarise(self.folder.episodes)
        seen = self._best_seen(final, trained.best_feasible_return)
        summary = {**asdict(trained), "best_feasible_return": seen}
        self.folder.write_result(RunResult(final=asdict(final), wall_s=wall_s, **summary))
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

    def set_state(self, state: dict[str, Any]) -> None:
        vars(self).update({name: state[name] for name in self._state})


class _SaveNormaliser(BaseCallback):
    """Saves the statistics that belong to a new best model."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _on_step(self) -> bool:
        normaliser = self.model.get_vec_normalize_env()
        if isinstance(normaliser, VecNormalize):
            save_statistics(normaliser, self._path)
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


def _progress_bar() -> ProgressBarCallback:
    try:
        return ProgressBarCallback()
    except ImportError as error:
        raise MissingLibraryError(
            'progress needs tqdm and rich: pip install "prune-gym[agents]".'
        ) from error
