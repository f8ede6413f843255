"""The search: an agent or a control evaluates networks; the archive keeps the best feasible one.

Part of the composition root: the one place where `prune_gym` and `agents` meet (inside functions).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from prune_gym.errors import InvalidValueError, RunFolderError
from prune_gym.problem.archive import Archive, Episode, further_costs
from prune_gym.problem.feasibility import Costs
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.saving import save_pruned
from prune_gym.pruning.masks import Masks
from prune_gym.searches.baselines import CONTROLS, Judged, Proposer, masks_of_ratios
from prune_gym.searches.run_folder import RunFolder, SearchConfig
from prune_gym.searches.thread_vec_env import ThreadVecEnv
from prune_gym.utils.files import replacing
from prune_gym.utils.registry import unknown_name
from prune_gym.utils.threads import Workers, one_thread
from prune_gym.wrappers.projection import ProjectionWrapper

if TYPE_CHECKING:
    from agents import Constrained

N_ENVS = 8
SAVE_EVERY_S = 15.0


def algorithms() -> dict[str, str]:
    """Every search algorithm with its description: agents first, then controls.

    Agents that need other actions than prune ratios, or a wrapper, are for ``agents.train``.
    """
    from agents import AGENTS

    able = {n: spec for n, spec in AGENTS.items() if "Box" in spec.action_spaces}
    agents = {n: spec.description for n, spec in able.items() if spec.wrapper is None}
    return {**agents, **CONTROLS.describe()}


def check_algorithm(name: str) -> None:
    """Raise UnknownNameError, with the nearest name, for an unknown algorithm."""
    if name not in algorithms():
        raise unknown_name("algorithm", name, list(algorithms()))


class Search:
    """One search in a run folder, from its beginning or from where it stopped.

    Args:
        problem: the pruning problem.
        config: what to do.
        folder: where rows, the best network and the agent are saved as they come.
        on_progress: called after every evaluated network.

    Attributes:
        archive: everything evaluated so far.
        remembered_before: see `remembered`; of earlier sittings.
        multiplier: the agent's Lagrange multiplier; NaN for controls.
        stop: set it to True to end after the networks in work.
    """

    def __init__(
        self,
        problem: PruningProblem,
        config: SearchConfig,
        folder: RunFolder,
        on_progress: Callable[[Search], None] = lambda search: None,
    ) -> None:
        self.problem, self.config, self.folder = problem, config, folder
        self.archive = Archive(further=further_costs(problem))
        self.multiplier = float("nan")
        self.stop = False
        self.remembered_before = int(folder.read_json("state.json").get("remembered", 0))
        self._hits_before = problem.evaluator.memory.hits  # of others that use the problem
        self.on_progress = on_progress
        folder.restore(self.archive)
        if self.archive.best is not None:
            from prune_gym.problem.saving import masks_of_plan

            self.archive.best_masks = masks_of_plan(folder.path, problem)
        self.archive.on_add = self._record
        self._front_saved, self._front_due = self.archive.front.newest, 0.0

    @property
    def evaluations(self) -> int:
        """How many networks this search is to evaluate: one for every filter group's steps."""
        return max(1, self.config.timesteps // len(self.problem.groups))

    @property
    def by_ratio(self) -> bool:
        """Whether masks keep the most important filters, as many as a ratio leaves."""
        from prune_gym import ENVIRONMENTS

        ratios = ENVIRONMENTS[self.config.env]["granularity"] != "filter"
        return ratios or self.config.algo in CONTROLS

    @property
    def remembered(self) -> int:
        """Evaluations for which nothing was run: the same decision had been judged before."""
        return self.remembered_before + self.problem.evaluator.memory.hits - self._hits_before

    def run(self) -> None:
        """Search until the evaluations are spent or `stop` is set.

        Black-box budgets are called one at a time: they may count, measure time, or use a device.
        """
        if len(self.archive.episodes) < self.evaluations:
            self.folder.drop_results()
        black_box = any(budget.counted is None for budget in self.problem.budgets)
        device = self.problem.example.device
        with one_thread(), Workers(1 if black_box else None, device) as workers:
            try:
                if self.config.algo in CONTROLS:
                    self._run_control(workers)
                else:
                    self._run_agent(workers)
            finally:
                self._save_front()

    def _record(self, episode: Episode, masks: Masks, outcome: Outcome, improved: bool) -> None:
        if improved:
            save_pruned(
                self.folder.path, outcome.network, self.problem, masks, network_name(self.config)
            )
        self.folder.append(episode, len(self.archive.episodes), self.multiplier, self.problem)
        if time.monotonic() >= self._front_due:
            self._save_front()
        self.on_progress(self)

    def _save_front(self) -> None:
        """Save the front if it has changed; how long that takes says when to do it again."""
        if self.archive.front.newest != self._front_saved:
            began = time.monotonic()
            self.archive.front.save(self.folder.front)
            self._front_saved = self.archive.front.newest
            self._front_due = time.monotonic() + 20.0 * (time.monotonic() - began)

    # -- controls ----------------------------------------------------------------------------

    def _run_control(self, workers: Workers) -> None:
        """Ask for ratios, judge them, tell; rows of an earlier run are told again, not judged."""
        generator = np.random.default_rng(self.config.seed)
        costs = Costs(self.problem) if self.config.hard else None
        known = [(row.accuracy, row.cost, row.feasible) for row in self.archive.episodes]
        proposer = CONTROLS.get(self.config.algo)(
            len(self.problem.groups), self.evaluations, generator
        )
        batch = next(proposer, None)
        while batch is not None and not self.stop:
            judged, known = known[: len(batch)], known[len(batch) :]
            fresh = [masks_of_ratios(self.problem, r, costs) for r in batch[len(judged) :]]
            outcomes = workers.map(self.problem.evaluate, fresh)
            for masks, outcome in zip(fresh, outcomes, strict=False):  # as they come
                self.archive.add(masks, outcome)
                judged.append((outcome.accuracy, outcome.cost, outcome.feasible))
            batch = _tell(proposer, judged)

    # -- agents ------------------------------------------------------------------------------

    def _run_agent(self, workers: Workers) -> None:
        config = self.config
        venv = ThreadVecEnv(
            [lambda: make_config_env(config, self.problem) for _ in range(N_ENVS)], workers
        )
        # A resumed search goes on with other noise; the same would repeat the same networks.
        venv.seed(config.seed + len(self.archive.episodes))
        try:
            model = self._agent(venv)
            if len(self.archive.episodes) < self.evaluations:
                # whole episodes of all environments: the callback ends with the last one needed
                episodes = -(-self.evaluations // N_ENVS) * N_ENVS
                total = max(config.timesteps, episodes * len(self.problem.groups))
                steps = max(total - model.num_timesteps, 1)
                try:
                    model.learn(steps, callback=self._callback(), reset_num_timesteps=False)
                finally:  # a budget that raises must not cost what was learned
                    save_agent(model, self.folder)
        finally:
            venv.close()

    def _agent(self, venv: ThreadVecEnv) -> Constrained:
        from agents import AGENTS, FixedMultiplier, make_agent

        if self.folder.agent.is_file():
            try:
                kind = AGENTS[self.config.algo].constructor
                model: Constrained = kind.load(self.folder.agent, env=venv)
                if self.folder.replay_buffer.is_file():
                    from agents.runs.checkpoint import break_off

                    model.load_replay_buffer(self.folder.replay_buffer)  # type: ignore[attr-defined]
                    break_off(model.replay_buffer)  # type: ignore[attr-defined]
            except Exception as error:
                raise RunFolderError(
                    f"{self.folder.agent} is damaged ({error}); delete it, and "
                    f"{self.folder.replay_buffer.name} if it is there, to go on with a new one."
                ) from error
            model.set_random_seed(self.config.seed + len(self.archive.episodes))
        else:
            free: dict[str, Any] = {}
            if self.config.hard and AGENTS[self.config.algo].multiplier is not None:
                # limits are kept anyway: no price on cost
                free["multiplier"] = FixedMultiplier(0.0)
            model = make_agent(self.config.algo, venv, seed=self.config.seed, device="cpu", **free)
        self.multiplier = float(model.multiplier.value)
        return model

    def _callback(self) -> Any:
        """An SB3 callback that records finished episodes in the order of the environments."""
        from stable_baselines3.common.callbacks import BaseCallback

        search = self

        class Record(BaseCallback):
            saved = time.monotonic()

            def _on_step(self) -> bool:
                search.multiplier = float(self.model.multiplier.value)  # type: ignore[attr-defined]
                left = search.evaluations - len(search.archive.episodes)
                for index in np.flatnonzero(self.locals["dones"])[:left]:
                    env = self.training_env.envs[index].unwrapped  # type: ignore[attr-defined]
                    search.archive.add(env.last_masks(), env.last_outcome())
                return not search.stop and len(search.archive.episodes) < search.evaluations

            def _on_rollout_start(self) -> None:
                if time.monotonic() - self.saved > SAVE_EVERY_S:
                    save_agent(self.model, search.folder)
                    self.saved = time.monotonic()

        return Record()


def make_config_env(config: SearchConfig, problem: PruningProblem) -> gym.Env[Any, Any]:
    """The environment of a search, around a problem that is built already."""
    from prune_gym import ENVIRONMENTS

    named = ENVIRONMENTS[config.env]
    if "limit_range" in named:
        raise InvalidValueError(
            f"--env {config.env!r} draws a limit for every episode; a search has one. Search in "
            "PruneVGG-v0 (`prune-gym pick` then answers for other limits), or train one policy for "
            f"all of them: python -m agents.train --env prune_gym:{config.env}."
        )
    granularity = named["granularity"]
    by_filter = granularity == "filter"  # then only what is counted has a dense cost
    dense = all(
        budget.monotone and not (by_filter and budget.counted is None) for budget in problem.budgets
    )
    cost_mode = "dense" if dense else "terminal"
    env = gym.make("Prune-v0", granularity=granularity, problem=problem, cost_mode=cost_mode)
    mode = "scale" if granularity == "layer" else "clip"
    return ProjectionWrapper(env, mode) if config.hard else env


def network_name(config: SearchConfig) -> str | None:
    """Registered name of the unpruned network."""
    name = config.problem.get("network", "small")
    return name if isinstance(name, str) else None


def _tell(proposer: Proposer, judged: Judged) -> Any:
    try:
        return proposer.send(judged)
    except StopIteration:
        return None


def save_agent(model: Any, folder: RunFolder) -> None:
    """Save an agent and what it learns from, each file whole or not at all."""
    # the buffer first: if this is cut off between both, an agent goes on with steps that it has
    # not learned from yet, and never with a buffer that lacks what it counts as collected
    if getattr(model, "replay_buffer", None) is not None:
        with replacing(folder.replay_buffer) as partial, partial.open("wb") as file:
            model.save_replay_buffer(file)
    with replacing(folder.agent) as partial, partial.open("wb") as file:
        model.save(file)
