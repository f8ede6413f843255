"""`SearchConfig`: everything that a search needs to be repeated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_gym import ENVIRONMENTS
from prune_gym.budgets import budgets_from_json, budgets_to_json
from prune_gym.cluster.measuring import BudgetElsewhere
from prune_gym.errors import InvalidValueError, RunFolderError
from prune_gym.problem.problem import PruningProblem
from prune_gym.searches.baselines import BASELINES, SCANNING

if TYPE_CHECKING:
    from prune_gym.cluster.workers import RayWorkers

MEASURED = ("batch_size", "unpruned_values")  # arguments of `make_problem` that a run keeps


@dataclass(frozen=True)
class SearchConfig:
    """Everything that a search needs to be repeated; saved as ``config.json``.

    Attributes:
        env: id of the environment.
        algo: a name of `prune_gym.searches.algorithms.algorithms`.
        timesteps: environment steps of an agent; controls get as many network evaluations.
        seed: of the search.
        finetune_steps: optimizer steps of the returned network's fine-tuning; None = as many as
            `prune_gym.searches.fine_tuning.usual_steps` says.
        problem: arguments of `prune_gym.make_problem`.
        distillation: share of the fine-tuning loss that follows the unpruned network.
        candidates: so many of the best networks are fine-tuned, and the one that is best then is
            returned.
        hard: whether every network is kept within the limits (`prune_gym.ProjectionWrapper`).
        racing: whether networks that are far behind are judged on a part of the images only.
        folder: working directory in which it began; modules of the user's may lie there.
        limits: by budget, as fractions; empty in runs of earlier versions.
        groups: filters by filter group; likewise.
        ema: decay of the average of weights that fine-tuning hands over; 0 = the last weights.
        rounds: searches in a row, each of what the one before left, and fine-tuned.
        begun: evaluations that it was begun with, by which its sensitivity scan was made; 0 = as
            many as now.
        measure_on: resource of the machine of a cluster that measured its budgets; None = here.
    """

    env: str
    algo: str
    timesteps: int
    seed: int
    finetune_steps: int | None
    problem: dict[str, Any]
    distillation: float = 0.0
    candidates: int = 1
    hard: bool = False
    racing: bool = False
    folder: str = ""
    limits: dict[str, float] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    begun: int = 0
    ema: float = 0.0
    rounds: int = 1
    measure_on: str | None = None

    @property
    def granularity(self) -> str:
        """What the environment decides at a time: a layer, or each filter of one."""
        granularity: str = ENVIRONMENTS[self.env]["granularity"]
        return granularity

    @property
    def decision(self) -> str:
        """What an action of the environment means: a ``"ratio"``, or beside a ``"prior"``."""
        decision: str = ENVIRONMENTS[self.env].get("decision", "ratio")
        return decision

    @property
    def by_ratio(self) -> bool:
        """Whether masks keep the most important filters, as many as a ratio leaves."""
        return self.granularity != "filter" or self.algo in BASELINES

    @property
    def network_name(self) -> str | None:
        """Registered name of the unpruned network, or ``"module:function"``; None = an object."""
        name = self.problem.get("network", "small") if self.problem else None
        return name if isinstance(name, str) else None

    def lengthened(self, timesteps: int) -> SearchConfig:
        """The same search with other timesteps.

        Raises:
            ValueError: the algorithm's networks depend on how many there are.
        """
        if timesteps != self.timesteps and self.algo == "uniform":
            raise InvalidValueError(
                "timesteps and evaluations cannot change for algo='uniform': it would be another "
                "grid. Start a new run with another folder: --out, out=."
            )
        return replace(self, timesteps=timesteps)

    @property
    def scans(self) -> bool:
        """Whether the search begins with a sensitivity scan."""
        if self.algo in BASELINES:
            return self.algo in SCANNING
        return self.decision == "prior"

    def of(self, problem: PruningProblem, cluster: RayWorkers | None = None) -> SearchConfig:
        """The same with what it has to know of its problem, and of where it begins.

        Args:
            problem: what is searched.
            cluster: what judges its networks; None = threads of this process.
        """
        config = self
        if cluster and any(isinstance(budget, BudgetElsewhere) for budget in problem.budgets):
            config = replace(config, measure_on=cluster.measure_on)
        if problem.arguments is not None:
            # whoever goes on with the run judges in the same batches, and by the same limits
            unpruned = dict(zip(problem.names, problem.unpruned_values.tolist(), strict=True))
            found = (problem.evaluator.validation.batch_size, unpruned)
            fixed = dict(zip(MEASURED, found, strict=True))
            config = replace(config, problem={**problem.arguments, **fixed})
        groups = {group.name: group.n_filters for group in problem.groups}
        limits = dict(zip(problem.names, problem.limits, strict=True))
        return replace(config, folder=str(Path.cwd()), groups=groups, limits=limits)

    def check_machine(self, cluster: RayWorkers | None) -> None:
        """Raise unless budgets are measured on the machine that measured them before.

        Raises:
            InvalidValueError: names the machine's resource.
        """
        if self.measure_on is not None and (
            cluster is None or cluster.measure_on != self.measure_on
        ):
            raise InvalidValueError(
                f"the run's budgets were measured on the machine with {self.measure_on!r}, and "
                f"differ elsewhere: go on with --workers N --measure-on {self.measure_on} (in "
                f"Python: workers=RayWorkers(N, measure_on={self.measure_on!r}))."
            )

    def check_same(self, problem: PruningProblem) -> None:
        """Raise RunFolderError unless a problem is the one that was searched, in one search."""
        if self.rounds > 1:
            raise RunFolderError(
                f"the run is one of {self.rounds} rounds: the same call of "
                "prune_gym.search_in_rounds goes on with it."
            )
        groups = {group.name: group.n_filters for group in problem.groups}
        limits = dict(zip(problem.names, problem.limits, strict=True))
        for name, was, found in (("groups", self.groups, groups), ("limits", self.limits, limits)):
            if was and was != found:
                raise RunFolderError(
                    f"the run was of another problem: its {name} were {was}, those of the problem "
                    f"are {found}. Give the same problem, or start a new run: out=."
                )
        given = problem.arguments or {}
        names = ("network", "dataset", "criterion", "recovery", "structure", "round_to", "depth")
        for name in names:
            if name in given and given[name] != self.problem.get(name, given[name]):
                raise RunFolderError(
                    f"the run was of another problem: its {name} was {self.problem[name]!r}, that "
                    f"of the problem is {given[name]!r}. Give the same problem, or start a new run."
                )

    def to_json(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        problem = dict(self.problem)
        if "budgets" in problem:
            problem["budgets"] = budgets_to_json(problem["budgets"])
        return {**vars(self), "problem": problem}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> SearchConfig:
        """The way back (raises ValueError, TypeError)."""
        config = cls(**content)
        if isinstance(config.problem, dict) and "budgets" in config.problem:
            budgets = budgets_from_json(config.problem["budgets"])
            return replace(config, problem={**config.problem, "budgets": budgets})
        return config
