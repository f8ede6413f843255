"""Criteria: scores of filters; higher = more important.

The agent decides how many filters of a group stay, the criterion which. A criterion is a function
``(evidence) -> scores``: `Evidence` is everything it may look at, and scores are one array
(n_filters,) per filter group, in the order of ``evidence.groups``. Only the order within a group
counts. Your own is as short as those here:

>>> import numpy as np, prune_gym
>>> def largest(evidence):
...     return [np.abs(rows).max(axis=1) for rows in evidence.weights]
>>> problem = prune_gym.make_problem(criterion=largest)
>>> len(problem.scores) == len(problem.groups)
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.criteria.connectivity import by_filter, producers
from prune_gym.datasets import Examples
from prune_gym.errors import CriterionError
from prune_gym.pruning.copying import own_tensors, rebuild
from prune_gym.pruning.groups import FilterGroup
from prune_gym.tasks.losses import cross_entropy
from prune_gym.tasks.matching import only_tensor
from prune_gym.tasks.task import CLASSIFICATION, Task
from prune_gym.utils.registry import Registry
from prune_gym.utils.stopping import check_stop

Scores: TypeAlias = Sequence[NDArray[np.float64]]  # (n_filters,) per group
Rows: TypeAlias = tuple[NDArray[np.float64], ...]  # (n_filters, k) per group

CALIBRATION = 256  # images that gradients and activity are measured on
ELEMENTS = 4_000_000  # numbers that they come to at most (then there are fewer images, ...
FEWEST = 32  # ... but not below so many)
CHUNK = 32  # images a pass: what is kept of their feature maps fits into memory


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at.

    Attributes:
        criterion: name of the criterion, for error messages.
        network: a copy of the unpruned network for this criterion alone, to be changed at will; in
            evaluation mode, every parameter can be trained, also where the original is frozen.
        groups: the filter groups.
        train: the training split; only to be read.
        generator: the only source of random numbers.
        is_frozen: whether no parameter of the original can be trained.
        task: what is asked of the network: its loss, and which outputs count.
    """

    criterion: str
    network: nn.Module
    groups: tuple[FilterGroup, ...]
    train: Examples
    generator: np.random.Generator
    is_frozen: bool = False
    task: Task = CLASSIFICATION

    @classmethod
    def of(
        cls,
        criterion: str,
        network: nn.Module,
        groups: Sequence[FilterGroup],
        train: Examples,
        seed: int,
        task: Task = CLASSIFICATION,
    ) -> Evidence:
        """Evidence on a network, which is only read.

        Args:
            criterion: name, for error messages.
            network: the unpruned network.
            groups: its filter groups.
            train: the training split.
            seed: of the generator.
            task: what is asked of the network.
        """
        copy = rebuild(network, {}).eval()
        is_frozen = not any(parameter.requires_grad for parameter in copy.parameters())
        for parameter in copy.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        generator = np.random.default_rng(seed)
        return cls(criterion, copy, tuple(groups), train, generator, is_frozen, task)

    # -- weights and gradients, filter by filter ---------------------------------------------------

    @cached_property
    def weights(self) -> Rows:
        """Per group, (n_filters, k): in row i the weights that produce filter i.

        Of all layers that produce the group's filters, side by side, without biases and norms; for
        ``structure="weight"`` k = 1.
        """
        return self.rows(self.parameters)

    @cached_property
    def gradients(self) -> Rows:
        """Per group, the gradient of the loss by `weights`, (n_filters, k).

        The loss is the task's (mean cross-entropy, where there is no other) over `images`, the
        network in evaluation mode.

        Raises:
            CriterionError: no parameter of the network can be trained.
        """
        return self.gradients_now()

    def gradients_now(self) -> Rows:
        """The same of the network as it is now, for criteria that change it."""
        sums = [np.zeros_like(rows) for rows in self.weights]
        for size, batch in self.batch_gradients():
            for total, rows in zip(sums, batch, strict=True):
                total += rows * (size / self.n_calibration)
        return tuple(sums)

    def batch_gradients(self) -> Iterator[tuple[int, Rows]]:
        """Gradients like `gradients_now`, one after the other on parts of the calibration batch.

        Parameters have no gradients afterwards.

        Yields:
            How many images (32 at most), and rows as in `gradients`.

        Raises:
            CriterionError: no parameter of the network can be trained.
        """
        self.need_gradients()
        parameters = self.parameters
        for size, images, labels in self._sized_chunks():
            self.network.zero_grad(set_to_none=True)
            self.loss(images, labels).backward()  # type: ignore[no-untyped-call]
            slopes = {
                name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                for name, parameter in parameters.items()
            }
            yield size, self.rows(slopes)
        self.network.zero_grad(set_to_none=True)

    def rows(self, tensors: Mapping[str, torch.Tensor]) -> Rows:
        """Tensors that lie like the parameters, by name, arranged like `weights`."""
        found = []
        for group in self.groups:
            if group.slices:
                sides = producers(self.network, group)
                parts = [by_filter(tensors[side.cut.tensor], side.cut) for side in sides]
                found.append(np.concatenate(parts, axis=1))
            else:  # single weights: each is its own filter
                single = tensors[f"{group.name}.weight"].detach().double().cpu().numpy()
                found.append(single.reshape(group.n_filters, 1))
        return tuple(found)

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """Parameters of the network by every name that they go by."""
        tensors = own_tensors(self.network)
        return {name: t for name, t in tensors.items() if isinstance(t, nn.Parameter)}

    @property
    def structure(self) -> str:
        """``"filter"``, or ``"weight"`` where each single weight is a filter of its own."""
        return "filter" if self.groups[0].slices else "weight"

    # -- data ------------------------------------------------------------------------------------

    @cached_property
    def calibration_rows(self) -> torch.Tensor:
        """Rows of the calibration batch in the training split: as many of every class as can be.

        The same ones whatever the seed, so that scores do not depend on it where the criterion
        draws nothing itself; see `Split.spread`.
        """
        wanted = max(FEWEST, ELEMENTS // max(1, self.train.n_elements))
        return self.train.spread(min(CALIBRATION, wanted))

    @property
    def n_calibration(self) -> int:
        """How many examples the calibration batch has; 256 at most."""
        return len(self.calibration_rows)

    @cached_property
    def images(self) -> Any:
        """The calibration batch: inputs as the network takes them, (n, ...)."""
        return self.train.batch(self.calibration_rows)

    @cached_property
    def labels(self) -> Any:
        """Targets of `images`, (n, ...); classes (n,) int64."""
        return self.train.targets(self.calibration_rows)

    def chunks(self) -> Iterator[tuple[Any, Any]]:
        """The calibration batch in parts that fit into memory: inputs, targets."""
        for _, inputs, targets in self._sized_chunks():
            yield inputs, targets

    def _sized_chunks(self) -> Iterator[tuple[int, Any, Any]]:
        n_parts = -(-self.n_calibration // CHUNK)  # as equal as can be: norms need several examples
        for rows in self.calibration_rows.chunk(n_parts):
            yield len(rows), *self.train.read(rows)

    def batches(self, steps: int, size: int) -> Iterator[tuple[Any, Any]]:
        """So many random batches of the training split: inputs, targets."""
        size = min(size, len(self.train))
        for _ in range(steps):
            check_stop()
            rows = torch.from_numpy(self.generator.choice(len(self.train), size, replace=False))
            yield self.train.read(rows.to(self.train.device))

    def outputs(self, images: Any) -> Any:
        """Outputs of the network that metric and loss get."""
        return self.task.run(self.network, images)

    def logits(self, images: Any) -> torch.Tensor:
        """The same where they are one tensor, float32: (n, n_classes) of a classifier."""
        return only_tensor(self.outputs(images)).float()

    def loss(self, images: Any, labels: Any) -> torch.Tensor:
        """The loss of a batch, ()."""
        if self.task.loss is cross_entropy:
            return cross_entropy(self.outputs(images), labels)
        return self.task.loss_of(self.outputs(images), labels)

    # -- what a criterion may refuse -------------------------------------------------------------

    def need_gradients(self) -> None:
        """Raise CriterionError where no parameter of the network can be trained."""
        if self.is_frozen:
            raise CriterionError(
                f"criterion {self.criterion!r} needs gradients, but no parameter of "
                f"{type(self.network).__name__} can be trained (requires_grad=False). Unfreeze "
                "those that may change, e.g. network.requires_grad_(True), or choose a criterion "
                "that needs none, such as 'l1'."
            )

    def need_filters(self) -> None:
        """Raise CriterionError for ``structure="weight"``."""
        if self.structure == "weight":
            raise CriterionError(
                f"criterion {self.criterion!r} scores whole filters, not single weights; use "
                "structure='filter', or a criterion such as 'l1', 'taylor' or 'lamp'."
            )


Criterion: TypeAlias = Callable[[Evidence], Scores]
CRITERIA: Registry[Criterion] = Registry("criterion")
