"""Every network of a grid judged in one walk: what networks share is computed once.

The grid gives each filter group a few levels, numbers of filters to keep. The walk goes depth first
over the groups, in their order. Three facts make it many times faster than judging one network
after the other:

1. Networks that agree in their first decisions share all that follows from these alone: feature
   maps and BatchNorm statistics of a prefix are computed once.
2. BatchNorm and activations are per channel, so all channels of a layer can be computed before it
   is decided how many of them stay.
3. The kept filters of a group's levels nest (the most important ones first), so the next layer's
   sums over its input channels are running sums from level to level.

Numbers agree with `PruningProblem.evaluate` but for the rounding of sums in another order, which
moves an answer only where two outputs of an example are equal to their last bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from prune_gym.datasets import Examples
from prune_gym.errors import InvalidValueError, TableError, UnsupportedNetworkError
from prune_gym.problem.problem import PruningProblem
from prune_gym.tables.program import Program, Step, Values, program_of
from prune_gym.training.recovery import is_fixed
from prune_gym.utils.stopping import check_stop

Levels = tuple[tuple[int, ...], ...]  # per group, ascending numbers of filters to keep

MOST_DIFFERENCE = 1e-3  # of outputs, relative to the largest: rounding is far below


def classes_of(split: Examples) -> torch.Tensor:
    """The class of each example, (n,) int64, on the split's device.

    Raises:
        TableError: its targets are no classes.
    """
    if split.classes is None:
        raise TableError("a table holds accuracies: every target must be one class.")
    return torch.from_numpy(split.classes).to(split.device)


class Walk:
    """The walk over the networks of one problem.

    Args:
        problem: whose recovery is ``"none"`` or ``"bn"``, on the CPU, in float32.
        levels: per group, ascending numbers of filters to keep.

    Raises:
        ValueError: a problem whose networks are judged otherwise.
        UnsupportedNetworkError: a network that the walk cannot follow.
    """

    def __init__(self, problem: PruningProblem, levels: Levels) -> None:
        check_walkable(problem)
        self.levels = levels
        self._program: Program = program_of(problem)
        data = problem.data
        splits = [data.validation] if data.test is None else [data.validation, data.test]
        n = self._program.n_recovery
        parts = [data.train.batch(data.train.spread(n))] if n else []
        inputs = torch.cat([*parts, *(split.batch(slice(None)) for split in splits)])
        self._inputs = problem.layout.to_layout(inputs)
        self._labels = torch.cat([classes_of(split) for split in splits])
        self._bounds = np.cumsum([0, *(len(split) for split in splits)]).tolist()
        self._check(problem)

    @torch.inference_mode()
    def right(self, prefix: Sequence[int] = ()) -> NDArray[np.uint16]:
        """How many examples the networks below a prefix get right.

        Args:
            prefix: levels of the first groups, by their number.

        Returns:
            (n_levels of each further group, ..., n_splits) uint16: validation, then test.
        """
        values, kept = self._at(prefix)
        found: list[NDArray[np.int64]] = []
        self._below(values, kept, found)
        shape = [len(self.levels[group]) for group in range(len(prefix), len(self.levels))]
        return np.concatenate(found).astype(np.uint16).reshape(*shape, len(self._bounds) - 1)

    @torch.inference_mode()
    def outputs(self, levels: Sequence[int]) -> torch.Tensor:
        """Outputs of one network, (n_examples, n_classes): validation, then test."""
        values, _ = self._at(levels)
        return values[self._program.output][-len(self._labels) :]

    # -- walking -----------------------------------------------------------------------------

    def _at(self, prefix: Sequence[int]) -> tuple[Values, list[int]]:
        """What is known once the first groups are decided."""
        values: Values = {self._program.input: self._inputs}
        kept: list[int] = []
        self._run(values, kept, {})
        for group, level in enumerate(prefix):
            kept.append(self.levels[group][level])
            self._run(values, kept, {})
        return values, kept

    def _run(self, values: Values, kept: list[int], sums: Values) -> None:
        for step in self._program.steps[len(kept)]:
            known = sums.get(step.name)
            values[step.name] = step.run(values, kept) if known is None else known

    def _below(self, values: Values, kept: list[int], found: list[NDArray[np.int64]]) -> None:
        """Walk over the levels of the next group, and of all that follow."""
        group = len(kept)
        steps = self._program.steps[group + 1]
        summing = [step for step in steps if step.is_sum]
        is_leaf = group == len(self.levels) - 1
        outputs: list[torch.Tensor] = []
        sums: Values = {}
        if not is_leaf:
            check_stop()
        for before, n in zip((0, *self.levels[group]), self.levels[group], strict=False):
            kept.append(n)
            self._grow(sums, summing, values, kept, (before, n))
            below = dict(values)
            self._run(below, kept, sums)
            if is_leaf:
                outputs.append(below[self._program.output][-len(self._labels) :].clone())
            else:
                self._below(below, kept, found)
            kept.pop()
        if is_leaf:
            found.append(self._judge(torch.stack(outputs)))

    @staticmethod
    def _grow(
        sums: Values, steps: list[Step], values: Values, kept: list[int], channels: tuple[int, int]
    ) -> None:
        """Add the channels between two levels to the running sums."""
        for step in steps:
            part = step.run(values, kept, channels)
            if step.name in sums:
                sums[step.name] += part
            else:
                sums[step.name] = part

    def _judge(self, outputs: torch.Tensor) -> NDArray[np.int64]:
        """Right answers, (n, n_splits), of the outputs of networks, (n, n_examples, n_classes)."""
        hits = outputs.argmax(dim=2) == self._labels
        splits = zip(self._bounds[:-1], self._bounds[1:], strict=True)
        return torch.stack([hits[:, a:b].sum(dim=1) for a, b in splits], dim=1).numpy()

    def _check(self, problem: PruningProblem) -> None:
        """Hold the walk's outputs of three networks against the networks' own."""
        last = np.array([len(levels) - 1 for levels in self.levels])
        for levels in (last, last // 2, np.zeros_like(last)):
            counts = [own[level] for own, level in zip(self.levels, levels, strict=True)]
            network = problem.recover(problem.compact(problem.masks_of(counts)))
            with torch.inference_mode():
                expected = network(self._inputs[-len(self._labels) :].clone())
            difference = float((self.outputs(levels.tolist()) - expected).abs().max())
            if not difference <= MOST_DIFFERENCE * float(expected.abs().max()):
                raise UnsupportedNetworkError(
                    f"outputs differ from those of {type(problem.network).__name__} with "
                    f"{counts} filters by {difference:.2g}, so no table can be made of it."
                )


def check_walkable(problem: PruningProblem) -> None:
    """Raise ValueError unless the networks of a problem are judged as a walk can do it."""
    name = getattr(problem.recovery, "__name__", type(problem.recovery).__name__)
    precision, device = problem.layout.precision, problem.example.device.type
    for is_fine, given, allowed in (
        (problem.structure == "filter", f"structure={problem.structure!r}", "'filter'"),
        (is_fixed(problem.recovery), f"recovery={name!r}", "'none' or 'bn'"),
        (precision == "float32", f"precision={precision!r}", "'float32'"),
        (device == "cpu", f"device={device!r}", "'cpu'"),
    ):
        if not is_fine:
            raise InvalidValueError(f"{given}: a table can be made with {allowed} only.")
