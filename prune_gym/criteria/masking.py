"""Masking: switch filters off in a network that is trained, and on again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.criteria.base import Evidence
from prune_gym.criteria.connectivity import consumers
from prune_gym.errors import CriterionError


class FilterMasking:
    """The weights by which filters reach the layers that take them in.

    With these at zero a filter has no effect, whatever its norm shifts and however many layers
    produce it. With ``structure="weight"`` a single weight is masked itself.

    Args:
        evidence: its network is the one whose filters are masked.

    Raises:
        CriterionError: filters that no layer takes in.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._groups = evidence.groups
        self._parameters = evidence.parameters
        self._sides = [consumers(evidence.network, group) for group in evidence.groups]
        for group, sides in zip(self._groups, self._sides, strict=True):
            if group.slices and not sides:
                raise CriterionError(
                    f"criterion {evidence.criterion!r}: no convolution or linear layer takes in "
                    f"the filters of layer {group.name!r}. Keep it whole with "
                    f"ignore=[{group.name!r}], or choose a criterion such as 'l1'."
                )

    def factors(self, keep: Sequence[NDArray[np.float64]]) -> dict[str, torch.Tensor]:
        """What to multiply parameters with, by name, so that filters pass by ``keep``.

        Args:
            keep: (n_filters,) per group, 1 = on, 0 = off.
        """
        found: dict[str, torch.Tensor] = {}
        for group, sides, passed in zip(self._groups, self._sides, keep, strict=True):
            if not group.slices:
                name = f"{group.name}.weight"
                weight = self._parameters[name]
                found[name] = torch.from_numpy(passed).to(weight).reshape(weight.shape)
            for side in sides:
                weight = self._parameters[side.cut.tensor]
                line = np.ones(weight.shape[side.cut.axis])
                line[side.cut.positions] = passed[:, None]
                shape = [1] * weight.ndim
                shape[side.cut.axis] = -1
                factor = torch.from_numpy(line).to(weight).reshape(shape)
                found[side.cut.tensor] = found.get(side.cut.tensor, 1.0) * factor
        return found

    def apply(self, factors: dict[str, torch.Tensor]) -> None:
        """Multiply weights with their factors, for good."""
        with torch.no_grad():
            for name, factor in factors.items():
                self._parameters[name].mul_(factor)

    @contextmanager
    def applied(self, factors: dict[str, torch.Tensor]) -> Iterator[None]:
        """Mask filters for one pass; afterwards weights are back, and gradients those of the pass.

        The gradient by a weight w behind a factor m, used as w * m, is m times that by w * m.
        """
        kept = {name: self._parameters[name].detach().clone() for name in factors}
        self.apply(factors)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, factor in factors.items():
                    parameter = self._parameters[name]
                    parameter.copy_(kept[name])
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)


def use_batch_statistics(evidence: Evidence) -> None:
    """Norms use the batch's statistics, as in training; dropout stays off and draws nothing."""
    for module in evidence.network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(len(evidence.train) > 1)  # one image may have no statistics
