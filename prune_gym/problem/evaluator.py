"""The judge of a pruning problem: keep masks in, `Outcome` out.

It holds what is made ready once and used by every evaluation: the validation images as networks
take them, the batch size that suits the machine, and the memory of what was judged before. All of
it is there once an evaluator is made, so that threads may share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.errors import PruneGymError, UnsupportedNetworkError
from prune_gym.problem.outcome import Outcome, OutcomeMemory, digest
from prune_gym.pruning.groups import checked_masks
from prune_gym.pruning.masks import Mask, Masks, kept_per_group
from prune_gym.training.evaluation import PreparedSplit, wait_for
from prune_gym.training.recovery import is_fixed, recover
from prune_gym.utils.words import error_in_words

if TYPE_CHECKING:
    from prune_gym.problem.problem import PruningProblem

# accuracy that the network of some masks, of these values (n_budgets,), would have to exceed
Bar: TypeAlias = Callable[[Masks, NDArray[np.float64]], float | None]


class Judgement(NamedTuple):
    """What an evaluator found of a network.

    Attributes:
        accuracy: the reward.
        values: (n_budgets,) float64, the budgets in their units.
        judged: share of the validation examples that it was judged on.
        build: gives the network.
    """

    accuracy: float
    values: NDArray[np.float64]
    judged: float
    build: Callable[[], nn.Module]


class Evaluator:
    """Compacts, recovers and judges the networks of one problem.

    Making one takes a moment: where the problem gives no batch size, the fastest is measured, on a
    network that keeps a third of every group's filters.

    Args:
        problem: what is judged.

    Attributes:
        validation: the validation split as networks are judged on it.
        memory: outcomes of earlier decisions; it stays empty where a recovery draws or trains.
            What a budget measured is remembered, too: noise would make two costs of one decision.
    """

    def __init__(self, problem: PruningProblem) -> None:
        # its parts, not the problem, which holds its evaluator
        self._groups, self._sizes = problem.groups, problem.sizes
        self._constraint = problem.constraint
        self._plan, self._cost_model = problem.compaction, problem.cost_model
        self._train = problem.data.train
        self._recovery, self._recovery_steps = problem.recovery, problem.recovery_steps
        self.memory = OutcomeMemory()
        self._task = problem.task
        validation, layout = problem.data.validation, problem.layout
        prepared = PreparedSplit.of(validation, layout, problem.batch_size, problem.task)
        if problem.batch_size is None:
            third = problem.masks_of(np.maximum(1, problem.sizes // 3))
            with _naming_the_network():
                prepared = prepared.with_fastest_batch(problem.compact(third))
        self.validation = prepared
        wait_for(prepared.device)  # threads have streams of their own

    def compact(self, masks: Masks) -> nn.Module:
        """The compact network of valid keep masks, not yet recovered."""
        return self._plan.network(masks)

    def recover(self, network: nn.Module, *, seed: int, steps: int) -> nn.Module:
        """Repair a compact network in place; returns it."""
        task = self._task
        return recover(network, self._recovery, self._train, seed=seed, steps=steps, task=task)

    def values(self, masks: Masks, network: nn.Module) -> NDArray[np.float64]:
        """Every budget of keep masks and their compact network, in its unit, (n_budgets,)."""
        return self._cost_model.values(masks, network)

    def accuracy(self, network: nn.Module) -> float:
        """Reward of a network in evaluation mode on the validation split: its accuracy, mostly."""
        return self.validation.reward(network)

    def evaluate(
        self,
        masks: Sequence[Mask],
        *,
        seed: int = 0,
        recovery_steps: int | None = None,
        bar: Bar | None = None,
    ) -> Outcome:
        """Compact, recover, judge; see `PruningProblem.evaluate` and `PruningProblem.racing`."""
        masks = checked_masks(self._groups, masks)
        steps = self._recovery_steps if recovery_steps is None else recovery_steps
        key = digest(masks) if is_fixed(self._recovery) else None
        known = None if key is None else self.memory.get(key)
        if known is not None:
            own = tuple(mask.copy() for mask in masks)
            again = partial(self._recovered, own, seed, steps)
            return self._outcome(masks, *known, again, remembered=True)
        found = self.judge(masks, seed, steps, bar)
        if key is not None and found.judged == 1.0:
            self.memory.put(key, found.accuracy, found.values)
        outcome = self._outcome(masks, found.accuracy, found.values, found.build)
        return outcome if found.judged == 1.0 else replace(outcome, judged=found.judged)

    def judge(self, masks: Masks, seed: int, steps: int, bar: Bar | None = None) -> Judgement:
        """Judge a network that is not remembered.

        Args:
            masks: valid keep masks.
            seed: of a recovery that draws random numbers.
            steps: of a recovery that trains.
            bar: see `PruningProblem.racing`; None = it is judged whole.
        """
        network = self.built(masks, seed, steps)
        if bar is None or self.validation.race is None:
            accuracy, judged = self.raced(network, None)
            values = self.values(masks, network)
        else:
            values = self.values(masks, network)  # first, as they say whom it races against
            accuracy, judged = self.raced(network, bar(masks, values))
        return Judgement(accuracy, values, judged, lambda: network)

    def built(self, masks: Masks, seed: int, steps: int) -> nn.Module:
        """The recovered compact network of valid keep masks."""
        with _naming_the_network():
            return self._recovered(masks, seed, steps)

    def raced(self, network: nn.Module, least: float | None) -> tuple[float, float]:
        """Accuracy of a network, and the share of the examples that it was judged on.

        Args:
            network: in evaluation mode; it stays as it is.
            least: what it has to exceed; it is dropped when it hardly can. None = it is not.
        """
        race = self.validation.race
        with _naming_the_network():
            if race is None or least is None:
                return self.accuracy(network), 1.0
            return self.validation.raced(race, network, least)

    def _recovered(self, masks: Masks, seed: int, steps: int) -> nn.Module:
        return self.recover(self.compact(masks), seed=seed, steps=steps)

    def _outcome(
        self,
        masks: Masks,
        accuracy: float,
        values: NDArray[np.float64],
        build: Callable[[], nn.Module],
        remembered: bool = False,
    ) -> Outcome:
        values.setflags(write=False)  # it is remembered
        return Outcome(
            accuracy=accuracy,
            names=self._cost_model.names,
            value_array=values,
            cost_array=values / self._cost_model.unpruned_values,
            constraint=self._constraint,
            kept=(kept_per_group(masks) / self._sizes).astype(np.float32),
            build=build,
            remembered=remembered,
        )


@contextmanager
def _naming_the_network() -> Iterator[None]:
    """A compact network that does not run, where the unpruned one did, is an error of its own."""
    try:
        yield
    except PruneGymError:
        raise
    except Exception as error:
        raise UnsupportedNetworkError(
            f"a compact network does not run: {error_in_words(error)}. forward() may choose layers "
            "by the size of the batch, or by a count of its calls; let it run the same layers "
            "always, or keep those that it chooses among whole: ignore=[...]."
        ) from error
