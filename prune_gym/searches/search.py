"""The search: an agent or a baseline evaluates networks; the archive keeps the best feasible one.

Here `prune_gym` and `agents` meet.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from agents.locking import locked_folder
from prune_gym.cluster.workers import RayWorkers, as_workers, workers_of
from prune_gym.envs.checks import check_flag
from prune_gym.errors import (
    FileError,
    InvalidTypeError,
    InvalidValueError,
    RunFolderError,
    UsageError,
)
from prune_gym.problem.archive import Archive, Trial, further_costs
from prune_gym.problem.feasibility import Costs
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.rivals import Rivals
from prune_gym.problem.saving import masks_of_plan, save_pruned
from prune_gym.problem.sensitivity import Judged
from prune_gym.pruning.masks import Masks
from prune_gym.searches.algorithms import check_algorithm, check_config, usual_algorithm
from prune_gym.searches.baselines import BASELINES, baseline, masks_within, prior
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.front_files import FrontFiles
from prune_gym.searches.learning import learn
from prune_gym.searches.progress import OnProgress, Progress
from prune_gym.searches.result import SearchResult
from prune_gym.searches.run_folder import RunFolder, how_to_go_on
from prune_gym.utils.arguments import (
    MOST_EVALUATIONS,
    MOST_SEED,
    MOST_STEPS,
    check_decay,
    check_share,
    whole_number,
)
from prune_gym.utils.files import user_path, write_json
from prune_gym.utils.registry import unknown_name
from prune_gym.utils.stopping import finishing, stopping
from prune_gym.utils.threads import Workers, one_thread

EVALUATIONS = 300  # of a search that is not told
ENV_NAMES = {"layer": "PruneVGG", "filter": "PruneVGGFilters"}  # by granularity

T = TypeVar("T")


def search(
    problem: PruningProblem,
    algo: str | None = None,
    *,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    granularity: str = "layer",
    hard: bool = False,
    racing: bool = False,
    out: Path | str | None = None,
    resume: bool = False,
    finetune_steps: int | None = None,
    distillation: float = 0.0,
    ema: float = 0.0,
    on_progress: OnProgress | None = None,
    workers: int | RayWorkers | None = None,
) -> SearchResult:
    """Search for the most accurate network within a problem's limits.

    Ctrl-C or SIGTERM ends it after the networks in work and gives back what was found so far
    (``result.stopped``); a second one gives it back at once. Handlers of signals that were there
    before come back at the end. A run folder is locked while it is worked in.

    Args:
        problem: of `prune_gym.make_problem`.
        algo: a name of ``prune-gym list algorithms``: an agent, or a baseline; None =
            ``"bayesian"``, or ``"ppo_lag"`` filter by filter, with ``hard`` and where the problem's
            structure is not ``"filter"``.
        evaluations: networks to be judged.
        seed: of the search.
        granularity: ``"layer"``, a prune ratio per group, or ``"filter"``, each filter by itself.
        hard: whether every judged network is kept within the limits; for monotone budgets.
        racing: judge networks that are far behind on a part of the validation images only; their
            reward is the accuracy on it (`prune_gym.training.racing`).
        out: folder in which everything is saved as it comes, as ``prune-gym prune`` does, which
            can go on with it (``--resume``); None = nothing is written.
        resume: go on with the search in ``out``, until ``evaluations`` networks are judged; its
            algorithm, seed and granularity stay as they were.
        finetune_steps: of what ``prune-gym prune --resume`` would do at the end (None = 300 where
            more than 0.01 of accuracy is lost); nothing is fine-tuned here, see
            `SearchResult.fine_tune`.
        distillation: likewise.
        ema: likewise.
        on_progress: called after every judged network.
        workers: processes of a Ray cluster that judge the networks: how many, or `RayWorkers`;
            None = threads of this process. The networks found are the same.

    Raises:
        ValueError: an unknown algorithm, or an argument that is not allowed.
        RunFolderError: ``out`` is taken already, or another process works in it.
        BudgetError: a budget broke; with ``out`` what was judged is kept.
        ClusterError: the cluster of ``workers`` cannot be used; likewise.

    >>> from prune_gym import make_problem
    >>> problem = make_problem(budgets={"params": 0.25})
    >>> result = search(problem, "random", evaluations=16)
    >>> len(result), result.networks["cost"].shape
    (16, (16,))
    >>> smaller = result.best.fine_tune(steps=20)
    >>> smaller.costs["params"] <= 0.25
    True
    """
    if not isinstance(problem, PruningProblem):
        raise InvalidTypeError(
            f"problem={problem!r}: expected a PruningProblem; build one with make_problem()."
        )
    if granularity not in list(ENV_NAMES):
        raise unknown_name("granularity", granularity, list(ENV_NAMES))
    if on_progress is not None and not callable(on_progress):
        raise InvalidTypeError(f"on_progress={on_progress!r}: expected a function of a Progress.")
    cluster = as_workers(workers)
    out = None if out is None else user_path(out)
    evaluations = whole_number("evaluations", evaluations, 1, MOST_EVALUATIONS)
    if resume:
        if out is None:
            raise InvalidValueError("resume=True goes on with a run folder; name it: out=RUN.")
        folder, config = RunFolder.open(out)
        config.check_same(problem)
        config = config.lengthened(evaluations * len(problem.groups))
        with lock_run(out), how_to_go_on(folder):
            write_json(folder.path / "config.json", config.to_json())
            return Search(problem, config, folder, on_progress, cluster).run()
    steps = finetune_steps
    if steps is not None:
        steps = whole_number("finetune_steps", steps, 0, MOST_STEPS)
    env = env_id(granularity, problem.structure, check_flag("hard", hard))
    config = SearchConfig(
        env=env,
        algo=usual_algorithm(env) if algo is None else algo,
        timesteps=evaluations * len(problem.groups),
        seed=whole_number("seed", seed, 0, MOST_SEED),
        finetune_steps=steps,
        problem={},
        distillation=check_share("distillation", distillation),
        ema=check_decay("ema", ema),
        hard=hard,
        racing=check_flag("racing", racing),
    )
    with lock_run(out):
        search = begin(problem, config, out, on_progress, cluster)
        with how_to_go_on(search.folder):
            return search.run()


def env_id(granularity: str, structure: str, hard: bool) -> str:
    """The environment of a search: its v1, where decisions beside a prior are possible."""
    version = "v1" if structure == "filter" and not hard else "v0"
    return f"{ENV_NAMES[granularity]}-{version}"


def lock_run(out: Path | str | None) -> AbstractContextManager[None]:
    """Hold the lock of a run folder, if there is to be one (RunFolderError: somebody else does)."""
    return nullcontext() if out is None else locked_folder(out, RunFolderError, FileError)


def begin(
    problem: PruningProblem,
    config: SearchConfig,
    out: Path | str | None,
    on_progress: OnProgress | None = None,
    cluster: RayWorkers | None = None,
) -> Search:
    """A new search; everything is checked before its folder is made.

    Args:
        problem: what to search.
        config: how; what it says of the problem is filled in here.
        out: the run folder to make; None = nothing is written.
        on_progress: called after every judged network.
        cluster: what judges the networks; None = threads of this process.
    """
    if out is not None:
        RunFolder.check_free(out)
    check_algorithm(config.algo)
    check_config(config, problem)
    config = config.of(problem, cluster)
    config = replace(config, begun=max(1, config.timesteps // len(problem.groups)))
    folder = None if out is None else RunFolder.create(out, config)
    return Search(problem, config, folder, on_progress, cluster)


class Search:
    """One search, from its beginning or from where its run folder says that it stopped.

    Args:
        problem: the pruning problem.
        config: what to do.
        folder: where rows, the best network and the agent are saved as they come; None = nowhere.
        on_progress: called after every evaluated network.
        cluster: what judges the networks; None = threads of this process.

    Attributes:
        archive: everything evaluated so far.
        best_outcome: of the best feasible network, where it was judged in this process.
        multiplier: the agent's Lagrange multiplier; NaN for baselines.
        stop: set it to True to end after the networks in work.
    """

    def __init__(
        self,
        problem: PruningProblem,
        config: SearchConfig,
        folder: RunFolder | None = None,
        on_progress: OnProgress | None = None,
        cluster: RayWorkers | None = None,
    ) -> None:
        check_algorithm(config.algo)  # a folder may name anything
        config.check_machine(cluster)
        self.problem, self.config, self.folder = problem, config, folder
        self.cluster = cluster
        self.archive = Archive(further=further_costs(problem))
        self.scanned = problem  # an agent's knows the sensitivity that its own scan found
        self.before_agent = 0  # networks that were judged for it
        self.rivals = Rivals(problem, self.archive.further)
        self.best_outcome: Outcome | None = None
        self.multiplier = float("nan")
        self.stop = False
        self.on_progress = on_progress
        self._remembered_before = 0
        self._hits_before = problem.evaluator.memory.hits  # of others that use the problem
        if folder is not None:
            self._front_files = FrontFiles(folder.front, problem.depth)
            self._remembered_before = folder.restore(self.archive, problem.depth)
            n_judged = len(self.archive.trials)
            self.archive.front = self._front_files.restore(self.archive.front, n_judged)
            folder.check_fits(self.archive, problem)
            if self.archive.best is not None:
                self.archive.best_masks = self._masks_of_best(folder)
        self.archive.on_add = self._record

    def _masks_of_best(self, folder: RunFolder) -> Masks:
        """Those of the front; of equally good networks only a later one may be in it."""
        number = self.archive.trials.index(self.archive.best) + 1  # type: ignore[arg-type]
        for one in self.archive.front:
            if one.number == number and one.sizes == tuple(self.problem.sizes.tolist()):
                return one.masks
        return masks_of_plan(folder.path, self.problem)

    @property
    def evaluations(self) -> int:
        """How many networks this search is to evaluate: one for every filter group's steps."""
        return max(1, self.config.timesteps // len(self.problem.groups))

    @property
    def run_folder(self) -> RunFolder:
        """Where it is saved (UsageError where nothing is written)."""
        if self.folder is None:
            raise UsageError("this search has no run folder; give one: search(..., out=RUN).")
        return self.folder

    @property
    def progress(self) -> Progress:
        """How far it is."""
        rows, best = self.archive.trials, self.archive.best
        return Progress(
            evaluations=len(rows),
            total=self.evaluations,
            best_accuracy=None if best is None else self.problem.task.metric.value(best.accuracy),
            recent_cost=float(np.mean([row.cost for row in rows[-8:]])) if rows else 0.0,
            cost_limit=self.problem.cost_limit,
            multiplier=self.multiplier,
            remembered=self.remembered,
        )

    @property
    def remembered(self) -> int:
        """Evaluations for which nothing was run: the same decision had been judged before."""
        return self._remembered_before + self.problem.evaluator.memory.hits - self._hits_before

    @property
    def result(self) -> SearchResult:
        """What was found so far."""
        return SearchResult(
            self.problem,
            self.config,
            self.archive,
            self.best_outcome,
            self.remembered,
            self.stop,
        )

    def run(self) -> SearchResult:
        """Search until the evaluations are spent, `stop` is set, or Ctrl-C is pressed.

        Black-box budgets are called one at a time: they may count, measure time, or use a device.
        """
        if self.folder is not None and len(self.archive.trials) < self.evaluations:
            self.folder.drop_results()
        words = "finishing the networks in hand; Ctrl-C again stops at once"
        try:
            with (
                nullcontext() if self.folder is None else lock_run(self.folder.path),
                stopping(words, self),
                finishing(),
                one_thread(),
                workers_of(self.problem, self.cluster) as workers,
            ):
                if self.config.algo in BASELINES:
                    self._run_baseline(workers)
                else:
                    self._run_agent(workers)
        except KeyboardInterrupt:
            self.stop = True
        finally:
            if self.folder is not None:
                self._front_files.save(self.archive.front)
        return self.result

    def _record(self, trial: Trial, masks: Masks, outcome: Outcome, improved: bool) -> None:
        if improved:
            self.best_outcome = outcome
        if self.folder is not None:
            self._front_files.note(self.archive.front, len(self.archive.trials))
            if improved:
                path, name = self.folder.path, self.config.network_name
                save_pruned(path, outcome.network, self.problem, masks, name)
            number, racing = len(self.archive.trials), self.config.racing
            self.folder.append(trial, number, self.multiplier, self.problem, racing)
            self._front_files.save(self.archive.front, now=False)
        if self.on_progress is not None:
            self.on_progress(self.progress)

    def judging(self) -> PruningProblem:
        """The problem by which networks are judged: a race, where one was asked for."""
        return self.scanned.racing(self.rivals.bar) if self.config.racing else self.scanned

    # -- baselines ---------------------------------------------------------------------------

    def _run_baseline(self, workers: Workers) -> None:
        config, generator = self.config, np.random.default_rng(self.config.seed)
        proposer = baseline(
            config.algo, self.problem, self.evaluations, generator, begun=config.begun
        )
        self._run(proposer, workers, self._known_rows())

    def _known_rows(self) -> Judged:
        """What was judged before, as proposers are told it."""
        return [(row.accuracy, row.cost, row.feasible) for row in self.archive.trials]

    def _run(
        self, proposer: Generator[list[Masks], Judged, T], workers: Workers, known: Judged
    ) -> T | None:
        """Ask for networks, judge them, tell; what it returns, or None where it was stopped.

        Args:
            proposer: yields networks.
            workers: that judge them.
            known: rows of an earlier run, from its first on; they are told again, not judged.
        """
        costs = Costs(self.problem) if self.config.hard else None
        is_first = True
        try:
            batch = next(proposer)
            while not self.stop:
                judged, known = known[: len(batch)], known[len(batch) :]
                left = max(0, self.evaluations - len(self.archive.trials))
                fresh = batch[len(judged) :][:left]
                if costs is not None:
                    fresh = [masks_within(self.problem, masks, costs) for masks in fresh]
                if not is_first:  # a scan is judged whole
                    self.rivals.take(self.archive.front)
                outcomes = workers.map(self.judging().evaluate, fresh)
                for masks, outcome in zip(fresh, outcomes, strict=False):  # as they come
                    self.archive.add(masks, outcome)
                    judged.append((outcome.accuracy, outcome.cost, outcome.feasible))
                if len(judged) < len(batch):
                    break
                is_first = False
                batch = proposer.send(judged)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        return None

    # -- agents ------------------------------------------------------------------------------

    def _run_agent(self, workers: Workers) -> None:
        if self.config.decision == "prior":
            begun = self.config.begun or self.evaluations
            proposer = prior(self.problem, self.evaluations, begun)
            found = self._run(proposer, workers, self._known_rows())
            if found is None:
                return
            allocation, self.before_agent = found
            self.scanned = self.problem.knowing(allocation.sensitivity, allocation)
        learn(self, workers)
