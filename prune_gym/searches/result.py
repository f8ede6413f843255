"""What a search gives back: everything that it judged, and the networks worth having."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.budgets import Budget, as_budget, parse_limit, relative
from prune_gym.cluster.measuring import check_sessions
from prune_gym.cluster.workers import RayWorkers, as_workers
from prune_gym.errors import InvalidValueError
from prune_gym.problem.archive import Archive, Front, measured_later
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.saving import save_pruned
from prune_gym.pruning.masks import Masks
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.fine_tuning import OnStep, fine_tune
from prune_gym.searches.remeasure import candidates as best_of
from prune_gym.searches.several import fine_tuned
from prune_gym.searches.training_state import TrainingState
from prune_gym.utils.arguments import (
    MOST_CANDIDATES,
    MOST_SEED,
    MOST_STEPS,
    check_decay,
    check_share,
    whole_number,
)
from prune_gym.utils.words import score_in_words


@dataclass(frozen=True, eq=False)
class PrunedNetwork:
    """A network that a search found, ready to be used, trained on, or saved.

    Attributes:
        problem: which was searched.
        masks: keep masks, (n_filters,) bool per group.
        network: the compact network, in evaluation mode.
        validation_accuracy: metric of ``network`` on the validation split, in its unit: its
            accuracy, where no other metric was asked for.
        number: of its evaluation in the search, from 1; 0 where several searches made it.
        name: registered name of the unpruned network; None where it is an object.
    """

    problem: PruningProblem = field(repr=False)
    masks: Masks = field(repr=False)
    network: nn.Module = field(repr=False)
    validation_accuracy: float
    number: int
    name: str | None = None

    @property
    def costs(self) -> dict[str, float]:
        """Cost by budget: the budget of ``network`` / that of the unpruned one."""
        costs = self.problem.costs(self.masks, self.network)
        return dict(zip(self.problem.names, costs.tolist(), strict=True))

    @property
    def validation_score(self) -> float:
        """``validation_accuracy``, by the name that fits any metric."""
        return self.validation_accuracy

    @property
    def test_score(self) -> float | None:
        """``test_accuracy``, by the name that fits any metric."""
        return self.test_accuracy

    @property
    def test_accuracy(self) -> float | None:
        """Metric of ``network`` on the test split, which no search looks at; None without one."""
        data = self.problem.data
        return None if data.test is None else self.problem.judge(self.network, data.test)

    def fine_tune(
        self,
        steps: int = 300,
        *,
        seed: int = 0,
        distillation: float = 0.0,
        ema: float = 0.0,
        on_step: OnStep | None = None,
        state: Path | str | None = None,
    ) -> PrunedNetwork:
        """The same network, trained for some steps; this one stays as it is.

        BatchNorm statistics are recomputed at the end where that is better on the validation split.
        Where training made the network worse there, it comes back as it was before.

        Args:
            steps: optimizer steps.
            seed: of the batches' order and of augmentation.
            distillation: share of the loss that follows the unpruned network, in [0, 1].
            ema: decay, in [0, 1), of an exponential moving average of the weights, which comes back
                then; 0 = the last weights do.
            on_step: called with (steps done, loss).
            state: a file (safetensors) in which the training is saved now and then, and when it is
                stopped; the same call goes on from there. It is removed at the end.

        Raises:
            Stopped: Ctrl-C or SIGTERM, a ``KeyboardInterrupt`` at the end of a step.
        """
        network = copy.deepcopy(self.network)
        saved = None if state is None else self._training_state(Path(state), steps, seed, ema)
        fine_tuned = fine_tune(
            network,
            self.problem,
            steps=whole_number("steps", steps, 0, MOST_STEPS),
            seed=whole_number("seed", seed, 0, MOST_SEED),
            distillation=check_share("distillation", distillation),
            ema=check_decay("ema", ema),
            on_step=on_step,
            state=saved,
        )
        if saved is not None:
            saved.drop()
        return replace(self, network=network, validation_accuracy=fine_tuned.accuracy)

    def _training_state(self, path: Path, steps: int, seed: int, ema: float) -> TrainingState:
        about = {"network": self.number, "steps": steps, "seed": seed}
        return TrainingState(path, {**about, **({"ema": ema} if ema else {})})

    def save(self, path: Path | str) -> None:
        """Write it to a folder that `prune_gym.load_pruned` reads (safetensors and a plan)."""
        save_pruned(path, self.network, self.problem, self.masks, self.name)


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """Everything that a search judged, and the best network that meets every limit.

    Attributes:
        problem: which was searched.
        config: how.
        archive: rows, best feasible network and front, as they came.
        best_outcome: of the best feasible network, where it was judged in this process.
        remembered: evaluations for which nothing was run, as the same decision had been judged.
        stopped: whether it was stopped before its evaluations were spent (Ctrl-C).
    """

    problem: PruningProblem
    config: SearchConfig
    archive: Archive
    best_outcome: Outcome | None = None
    remembered: int = 0
    stopped: bool = False

    def __repr__(self) -> str:
        """The best feasible network in a line."""
        best = self.archive.best
        found = "nothing feasible"
        if best is not None:
            metric = self.problem.task.metric
            kind = "" if metric.name == "accuracy" else f"{metric.name} "
            found = f"best feasible {kind}{score_in_words(metric.value(best.accuracy))}"
        stopped = ", stopped" if self.stopped else ""
        return f"SearchResult({self.config.algo}, {len(self)} networks, {found}{stopped})"

    def __len__(self) -> int:
        """How many networks were judged."""
        return len(self.archive.trials)

    @property
    def feasible(self) -> bool:
        """Whether a network that meets every limit was found."""
        return self.archive.best is not None

    @property
    def best(self) -> PrunedNetwork:
        """The most accurate network that meets every limit, recovered, not fine-tuned.

        Raises:
            NothingFeasibleError: there is none; says how close the search came.
        """
        masks = self.masks
        number = self.archive.trials.index(self.archive.best) + 1  # type: ignore[arg-type]
        return self._built(masks, number, self.outcome.accuracy, self.outcome.network)

    @property
    def network(self) -> nn.Module:
        """The best network, a compact ``nn.Module`` in evaluation mode; see `best`."""
        return self.best.network

    @property
    def masks(self) -> Masks:
        """Keep masks of the best network, (n_filters,) bool per group; see `best`."""
        return self.archive.feasible_masks()

    @property
    def outcome(self) -> Outcome:
        """What the best network was judged as; see `best`."""
        masks = self.masks
        return self.best_outcome or self.problem.evaluate(masks)

    @property
    def front(self) -> Front:
        """The networks that no other one beats in accuracy and in every cost at once."""
        return self.archive.front

    @property
    def networks(self) -> NDArray[Any]:
        """Every judged network in order, a structured array (n,).

        Its fields: ``accuracy`` f8, the reward (what another metric comes to is in
        `prune_gym.tasks.metrics`); ``cost`` f8, the scalar; ``feasible`` bool; ``costs``
        (n_budgets,) f8 in the order of ``problem.names``; ``kept`` (n_groups,) f8, fraction of
        filters kept; ``judged`` f8, share of the validation examples that it was judged on, below
        1.0 only where networks race.
        """
        fields = np.dtype(
            [
                ("accuracy", np.float64),
                ("cost", np.float64),
                ("feasible", np.bool_),
                ("costs", np.float64, (len(self.problem.names),)),
                ("kept", np.float64, (len(self.problem.groups),)),
                ("judged", np.float64),
            ]
        )
        rows = [
            (row.accuracy, row.cost, row.feasible, tuple(row.costs.values()), row.kept, row.judged)
            for row in self.archive.trials
        ]
        return np.array(rows, dtype=fields)

    def pick(self, limits: Mapping[str | Budget, Any]) -> PrunedNetwork:
        """The most accurate judged network within other limits; nothing is searched anew.

        Args:
            limits: by budget, as in `prune_gym.make_problem`: those of the search, every registered
                budget that counts, and those that give equal networks equal numbers.

        Raises:
            ValueError: a limit that is none, or a budget whose cost is not known.
            NothingFeasibleError: no judged network is within them; names the nearest.
        """
        if not isinstance(limits, Mapping) or not limits:
            raise InvalidValueError(
                f"limits={limits!r}: expected limits by budget, e.g. {{'params': 0.05}}."
            )
        budgets = {self._budget(key): given for key, given in limits.items()}
        missing = [budget.name for budget in budgets if budget.name not in self.front.names]
        further = measured_later(self.problem, missing)
        front = self.front if further is None else self.front.with_costs(further)
        asked: dict[str, float] = {}
        for budget, given in budgets.items():
            limit = parse_limit(given, budget)
            known = budget.name in front.names
            asked[budget.name] = relative(limit, self._unpruned(budget), budget) if known else 1.0
        found = front.best_within(asked)
        return self._recovered(found.number, found.masks)

    def fine_tune(
        self,
        steps: int = 300,
        *,
        seed: int = 0,
        distillation: float = 0.0,
        ema: float = 0.0,
        on_step: OnStep | None = None,
        state: Path | str | None = None,
        candidates: int = 1,
        workers: int | RayWorkers | None = None,
    ) -> PrunedNetwork:
        """The best network, trained for some steps; see `PrunedNetwork.fine_tune`.

        Args:
            steps: optimizer steps.
            seed: of the batches' order and of augmentation.
            distillation: share of the loss that follows the unpruned network, in [0, 1].
            ema: decay, in [0, 1), of an exponential moving average of the weights, which comes back
                then; 0 = the last weights do.
            on_step: of one candidate.
            state: likewise.
            candidates: so many of the best networks within the limits are trained, and the one
                that is best then, and still within them, comes back; where none is, the best one
                as it was.
            workers: processes of a Ray cluster that train them side by side; how many, or
                `RayWorkers`. None = one after another, here.

        Raises:
            NothingFeasibleError: none is within the limits.
            ClusterError: the cluster of ``workers`` cannot be used, or the session is over with
                the machine that measures the problem's budgets.
        """
        cluster = as_workers(workers)
        check_sessions(self.problem.budgets)
        if whole_number("candidates", candidates, 1, MOST_CANDIDATES) == 1 and cluster is None:
            return self.best.fine_tune(
                steps, seed=seed, distillation=distillation, ema=ema, on_step=on_step, state=state
            )
        if on_step is not None or state is not None:
            raise InvalidValueError(
                "on_step and state go with one candidate that is trained here; leave them out "
                "with candidates or workers."
            )
        how: dict[str, Any] = {
            "steps": whole_number("steps", steps, 0, MOST_STEPS),
            "seed": whole_number("seed", seed, 0, MOST_SEED),
            "distillation": check_share("distillation", distillation),
            "ema": check_decay("ema", ema),
        }
        others = [*best_of(self.archive, self.problem, self.config.by_ratio, candidates)][1:]
        untrained = [self.best, *(self._recovered(*one) for one in others)]
        given = [(one.masks, one.network) for one in untrained]
        trained = [
            replace(untrained[index], network=network, validation_accuracy=found.accuracy)
            for index, (network, found) in fine_tuned(self.problem, given, cluster, **how).items()
        ]
        reward = self.problem.task.metric.reward
        trained.sort(key=lambda one: -reward(one.validation_accuracy))
        limits = dict(zip(self.problem.names, self.problem.limits, strict=True))
        within = (one for one in trained if all(one.costs[n] <= limits[n] for n in limits))
        return next(within, untrained[0])

    def _recovered(self, number: int, masks: Masks) -> PrunedNetwork:
        network = self.problem.compact(masks)
        self.problem.recover(network, seed=self.config.seed)
        return self._built(masks, number, self.archive.trials[number - 1].accuracy, network)

    def save(self, path: Path | str) -> None:
        """Write the best network to a folder that `prune_gym.load_pruned` reads."""
        self.best.save(path)

    def _built(self, masks: Masks, number: int, score: float, network: nn.Module) -> PrunedNetwork:
        name, value = self.config.network_name, self.problem.task.metric.value(score)
        return PrunedNetwork(self.problem, masks, network, value, number, name)

    def _budget(self, key: str | Budget) -> Budget:
        own = {budget.name: budget for budget in self.problem.budgets}
        return own[key] if isinstance(key, str) and key in own else as_budget(key)

    def _unpruned(self, budget: Budget) -> float:
        if budget.name in self.problem.names:
            return float(self.problem.unpruned_values[self.problem.names.index(budget.name)])
        return budget(self.problem.network, self.problem.example)
